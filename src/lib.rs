//! Phasegate: a reverse proxy on Pingora that is programmed with WebAssembly.

pub mod exchange;
pub mod facts;
pub mod phase;
pub mod variables;
pub mod wasm;

/// Name and version, as plugins and operators see them.
pub const VERSION: &str = concat!("phasegate/", env!("CARGO_PKG_VERSION"));
