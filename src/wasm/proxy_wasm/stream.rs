//! One request and its response, as the filters of a chain share them. The task of the request drives the filters; a
//! callback for something else (a callout's response, a tick) may work on a stream that is paused meanwhile.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use parking_lot::{Mutex, MutexGuard};

use super::abi::Direction;
use super::buffer::Buffer;
use super::fields::{Fields, Target};
use super::property::Property;
use crate::capability::grpc::code_of_http;
use crate::exchange::{RequestHeader, ResponseHeader, no_request, no_response};
use crate::facts::{Facts, Way};

/// A stream in the hands of its request and of the contexts of its filters.
pub struct Stream {
    http: Mutex<Http>,
    /// Something has happened that the request waits for.
    woken: AtomicBool,
    /// The task of the request. `tokio::sync::Notify` would do, at the cost of a lock and a list for each wait.
    task: AtomicWaker,
}

impl Stream {
    pub fn of(http: Http) -> Stream {
        Stream { http: Mutex::new(http), woken: AtomicBool::new(false), task: AtomicWaker::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Http> {
        self.http.lock()
    }

    /// Has the request look at its filters again.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }

    /// Until [`Stream::wake`], which may have been before. Only the task of the request waits here.
    pub async fn woken(&self) {
        poll_fn(|cx| {
            if self.woken.swap(false, Ordering::Acquire) {
                return Poll::Ready(());
            }
            self.task.register(cx.waker());
            if self.woken.swap(false, Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// What filters see and change.
pub struct Http {
    pub request: Message<RequestHeader>,
    pub response: Message<ResponseHeader>,
    pub facts: Box<Facts>,
    pub way: Way,
    pub target: Target,
    /// What ends the stream: the first that a filter sends.
    pub reply: Option<Box<LocalReply>>,
    /// What ends the stream unless a filter sends a response itself: it cannot go on as the filters want it.
    pub failure: Option<Box<LocalReply>>,
    pub closed: bool,
    /// Why the filters have ended the stream: what they say of their response.
    pub details: Option<String>,
    /// What filters have set (`proxy_set_property`), by the path with its NULs.
    pub properties: HashMap<Vec<u8>, Property>,
    /// What a filter has chosen: the name of an upstream.
    pub upstream: Option<String>,
    /// The server of it that a filter has chosen.
    pub upstream_server: Option<SocketAddr>,
    /// Until the request goes on to it.
    pub upstream_open: bool,
}

/// One direction of a stream.
pub struct Message<H> {
    pub header: Lent<H>,
    pub trailers: Option<HeaderMap>,
    /// What may be changed now.
    pub open: Open,
    /// Of each filter, by its position in the chain.
    pub filters: Vec<Held>,
}

/// A header that is here for the time of a callback: it changes places with a stand-in.
pub struct Lent<H> {
    header: Box<H>,
    whose: Whose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A stand-in.
    Nobodys,
    /// It has to be given back.
    Lent,
    /// Kept, whoever has the first copy of it.
    Kept,
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
    pub body: Buffer,
    /// Whether there is a body to look at: its callback runs, or it has paused the stream.
    pub visible: bool,
    /// `proxy_continue_stream` was called.
    pub resume: bool,
    /// Put on the way by the filter, from its place on, and whether that is the end.
    pub injected: Buffer,
    pub injects_end: bool,
    /// Bytes of a body that it may hold, by its configuration, and by what it wants itself.
    pub permitted: usize,
    pub limit: usize,
    /// Whether the route of the request stays, whatever host and path become through this filter.
    pub keeps_route: bool,
    /// Callouts under way that its callbacks have made since it let something go on.
    callouts: usize,
    /// Counts how often it has.
    stretch: u32,
}

impl Held {
    /// What has been held goes on. Callouts that were made until now are none that it waits for.
    pub fn go_on(&mut self) {
        self.callouts = 0;
        self.stretch = self.stretch.wrapping_add(1);
    }

    /// A callout begins: in which stretch.
    pub fn begin_callout(&mut self) -> u32 {
        self.callouts += 1;
        self.stretch
    }

    /// A callout of this stretch has ended.
    pub fn end_callout(&mut self, stretch: u32) {
        if stretch == self.stretch {
            self.callouts -= 1;
        }
    }

    /// Whether it may wait for a callout.
    pub fn has_callouts(&self) -> bool {
        self.callouts > 0
    }
}

/// A response that a filter sends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    pub details: String,
}

/// What is not printable ASCII, and `%`.
const GRPC_MESSAGE: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%');

impl LocalReply {
    /// The same as a gRPC response of trailers only (gRPC over HTTP2, "Responses"). Statuses beyond 16 stand for none:
    /// that of HTTP says it.
    pub fn into_grpc(mut self, grpc_status: u32) -> LocalReply {
        let status = if grpc_status <= 16 { grpc_status } else { code_of_http(self.status) };
        self.status = StatusCode::OK;
        self.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
        self.headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")));
        self.headers.push((HeaderName::from_static("grpc-status"), HeaderValue::from(status)));
        let message: String = percent_encoding::percent_encode(&self.body, GRPC_MESSAGE).to_string();
        if let Some(message) = HeaderValue::try_from(message).ok().filter(|message| !message.is_empty()) {
            self.headers.push((HeaderName::from_static("grpc-message"), message));
        }
        self.body = Bytes::new();
        self
    }
}

impl<H> Lent<H> {
    fn stand_in(header: H) -> Lent<H> {
        Lent { header: Box::new(header), whose: Whose::Nobodys }
    }

    /// None: not there (yet).
    pub fn as_ref(&self) -> Option<&H> {
        (self.whose != Whose::Nobodys).then_some(&*self.header)
    }

    pub fn as_mut(&mut self) -> Option<&mut H> {
        (self.whose != Whose::Nobodys).then_some(&mut *self.header)
    }

    /// Takes the header, until [`Lent::give_back`]. When it has been taken already, there is only a stand-in to take.
    pub fn lend(&mut self, header: &mut H) {
        if self.whose != Whose::Lent {
            std::mem::swap(&mut *self.header, header);
            self.whose = Whose::Lent;
        }
    }

    /// Gives the header back, if it was lent. One that is kept stays.
    pub fn give_back(&mut self, header: &mut H) {
        if self.whose == Whose::Lent {
            self.give_out(header);
        }
    }

    /// Gives out the header that there is, lent or kept.
    pub fn give_out(&mut self, header: &mut H) {
        if self.whose != Whose::Nobodys {
            std::mem::swap(&mut *self.header, header);
            self.whose = Whose::Nobodys;
        }
    }

    /// Keeps this one.
    pub fn keep(&mut self, header: Box<H>) {
        self.header = header;
        self.whose = Whose::Kept;
    }

    /// Keeps a copy.
    pub fn keep_copy(&mut self, copy: H) {
        *self.header = copy;
        self.whose = Whose::Kept;
    }
}

impl<H> Message<H> {
    fn new(stand_in: H, filters: usize) -> Message<H> {
        let mut message = Message {
            header: Lent::stand_in(stand_in),
            trailers: None,
            open: Open::default(),
            filters: Vec::with_capacity(filters),
        };
        message.filters.resize_with(filters, Held::default);
        message
    }
}

impl Http {
    /// Of a request whose filters are so many.
    pub fn new(facts: Box<Facts>, way: Way, filters: usize) -> Http {
        Http {
            request: Message::new(no_request(), filters),
            response: Message::new(no_response(), filters),
            facts,
            way,
            target: Target::default(),
            reply: None,
            failure: None,
            closed: false,
            details: None,
            properties: HashMap::new(),
            upstream: None,
            upstream_server: None,
            upstream_open: true,
        }
    }

    /// What a filter holds in a direction.
    pub fn held(&mut self, direction: Direction, position: usize) -> &mut Held {
        match direction {
            Direction::Request => &mut self.request.filters[position],
            Direction::Response => &mut self.response.filters[position],
        }
    }

    pub fn trailers(&self, direction: Direction) -> Option<&HeaderMap> {
        match direction {
            Direction::Request => self.request.trailers.as_ref(),
            Direction::Response => self.response.trailers.as_ref(),
        }
    }

    /// The end has come: filters may change the trailers, and add some where there are none.
    pub fn open_trailers(&mut self, direction: Direction) {
        match direction {
            Direction::Request => self.request.open.trailers = true,
            Direction::Response => self.response.open.trailers = true,
        }
    }

    /// The header of a direction.
    pub fn fields(&self, direction: Direction) -> Option<Fields<'_>> {
        match direction {
            Direction::Request => self.request.header.as_ref().map(|header| Fields::Request(header, self.scheme())),
            Direction::Response => self.response.header.as_ref().map(Fields::Response),
        }
    }

    /// The response to a stream that fails by its filters.
    pub fn failed(&self, status: StatusCode, body: String) -> Box<LocalReply> {
        let details = "wasm_fail_stream".to_owned();
        let reply = LocalReply { status, headers: Vec::new(), body: body.into(), details };
        Box::new(if self.is_grpc() { reply.into_grpc(u32::MAX) } else { reply })
    }

    /// The stream cannot go on: the first reason counts.
    pub fn fail(&mut self, why: String) {
        let status = match self.response.header.as_ref() {
            Some(_) => StatusCode::BAD_GATEWAY,
            None => StatusCode::SERVICE_UNAVAILABLE,
        };
        if self.failure.is_none() {
            self.failure = Some(self.failed(status, why));
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
        match &self.target.scheme {
            Some(scheme) => scheme,
            None if self.facts.tls => "https",
            None => "http",
        }
    }
}
