//! gRPC to clusters, as a client: always over HTTP/2, whatever the upstream's `h2` says. The protocol is "gRPC over HTTP2",
//! doc/PROTOCOL-HTTP2.md of grpc/grpc.

mod message;
mod status;
mod stream;
#[cfg(test)]
mod tests;

pub use status::{Status, code_of_http, parse as parse_status};
pub use stream::{Event, GrpcStream, SendError, stream};

use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::{Body, Incoming};

use self::message::{Item, Messages, frame};
use super::Capabilities;
use super::callout::{Lease, Outgoing, Pipe, default_scheme, host_header, without_connection};
use super::cluster::Endpoint;

/// What is called, and how.
#[derive(Clone, Debug)]
pub struct GrpcCall {
    pub cluster: String,
    /// With its package, such as `helloworld.Greeter`.
    pub service: String,
    pub method: String,
    pub metadata: HeaderMap,
    /// From the wait for the cluster to the status; none: as long as it takes. The server is told.
    pub timeout: Option<Duration>,
}

/// The answer to a call that has gone well.
#[derive(Clone, Debug)]
pub struct Reply {
    pub message: Bytes,
    pub initial_metadata: HeaderMap,
    pub trailing_metadata: HeaderMap,
}

/// Calls a method that takes one message and gives one. Dropped, it is cancelled.
///
/// # Errors
/// With the status of the server when it is not 0, or with that which stands for what went wrong on the way: 4 when the time
/// is over, 8 for a message that is too large or too many callouts in flight, 14 without a connection.
pub async fn unary(capabilities: &Capabilities, call: GrpcCall, message: Bytes) -> Result<Reply, Status> {
    let exchange = exchange(capabilities, &call, message);
    capabilities.callouts.timed(call.timeout, Status::deadline_exceeded, exchange).await.flatten()
}

/// The reply or the status of the server; the error is that there is neither.
async fn exchange(
    capabilities: &Capabilities,
    call: &GrpcCall,
    message: Bytes,
) -> Result<Result<Reply, Status>, Status> {
    if message.len() > capabilities.callouts.cluster_body_limit() {
        return Err(Status::too_large(message.len(), capabilities.callouts.cluster_body_limit()));
    }
    let request = Request::default();
    // Nothing is before it.
    let _ = request.0.push(frame(&message), 0);
    request.0.finish();
    let Answer { initial_metadata, mut messages, mut lease, endpoint: _endpoint } =
        open(capabilities, call, &request).await?;
    let mut message = None;
    let status = loop {
        match messages.next().await? {
            Item::Message(_) if message.is_some() => return Err(Status::internal("there is more than one message")),
            Item::Message(first) => message = Some(first),
            Item::End(trailers) => break Status::of_trailers(trailers)?,
        }
    };
    lease.keep();
    if status.code != 0 {
        return Ok(Err(status));
    }
    let message = message.ok_or_else(|| Status::internal("there is no message"))?;
    Ok(Ok(Reply { message, initial_metadata, trailing_metadata: *status.trailers }))
}

/// The body of a request. Dropped before its end, it takes the request back.
#[derive(Default)]
struct Request(Pipe);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// An answer that has begun.
struct Answer {
    /// Empty when the answer is a status and no more.
    initial_metadata: HeaderMap,
    messages: Messages,
    lease: Lease,
    /// In use as long as the call is.
    endpoint: Endpoint,
}

async fn open(capabilities: &Capabilities, call: &GrpcCall, request: &Request) -> Result<Answer, Status> {
    let Capabilities { callouts, clusters, network, .. } = capabilities;
    let endpoint = clusters.endpoint(&call.cluster).await.map_err(Status::unavailable)?;
    let outgoing = outgoing(call, &endpoint, request)?;
    let (response, lease) = callouts.begin(network, &endpoint, &outgoing).await?;
    let limit = callouts.cluster_body_limit();
    let (initial_metadata, messages) = read(response, limit);
    Ok(Answer { initial_metadata, messages, lease, endpoint })
}

fn outgoing(call: &GrpcCall, endpoint: &Endpoint, request: &Request) -> Result<Outgoing, Status> {
    let GrpcCall { cluster, service, method, metadata, timeout } = call;
    let path = PathAndQuery::try_from(format!("/{service}/{method}"))
        .map_err(|_| Status::internal(format!("`/{service}/{method}` is not a path")))?;
    // As Envoy: the name of the cluster, where that can be a host.
    let authority = Authority::try_from(cluster.as_str())
        .or_else(|_| Authority::try_from(format!("{}:{}", endpoint.host, endpoint.addr.port())))
        .map_err(|_| Status::internal(format!("`{}` is not a host", endpoint.host)))?;
    let mut headers = metadata.clone();
    without_connection(&mut headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        headers.insert("grpc-timeout", grpc_timeout(*timeout));
    }
    Ok(Outgoing {
        method: Method::POST,
        body: request.0.payload(),
        target: endpoint.addr.into(),
        scheme: default_scheme(endpoint),
        host: host_header(&authority),
        path,
        headers,
    })
}

/// At most eight digits and a unit.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let text = match timeout.as_millis() {
        ms @ 0..=MOST => format!("{}m", ms.max(1)),
        ms => format!("{}S", (ms / 1000).min(MOST)),
    };
    HeaderValue::from_str(&text).expect("digits and a letter")
}

/// The metadata and what follows.
fn read(response: Response<Incoming>, limit: usize) -> (HeaderMap, Messages) {
    let (head, body) = response.into_parts();
    if head.headers.contains_key(status::STATUS) && (body.is_end_stream() || head.status != StatusCode::OK) {
        // "Trailers-Only".
        return (HeaderMap::new(), Messages::none(Ok(head.headers)));
    }
    let kind = head.headers.get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if head.status == StatusCode::OK && is_grpc {
        let messages = Messages::new(body, &head.headers, limit);
        return (head.headers, messages);
    }
    // Its headers are no metadata.
    (HeaderMap::new(), Messages::none(Err(Status::of_http(head.status))))
}
