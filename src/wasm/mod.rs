//! Running plugins: engine, modules, instances and their pools, limits, and the skins that host functions wear.

mod cache;
pub mod code;
pub mod component;
pub mod engine;
mod entry;
mod failure;
mod host;
mod in_use;
mod limits;
mod log;
mod module;
mod pool;
pub mod proxy_wasm;
mod script;
mod session;
mod sockets;
mod state;

pub use cache::CacheError;
pub use entry::EntryPoint;
pub use failure::Failure;
pub use host::Host;
pub use module::{Module, ModuleError};
pub use proxy_wasm::abi::Direction;
pub use proxy_wasm::{Care, End, FailedStart, Filter, Filters, Flow, LocalReply, Plugin, Service, Stream};
pub use script::{Script, ScriptSpec};

/// The interface that every plugin exports.
pub const SERVICE: &str = "phasegate:plugin/wasm-service@0.1.0";
