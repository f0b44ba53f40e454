//! Live instances, kept for the next request: a new one costs more than all of its calls.

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use wasmtime::Store;
use wasmtime::component::TypedFunc;

use std::sync::Arc;

use super::component::WitVerdict;
use super::state::State;

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
    pub _alive: Alive,
}

/// Where the instances of a script are counted.
#[derive(Clone, Debug, Default)]
pub struct InstanceMetrics {
    /// Of this script.
    pub made: Counter,
    /// Of all scripts.
    pub live: Gauge,
}

/// A live instance in the gauge.
pub struct Alive(Gauge);

impl InstanceMetrics {
    /// Counts one, as live until the answer is dropped.
    pub fn count(&self) -> Alive {
        self.made.inc();
        self.live.inc();
        Alive(self.live.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Idle instances of one script.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Instance>>,
}

impl Pool {
    /// The instance used last: its memory is the warmest.
    pub fn take(&self) -> Option<Instance> {
        self.idle.lock().pop()
    }

    pub fn put(&self, instance: Instance) {
        let mut idle = self.idle.lock();
        if idle.len() < MOST_IDLE {
            idle.push(instance);
        }
    }
}
