//! What a Phasegate plugin is written with: the bindings of the WIT files,
//! and the few lines that every plugin would otherwise repeat.
//!
//! A plugin is a `cdylib` built by `cargo build --target wasm32-wasip1 --release`:
//!
//! ```
//! use phasegate_plugin::http::Response;
//! use phasegate_plugin::{Verdict, export, host};
//!
//! export!(main: check);
//!
//! /// Only who sends a token may pass.
//! fn check(_config: Option<String>) -> Result<Verdict, String> {
//!     if host::in_is_header("x-token")? {
//!         return Ok(Verdict::Ok);
//!     }
//!     host::out_set_response(&Response::new(401).text("a token, please\n"))?;
//!     Ok(Verdict::Return)
//! }
//! ```
//!
//! The functions have the names and the documentation of the WIT files; [`host`] is the interface `wasm-std`. A module
//! that uses no function that waits is called by the host on a faster path.

mod config;
mod entry;
mod response;
pub mod session;

pub use config::config;
pub use entry::EntryPoints;
/// What an entry point returns: the enum `error` of `wasm-std`.
pub use host::Error as Verdict;

/// `wasm-http`: HTTP messages, and outbound calls.
pub use bindings::phasegate::plugin::wasm_http as http;
/// `wasm-log`: lines in the proxy's log.
pub use bindings::phasegate::plugin::wasm_log as log;
/// `wasm-socket`: streams.
pub use bindings::phasegate::plugin::wasm_socket as socket;
/// `wasm-std`: the request (`in_*`), the response (`out_*`), variables, sessions, timers.
pub use bindings::phasegate::plugin::wasm_std as host;
/// `wasm-store`: the process-wide store.
pub use bindings::phasegate::plugin::wasm_store as store;
/// `wasm-websocket`: WebSocket, as a client and as a server.
pub use bindings::phasegate::plugin::wasm_websocket as websocket;

/// What `wit-bindgen` made of the world `wasm-server`. Public only for [`export!`].
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "wasm-server",
        pub_export_macro: true,
        export_macro_name: "export_wasm_server",
        default_bindings_module: "phasegate_plugin::bindings",
    });
}
