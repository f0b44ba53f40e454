//! The component-model skin: scripts, which run in instances of components. `host` is what those import.

mod entry;
mod host;
mod module;
mod pool;
mod script;
mod session;
mod sockets;
mod state;

pub use self::entry::EntryPoint;
pub use self::host::linker;
pub use self::module::{Module, ModuleError, Modules};
pub use self::script::{Script, ScriptSpec};
pub use self::state::State;
