//! HTTP/3 (RFC 9114).

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;

use ::h3::client::{self, RequestStream, SendRequest};
use ::h3::error::{Code, StreamError};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::{Either, select};
use h3_quinn::{OpenStreams, RecvStream, SendStream};
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;

use super::body::Payload;
use super::chain;
use super::connection::{Failure, Received, complete};
use super::request::Outgoing;
use crate::observe::metrics::Counted;

/// Bytes of the header of a response, as RFC 9114, section 4.2.2, counts them.
const LARGEST_HEADER: u64 = 64 << 10;

#[derive(Clone)]
pub struct Http3 {
    requests: SendRequest<OpenStreams, Bytes>,
    connection: quinn::Connection,
}

impl Http3 {
    pub async fn new(connection: quinn::Connection, open: Counted) -> Result<Http3, impl Error> {
        let quic = h3_quinn::Connection::new(connection.clone());
        let built = client::builder().max_field_section_size(LARGEST_HEADER).build(quic).await;
        built.map(|(mut driver, requests)| {
            // It ends with the connection, which is closed when the last handle is dropped.
            tokio::spawn(async move {
                poll_fn(|cx| driver.poll_close(cx)).await;
                drop(open);
            });
            Http3 { requests, connection }
        })
    }

    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Sends a request; the response begins as well.
    pub async fn begin(&mut self, outgoing: &Outgoing) -> Result<Begun, Failure> {
        let stream = self.requests.send_request(outgoing.http3()).await.map_err(without_response)?;
        let (request, mut response) = stream.split();
        let mut request = Request { stream: request, is_whole: false };
        // A server may answer before it has the whole body, and not want the rest (RFC 9114, section 4.1): what goes wrong
        // with the request, the response tells.
        let head = match select(pin!(head(&mut response)), pin!(request.send(outgoing.body.attempt()))).await {
            Either::Left((head, _)) => head,
            Either::Right((_, head)) => head.await,
        };
        Ok(Begun { head: head.map_err(without_response)?, response, _request: request })
    }
}

/// A response that has begun.
pub struct Begun {
    head: Response<()>,
    response: RequestStream<RecvStream, Bytes>,
    _request: Request,
}

impl Begun {
    pub async fn whole(mut self, method: &Method, limit: usize) -> Result<Received, Failure> {
        let broken = |error: StreamError| Failure::Broken(chain(&error));
        let mut body = BytesMut::new();
        while let Some(mut data) = self.response.recv_data().await.map_err(broken)? {
            if body.len() + data.remaining() > limit {
                return Err(Failure::BodyTooLarge(limit));
            }
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok(Received { response: complete(method, self.head, body.freeze())?, trailers: HeaderMap::new() })
    }
}

struct Request {
    stream: RequestStream<SendStream<Bytes>, Bytes>,
    is_whole: bool,
}

impl Request {
    async fn send(&mut self, mut body: Payload) -> Result<(), StreamError> {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                self.stream.send_data(data).await?;
            }
        }
        self.stream.finish().await?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.is_whole {
            // By itself the stream would end as if it were.
            self.stream.stop_stream(Code::H3_REQUEST_CANCELLED);
        }
    }
}

fn without_response(error: StreamError) -> Failure {
    let text = chain(&error);
    match error {
        // After a GOAWAY.
        StreamError::RemoteClosing { .. } => Failure::Unsent(text),
        StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED, .. } => Failure::Refused(text),
        _ => Failure::Unanswered(text, None),
    }
}

/// The final response, after those that only inform.
async fn head<S: ::h3::quic::RecvStream>(stream: &mut RequestStream<S, Bytes>) -> Result<Response<()>, StreamError> {
    loop {
        let response = stream.recv_response().await?;
        if !response.status().is_informational() {
            return Ok(response);
        }
    }
}
