//! One request and its response as plugins see them. The proxy owns both; for the run of a chain they are moved in here,
//! never copied, and moved back after it. Everything a plugin may do with them is a method, which says in which phases
//! it is allowed: the skins of both kinds of plugin stand on these.

mod client;
mod headers;

pub use client::{ClientEnd, PluginEnd, stream};
pub use headers::{Edit, contains, first_value, message_headers, pairs};
pub use pingora::http::{RequestHeader, ResponseHeader};

use std::ops::Deref;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use futures::channel::oneshot;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use parking_lot::Mutex;

use crate::capability::background::Background;
use crate::facts::{Facts, View};
use crate::headers::{MOST_FIELDS, is_length};
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
    #[error("there are too many headers: a message has {MOST_FIELDS} at the most")]
    TooManyHeaders,
    #[error("`{0}` is not a valid host, such as `a.example.cn:8080`")]
    Host(String),
    #[error("the request has a `host` already, and there is only one")]
    SecondHost,
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
        headers.iter().try_for_each(|(name, _)| headers::not_keeping(name))?;
        Ok(Reply { status, headers: message_headers(headers, body.len())?, body, length })
    }
}

/// Takes the `content-length` out, when it is one that a body could have.
fn take_length(headers: &mut Vec<(String, String)>) -> Option<u64> {
    let at = headers.iter().position(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
    let text = Some(&headers[at].1).filter(|text| is_length(text.as_bytes()))?;
    let length = text.parse().ok().filter(|length| *length > 0)?;
    headers.remove(at);
    Some(length)
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
    /// What `return` and `error` send: set by the plugin that runs now, in `wasm_serverless` by any.
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
        // A fragment would be lost; what is not ASCII has to be escaped (RFC 3986, section 2).
        if !target.starts_with('/') || target.contains('#') || !target.is_ascii() {
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
        response.set_status(final_status(status)?).map_err(|_| Refused::Status(status))?;
        // That of the upstream is for its own status.
        response.set_reason_phrase(None).map_err(|_| Refused::Status(status))
    }

    /// Whether a response can be set that `return` and `error` send.
    ///
    /// # Errors
    /// In a phase that cannot end the request, and when a response was sent before.
    pub fn can_set_reply(&self) -> Result<(), Refused> {
        self.can_reply("out-set-response")?;
        if self.replied { Err(Refused::AlreadySent) } else { Ok(()) }
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

    /// Asks for the request body, which may be here already. Wait for the answer without holding the lock.
    ///
    /// # Errors
    /// In a phase where the body has gone upstream unread, and once it is read from the stream to the client.
    pub fn ask_body(&mut self) -> Result<oneshot::Receiver<Result<Bytes, Refused>>, Refused> {
        let (answer, receiver) = oneshot::channel();
        if let Some(body) = &self.body {
            let _ = answer.send(Ok(body.clone()));
            return Ok(receiver);
        }
        if !self.phase.can_edit_request() {
            return Err(self.refuse("in-body-read-exact", "the request body has already been sent"));
        }
        if self.streamed {
            return Err(Refused::BodyStreamed);
        }
        self.ask(Ask::Body(answer))?;
        Ok(receiver)
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
    fn a_new_status_has_its_own_reason() {
        let mut response = no_response();
        response.set_status(404).unwrap();
        response.set_reason_phrase(Some("NOT FOUND")).unwrap();
        let mut exchange = Exchange { phase: Phase::HttpFilterHeaders, response: Some(response), ..Exchange::new() };
        exchange.set_status(200).unwrap();
        assert_eq!(exchange.response.unwrap().get_reason_phrase(), Some("OK"));
    }

    #[test]
    fn a_content_length_has_one_spelling() {
        let reply = |length: &str| Reply::new(200, vec![("content-length".into(), length.into())], Bytes::new());
        assert_eq!(reply("3").unwrap().length, Some(3));
        assert_eq!(reply("0").unwrap().length, None);
        for length in ["+3", "03", "-3", "3, 3", ""] {
            assert!(matches!(reply(length), Err(Refused::ContentLength { .. })), "{length}");
        }
    }
}
