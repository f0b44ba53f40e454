//! A connection that speaks HTTP: one request at a time with HTTP/1.1, many with HTTP/2 and HTTP/3.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::h3::Http3;
use super::request::Outgoing;
use super::{CalloutError, chain};
use crate::capability::net::{Link, Network, Policy, Stream, Target, Transport};

pub enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Http3(Http3),
}

/// Why a request has no response.
pub enum Failure {
    /// Nothing of it has left: it can be sent again.
    Unsent(String),
    /// The connection ended without a word: the server may have done something, or not.
    Unanswered(String),
    Broken(String),
    BodyTooLarge(usize),
}

impl Failure {
    pub fn into_error(self, target: &Target) -> CalloutError {
        match self {
            Failure::Unsent(text) | Failure::Unanswered(text) | Failure::Broken(text) => {
                CalloutError::Exchange(target.clone(), text)
            }
            Failure::BodyTooLarge(limit) => CalloutError::BodyTooLarge { of: "response", limit },
        }
    }
}

/// A response as it begins or whole.
pub type Answer = Result<Response<Option<Bytes>>, Failure>;

/// How long a connection out of the pool may be busy with what came before, such as a request body that the server does
/// not take any more.
const STILL_BUSY: Duration = Duration::from_millis(20);

impl Connection {
    /// Opens a connection to the target; the address that it goes to. HTTP/2 is spoken where the server chooses it
    /// (ALPN, RFC 9113, section 3.2).
    pub async fn open(
        network: &Network,
        policy: &Policy,
        outgoing: &Outgoing,
    ) -> Result<(Connection, SocketAddr), CalloutError> {
        let (transport, target) = (outgoing.transport, outgoing.target());
        let alpn: &[&[u8]] = match transport {
            Transport::Tcp => &[],
            Transport::Ssl => &[b"h2", b"http/1.1"],
            Transport::Quic => &[b"h3"],
        };
        let connected = network.dial(policy, transport, target, None, alpn).await?;
        let failed = |error: &dyn Error| CalloutError::Exchange(target.clone(), chain(error));
        let connection = match connected.link {
            Link::Stream(stream, Some(protocol)) if protocol == b"h2" => {
                Connection::http2(stream).await.map_err(|error| failed(&error))?
            }
            Link::Stream(stream, _) => Connection::http1(stream).await.map_err(|error| failed(&error))?,
            Link::Quic(connection, open) => {
                let connection = Http3::new(connection, open).await.map_err(|error| failed(&error))?;
                Connection::Http3(connection)
            }
        };
        Ok((connection, connected.addr))
    }

    pub async fn http1(stream: Stream) -> hyper::Result<Connection> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped; what is wrong with it, the sender learns.
        tokio::spawn(async { drop(connection.await) });
        Ok(Connection::Http1(sender))
    }

    async fn http2(stream: Stream) -> hyper::Result<Connection> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async { drop(connection.await) });
        Ok(Connection::Http2(sender))
    }

    /// Another handle of a connection that takes several requests at once.
    pub fn share(&self) -> Option<Connection> {
        match self {
            Connection::Http1(_) => None,
            Connection::Http2(sender) => Some(Connection::Http2(sender.clone())),
            Connection::Http3(connection) => Some(Connection::Http3(connection.clone())),
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Connection::Http1(sender) => sender.is_closed(),
            Connection::Http2(sender) => sender.is_closed(),
            Connection::Http3(connection) => connection.is_closed(),
        }
    }

    /// Sends a request and takes the whole response.
    pub async fn send(&mut self, outgoing: &Outgoing, limit: usize) -> Answer {
        let response = match self {
            Connection::Http1(sender) => {
                match tokio::time::timeout(STILL_BUSY, sender.ready()).await {
                    Ok(ready) => ready.map_err(|error| Failure::Unsent(chain(&error)))?,
                    Err(_) => return Err(Failure::Unsent("the connection is busy".into())),
                }
                sender.try_send_request(outgoing.http1()).await
            }
            Connection::Http2(sender) => {
                sender.ready().await.map_err(|error| Failure::Unsent(chain(&error)))?;
                sender.try_send_request(outgoing.http2()).await
            }
            Connection::Http3(connection) => return connection.send(outgoing, limit).await,
        };
        let (head, body) = response.map_err(without_response)?.into_parts();
        if head.status.is_informational() {
            return Err(Failure::Broken(format!("it answered {}, which nobody asked for", head.status)));
        }
        let body = whole(body, limit).await?;
        let body = has_body(&outgoing.method, head.status).then_some(body);
        Ok(Response::from_parts(head, body))
    }
}

/// Whether a response has a body, be it empty (RFC 9110, section 6.4.1).
pub fn has_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn without_response<R>(error: TrySendError<R>) -> Failure {
    let text = chain(error.error());
    if error.message().is_some() { Failure::Unsent(text) } else { Failure::Unanswered(text) }
}

async fn whole(mut body: Incoming, limit: usize) -> Result<Bytes, Failure> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Failure::BodyTooLarge(limit));
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::Broken(chain(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(Failure::BodyTooLarge(limit));
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}
