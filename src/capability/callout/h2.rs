//! HTTP/2 (RFC 9113).

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ::h2::Reason;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::{Notify, mpsc};
use tokio_util::io::InspectWriter;

use super::body::Payload;
use super::chain;
use super::connection::{Failure, cause};
use crate::capability::net::Stream;

#[derive(Clone)]
pub struct Http2 {
    requests: SendRequest<Payload>,
    state: Arc<State>,
    changed: Arc<Notify>,
    _held: mpsc::Sender<Infallible>,
}

#[derive(Default)]
struct State {
    /// Streams that the server permits at once.
    most: AtomicUsize,
    /// What was wrong with the connection.
    error: OnceLock<String>,
}

impl Http2 {
    /// `changed` learns when the server permits another number of streams, and of the end.
    pub async fn new(stream: Stream, changed: Arc<Notify>) -> hyper::Result<Http2> {
        let state = Arc::<State>::default();
        // It acknowledges the settings of the server once they are in force.
        let wrote = Arc::<Notify>::default();
        let (writing, writes) = (state.clone(), wrote.clone());
        let stream = InspectWriter::new(stream, move |_: &[u8]| {
            if writing.most.load(Ordering::Relaxed) == 0 {
                writes.notify_one();
            }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        // A server refuses streams beyond its limit, also those that leave before it has said what that is.
        builder.initial_max_send_streams(0);
        let (requests, mut connection) = builder.handshake(TokioIo::new(stream)).await?;
        let (driven, changing) = (state.clone(), changed.clone());
        let (held, mut handles) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut written = Box::pin(wrote.notified());
            let end = poll_fn(|cx| {
                let end = Pin::new(&mut connection).poll(cx);
                while written.as_mut().poll(cx).is_ready() {
                    written.set(wrote.notified());
                }
                let most = connection.current_max_send_streams();
                if driven.most.swap(most, Ordering::Relaxed) != most {
                    changing.notify_waiters();
                }
                end
            });
            let end = tokio::select! {
                end = end => end,
                // By itself it would go on for as long as a request waits for the server.
                _ = handles.recv() => Ok(()),
            };
            if let Err(error) = end {
                let _ = driven.error.set(chain(&error));
            }
            drop(connection);
            changing.notify_waiters();
        });
        Ok(Http2 { requests, state, changed, _held: held })
    }

    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Streams that the server permits at once: 0 until it has said it.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::Relaxed)
    }

    pub async fn begin(&mut self, request: Request<Payload>) -> Result<Response<Incoming>, Failure> {
        // Of a request that waits in it, hyper does not tell whether it has left before the end of the connection.
        loop {
            let mut change = pin!(self.changed.notified());
            change.as_mut().enable();
            if self.most() > 0 || self.is_closed() {
                break;
            }
            change.await;
        }
        self.requests.try_send_request(request).await.map_err(|error| self.without_response(&error))
    }

    fn without_response<R>(&self, error: &TrySendError<R>) -> Failure {
        let text = || chain(error.error());
        let end = || self.state.error.get().cloned().unwrap_or_else(text);
        match cause(error.error()) {
            _ if error.message().is_some() => Failure::Unsent(end()),
            // Beyond the last stream that the server takes (section 6.8).
            Some(cause) if cause.is_go_away() && cause.is_remote() => Failure::Unsent(text()),
            Some(cause) if cause.is_remote() && cause.reason() == Some(Reason::REFUSED_STREAM) => {
                Failure::Refused(text())
            }
            Some(cause) => Failure::Unanswered(text(), cause.reason().map(u32::from)),
            None => Failure::Unanswered(end(), None),
        }
    }
}
