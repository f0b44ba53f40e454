//! Reads a header, adds one and deletes one: what the benchmarks run, written with nothing but `wit-bindgen`.

wit_bindgen::generate!({ path: "../../../wit", world: "wasm-server" });

use exports::phasegate::plugin::wasm_service::{Error, Guest};
use phasegate::plugin::wasm_std::{in_add_header, in_del_header, in_get_header};

struct Plugin;
export!(Plugin);

#[rustfmt::skip]
impl Guest for Plugin {
    fn wasm_main(_: Option<String>) -> Result<Error, String> {
        let host = in_get_header("host")?;
        in_add_header("x-phasegate", host.as_deref().unwrap_or("none"))?;
        in_del_header("x-drop")?;
        Ok(Error::Ok)
    }
    fn wasm_main_timeout(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext1(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext2(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext3(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
}
