//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

pub mod background;
pub mod mailbox;
pub mod named;
mod run;
pub mod store;
pub mod timer;

use std::sync::Arc;

pub use run::Run;

use self::mailbox::Mailboxes;
use self::named::NamedSessions;
use self::store::Store;
use crate::config::Config;
use crate::observe::metrics::{Live, Metrics};

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {
    pub mailboxes: Arc<Mailboxes>,
    pub named: NamedSessions,
    pub store: Store,
    /// Counts what lives now.
    pub live: Live,
}

impl Capabilities {
    /// Opens no connection and starts no thread: that is left to the first use.
    pub fn new(config: &Config, metrics: &Metrics) -> Capabilities {
        let live = metrics.live().clone();
        let mailboxes = Arc::new(Mailboxes::new(live.clone()));
        let named = NamedSessions::new(mailboxes.clone(), live.clone());
        Capabilities { mailboxes, named, store: Store::new(&config.store, metrics.store()), live }
    }
}
