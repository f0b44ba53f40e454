//! The host functions: one file per WIT interface.

mod bindings;
mod http;
mod log;
mod socket;
mod std;
mod store;
pub mod wasi;
mod websocket;

pub use bindings::phasegate::plugin::wasm_std::Error as WitVerdict;

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use self::bindings::{WasmServer, waiting};
use super::state::State;
use crate::phase::{Ext, Verdict};

/// A linker with all that a plugin may import. Built once: modules are linked against it when they are loaded. Where the
/// store does not wait, a plugin that uses it stays on the synchronous path.
///
/// # Errors
/// When two interfaces collide, which only a change of this program can bring about.
pub fn linker(engine: &Engine, store_waits: bool) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    WasmServer::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    if store_waits {
        linker.allow_shadowing(true);
        waiting::Store::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        linker.allow_shadowing(false);
    }
    wasi::add_to_linker(&mut linker)?;
    Ok(linker)
}

/// What a plugin gets as `err`.
fn text(error: impl ToString) -> String {
    error.to_string()
}

impl From<WitVerdict> for Verdict {
    fn from(verdict: WitVerdict) -> Verdict {
        match verdict {
            WitVerdict::Ok => Verdict::Ok,
            WitVerdict::Break => Verdict::Break,
            WitVerdict::Finish => Verdict::Finish,
            WitVerdict::Error => Verdict::Error,
            WitVerdict::Return => Verdict::Return,
            WitVerdict::Ext1 => Verdict::Ext(Ext::Ext1),
            WitVerdict::Ext2 => Verdict::Ext(Ext::Ext2),
            WitVerdict::Ext3 => Verdict::Ext(Ext::Ext3),
        }
    }
}
