//! A connection that speaks HTTP: one request at a time with HTTP/1.1, many with HTTP/2 and HTTP/3.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use ::h2::Reason;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use super::body::Payload;
use super::h2::Http2;
use super::h3::{self, Http3};
use super::request::Outgoing;
use super::{CalloutError, chain};
use crate::capability::net::{Stream, Target};
use crate::observe::metrics::Counted;

pub enum Connection {
    Http1(http1::SendRequest<Payload>),
    Http2(Http2),
    Http3(Http3),
}

/// Why a request has no response.
pub enum Failure {
    /// Nothing of it has left, or the server has not looked at it and takes no more on this connection: it can be sent again.
    Unsent(String),
    /// The server has not looked at it (RFC 9113, section 8.7): it can be sent again, also over this connection.
    Refused(String),
    /// The connection ended without a word: the server may have done something, or not. With the reason for which the server
    /// has reset the stream (RFC 9113, section 7), if it has.
    Unanswered(String, Option<u32>),
    Broken(String),
    BodyTooLarge(usize),
}

impl Failure {
    pub fn into_error(self, target: &Target) -> CalloutError {
        match self {
            Failure::Unsent(text) => CalloutError::Unanswered { target: target.clone(), text, reset: None },
            Failure::Refused(text) => {
                let reset = Some(Reason::REFUSED_STREAM.into());
                CalloutError::Unanswered { target: target.clone(), text, reset }
            }
            Failure::Unanswered(text, reset) => CalloutError::Unanswered { target: target.clone(), text, reset },
            Failure::Broken(text) => CalloutError::Broken(target.clone(), text),
            Failure::BodyTooLarge(limit) => CalloutError::BodyTooLarge { of: "response", limit },
        }
    }
}

/// Why a stream has not become a connection.
pub type Unmade = Box<dyn Error + Send + Sync>;

/// A response that has begun.
pub enum Begun {
    Http(Response<Incoming>),
    Http3(Box<h3::Begun>),
}

/// A whole response.
pub struct Received {
    pub response: Response<Option<Bytes>>,
    pub trailers: HeaderMap,
}

/// How long a connection out of the pool may be busy with what came before, such as a request body that the server does
/// not take any more.
const STILL_BUSY: Duration = Duration::from_millis(20);

impl Connection {
    pub async fn http1(stream: Stream) -> Result<Connection, Unmade> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped; what is wrong with it, the sender learns.
        tokio::spawn(async { drop(connection.await) });
        Ok(Connection::Http1(sender))
    }

    /// `changed` learns when it may have room for another call, and of its end.
    pub async fn http2(stream: Stream, changed: Arc<Notify>) -> Result<Connection, Unmade> {
        Ok(Connection::Http2(Http2::new(stream, changed).await?))
    }

    pub async fn http3(connection: quinn::Connection, open: Counted) -> Result<Connection, Unmade> {
        Ok(Connection::Http3(Http3::new(connection, open).await?))
    }

    /// Another handle of a connection that takes several requests at once.
    pub fn share(&self) -> Option<Connection> {
        match self {
            Connection::Http1(_) => None,
            Connection::Http2(connection) => Some(Connection::Http2(connection.clone())),
            Connection::Http3(connection) => Some(Connection::Http3(connection.clone())),
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_closed(),
            Connection::Http2(connection) => connection.is_closed(),
            Connection::Http3(connection) => connection.is_closed(),
        }
    }

    /// Calls that it takes at once: 0 when the server of HTTP/2 has not said it yet, or takes none for the moment.
    pub fn most_calls(&self) -> usize {
        match self {
            Connection::Http1(_) => 1,
            Connection::Http2(connection) => connection.most(),
            Connection::Http3(_) => usize::MAX,
        }
    }

    /// Sends a request; the response begins as well.
    pub async fn begin(&mut self, outgoing: &Outgoing) -> Result<Begun, Failure> {
        let response = match self {
            Connection::Http1(sender) => {
                match tokio::time::timeout(STILL_BUSY, sender.ready()).await {
                    Ok(ready) => ready.map_err(|error| Failure::Unsent(chain(&error)))?,
                    Err(_) => return Err(Failure::Unsent("the connection is busy".into())),
                }
                sender.try_send_request(outgoing.http1()).await.map_err(without_response)?
            }
            Connection::Http2(connection) => connection.begin(outgoing.http2()).await?,
            Connection::Http3(connection) => return Ok(Begun::Http3(connection.begin(outgoing).await?.into())),
        };
        Ok(Begun::Http(response))
    }
}

impl Begun {
    /// What is left of the response to a request with this method.
    pub async fn whole(self, method: &Method, limit: usize) -> Result<Received, Failure> {
        let (head, body) = match self {
            Begun::Http(response) => response.into_parts(),
            Begun::Http3(begun) => return begun.whole(method, limit).await,
        };
        if head.status.is_informational() {
            return Err(Failure::Broken(format!("it answered {}, which nobody asked for", head.status)));
        }
        let (body, trailers) = whole(body, limit, head.version == Version::HTTP_2).await?;
        let response = complete(method, Response::from_parts(head, ()), body)?;
        Ok(Received { response, trailers })
    }
}

/// Whether a response has a body, be it empty (RFC 9110, section 6.4.1). That of a 205 should be empty, but is read as it comes.
fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The response with its body, if that is whole: some ends of a stream look as if it were.
pub fn complete(method: &Method, head: Response<()>, body: Bytes) -> Result<Response<Option<Bytes>>, Failure> {
    if !has_body(method, head.status()) {
        return Ok(head.map(|()| None));
    }
    let length = head.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) if length != body.len() => {
            Err(Failure::Broken(format!("its body has {} bytes, and its content-length is {length}", body.len())))
        }
        _ => Ok(head.map(|()| Some(body))),
    }
}

fn without_response<R>(error: TrySendError<R>) -> Failure {
    let text = chain(error.error());
    if error.message().is_some() { Failure::Unsent(text) } else { Failure::Unanswered(text, None) }
}

/// The reason for which the other side has ended the stream or the connection.
pub fn reset(error: &(dyn Error + 'static)) -> Option<u32> {
    cause(error)?.reason().map(u32::from)
}

/// What HTTP/2 has to say about it.
pub fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a ::h2::Error> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

/// In HTTP/2, a stream may be ended without an error in the middle of it: `ends` says that its end has to be marked.
async fn whole(mut body: Incoming, limit: usize, ends: bool) -> Result<(Bytes, HeaderMap), Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::BodyTooLarge(limit));
    }
    let (mut whole, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Broken(chain(&error)))?;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().unwrap_or_default();
                continue;
            }
        };
        if whole.len() + data.len() > limit {
            return Err(Failure::BodyTooLarge(limit));
        }
        whole.extend_from_slice(&data);
    }
    if ends && !body.is_end_stream() {
        return Err(Failure::Broken("it broke off in the middle of its response".into()));
    }
    Ok((whole.freeze(), trailers))
}
