//! Exports a `wasm-service` that has only `wasm-main`, and imports only the type of its verdict.

wit_bindgen::generate!({
    inline: "
        package phasegate:plugin@0.1.0;

        interface wasm-std {
            enum error { ok, break, finish, error, return, ext1, ext2, ext3 }
        }

        interface wasm-service {
            use wasm-std.{error};
            wasm-main: func(config: option<string>) -> result<error, string>;
        }

        world wasm-server {
            import wasm-std;
            export wasm-service;
        }
    ",
});

use exports::phasegate::plugin::wasm_service::{Error, Guest};

struct Plugin;
export!(Plugin);

impl Guest for Plugin {
    fn wasm_main(_config: Option<String>) -> Result<Error, String> {
        Ok(Error::Ok)
    }
}
