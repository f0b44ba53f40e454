//! Calls of many messages, either way.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::message::{Item, frame};
use super::{Answer, GrpcCall, Request, Status, open};
use crate::capability::Capabilities;
use crate::capability::callout::{Pipe, PipeError};

/// Bytes that may wait to be sent before another message is refused.
const MOST_UNSENT: usize = 1 << 20;

/// Events that wait to be taken before the server has to wait.
const MOST_EVENTS: usize = 16;

/// What comes from the server: initial metadata and messages, and then in any case trailing metadata and the end. Only when
/// there is no response at all are there no initial metadata; they are empty when the response is a status and no more, or is
/// not one of gRPC. Trailing metadata are empty when the status is not the server's own.
#[derive(Clone, Debug)]
pub enum Event {
    InitialMetadata(HeaderMap),
    Message(Bytes),
    TrailingMetadata(HeaderMap),
    Closed(Status),
}

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("a message of {length} bytes is larger than {limit} bytes: body_limit of [network] can permit more")]
    TooLarge { length: usize, limit: usize },
    #[error("the stream has been closed")]
    Closed,
    #[error("the server does not take what has been sent before: {0} bytes wait")]
    Full(usize),
}

/// The sending half of a stream. Dropped, the stream is cancelled: no more events come, and the server is told.
pub struct GrpcStream {
    request: Pipe,
    /// Bytes of the largest message.
    limit: usize,
    failures: mpsc::UnboundedSender<SendError>,
    task: AbortHandle,
}

/// Opens a stream, which lives on the runtime of the caller. It does not wait: what can be sent waits for the connection. The
/// events end after [`Event::Closed`]; when they are dropped, the stream is cancelled.
///
/// # Panics
/// Outside of a runtime.
pub fn stream(capabilities: &Arc<Capabilities>, call: GrpcCall) -> (GrpcStream, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(MOST_EVENTS);
    let request = Request::default();
    let (pipe, limit) = (request.0.clone(), capabilities.callouts.cluster_body_limit());
    let (failures, failed) = mpsc::unbounded_channel();
    let task = tokio::spawn(run(capabilities.clone(), call, request, sender, failed));
    (GrpcStream { request: pipe, limit, failures, task: task.abort_handle() }, events)
}

impl GrpcStream {
    /// Sends a message, and ends the request after it if this is the end. Never waits.
    ///
    /// # Errors
    /// When the message is too large, the stream is closed in this direction, or too much waits to be sent.
    pub fn send(&self, message: &[u8], end: bool) -> Result<(), SendError> {
        if message.len() > self.limit {
            return Err(SendError::TooLarge { length: message.len(), limit: self.limit });
        }
        self.request.push(frame(message), MOST_UNSENT).map_err(|error| match error {
            PipeError::Ended => SendError::Closed,
            PipeError::Full(unsent) => SendError::Full(unsent),
        })?;
        if end {
            self.close();
        }
        Ok(())
    }

    /// Ends the stream with the status for a message that was not sent.
    pub fn fail(&self, why: SendError) {
        // Where nobody listens it has ended already.
        let _ = self.failures.send(why);
    }

    /// Ends the request; the server may go on sending.
    pub fn close(&self) {
        self.request.finish();
    }
}

impl Drop for GrpcStream {
    fn drop(&mut self) {
        self.request.cancel();
        self.task.abort();
    }
}

async fn run(
    capabilities: Arc<Capabilities>,
    call: GrpcCall,
    request: Request,
    events: mpsc::Sender<Event>,
    mut failed: mpsc::UnboundedReceiver<SendError>,
) {
    let receiving = async {
        tokio::select! {
            status = receive(&capabilities, &call, &request, &events) => status,
            Some(error) = failed.recv() => Err(Status::exhausted(error)),
        }
    };
    let status = capabilities.callouts.timed(call.timeout, Status::deadline_exceeded, receiving).await;
    let status = status.unwrap_or_else(|status| status);
    drop(request);
    // Whoever has dropped the events wants none.
    let _ = events.send(Event::TrailingMetadata((*status.trailers).clone())).await;
    let _ = events.send(Event::Closed(status)).await;
}

/// The status of the server; the error is that there is none.
async fn receive(
    capabilities: &Capabilities,
    call: &GrpcCall,
    request: &Request,
    events: &mpsc::Sender<Event>,
) -> Result<Status, Status> {
    let tell = async |event| events.send(event).await.map_err(|_| Status::cancelled());
    let Answer { initial_metadata, mut messages, mut lease, endpoint: _endpoint } = tokio::select! {
        answer = open(capabilities, call, request) => answer?,
        () = events.closed() => return Err(Status::cancelled()),
    };
    lease.keep();
    tell(Event::InitialMetadata(initial_metadata)).await?;
    loop {
        let item = tokio::select! {
            item = messages.next() => item?,
            () = events.closed() => return Err(Status::cancelled()),
        };
        lease.answered();
        match item {
            Item::Message(message) => tell(Event::Message(message)).await?,
            Item::End(trailers) => return Status::of_trailers(trailers),
        }
    }
}
