//! Running plugins: the engine, limits, and two skins over the same capabilities: `component` for scripts, `proxy_wasm` for
//! filters.

mod cache;
pub mod component;
pub mod engine;
mod failure;
mod found;
mod host;
mod in_use;
mod limits;
mod log;
pub mod proxy_wasm;

pub use cache::CacheError;
pub use component::{EntryPoint, Module, ModuleError, Script, ScriptSpec};
pub use failure::Failure;
pub use host::Host;
pub use proxy_wasm::abi::Direction;
pub use proxy_wasm::{Care, End, FailedStart, Filter, Filters, Flow, LocalReply, Plugin, Service, Stream};

/// The interface that every plugin exports.
pub const SERVICE: &str = "phasegate:plugin/wasm-service@0.1.0";
