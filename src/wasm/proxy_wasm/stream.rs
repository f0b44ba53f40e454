//! One request and its response, as the filters of a chain share them. The task of the request drives the filters; a
//! callback for something else (a callout's response, a tick) may work on a stream that is paused meanwhile.

use std::collections::HashMap;

use crate::exchange::{RequestHeader, ResponseHeader};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::abi::Direction;
use super::fields::Fields;
use crate::facts::{Facts, Way};

/// A stream in the hands of its request and of the contexts of its filters.
pub struct Stream {
    http: Mutex<Http>,
    /// Something has happened that the request waits for.
    wake: Notify,
}

impl Stream {
    pub fn of(http: Http) -> Stream {
        Stream { http: Mutex::new(http), wake: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Http> {
        self.http.lock()
    }

    /// Has the request look at its filters again.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Until [`Stream::wake`].
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

/// What filters see and change.
#[derive(Default)]
pub struct Http {
    pub request: Message<RequestHeader>,
    pub response: Message<ResponseHeader>,
    pub facts: Box<Facts>,
    pub way: Way,
    /// `:scheme`, when a filter has set another.
    pub scheme: Option<String>,
    /// What ends the stream: the first that a filter sends.
    pub reply: Option<LocalReply>,
    pub closed: bool,
    /// Callouts of its filters that have not been answered.
    pub callouts: usize,
    /// Why the filters have ended the stream: what they say of their response.
    pub details: Option<String>,
    /// What filters have set (`proxy_set_property`), by the path with its NULs.
    pub properties: HashMap<Vec<u8>, Bytes>,
    /// What a filter has chosen: the name of an upstream.
    pub upstream: Option<String>,
    /// Until the request goes on to it.
    pub upstream_open: bool,
}

/// One direction of a stream.
pub struct Message<H> {
    /// None: not there (yet).
    pub header: Option<H>,
    pub trailers: Option<HeaderMap>,
    /// What may be changed now.
    pub open: Open,
    /// Of each filter, by its position in the chain.
    pub filters: Vec<Held>,
}

/// The parts of a message that a filter may still change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    pub header: bool,
    pub trailers: bool,
}

/// What one filter holds of a message.
#[derive(Default)]
pub struct Held {
    /// What its body callback sees.
    pub body: BytesMut,
    /// Whether there is a body to look at: its callback runs, or it has paused the stream.
    pub visible: bool,
    /// `proxy_continue_stream` was called.
    pub resume: bool,
}

/// A response that a filter sends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    pub status: http::StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    pub details: String,
}

impl<H> Default for Message<H> {
    fn default() -> Message<H> {
        Message { header: None, trailers: None, open: Open::default(), filters: Vec::new() }
    }
}

impl Http {
    /// Of a request whose filters are so many.
    pub fn of(request: RequestHeader, facts: Box<Facts>, filters: usize) -> Http {
        let mut http = Http { facts, ..Http::default() };
        http.request.header = Some(request);
        http.request.filters.resize_with(filters, Held::default);
        http.response.filters.resize_with(filters, Held::default);
        http
    }

    /// What a filter holds in a direction.
    pub fn held(&mut self, direction: Direction, position: usize) -> &mut Held {
        match direction {
            Direction::Request => &mut self.request.filters[position],
            Direction::Response => &mut self.response.filters[position],
        }
    }

    /// The header of a direction.
    pub fn fields(&self, direction: Direction) -> Option<Fields<'_>> {
        match direction {
            Direction::Request => self.request.header.as_ref().map(|header| Fields::Request(header, self.scheme())),
            Direction::Response => self.response.header.as_ref().map(Fields::Response),
        }
    }

    /// Whether the request is one of gRPC.
    pub fn is_grpc(&self) -> bool {
        let kind = self.request.header.as_ref().and_then(|request| request.headers.get(header::CONTENT_TYPE));
        let kind = kind.map(HeaderValue::as_bytes).unwrap_or_default();
        kind == b"application/grpc" || kind.starts_with(b"application/grpc+")
    }

    /// The scheme of the request: that of the connection, unless a filter has set another.
    pub fn scheme(&self) -> &str {
        match &self.scheme {
            Some(scheme) => scheme,
            None if self.facts.tls => "https",
            None => "http",
        }
    }
}
