//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

pub mod callout;
pub mod net;
mod run;
pub mod socket;
mod store;
pub mod websocket;

pub use run::Run;
pub use store::{Store, StoreError, ttl};

use prometheus_client::metrics::gauge::Gauge;

use self::callout::Callouts;
use self::net::Network;
use crate::config::{Config, Diagnostics};
use crate::observe::metrics::Metrics;

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {
    pub network: Network,
    /// Counts the sockets that runs have open, with those to clients.
    pub open_sockets: Gauge,
    pub callouts: Callouts,
    pub store: Store,
}

impl Capabilities {
    /// Opens no connection: that is left to the first use. What is wrong in the configuration is reported.
    pub fn load(config: &Config, metrics: &Metrics, diagnostics: &mut Diagnostics) -> Capabilities {
        Capabilities {
            network: Network::load(&config.network, metrics, diagnostics),
            open_sockets: metrics.plugin_sockets(),
            callouts: Callouts::new(&config.network, metrics),
            store: Store::new(&config.store, &metrics.store),
        }
    }
}
