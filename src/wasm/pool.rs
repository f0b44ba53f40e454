//! Live instances, kept for the next request: a new one costs more than all of its calls.

use parking_lot::Mutex;
use wasmtime::Store;
use wasmtime::component::TypedFunc;

use std::sync::Arc;

use super::component::WitVerdict;
use super::state::State;
use crate::observe::metrics::Counted;

/// Idle instances that a script keeps at the most. More are made when more requests wait at once.
const MOST_IDLE: usize = 256;

/// An entry point, ready to be called.
pub type EntryFn = TypedFunc<(Option<Arc<str>>,), (Result<WitVerdict, String>,)>;

/// A live instance of a module. One run at a time.
pub struct Instance {
    pub store: Store<State>,
    /// Indexed by entry point.
    pub entries: [Option<EntryFn>; 5],
    pub runs: u64,
    /// Among all, and among those of its script.
    pub _alive: (Counted, Counted),
}

/// Idle instances of one script.
#[derive(Default)]
pub struct Pool {
    #[expect(clippy::vec_box, reason = "instances come and go at every run: a pointer is less to move")]
    idle: Mutex<Vec<Box<Instance>>>,
}

impl Pool {
    /// The instance used last: its memory is the warmest.
    pub fn take(&self) -> Option<Box<Instance>> {
        self.idle.lock().pop()
    }

    pub fn put(&self, instance: Box<Instance>) {
        let mut idle = self.idle.lock();
        if idle.len() < MOST_IDLE {
            idle.push(instance);
        }
    }
}
