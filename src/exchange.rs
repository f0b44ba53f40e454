//! One request and its response as plugins see them. The proxy owns both; for the run of a chain they are moved in here,
//! never copied, and moved back after it. Everything a plugin may do with them is a method, which says in which phases
//! it is allowed: the skins of both kinds of plugin stand on these.

mod client;

pub use client::{ClientEnd, PluginEnd, stream};
pub use pingora::http::{RequestHeader, ResponseHeader};

use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use futures::channel::oneshot;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use parking_lot::Mutex;

use crate::capability::background::Background;
use crate::facts::{Facts, View};
use crate::headers::KEEPING;
use crate::phase::Phase;
use crate::variables;

/// Shared by the entry points of one script, which run concurrently, and by what they spawn.
pub type Shared = Arc<Mutex<Exchange>>;

/// The exchange in the hands of whoever the request belongs to: dropped, the request has ended, and with it all that runs
/// in its background.
#[derive(Default)]
pub struct Owned(Shared);

impl Deref for Owned {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut exchange = self.0.lock();
        exchange.lent = false;
        exchange.background.end();
    }
}

/// Why a plugin's call was refused: what it gets as `err`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{function}: not possible in the phase {phase}: {why}")]
    Phase { function: &'static str, phase: Phase, why: &'static str },
    #[error("`{0}` is not a valid header name (RFC 9110, section 5.1)")]
    HeaderName(String),
    #[error("the value of `{0}` is not a valid header value (RFC 9110, section 5.5)")]
    HeaderValue(String),
    #[error("the value of `{0}` is not valid UTF-8")]
    NotUtf8(String),
    #[error("`{0}` belongs to the proxy, which frames messages and keeps connections itself")]
    Framing(HeaderName),
    #[error("`{0}` is not a valid method (RFC 9110, section 9.1)")]
    Method(String),
    #[error(
        "HEAD cannot become another method, nor another HEAD: the client waits for a response with a body, or without"
    )]
    Head,
    #[error("`{0}` is not a valid path and query, such as `/a?b=c`")]
    Uri(String),
    #[error("{0} is not the status of a final response: 200 to 599")]
    Status(u16),
    #[error("content-length is {found:?} for a body of {expected} bytes")]
    ContentLength { found: String, expected: usize },
    #[error("there are too many headers")]
    TooManyHeaders,
    #[error("a response was already sent")]
    AlreadySent,
    #[error("101 switches protocols: its status cannot be changed")]
    Switching,
    #[error("curr-fd: another script has had the stream to the client")]
    Streamed,
    #[error("the request body is read from curr-fd")]
    BodyStreamed,
    #[error("the request is none for an upgrade to WebSocket: {0}")]
    NoUpgrade(&'static str),
    #[error("wasm_http_filter_headers failed, and the client has got an error")]
    HeadReplaced,
    #[error("the request body is larger than body_limit, {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the request body could not be read: {0}")]
    Body(String),
    #[error("the response could not be sent: {0}")]
    Send(String),
    #[error("the request has ended")]
    Ended,
    #[error("no script of the request runs now: a spawned run can work on the request only meanwhile")]
    NotLent,
    #[error("no script of the request that waits runs now, to do this for a spawned run")]
    NotDriven,
    #[error("there is no request in a session")]
    NoRequest,
}

/// A response that a plugin made, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
    /// The `content-length` that was given without a body: that of a body to be streamed, or of none, for HEAD.
    pub length: Option<u64>,
}

impl Reply {
    /// A response with a status, and nothing else.
    pub fn of_status(status: StatusCode) -> Reply {
        Reply { status, headers: Vec::new(), body: Bytes::new(), length: None }
    }

    /// # Errors
    /// When the status or a header is not valid, or `content-length` is not the length of the body.
    pub fn new(status: u16, mut headers: Vec<(String, String)>, body: Bytes) -> Result<Reply, Refused> {
        let status = final_status(status)?;
        let length = if body.is_empty() { take_length(&mut headers) } else { None };
        headers.iter().try_for_each(|(name, _)| not_keeping(name))?;
        Ok(Reply { status, headers: message_headers(headers, body.len())?, body, length })
    }
}

/// Takes the `content-length` out, when it is one that a body could have.
fn take_length(headers: &mut Vec<(String, String)>) -> Option<u64> {
    let at = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let length = headers[at].1.parse().ok().filter(|length| *length > 0)?;
    headers.remove(at);
    Some(length)
}

/// The headers of a message with a body of this length, without `content-length`: whoever sends it frames it.
///
/// # Errors
/// When a header is not valid, or `content-length` is another one.
pub fn message_headers(
    headers: Vec<(String, String)>,
    body_length: usize,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refused> {
    let mut checked = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let name = header_name(&name)?;
        let value = header_value(name.as_str(), value)?;
        match name {
            header::CONTENT_LENGTH if value.as_bytes() == body_length.to_string().as_bytes() => {}
            header::CONTENT_LENGTH => {
                let found = String::from_utf8_lossy(value.as_bytes()).into_owned();
                return Err(Refused::ContentLength { found, expected: body_length });
            }
            header::TRANSFER_ENCODING => return Err(Refused::Framing(name)),
            _ => checked.push((name, value)),
        }
    }
    Ok(checked)
}

/// What a plugin asks of whoever holds the connection.
#[derive(Debug)]
pub enum Ask {
    /// The whole request body.
    Body(oneshot::Sender<Result<Bytes, Refused>>),
    /// To send this response now.
    Respond(Reply, oneshot::Sender<Result<(), Refused>>),
    /// The stream to the client.
    Stream(oneshot::Sender<PluginEnd>),
    /// To send the head of this response now, and its body from the stream. The answer is the length of that body, if it
    /// was given.
    Head(Reply, oneshot::Sender<Result<Option<u64>, Refused>>),
}

/// A request and its response, lent to a chain.
pub struct Exchange {
    pub phase: Phase,
    pub request: RequestHeader,
    pub response: Option<ResponseHeader>,
    pub facts: Box<Facts>,
    /// The request body, once a plugin has read it.
    pub body: Option<Bytes>,
    /// What `return` and `error` send.
    pub reply: Option<Reply>,
    /// Whether a plugin has sent its response by itself.
    pub replied: bool,
    /// Whether a plugin has had the stream to the client.
    pub streamed: bool,
    /// Whether the request is in here, for a chain to work on.
    pub lent: bool,
    /// What scripts have spawned.
    pub background: Background,
    /// Open questions to the driver of this run.
    asks: Vec<Ask>,
    /// Woken by an ask; none while nobody drives.
    driver: Option<Waker>,
}

impl Exchange {
    /// With nothing lent yet.
    pub fn new() -> Exchange {
        Exchange {
            phase: Phase::Access,
            request: no_request(),
            response: None,
            facts: Box::default(),
            body: None,
            reply: None,
            replied: false,
            streamed: false,
            lent: false,
            background: Background::default(),
            asks: Vec::new(),
            driver: None,
        }
    }

    /// The value of a variable; none when there is none of this name, or it is not known yet.
    pub fn variable(&self, name: &str) -> Option<String> {
        let variable = variables::parse(name)?;
        let view = View { request: &self.request, response: self.response.as_ref(), facts: &self.facts };
        view.variable(&variable).map(|value| value.into_owned())
    }

    pub fn request_headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    /// # Errors
    /// In a phase without a response.
    pub fn response_headers(&self, function: &'static str) -> Result<&HeaderMap, Refused> {
        self.readable_response(function).map(|response| &response.headers)
    }

    /// # Errors
    /// In a phase without a response.
    pub fn status(&self, function: &'static str) -> Result<u16, Refused> {
        self.readable_response(function).map(|response| response.status.as_u16())
    }

    /// The request header for editing.
    ///
    /// # Errors
    /// In a phase where the request has been sent.
    pub fn edit_request(&mut self, function: &'static str) -> Result<Edit<'_>, Refused> {
        if !self.phase.can_edit_request() {
            return Err(self.refuse(function, "the request has already been sent"));
        }
        Ok(Edit::Request(&mut self.request))
    }

    /// The response header for editing.
    ///
    /// # Errors
    /// In a phase without a response, and after it was sent.
    pub fn edit_response(&mut self, function: &'static str) -> Result<Edit<'_>, Refused> {
        if !self.phase.can_edit_response() {
            let sent = self.phase.has_response();
            return Err(self.refuse(function, if sent { "the response has already been sent" } else { NO_RESPONSE }));
        }
        match &mut self.response {
            Some(response) => Ok(Edit::Response(response)),
            None => Err(Refused::Ended),
        }
    }

    /// # Errors
    /// For a method that is no token, and where the request has been sent.
    pub fn set_method(&mut self, method: &str) -> Result<(), Refused> {
        self.edit_request("in-set-method")?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refused::Method(method.to_owned()))?;
        if (method == Method::HEAD) != (self.request.method == Method::HEAD) {
            return Err(Refused::Head);
        }
        self.request.set_method(method);
        Ok(())
    }

    /// Changes path and query.
    ///
    /// # Errors
    /// For a target that is not valid, and where the request has been sent.
    pub fn set_uri(&mut self, target: &str) -> Result<(), Refused> {
        self.edit_request("in-set-uri")?;
        let invalid = || Refused::Uri(target.to_owned());
        // A fragment would be lost.
        if !target.starts_with('/') || target.contains('#') {
            return Err(invalid());
        }
        let target = PathAndQuery::try_from(target).map_err(|_| invalid())?;
        self.request.set_uri(target.into());
        Ok(())
    }

    /// # Errors
    /// For a status that no final response has, and where there is no response to edit.
    pub fn set_status(&mut self, status: u16) -> Result<(), Refused> {
        let Edit::Response(response) = self.edit_response("out-set-status")? else {
            return Err(Refused::Ended);
        };
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refused::Switching);
        }
        response.set_status(final_status(status)?).map_err(|_| Refused::Status(status))
    }

    /// Keeps the response that `return` and `error` send.
    ///
    /// # Errors
    /// In a phase that cannot end the request, and when a response was sent before.
    pub fn set_reply(&mut self, reply: Reply) -> Result<(), Refused> {
        self.can_reply("out-set-response")?;
        if self.replied {
            return Err(Refused::AlreadySent);
        }
        self.reply = Some(reply);
        Ok(())
    }

    /// Asks for a response to be sent now. Wait for the answer without holding the lock.
    ///
    /// # Errors
    /// In a phase that cannot end the request, and when a response was sent before.
    pub fn ask_respond(&mut self, reply: Reply) -> Result<oneshot::Receiver<Result<(), Refused>>, Refused> {
        self.can_reply("out-response")?;
        if self.replied {
            return Err(Refused::AlreadySent);
        }
        let (answer, receiver) = oneshot::channel();
        self.ask(Ask::Respond(reply, answer))?;
        self.replied = true;
        Ok(receiver)
    }

    /// The request body, or the question for it. Wait for the answer without holding the lock.
    ///
    /// # Errors
    /// In a phase where the body has gone upstream unread, and once it is read from the stream to the client.
    pub fn ask_body(&mut self) -> Result<BodyOr<oneshot::Receiver<Result<Bytes, Refused>>>, Refused> {
        if let Some(body) = &self.body {
            return Ok(BodyOr::Body(body.clone()));
        }
        if !self.phase.can_edit_request() {
            return Err(self.refuse("in-body-read-exact", "the request body has already been sent"));
        }
        if self.streamed {
            return Err(Refused::BodyStreamed);
        }
        let (answer, receiver) = oneshot::channel();
        self.ask(Ask::Body(answer))?;
        Ok(BodyOr::Asked(receiver))
    }

    /// From now on asks are taken, and wake whoever takes them.
    pub fn drive(&mut self, driver: &Waker) {
        self.driver = Some(driver.clone());
    }

    /// The next ask.
    pub fn asked(&mut self) -> Option<Ask> {
        self.asks.pop()
    }

    /// Nobody takes asks any more. Those that are open are refused.
    pub fn stop_driving(&mut self) {
        self.driver = None;
        for ask in self.asks.drain(..) {
            match ask {
                Ask::Respond(..) | Ask::Head(..) => self.replied = false,
                Ask::Stream(_) => self.streamed = false,
                Ask::Body(_) => {}
            }
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<(), Refused> {
        let driver = self.driver.as_ref().ok_or(Refused::NotDriven)?;
        driver.wake_by_ref();
        self.asks.push(ask);
        Ok(())
    }

    fn can_reply(&self, function: &'static str) -> Result<(), Refused> {
        if self.phase.can_end_request() { Ok(()) } else { Err(self.refuse(function, "it cannot end the request")) }
    }

    fn readable_response(&self, function: &'static str) -> Result<&ResponseHeader, Refused> {
        if !self.phase.has_response() {
            return Err(self.refuse(function, NO_RESPONSE));
        }
        self.response.as_ref().ok_or_else(|| self.refuse(function, "the request ended without a response"))
    }

    fn refuse(&self, function: &'static str, why: &'static str) -> Refused {
        Refused::Phase { function, phase: self.phase, why }
    }
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange::new()
    }
}

const NO_RESPONSE: &str = "there is no response yet";

/// The body when it is here already, else a way to wait for it.
pub enum BodyOr<T> {
    Body(Bytes),
    Asked(T),
}

/// A header that may be edited. Each edit is checked whole before anything changes.
pub enum Edit<'a> {
    Request(&'a mut RequestHeader),
    Response(&'a mut ResponseHeader),
}

impl Edit<'_> {
    /// Appends a header, and keeps the case of its name.
    ///
    /// # Errors
    /// For a name or value that is not valid HTTP, and for headers that frame the message.
    pub fn append(&mut self, name: String, value: String) -> Result<(), Refused> {
        self.editable(&name, &value)?;
        let value = header_value(&name, value)?;
        match self {
            Edit::Request(header) => header.append_header(name, value),
            Edit::Response(header) => header.append_header(name, value),
        }
        .map_or_else(too_many, |_| Ok(()))
    }

    /// Appends all pairs, or none.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn append_all(&mut self, pairs: Vec<(String, String)>) -> Result<(), Refused> {
        for (name, value) in &pairs {
            self.editable(name, value)?;
            header_value(name, value.clone())?;
        }
        pairs.into_iter().try_for_each(|(name, value)| self.append(name, value))
    }

    /// Replaces all values of a header.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn set(&mut self, name: String, value: String) -> Result<(), Refused> {
        self.editable(&name, &value)?;
        let value = header_value(&name, value)?;
        match self {
            Edit::Request(header) => header.insert_header(name, value),
            Edit::Response(header) => header.insert_header(name, value),
        }
        .or_else(too_many)
    }

    fn editable(&self, name: &str, value: &str) -> Result<(), Refused> {
        match self {
            // What a server of gRPC wants to be told, and all that HTTP/2 has of it.
            Edit::Request(_) if name.eq_ignore_ascii_case("te") && value == "trailers" => return Ok(()),
            Edit::Request(_) => not_of_hop(name)?,
            Edit::Response(_) => {}
        }
        not_keeping(name)?;
        editable(name)
    }

    /// Removes a header; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn remove(&mut self, name: &str) -> Result<(), Refused> {
        not_framing(name)?;
        let removed = match self {
            Edit::Request(header) => header.remove_header(name),
            Edit::Response(header) => header.remove_header(name),
        };
        // What was there has a valid name.
        if removed.is_none() { token(name).map(drop) } else { Ok(()) }
    }

    /// Removes all these headers, or none.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn remove_all(&mut self, names: &[String]) -> Result<(), Refused> {
        names.iter().try_for_each(|name| editable(name))?;
        names.iter().try_for_each(|name| self.remove(name))
    }
}

/// The first value of a header.
///
/// # Errors
/// For an invalid name, and a value that is not UTF-8.
pub fn first_value(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refused> {
    // What is there has a valid name.
    let Some(value) = headers.get(name) else { return token(name).map(|_| None) };
    text(name, value).map(|value| Some(value.to_owned()))
}

/// Whether there is such a header.
///
/// # Errors
/// For an invalid name.
pub fn contains(headers: &HeaderMap, name: &str) -> Result<bool, Refused> {
    if headers.contains_key(name) { Ok(true) } else { token(name).map(|_| false) }
}

/// All headers, a pair for every value.
///
/// # Errors
/// For a value that is not UTF-8.
pub fn pairs(headers: &HeaderMap) -> Result<Vec<(String, String)>, Refused> {
    headers.iter().map(|(name, value)| Ok((name.as_str().to_owned(), text(name.as_str(), value)?.to_owned()))).collect()
}

fn header_name(name: &str) -> Result<HeaderName, Refused> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refused::HeaderName(name.to_owned()))
}

/// A response header that stands in while the real one is elsewhere.
pub fn no_response() -> ResponseHeader {
    let (parts, ()) = http::Response::new(()).into_parts();
    parts.into()
}

/// A copy to look at. It costs less than one to send: how names are spelled on the wire is not in it.
pub fn plain_copy(response: &ResponseHeader) -> ResponseHeader {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = response.status;
    parts.version = response.version;
    parts.headers = response.headers.clone();
    parts.into()
}

/// A request header that stands in while the real one is lent.
pub fn no_request() -> RequestHeader {
    let (parts, ()) = http::Request::new(()).into_parts();
    parts.into()
}

fn text<'v>(name: &str, value: &'v HeaderValue) -> Result<&'v str, Refused> {
    std::str::from_utf8(value.as_bytes()).map_err(|_| Refused::NotUtf8(name.to_owned()))
}

/// A field name is a token (RFC 9110, section 5.6.2). Checked without building a `HeaderName`, which takes memory.
fn token(name: &str) -> Result<&str, Refused> {
    let valid = (1..usize::from(u16::MAX)).contains(&name.len()) && name.bytes().all(|b| TCHAR[usize::from(b)]);
    if valid { Ok(name) } else { Err(Refused::HeaderName(name.to_owned())) }
}

/// Which bytes may stand in a token.
const TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let tchars = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut i = 0;
    while i < tchars.len() {
        table[tchars[i] as usize] = true;
        i += 1;
    }
    table
};

fn editable(name: &str) -> Result<(), Refused> {
    not_framing(name)?;
    token(name).map(drop)
}

/// Headers that say where a body ends are not for plugins: one edit and the connection is out of step.
fn not_framing(name: &str) -> Result<(), Refused> {
    let framing = match name.len() {
        14 if name.eq_ignore_ascii_case("content-length") => header::CONTENT_LENGTH,
        17 if name.eq_ignore_ascii_case("transfer-encoding") => header::TRANSFER_ENCODING,
        _ => return Ok(()),
    };
    Err(Refused::Framing(framing))
}

/// What Pingora takes out of a request on its way: a header that a plugin sets would be lost.
fn not_of_hop(name: &str) -> Result<(), Refused> {
    static OF_HOP: [HeaderName; 4] =
        [header::UPGRADE, header::TRAILER, header::PROXY_AUTHORIZATION, header::PROXY_AUTHENTICATE];
    refused_of(&OF_HOP, name)
}

/// By these headers the proxy says whether it keeps a connection.
fn not_keeping(name: &str) -> Result<(), Refused> {
    refused_of(&KEEPING, name)
}

fn refused_of(names: &[HeaderName], name: &str) -> Result<(), Refused> {
    match names.iter().find(|other| name.eq_ignore_ascii_case(other.as_str())) {
        Some(name) => Err(Refused::Framing(name.clone())),
        None => Ok(()),
    }
}

/// Takes the text as it is, without a copy.
fn header_value(name: &str, value: String) -> Result<HeaderValue, Refused> {
    HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| Refused::HeaderValue(name.to_owned()))
}

fn too_many(_: Box<pingora::Error>) -> Result<(), Refused> {
    Err(Refused::TooManyHeaders)
}

fn final_status(status: u16) -> Result<StatusCode, Refused> {
    match StatusCode::from_u16(status) {
        Ok(code) if (200..=599).contains(&status) => Ok(code),
        _ => Err(Refused::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_lost_in_a_request_is_refused() {
        let mut request = no_request();
        let mut set = |name: &str, value: &str| Edit::Request(&mut request).set(name.to_owned(), value.to_owned());
        for (name, value) in [("te", "gzip"), ("Connection", "close"), ("upgrade", "x"), ("Proxy-Authorization", "x")] {
            assert!(matches!(set(name, value), Err(Refused::Framing(_))), "{name}: {value}");
        }
        assert_eq!(set("TE", "trailers"), Ok(()));
    }

    #[test]
    fn names_are_tokens_and_framing_belongs_to_the_proxy() {
        for byte in 0..=255_u8 {
            let Ok(name) = std::str::from_utf8(std::slice::from_ref(&byte)) else { continue };
            assert_eq!(token(name).is_ok(), HeaderName::from_bytes(&[byte]).is_ok(), "{byte:#x}");
        }
        for (name, ok) in [("", false), ("x", true), ("é", false), ("x-a", true), ("x a", false), ("x:", false)] {
            assert_eq!(editable(name).is_ok(), ok, "{name:?}");
        }
        for name in ["content-length", "Content-Length", "TRANSFER-ENCODING"] {
            assert!(matches!(editable(name), Err(Refused::Framing(_))), "{name}");
        }
        assert!(token(&"x".repeat(usize::from(u16::MAX))).is_err());
    }
}
