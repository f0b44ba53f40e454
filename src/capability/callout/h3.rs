//! HTTP/3 (RFC 9114).

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;

use ::h3::client::{self, RequestStream, SendRequest};
use ::h3::error::StreamError;
use bytes::{Buf, Bytes, BytesMut};
use futures::future::{Either, select};
use h3_quinn::OpenStreams;
use http::{HeaderMap, Response};
use http_body_util::BodyExt;

use super::chain;
use super::connection::{Answer, Failure, Received, complete};
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

    /// Sends a request and takes the whole response.
    pub async fn send(&mut self, outgoing: &Outgoing, limit: usize) -> Answer {
        let unanswered = |error: StreamError| Failure::Unanswered(chain(&error), None);
        let broken = |error: StreamError| Failure::Broken(chain(&error));
        let stream = self.requests.send_request(outgoing.http3()).await.map_err(unanswered)?;
        let (mut request, mut response) = stream.split();
        let mut body = outgoing.body.clone();
        let sending = async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    request.send_data(data).await?;
                }
            }
            request.finish().await?;
            Ok::<_, StreamError>(request)
        };
        // A server may answer before it has the whole body, and not want the rest (RFC 9114, section 4.1): what goes wrong
        // with the request, the response tells.
        let (head, _request) = match select(pin!(head(&mut response)), pin!(sending)).await {
            Either::Left((head, _)) => (head, None),
            Either::Right((sent, head)) => (head.await, sent.ok()),
        };
        let head = head.map_err(unanswered)?;
        let mut body = BytesMut::new();
        while let Some(mut data) = response.recv_data().await.map_err(broken)? {
            if body.len() + data.remaining() > limit {
                return Err(Failure::BodyTooLarge(limit));
            }
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok(Received { response: complete(&outgoing.method, head, body.freeze())?, trailers: HeaderMap::new() })
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
