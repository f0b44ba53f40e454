//! Header maps as filters know them: names in lower case, pseudo-headers among them and first (RFC 9113, section 8.3).

use std::borrow::Cow;

use crate::exchange::{RequestHeader, ResponseHeader};
use crate::headers::{MOST_FIELDS, ONE_LINE_OF_REQUESTS, ONE_LINE_OF_RESPONSES, is_keeping, joined};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::pairs::PairsError;

/// Why a message could not be sent with what was to be set in it. In Envoy's words, where it has some.
#[derive(Debug, thiserror::Error)]
pub enum Unsendable {
    #[error("invalid header name: {0}")]
    Name(String),
    #[error("invalid header value for: {0}")]
    Value(String),
    #[error("too many headers")]
    TooMany,
    #[error("invalid headers: {0}")]
    Pairs(#[from] PairsError),
}

/// A map that can be read.
#[derive(Clone, Copy)]
pub enum Fields<'a> {
    /// With its `:scheme`.
    Request(&'a RequestHeader, &'a str),
    Response(&'a ResponseHeader),
    Plain(&'a HeaderMap),
}

/// A map that can be changed.
pub enum FieldsMut<'a> {
    Request(&'a mut RequestHeader, &'a mut Target),
    Response(&'a mut ResponseHeader),
    Plain(&'a mut HeaderMap),
}

/// Of a request, beside its header.
#[derive(Clone, Default)]
pub struct Target {
    /// `:scheme`, when a filter has set another.
    pub scheme: Option<String>,
    /// Whether a filter has set the host or the path, by which requests are routed.
    pub moved: bool,
}

impl<'a> Fields<'a> {
    /// Calls for every pair, in order.
    pub fn each(self, mut pair: impl FnMut(&[u8], &[u8])) {
        match self {
            Fields::Request(request, scheme) => {
                if let Some(authority) = authority(request) {
                    pair(b":authority", authority);
                }
                pair(b":path", request.raw_path());
                pair(b":method", request.method.as_str().as_bytes());
                pair(b":scheme", scheme.as_bytes());
                let headers = &request.headers;
                let shown = |name: &HeaderName| *name != header::HOST && !is_hidden(name, headers);
                for (name, value) in headers.iter().filter(|(name, _)| shown(name)) {
                    pair(name.as_str().as_bytes(), value.as_bytes());
                }
            }
            Fields::Response(response) => {
                pair(b":status", response.status.as_str().as_bytes());
                let shows =
                    |name: &HeaderName| *name != header::CONNECTION || response.headers.contains_key(header::UPGRADE);
                for (name, value) in response.headers.iter().filter(|(name, _)| shows(name)) {
                    pair(name.as_str().as_bytes(), value.as_bytes());
                }
            }
            Fields::Plain(headers) => plain(headers, pair),
        }
    }

    pub fn count(self) -> u32 {
        let mut count = 0;
        self.each(|_, _| count += 1);
        count
    }

    /// The first value of a name.
    pub fn get(self, name: &[u8]) -> Option<Cow<'a, [u8]>> {
        if is_capital_pseudo(name) {
            return self.get(&name.to_ascii_lowercase());
        }
        let borrowed = match (self, name) {
            (Fields::Request(request, scheme), _) => match name {
                b":authority" => return authority(request).map(Cow::Borrowed),
                b":path" => request.raw_path(),
                b":method" => request.method.as_str().as_bytes(),
                b":scheme" => scheme.as_bytes(),
                name if name.eq_ignore_ascii_case(b"host") => return authority(request).map(Cow::Borrowed),
                name => return field(&request.headers, name),
            },
            (Fields::Response(response), b":status") => {
                return Some(Cow::Owned(response.status.as_str().as_bytes().to_vec()));
            }
            (Fields::Response(response), name) => return field(&response.headers, name),
            (Fields::Plain(headers), name) => return field(headers, name),
        };
        Some(Cow::Borrowed(borrowed))
    }

    /// All values of a name, as one.
    pub fn joined(self, name: &str) -> Option<Vec<u8>> {
        let headers = match self {
            Fields::Request(request, _) => &request.headers,
            Fields::Response(response) => &response.headers,
            Fields::Plain(headers) => headers,
        };
        if name.starts_with(':') || (name.eq_ignore_ascii_case("host") && matches!(self, Fields::Request(..))) {
            return self.get(name.as_bytes()).map(Cow::into_owned);
        }
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if values.is_empty() { None } else { Some(values.join(&b',')) }
    }
}

/// What belongs to the connection and not to the request (RFC 9110, section 7.6.1): filters do not see it, as in Envoy.
fn is_hidden(name: &HeaderName, headers: &HeaderMap) -> bool {
    match *name {
        header::TRANSFER_ENCODING => true,
        header::CONNECTION => !headers.contains_key(header::UPGRADE),
        header::TE => false,
        _ => is_keeping(name),
    }
}

fn plain(headers: &HeaderMap, mut pair: impl FnMut(&[u8], &[u8])) {
    for (name, value) in headers {
        pair(name.as_str().as_bytes(), value.as_bytes());
    }
}

fn field<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let value = headers.get(std::str::from_utf8(name).ok()?)?;
    Some(Cow::Borrowed(value.as_bytes()))
}

/// `:authority` by its old name.
fn authority(request: &RequestHeader) -> Option<&[u8]> {
    request.headers.get(header::HOST).map(HeaderValue::as_bytes)
}

impl FieldsMut<'_> {
    /// # Errors
    /// When name or value are not valid, or there are too many; then the headers are as they were.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unsendable> {
        if self.set_pseudo(name, value)? {
            return Ok(());
        }
        let (name, value) = checked(name, value)?;
        if self.is_framing(&name) { Ok(()) } else { self.append(name, value) }
    }

    /// Leaves one value of the name.
    ///
    /// # Errors
    /// As [`FieldsMut::add`].
    pub fn replace(&mut self, name: &[u8], value: &[u8]) -> Result<(), Unsendable> {
        if self.set_pseudo(name, value)? {
            return Ok(());
        }
        let (name, value) = checked(name, value)?;
        if self.is_framing(&name) { Ok(()) } else { self.insert(name, value) }
    }

    /// Pseudo-headers stay: a message is none without them.
    pub fn remove(&mut self, name: &[u8]) {
        let Ok(name) = HeaderName::from_bytes(name) else { return };
        if self.is_framing(&name) {
            return;
        }
        match self {
            // `:authority` by its old name.
            FieldsMut::Request(..) if name == header::HOST => {}
            FieldsMut::Request(request, _) => drop(request.remove_header(&name)),
            FieldsMut::Response(response) => drop(response.remove_header(&name)),
            FieldsMut::Plain(headers) => drop(headers.remove(name)),
        }
    }

    /// Puts these in the place of all that there are, but for pseudo-headers that are not among them.
    ///
    /// # Errors
    /// As [`FieldsMut::add`].
    pub fn set(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), Unsendable> {
        // On a copy, which takes their place when all has gone well.
        match self {
            FieldsMut::Request(request, target) => {
                let (mut header, mut aside) = ((*request).clone(), (*target).clone());
                FieldsMut::Request(&mut header, &mut aside).set_all(pairs)?;
                (**request, **target) = (header, aside);
            }
            FieldsMut::Response(response) => {
                let mut header = (*response).clone();
                FieldsMut::Response(&mut header).set_all(pairs)?;
                **response = header;
            }
            FieldsMut::Plain(headers) => {
                let mut map = (*headers).clone();
                FieldsMut::Plain(&mut map).set_all(pairs)?;
                **headers = map;
            }
        }
        Ok(())
    }

    fn set_all(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), Unsendable> {
        let mut plain = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            if !self.set_pseudo(name, value)? {
                plain.push(checked(name, value)?);
            }
        }
        plain.retain(|(name, _)| !self.is_framing(name));
        self.clear();
        plain.into_iter().try_for_each(|(name, value)| self.append(name, value))
    }

    fn clear(&mut self) {
        if let FieldsMut::Plain(headers) = self {
            return headers.clear();
        }
        // Those that were not shown stay.
        let headers = self.headers();
        let shown: Vec<HeaderName> = headers.keys().filter(|name| !is_hidden(name, headers)).cloned().collect();
        for name in shown {
            self.remove(name.as_str().as_bytes());
        }
    }

    /// How a message is framed is the proxy's to say: what a filter says of it goes nowhere.
    fn is_framing(&self, name: &HeaderName) -> bool {
        *name == header::TRANSFER_ENCODING && !matches!(self, FieldsMut::Plain(_))
    }

    /// Those of which there is one line.
    fn one_line(&self) -> &'static [HeaderName] {
        match self {
            FieldsMut::Request(..) => &ONE_LINE_OF_REQUESTS,
            FieldsMut::Response(_) => &ONE_LINE_OF_RESPONSES,
            FieldsMut::Plain(_) => &[],
        }
    }

    fn headers(&self) -> &HeaderMap {
        match self {
            FieldsMut::Request(request, _) => &request.headers,
            FieldsMut::Response(response) => &response.headers,
            FieldsMut::Plain(headers) => headers,
        }
    }

    fn insert(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Unsendable> {
        if self.headers().len() >= MOST_FIELDS && !self.headers().contains_key(&name) {
            return Err(Unsendable::TooMany);
        }
        let inserted = match self {
            FieldsMut::Request(request, _) => request.insert_header(name, value).is_ok(),
            FieldsMut::Response(response) => response.insert_header(name, value).is_ok(),
            FieldsMut::Plain(headers) => headers.try_insert(name, value).is_ok(),
        };
        if inserted { Ok(()) } else { Err(Unsendable::TooMany) }
    }

    fn append(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Unsendable> {
        // A message has one length.
        if name == header::CONTENT_LENGTH {
            return self.insert(name, value);
        }
        if self.one_line().contains(&name) && self.headers().contains_key(&name) {
            let lines = self.headers().get_all(&name).iter().chain([&value]);
            let line = joined(lines, b",").ok_or_else(|| Unsendable::Value(name.to_string()))?;
            return self.insert(name, line);
        }
        if self.headers().len() >= MOST_FIELDS {
            return Err(Unsendable::TooMany);
        }
        let appended = match self {
            FieldsMut::Request(request, _) => request.append_header(name, value).is_ok(),
            FieldsMut::Response(response) => response.append_header(name, value).is_ok(),
            FieldsMut::Plain(headers) => headers.try_append(name, value).is_ok(),
        };
        if appended { Ok(()) } else { Err(Unsendable::TooMany) }
    }

    /// Whether it was a pseudo-header. Those that the message does not have go nowhere, as in Envoy.
    fn set_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<bool, Unsendable> {
        if is_capital_pseudo(name) {
            return self.set_pseudo(&name.to_ascii_lowercase(), value);
        }
        let set = match self {
            FieldsMut::Request(request, target) => match name {
                b":path" => set_path(request, value).map(|()| target.moved = true),
                b":method" => set_method(request, value),
                b":scheme" => std::str::from_utf8(value).ok().map(|scheme| target.scheme = Some(scheme.to_owned())),
                name if name == b":authority" || name.eq_ignore_ascii_case(b"host") => {
                    set_authority(request, value).map(|()| target.moved = true)
                }
                _ => return Ok(name.starts_with(b":")),
            },
            FieldsMut::Response(response) if name == b":status" => set_status(response, value),
            _ => return Ok(name.starts_with(b":")),
        };
        set.map(|()| true).ok_or_else(|| Unsendable::Value(String::from_utf8_lossy(name).into_owned()))
    }
}

/// Names are the same in any case, those of pseudo-headers too.
fn is_capital_pseudo(name: &[u8]) -> bool {
    name.starts_with(b":") && name.iter().any(u8::is_ascii_uppercase)
}

fn checked(name: &[u8], value: &[u8]) -> Result<(HeaderName, HeaderValue), Unsendable> {
    let text = || String::from_utf8_lossy(name).into_owned();
    let checked = HeaderName::from_bytes(name).map_err(|_| Unsendable::Name(text()))?;
    let value = HeaderValue::from_bytes(value).map_err(|_| Unsendable::Value(text()))?;
    Ok((checked, value))
}

/// Between HEAD and another the client would get a body that it does not expect, or wait for one that does not come; CONNECT has
/// no path.
fn set_method(request: &mut RequestHeader, method: &[u8]) -> Option<()> {
    let method = Method::from_bytes(method).ok()?;
    let is_like = |other| (method == other) == (request.method == other);
    (is_like(Method::HEAD) && is_like(Method::CONNECT)).then(|| request.set_method(method))
}

/// Behind a status that the client takes for interim it would wait for another, and after one that switches protocols there
/// is no response.
fn set_status(response: &mut ResponseHeader, status: &[u8]) -> Option<()> {
    let status = StatusCode::from_bytes(status).ok()?;
    let changes = status != response.status && (status.is_informational() || response.status.is_informational());
    if changes { None } else { response.set_status(status).and_then(|()| response.set_reason_phrase(None)).ok() }
}

fn set_path(request: &mut RequestHeader, path: &[u8]) -> Option<()> {
    if (!path.starts_with(b"/") && path != b"*") || path.iter().any(u8::is_ascii_control) {
        return None;
    }
    request.set_uri(path_of(path)?.into());
    Some(())
}

/// What a URI cannot have is encoded, and so is what would begin a fragment, which is never sent (RFC 9110, section 7.1).
pub fn path_of(path: &[u8]) -> Option<PathAndQuery> {
    const NOT_IN_PATHS: &AsciiSet = &CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'#')
        .add(b'<')
        .add(b'>')
        .add(b'\\')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}');
    let as_it_is = || PathAndQuery::try_from(path).ok().filter(|_| !path.contains(&b'#'));
    as_it_is().or_else(|| PathAndQuery::try_from(percent_encode(path, NOT_IN_PATHS).to_string()).ok())
}

fn set_authority(request: &mut RequestHeader, value: &[u8]) -> Option<()> {
    let authority = Authority::try_from(value).ok().filter(|authority| !authority.as_str().contains('@'))?;
    request.insert_header(header::HOST, authority.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_any_text_behind_a_slash() {
        for (path, expected) in [
            (&b"/a?b=c&d=%20"[..], Some("/a?b=c&d=%20")),
            (b"/a\"b?c=\"d e\"|^", Some("/a%22b?c=%22d%20e%22%7C%5E")),
            (b"/\n\xff", Some("/%0A%FF")),
            (b"/a?b#c", Some("/a?b%23c")),
            (b"*", Some("*")),
            (b"", None),
            (b"a", None),
        ] {
            assert_eq!(path_of(path).as_ref().map(PathAndQuery::as_str), expected, "{path:?}");
        }
    }

    #[test]
    fn a_request_with_a_path_stays_one() {
        let mut request = crate::exchange::no_request();
        for (method, is_set) in [(&b"DELETE"[..], true), (b"HEAD", false), (b"CONNECT", false), (b"a b", false)] {
            assert_eq!(set_method(&mut request, method).is_some(), is_set, "{method:?}");
        }
        assert!(set_path(&mut request, b"/a\n").is_none());
        assert!(set_path(&mut request, b"/a<b>").is_some());
        assert_eq!(request.raw_path(), b"/a%3Cb%3E");
    }

    #[test]
    fn a_line_that_is_one_stays_one() {
        let mut response = crate::exchange::no_response();
        let mut fields = FieldsMut::Response(&mut response);
        for (name, value) in
            [("vary", "a"), ("Vary", "b"), ("vary", ""), ("vary", "c"), ("set-cookie", "a"), ("set-cookie", "b")]
        {
            fields.add(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let all = |name| response.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
        assert_eq!(all("vary"), [b"a,b,c"]);
        assert_eq!(all("set-cookie"), [b"a", b"b"]);
    }
}
