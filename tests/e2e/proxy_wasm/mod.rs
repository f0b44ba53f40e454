//! Proxy-Wasm.

mod foreign;
mod properties;
mod statuses;
mod steps;
