//! The same three calls as `rewrite_one`, on the response.

wit_bindgen::generate!({ path: "../../../wit", world: "wasm-server" });

use exports::phasegate::plugin::wasm_service::{Error, Guest};
use phasegate::plugin::wasm_std::{out_add_header, out_del_header, out_get_header};

struct Plugin;
export!(Plugin);

#[rustfmt::skip]
impl Guest for Plugin {
    fn wasm_main(_: Option<String>) -> Result<Error, String> {
        let server = out_get_header("server")?;
        out_add_header("x-phasegate", server.as_deref().unwrap_or("none"))?;
        out_del_header("x-drop")?;
        Ok(Error::Ok)
    }
    fn wasm_main_timeout(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext1(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext2(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext3(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
}
