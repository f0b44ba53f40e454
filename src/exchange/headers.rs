//! Headers as plugins read and edit them: names and values are checked, and what is the proxy's stays the proxy's.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Refused, RequestHeader, ResponseHeader};
use crate::headers::{KEEPING, MOST_FIELDS, is_host, is_padded};

/// A header that may be edited. Each edit is checked whole before anything changes.
pub enum Edit<'a> {
    Request(&'a mut RequestHeader),
    Response(&'a mut ResponseHeader),
}

impl Edit<'_> {
    /// Appends a header, and keeps the case of its name.
    ///
    /// # Errors
    /// For a name or value that is not valid HTTP, for headers that are the proxy's, a second `host`, and too many headers.
    pub fn append(&mut self, name: String, value: String) -> Result<(), Refused> {
        self.has_room(1)?;
        self.can_append(&name, &value)?;
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
        self.has_room(pairs.len())?;
        for (name, value) in &pairs {
            self.can_append(name, value)?;
            header_value(name, value.clone())?;
        }
        if let Edit::Request(_) = self
            && pairs.iter().filter(|(name, _)| names_host(name)).nth(1).is_some()
        {
            return Err(Refused::SecondHost);
        }
        pairs.into_iter().try_for_each(|(name, value)| self.append(name, value))
    }

    /// Replaces all values of a header.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn set(&mut self, name: String, value: String) -> Result<(), Refused> {
        if self.has_room(1).is_err() && !self.headers().contains_key(name.as_str()) {
            return Err(Refused::TooManyHeaders);
        }
        self.can_set(&name, &value)?;
        let value = header_value(&name, value)?;
        match self {
            Edit::Request(header) => header.insert_header(name, value),
            Edit::Response(header) => header.insert_header(name, value),
        }
        .or_else(too_many)
    }

    fn headers(&self) -> &HeaderMap {
        match self {
            Edit::Request(header) => &header.headers,
            Edit::Response(header) => &header.headers,
        }
    }

    fn has_room(&self, more: usize) -> Result<(), Refused> {
        if self.headers().len() + more <= MOST_FIELDS { Ok(()) } else { Err(Refused::TooManyHeaders) }
    }

    fn can_append(&self, name: &str, value: &str) -> Result<(), Refused> {
        self.can_set(name, value)?;
        match self {
            Edit::Request(header) if names_host(name) && header.headers.contains_key(header::HOST) => {
                Err(Refused::SecondHost)
            }
            _ => Ok(()),
        }
    }

    fn can_set(&self, name: &str, value: &str) -> Result<(), Refused> {
        match self {
            // What a server of gRPC wants to be told, and all that HTTP/2 has of it.
            Edit::Request(_) if name.eq_ignore_ascii_case("te") && value == "trailers" => return Ok(()),
            Edit::Request(_) if names_host(name) && !is_host(value.as_bytes()) => {
                return Err(Refused::Host(value.to_owned()));
            }
            Edit::Request(_) => refused_of(&LOST_IN_REQUESTS, name)?,
            Edit::Response(_) => refused_of(&LOST_IN_RESPONSES, name)?,
        }
        not_keeping(name)?;
        not_framing(name)?;
        token(name).map(drop)
    }

    /// Removes a header; one that is not there is no error.
    ///
    /// # Errors
    /// As [`Edit::append`].
    pub fn remove(&mut self, name: &str) -> Result<(), Refused> {
        self.can_remove(name)?;
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
        names.iter().try_for_each(|name| self.can_remove(name).and(token(name).map(drop)))?;
        names.iter().try_for_each(|name| self.remove(name))
    }

    fn can_remove(&self, name: &str) -> Result<(), Refused> {
        match self {
            Edit::Response(_) if name.eq_ignore_ascii_case("date") => Err(Refused::Framing(header::DATE)),
            _ => not_framing(name),
        }
    }
}

/// What Pingora takes out of a request on its way: a header that a plugin sets would be lost.
static LOST_IN_REQUESTS: [HeaderName; 5] = [
    header::UPGRADE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("http2-settings"),
];

/// What Pingora takes out of a response, and what it writes itself.
static LOST_IN_RESPONSES: [HeaderName; 2] = [header::UPGRADE, header::DATE];

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

/// The headers of a message with a body of this length, without `content-length`: whoever sends it frames it.
///
/// # Errors
/// When a header is not valid, `content-length` is another one, or there are more than [`MOST_FIELDS`].
pub fn message_headers(
    headers: Vec<(String, String)>,
    body_length: usize,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refused> {
    if headers.len() > MOST_FIELDS {
        return Err(Refused::TooManyHeaders);
    }
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

fn header_name(name: &str) -> Result<HeaderName, Refused> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refused::HeaderName(name.to_owned()))
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

/// Headers that say where a body ends are not for plugins: one edit and the connection is out of step.
fn not_framing(name: &str) -> Result<(), Refused> {
    let framing = match name.len() {
        14 if name.eq_ignore_ascii_case("content-length") => header::CONTENT_LENGTH,
        17 if name.eq_ignore_ascii_case("transfer-encoding") => header::TRANSFER_ENCODING,
        _ => return Ok(()),
    };
    Err(Refused::Framing(framing))
}

/// By these headers the proxy says whether it keeps a connection.
pub fn not_keeping(name: &str) -> Result<(), Refused> {
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
    let invalid = || Refused::HeaderValue(name.to_owned());
    if is_padded(&value) {
        return Err(invalid());
    }
    HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| invalid())
}

fn names_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host")
}

fn too_many(_: Box<pingora::Error>) -> Result<(), Refused> {
    Err(Refused::TooManyHeaders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{no_request, no_response};

    #[test]
    fn what_would_be_lost_in_a_request_is_refused() {
        let mut request = no_request();
        let mut set = |name: &str, value: &str| Edit::Request(&mut request).set(name.to_owned(), value.to_owned());
        let lost = ["Connection", "upgrade", "Proxy-Authorization", "HTTP2-Settings"].map(|name| (name, "x"));
        for (name, value) in lost.into_iter().chain([("te", "gzip")]) {
            assert!(matches!(set(name, value), Err(Refused::Framing(_))), "{name}: {value}");
        }
        assert_eq!(set("TE", "trailers"), Ok(()));
    }

    #[test]
    fn what_would_be_lost_in_a_response_is_refused() {
        let mut response = no_response();
        response.insert_header("date", "a day").unwrap();
        let mut edit = Edit::Response(&mut response);
        for name in ["Date", "upgrade"] {
            assert!(matches!(edit.set(name.into(), "x".into()), Err(Refused::Framing(_))), "{name}");
            assert!(matches!(edit.append(name.into(), "x".into()), Err(Refused::Framing(_))), "{name}");
        }
        assert!(edit.remove("date").is_err());
        assert!(edit.remove_all(&["x-a".into(), "DATE".into()]).is_err());
        assert_eq!(edit.remove("upgrade"), Ok(()));
    }

    #[test]
    fn a_request_has_one_host_that_is_valid() {
        let mut request = no_request();
        let mut edit = Edit::Request(&mut request);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let all = |names: &[&str]| names.iter().map(|name| pair(name, "a.cn")).collect::<Vec<_>>();
        assert_eq!(edit.append_all(all(&["host", "x-a", "Host"])), Err(Refused::SecondHost));
        assert_eq!(edit.headers().len(), 0);
        for host in ["b c", "a,b", "u@a", "a/b"] {
            assert_eq!(edit.set("Host".into(), host.into()), Err(Refused::Host(host.into())));
            assert_eq!(edit.append_all(vec![pair("host", host)]), Err(Refused::Host(host.into())));
        }
        assert_eq!(edit.append_all(all(&["x-a", "host"])), Ok(()));
        assert_eq!(edit.append("HOST".into(), "b.cn".into()), Err(Refused::SecondHost));
        assert_eq!(edit.append_all(all(&["x-a", "host"])), Err(Refused::SecondHost));
        assert_eq!(edit.set("host".into(), "b.cn:80".into()), Ok(()));
        assert_eq!(edit.headers().len(), 2);
        let mut response = no_response();
        assert_eq!(Edit::Response(&mut response).append_all(all(&["host", "host"])), Ok(()), "means nothing there");
    }

    #[test]
    fn there_is_a_bound() {
        let pairs = |count: usize| (0..count).map(|i| (format!("x-{i}"), String::new())).collect::<Vec<_>>();
        let many = Err(Refused::TooManyHeaders);
        let mut response = no_response();
        let mut edit = Edit::Response(&mut response);
        assert_eq!(edit.append_all(pairs(MOST_FIELDS + 1)), many);
        assert_eq!(edit.headers().len(), 0);
        assert_eq!(edit.append_all(pairs(MOST_FIELDS)), Ok(()));
        assert_eq!(edit.append_all(pairs(1)), many);
        assert_eq!(edit.append("x-0".into(), "1".into()), many);
        assert_eq!(edit.set("x-a".into(), "1".into()), many);
        assert_eq!(edit.set("x-0".into(), "1".into()), Ok(()));
        assert_eq!(edit.headers().len(), MOST_FIELDS);
        assert!(message_headers(pairs(MOST_FIELDS), 0).is_ok());
        assert_eq!(message_headers(pairs(MOST_FIELDS + 1), 0), Err(Refused::TooManyHeaders));
    }

    #[test]
    fn a_value_has_no_blanks_at_its_ends() {
        for (value, ok) in [("", true), ("a b", true), ("a\tb", true), (" a", false), ("a\t", false), (" ", false)] {
            assert_eq!(header_value("x", value.to_owned()).is_ok(), ok, "{value:?}");
        }
    }

    #[test]
    fn names_are_tokens_and_framing_belongs_to_the_proxy() {
        for byte in 0..=255_u8 {
            let Ok(name) = std::str::from_utf8(std::slice::from_ref(&byte)) else { continue };
            assert_eq!(token(name).is_ok(), HeaderName::from_bytes(&[byte]).is_ok(), "{byte:#x}");
        }
        for (name, ok) in [("", false), ("x", true), ("é", false), ("x-a", true), ("x a", false), ("x:", false)] {
            assert_eq!(token(name).is_ok(), ok, "{name:?}");
        }
        for name in ["content-length", "Content-Length", "TRANSFER-ENCODING"] {
            assert!(matches!(not_framing(name), Err(Refused::Framing(_))), "{name}");
        }
        assert!(token(&"x".repeat(usize::from(u16::MAX))).is_err());
    }
}
