//! A client session whose request body was read in advance.
//!
//! Pingora can replay what was read early, but only 64 KiB of it: anything larger is lost without an error, and the
//! upstream waits for a body that never comes. So the session is wrapped: the wrapper hands out the bytes that were read
//! as the start of the body, which is what Pingora asks for first, and passes everything else on.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use http::HeaderMap;
use parking_lot::Mutex;
use pingora::Result;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Session;
use pingora::protocols::Digest;
use pingora::protocols::http::custom::{CustomMessageWrite, server};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;

/// Where the wrapper leaves the session when it is dropped.
pub type Slot = Arc<Mutex<Option<Box<ServerSession>>>>;

/// Wraps the client's session, with the start of the body that was read from it.
pub fn install(session: &mut Session, read: Bytes) -> Slot {
    let slot = Slot::default();
    let real = std::mem::replace(&mut session.downstream_session, nothing());
    let replay = Replay { session: Some(real), read, slot: slot.clone() };
    *session.downstream_session = ServerSession::new_custom(Box::new(replay));
    slot
}

/// Puts the client's own session back.
pub fn remove(session: &mut Session, slot: Slot) {
    let wrapper = std::mem::replace(&mut session.downstream_session, nothing());
    drop(wrapper);
    if let Some(real) = slot.lock().take() {
        session.downstream_session = real;
    }
}

/// Stands in for the moment of an exchange: nothing is asked of it.
fn nothing() -> Box<ServerSession> {
    Box::new(ServerSession::new_custom(Box::new(())))
}

struct Replay {
    /// There until dropped.
    session: Option<Box<ServerSession>>,
    read: Bytes,
    slot: Slot,
}

impl Replay {
    fn real(&self) -> &ServerSession {
        self.session.as_ref().expect("the session is taken only by drop")
    }

    fn real_mut(&mut self) -> &mut ServerSession {
        self.session.as_mut().expect("the session is taken only by drop")
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        *self.slot.lock() = self.session.take();
    }
}

#[async_trait]
impl server::Session for Replay {
    /// What was read, and after it what an earlier attempt has read since.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        if self.real().retry_buffer_truncated() {
            return None;
        }
        Some(match self.real().get_retry_buffer() {
            Some(later) => {
                let mut whole = BytesMut::from(self.read.as_ref());
                whole.extend_from_slice(&later);
                whole.freeze()
            }
            None => self.read.clone(),
        })
    }

    fn is_body_empty(&mut self) -> bool {
        false
    }

    fn is_body_done(&mut self) -> bool {
        self.real_mut().is_body_done()
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.real().retry_buffer_truncated()
    }

    fn enable_retry_buffering(&mut self) {
        self.real_mut().enable_retry_buffering();
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.real_mut().read_request_body().await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        self.real_mut().read_body_or_idle(no_body_expected).await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.real_mut().drain_request_body().await
    }

    fn req_header(&self) -> &RequestHeader {
        self.real().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.real_mut().req_header_mut()
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.real_mut().write_response_header(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.real_mut().write_response_header_ref(response).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.real_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.real_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.real_mut().response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.real().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.real().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.real_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.real().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.real().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.real().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _ctx: &str) {
        self.real_mut().shutdown().await;
    }

    async fn finish(&mut self) -> Result<()> {
        self.real_mut().finish_body().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.real().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.real().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.real().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.real_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.real().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.real().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.real().to_h1_raw()
    }

    fn is_upgrade_req(&self) -> bool {
        self.real().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.real().was_upgraded()
    }

    // Messages of protocols that Pingora does not know: HTTP has none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
