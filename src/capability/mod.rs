//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

pub mod background;
pub mod mailbox;
pub mod named;
mod run;
pub mod timer;

use std::sync::Arc;

pub use run::Run;

use self::mailbox::Mailboxes;
use self::named::NamedSessions;
use crate::config::Config;
use crate::observe::metrics::Live;

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {
    pub mailboxes: Arc<Mailboxes>,
    pub named: NamedSessions,
    /// Counts what lives now.
    pub live: Live,
}

impl Capabilities {
    /// Opens no connection and starts no thread: that is left to the first use.
    pub fn new(_config: &Config, live: Live) -> Capabilities {
        let mailboxes = Arc::new(Mailboxes::new(live.clone()));
        Capabilities { named: NamedSessions::new(mailboxes.clone(), live.clone()), mailboxes, live }
    }
}
