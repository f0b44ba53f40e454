//! One run of a script.

use super::Capabilities;
use super::socket::Sockets;
use super::timer::Timers;

/// What the entry points of one run share, beside the request. It is dropped when the last of them ends: what it holds
/// is released then.
pub struct Run {
    pub sockets: Sockets,
    pub timers: Timers,
}

impl Run {
    pub fn new(capabilities: &Capabilities) -> Run {
        Run {
            sockets: Sockets::default(),
            timers: Timers::new(capabilities.live.clone(), capabilities.waiting.clone()),
        }
    }
}
