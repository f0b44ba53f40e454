//! One run of a script.

use super::Capabilities;
use super::timer::Timers;

/// What the entry points of one run share, beside the request. It is made when the first of them asks for it, and
/// dropped when the run ends: what it holds is released then.
pub struct Run {
    pub timers: Timers,
}

impl Run {
    pub fn new(capabilities: &Capabilities) -> Run {
        Run { timers: Timers::new(capabilities.live.clone()) }
    }
}
