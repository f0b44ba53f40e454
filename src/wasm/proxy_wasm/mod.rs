//! Filters of the Proxy-Wasm ABI.

pub mod module;
