//! Marks its version, so that a test sees which one has run.
//!
//! The configuration is `request TEXT` or `response TEXT`: the header `x-mark` of that is set to `TEXT MARK`. MARK stands in
//! the module as `mark:00000000`, where another eight letters can be written over the zeros: that makes another module.
//!
//! A run uses a little memory, so that an instance that is kept for nothing can be seen in that of the process.

wit_bindgen::generate!({ path: "../../../wit", world: "wasm-server" });

use std::hint::black_box;

use exports::phasegate::plugin::wasm_service::{Error, Guest};
use phasegate::plugin::wasm_std::{in_set_header, out_set_header};

/// Bytes.
const MEMORY: usize = 256 << 10;

static MARK: [u8; 13] = *b"mark:00000000";

struct Plugin;
export!(Plugin);

#[rustfmt::skip]
impl Guest for Plugin {
    fn wasm_main(config: Option<String>) -> Result<Error, String> {
        drop(black_box(vec![1_u8; MEMORY]));
        let config = config.unwrap_or_default();
        let (side, text) = config.split_once(' ').ok_or("`request TEXT` or `response TEXT`")?;
        let mark = String::from_utf8_lossy(&black_box(&MARK)[5..]);
        let value = format!("{text} {mark}");
        if side == "request" { in_set_header("x-mark", &value)? } else { out_set_header("x-mark", &value)? }
        Ok(Error::Ok)
    }
    fn wasm_main_timeout(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext1(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext2(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext3(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
}
