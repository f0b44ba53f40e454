//! Running plugins: engine, modules, instances and their pools, limits, and the skins that host functions wear.

pub mod component;
pub mod engine;
mod entry;
mod failure;
mod limits;
mod log;
mod module;
mod pool;
mod proxy_wasm {
    #[cfg_attr(not(test), expect(dead_code, reason = "the VM of filters comes next"))]
    mod pairs;
    #[cfg_attr(not(test), expect(dead_code, reason = "the VM of filters comes next"))]
    mod wasi;
}
mod script;
mod session;
mod sockets;
mod state;

pub use entry::EntryPoint;
pub use failure::{Failure, FailureKind};
pub use module::{Digest, Module, ModuleError};
pub use script::{Host, Script, ScriptSpec};

/// The interface that every plugin exports.
pub const SERVICE: &str = "phasegate:plugin/wasm-service@0.1.0";
