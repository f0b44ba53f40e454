//! A client session whose request body was read in advance.
//!
//! Pingora can replay what was read early, but only 64 KiB of it: anything larger is lost without an error, and the
//! upstream waits for a body that never comes. So the session hands out the bytes that were read as the start of the body,
//! which is what Pingora asks for first.

use bytes::{Bytes, BytesMut};
use pingora::protocols::http::ServerSession;

use super::decorate::Decoration;

/// The start of the body.
pub struct Replay(pub Bytes);

impl Decoration for Replay {
    /// What was read, and after it what an earlier attempt has read since.
    fn retry_buffer(&self, session: &ServerSession) -> Option<Bytes> {
        if session.retry_buffer_truncated() {
            return None;
        }
        Some(match session.get_retry_buffer() {
            Some(later) => {
                let mut whole = BytesMut::from(self.0.as_ref());
                whole.extend_from_slice(&later);
                whole.freeze()
            }
            None => self.0.clone(),
        })
    }

    fn is_body_empty(&mut self, _session: &mut ServerSession) -> bool {
        false
    }
}
