//! What callouts bring back, given to the root context that made them. The guest finds the stream that it was for by
//! itself (`proxy_set_effective_context`).

use std::fmt::Display;

use crate::exchange::ResponseHeader;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::fields::Fields;
use super::state::Shown;
use super::vm::Vm;
use crate::capability::callout::{CalloutError, ClusterResponse};
use crate::capability::cluster::ClusterError;
use crate::capability::grpc::{Event, Reply, Status};
use crate::capability::resp::RedisError;

/// What `proxy_get_status` says of a response that broke off: as Envoy.
const RESET: (u32, &str) = (11, "reset");

/// What Higress tells of a command for Redis: `RedisStatus`.
const REDIS_OK: u32 = 0;
const REDIS_NETWORK_ERROR: u32 = 1;

impl Vm {
    /// The response of an HTTP call, or what stands for it.
    ///
    /// # Errors
    /// A trap.
    pub fn deliver_http(
        &mut self,
        root: u32,
        id: u32,
        result: Result<ClusterResponse, CalloutError>,
    ) -> wasmtime::Result<()> {
        // Until the callback has returned: then the stream that waits for it looks what has become of it.
        let Some(call) = self.state().calls.remove(id) else { return Ok(()) };
        self.state().contexts.direction = call.direction();
        let shown = &mut self.state().shown;
        let counts = match result.or_else(stand_in) {
            Ok(ClusterResponse { status, headers, body, trailers }) => {
                let header = response_header(status, &headers)?;
                let counts = [Fields::Response(&header).count(), length(body.len()), length(trailers.len())];
                shown.call_headers = Some(header);
                shown.call_body = Some(body);
                shown.call_trailers = Some(trailers);
                counts
            }
            Err(error) => {
                shown.status = Some((RESET.0, RESET.1.to_owned()));
                if let CalloutError::BodyTooLarge { .. } = error {
                    self.tell_once(root, "proxy_http_call", &error);
                }
                log::debug!("a callout of a filter was reset: {error}");
                [0; 3]
            }
        };
        let called = self.on_http_call_response(root, id, counts);
        self.forget();
        called
    }

    /// The answer to a gRPC call.
    ///
    /// # Errors
    /// A trap.
    pub fn deliver_grpc(&mut self, root: u32, id: u32, result: Result<Reply, Status>) -> wasmtime::Result<()> {
        let Some(call) = self.state().calls.end(id) else { return Ok(()) };
        self.state().contexts.direction = call.direction();
        let called = match result {
            // As Envoy, it shows the metadata of streams only.
            Ok(Reply { message, .. }) => {
                let size = length(message.len());
                self.state().shown.grpc_message = Some(message);
                self.on_grpc_receive(root, id, size)
            }
            Err(status) => self.grpc_closed(root, id, status),
        };
        self.state().calls.forget(id);
        self.forget();
        called
    }

    /// Something has come on a gRPC stream.
    ///
    /// # Errors
    /// A trap.
    pub fn deliver_grpc_event(&mut self, root: u32, id: u32, event: Event) -> wasmtime::Result<()> {
        if !self.state().calls.contains(id) {
            return Ok(());
        }
        let state = self.state();
        state.contexts.direction = state.calls.direction(id);
        let shown = &mut state.shown;
        let called = match event {
            Event::InitialMetadata(metadata) => {
                // A response of trailers only has none.
                let header = (!metadata.is_empty()).then(|| response_header(StatusCode::OK, &metadata)).transpose()?;
                let count = header.as_ref().map_or(0, |header| Fields::Response(header).count());
                shown.grpc_initial_metadata = header;
                self.on_grpc_receive_initial_metadata(root, id, count)
            }
            Event::Message(message) => {
                let size = length(message.len());
                shown.grpc_message = Some(message);
                self.on_grpc_receive(root, id, size)
            }
            Event::TrailingMetadata(metadata) => {
                let count = length(metadata.len());
                shown.grpc_trailing_metadata = Some(metadata);
                self.on_grpc_receive_trailing_metadata(root, id, count)
            }
            Event::Closed(status) => {
                let call = self.state().calls.end(id);
                let called = self.grpc_closed(root, id, status);
                if call.is_some_and(|call| call.is_closed()) {
                    self.state().calls.forget(id);
                }
                called
            }
        };
        self.forget();
        called
    }

    /// The reply to a command for Redis.
    ///
    /// # Errors
    /// A trap.
    pub fn deliver_redis(&mut self, root: u32, id: u32, result: Result<Bytes, RedisError>) -> wasmtime::Result<()> {
        let Some(call) = self.state().calls.remove(id) else { return Ok(()) };
        self.state().contexts.direction = call.direction();
        let (status, reply) = match result {
            Ok(reply) => (REDIS_OK, reply),
            Err(error) => {
                self.tell_once(root, "proxy_redis_call", &error);
                log::debug!("a command of a filter for Redis has no reply: {error}");
                (REDIS_NETWORK_ERROR, Bytes::new())
            }
        };
        let size = length(reply.len());
        self.state().shown.redis_reply = Some(reply);
        let called = self.on_redis_call_response(root, id, status, size);
        self.forget();
        called
    }

    fn grpc_closed(&mut self, root: u32, id: u32, status: Status) -> wasmtime::Result<()> {
        let Status { code, message, trailers } = status;
        let shown = &mut self.state().shown;
        shown.status = Some((code, message));
        shown.grpc_trailing_metadata = Some(*trailers);
        self.on_grpc_close(root, id, code)
    }

    /// Has the log say what has become of a callout, before the guest learns of it.
    fn tell_once(&mut self, root: u32, function: &'static str, error: &dyn Display) {
        let state = self.state();
        state.contexts.current = root;
        state.at_limit(function, error);
        state.contexts.current = 0;
    }

    /// What was shown to the callback can be seen no more.
    fn forget(&mut self) {
        self.state().shown = Shown::default();
    }
}

/// The responses with which Envoy's router stands in for a server that gives none.
fn stand_in(error: CalloutError) -> Result<ClusterResponse, CalloutError> {
    let (status, body) = match &error {
        CalloutError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout".to_owned()),
        CalloutError::Cluster(ClusterError::NoneHealthy(_)) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream".to_owned())
        }
        CalloutError::Net(_) => reset_before_headers("remote connection failure"),
        CalloutError::Unanswered { reset: None, .. } => reset_before_headers("connection termination"),
        CalloutError::Unanswered { reset: Some(_), .. } => reset_before_headers("remote reset"),
        _ => return Err(error),
    };
    log::debug!("a callout of a filter has no response: {error}");
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_LENGTH, body.len().into());
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(ClusterResponse { status, headers, body: Bytes::from(body), trailers: HeaderMap::new() })
}

fn reset_before_headers(reason: &str) -> (StatusCode, String) {
    let text = format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

fn response_header(status: StatusCode, headers: &HeaderMap) -> wasmtime::Result<ResponseHeader> {
    let wrong = |error| wasmtime::Error::msg(format!("the response of a callout has a wrong header: {error}"));
    let mut header = ResponseHeader::build(status, Some(headers.len())).map_err(|error| wrong(error.to_string()))?;
    for (name, value) in headers {
        header.append_header(name, value).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(header)
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
