//! What plugins stand on beside the request: a file for each thing that they can do. Nothing here knows Wasmtime or how a
//! plugin spells a call; the skins in `wasm` do.

mod run;

pub use run::Run;

use crate::config::Config;

/// What there is once in a process. It outlives reloads.
pub struct Capabilities {}

impl Capabilities {
    /// Opens no connection: that is left to the first use.
    pub fn new(_config: &Config) -> Capabilities {
        Capabilities {}
    }
}
