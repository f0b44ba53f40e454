//! One run of a script.

use super::socket::Sockets;

/// What the entry points of one run share, beside the request. It is made when the first of them asks for it, and
/// dropped when the run ends: what it holds is released then.
#[derive(Default)]
pub struct Run {
    pub sockets: Sockets,
}

impl Run {
    /// Ends what should not just be dropped.
    pub async fn end(&self, failed: bool) {
        self.sockets.end(failed).await;
    }
}
