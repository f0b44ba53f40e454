//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

mod run;
mod store;

pub use run::Run;
pub use store::{Store, StoreError, ttl};

use crate::config::Config;
use crate::observe::metrics::Metrics;

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {
    pub store: Store,
}

impl Capabilities {
    /// Opens no connection: that is left to the first use.
    pub fn new(config: &Config, metrics: &Metrics) -> Capabilities {
        Capabilities { store: Store::new(&config.store, &metrics.store) }
    }
}
