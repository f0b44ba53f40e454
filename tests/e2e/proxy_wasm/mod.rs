//! Proxy-Wasm.

mod foreign;
mod properties;
mod steps;
