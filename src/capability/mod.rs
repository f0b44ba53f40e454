//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

pub mod background;
pub mod budget;
pub mod callout;
pub mod cluster;
pub mod grpc;
pub mod mailbox;
pub mod named;
pub mod net;
pub mod resp;
mod run;
pub mod shared;
pub mod socket;
mod store;
pub mod timer;
pub mod websocket;

use std::sync::Arc;

pub use run::Run;
pub use store::{Store, StoreError, ttl};

use self::budget::{Budget, MOST_WAITING};
use self::callout::Callouts;
use self::cluster::Clusters;
use self::mailbox::Mailboxes;
use self::named::NamedSessions;
use self::net::Network;
use self::resp::RedisClients;
use self::shared::Shared;
use crate::config::{Config, Diagnostics};
use crate::observe::defined_metrics::DefinedMetrics;
use crate::observe::metrics::{Live, Metrics};

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {
    pub mailboxes: Arc<Mailboxes>,
    pub named: NamedSessions,
    pub network: Network,
    pub callouts: Callouts,
    pub clusters: Arc<Clusters>,
    /// To clusters that are Redis.
    pub redis: RedisClients,
    pub store: Store,
    /// Of Proxy-Wasm filters.
    pub shared: Arc<Shared>,
    /// Those that filters define.
    pub metrics: DefinedMetrics,
    /// What may wait in mailboxes and timers.
    pub waiting: Budget,
    /// Counts what lives now.
    pub live: Live,
}

impl Capabilities {
    /// Opens no connection and starts no thread: that is left to the first use. What is wrong in the configuration is
    /// reported.
    pub fn load(config: &Config, metrics: &Metrics, diagnostics: &mut Diagnostics) -> Capabilities {
        let live = metrics.live().clone();
        let waiting = Budget::new(MOST_WAITING);
        let mailboxes = Arc::new(Mailboxes::new(live.clone(), waiting.clone()));
        Capabilities {
            named: NamedSessions::new(mailboxes.clone(), live.clone()),
            mailboxes,
            network: Network::load(&config.network, metrics, diagnostics),
            callouts: Callouts::new(&config.network, metrics),
            clusters: Arc::default(),
            redis: RedisClients::default(),
            store: Store::new(&config.store, &metrics.store),
            shared: Arc::default(),
            metrics: metrics.defined.clone(),
            waiting,
            live,
        }
    }
}
