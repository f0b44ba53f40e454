//! Phasegate: a reverse proxy on Pingora that is programmed with WebAssembly.

pub mod capability;
pub mod cli;
pub mod config;
pub mod exchange;
pub mod facts;
pub mod file;
pub mod headers;
pub mod observe;
pub mod path;
pub mod pem;
pub mod phase;
pub mod proxy;
pub mod reload;
pub mod server;
pub mod snapshot;
pub mod tls;
pub mod variables;
pub mod wasm;
pub mod worker;

/// Name and version, as plugins and operators see them.
pub const VERSION: &str = concat!("phasegate/", env!("CARGO_PKG_VERSION"));
