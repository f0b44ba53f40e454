//! A client session with something between it and Pingora: what Pingora reads from the client or writes to it passes a
//! [`Decoration`]. Pingora's own hooks for bodies cannot wait, and its buffer for replays loses what is over 64 KiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
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

/// What is left in hand of a session that is decorated.
#[derive(Clone, Default)]
pub struct Slot(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Where the client's own session is left when the decoration is taken off.
    session: Mutex<Option<Box<ServerSession>>>,
    /// Whether the connection ends with the response.
    closes: AtomicBool,
}

impl Slot {
    /// The connection ends with the response. Pingora cannot tell that to a session that is not its own.
    pub fn close(&self) {
        self.0.closes.store(true, Ordering::Relaxed);
    }
}

/// What is done to the bytes of a session. By default nothing: every method passes on to the session itself.
pub trait Decoration: Send + Sync + Unpin + 'static {
    /// The next piece of the request body; none at its end. Pingora cancels it, and calls again.
    fn read_body(&mut self, session: &mut ServerSession) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        session.read_request_body()
    }

    /// As [`Decoration::read_body`] while the body is not done, else until the client goes.
    fn read_body_or_idle(
        &mut self,
        session: &mut ServerSession,
        no_body_expected: bool,
    ) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        session.read_body_or_idle(no_body_expected)
    }

    /// What an attempt that fails has read, for the next one.
    fn retry_buffer(&self, session: &ServerSession) -> Option<Bytes>;

    fn retry_buffer_truncated(&self, session: &ServerSession) -> bool {
        session.retry_buffer_truncated()
    }

    fn enable_retry_buffering(&mut self, session: &mut ServerSession) {
        session.enable_retry_buffering();
    }

    fn is_body_empty(&mut self, session: &mut ServerSession) -> bool {
        session.is_body_empty()
    }

    fn is_body_done(&mut self, session: &mut ServerSession) -> bool {
        session.is_body_done()
    }

    fn write_header(
        &mut self,
        session: &mut ServerSession,
        response: Box<ResponseHeader>,
    ) -> impl Future<Output = Result<()>> + Send {
        session.write_response_header(response)
    }

    fn write_body(
        &mut self,
        session: &mut ServerSession,
        data: Bytes,
        end: bool,
    ) -> impl Future<Output = Result<()>> + Send {
        session.write_response_body(data, end)
    }

    fn write_tasks(
        &mut self,
        session: &mut ServerSession,
        tasks: Vec<HttpTask>,
    ) -> impl Future<Output = Result<bool>> + Send {
        session.response_duplex_vec(tasks)
    }
}

/// Puts a decoration around the client's session, which may have one already.
pub fn install(session: &mut Session, decoration: impl Decoration) -> Slot {
    let slot = Slot::default();
    let real = std::mem::replace(&mut session.downstream_session, Box::new(nothing()));
    let decorated = Decorated { session: Some(real), decoration, slot: slot.clone() };
    *session.downstream_session = ServerSession::new_custom(Box::new(decorated));
    slot
}

/// Takes the decoration off that was put on last.
pub fn remove(session: &mut Session, slot: &Slot) {
    *session.downstream_session = nothing();
    if let Some(real) = slot.0.session.lock().take() {
        session.downstream_session = real;
    }
}

/// Stands in for the moment of an exchange: nothing is asked of it.
fn nothing() -> ServerSession {
    ServerSession::new_custom(Box::new(()))
}

struct Decorated<D> {
    /// There until dropped.
    session: Option<Box<ServerSession>>,
    decoration: D,
    slot: Slot,
}

impl<D> Decorated<D> {
    fn real(&self) -> &ServerSession {
        self.session.as_ref().expect("the session is taken only by drop")
    }

    fn real_mut(&mut self) -> &mut ServerSession {
        self.session.as_mut().expect("the session is taken only by drop")
    }

    /// To be called before the head of the response is written.
    fn settle_connection(&mut self) {
        if self.slot.0.closes.load(Ordering::Relaxed) {
            self.real_mut().set_keepalive(None);
        }
    }

    /// The decoration and the session that it works on.
    fn both(&mut self) -> (&mut D, &mut ServerSession) {
        (&mut self.decoration, self.session.as_mut().expect("the session is taken only by drop"))
    }
}

impl<D> Drop for Decorated<D> {
    fn drop(&mut self) {
        *self.slot.0.session.lock() = self.session.take();
    }
}

#[async_trait]
impl<D: Decoration> server::Session for Decorated<D> {
    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.decoration.retry_buffer(self.real())
    }

    fn is_body_empty(&mut self) -> bool {
        let (decoration, session) = self.both();
        decoration.is_body_empty(session)
    }

    fn is_body_done(&mut self) -> bool {
        let (decoration, session) = self.both();
        decoration.is_body_done(session)
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.decoration.retry_buffer_truncated(self.real())
    }

    fn enable_retry_buffering(&mut self) {
        let (decoration, session) = self.both();
        decoration.enable_retry_buffering(session);
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let (decoration, session) = self.both();
        decoration.read_body(session).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        let (decoration, session) = self.both();
        decoration.read_body_or_idle(session, no_body_expected).await
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
        self.settle_connection();
        let (decoration, session) = self.both();
        decoration.write_header(session, response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.settle_connection();
        let (decoration, session) = self.both();
        decoration.write_header(session, Box::new(response.clone())).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let (decoration, session) = self.both();
        decoration.write_body(session, data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.real_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        self.settle_connection();
        let (decoration, session) = self.both();
        decoration.write_tasks(session, tasks).await
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
