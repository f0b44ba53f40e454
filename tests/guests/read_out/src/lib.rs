//! Three calls that only read, for `wasm_access_log`: the status, a response header and a request header. Fails when one
//! of them is not there.

wit_bindgen::generate!({ path: "../../../wit", world: "wasm-server" });

use exports::phasegate::plugin::wasm_service::{Error, Guest};
use phasegate::plugin::wasm_std::{in_get_header, out_get_header, out_get_status};

struct Plugin;
export!(Plugin);

#[rustfmt::skip]
impl Guest for Plugin {
    fn wasm_main(_: Option<String>) -> Result<Error, String> {
        out_get_status()?;
        out_get_header("server")?.ok_or("no server")?;
        in_get_header("host")?.ok_or("no host")?;
        Ok(Error::Ok)
    }
    fn wasm_main_timeout(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext1(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext2(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
    fn wasm_main_ext3(_: Option<String>) -> Result<Error, String> { Err("none".into()) }
}
