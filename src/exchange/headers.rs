//! Headers as plugins read and edit them: names and values are checked, and what is the proxy's stays the proxy's.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Refused, RequestHeader, ResponseHeader};
use crate::headers::KEEPING;

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
    HeaderValue::from_maybe_shared(Bytes::from(value)).map_err(|_| Refused::HeaderValue(name.to_owned()))
}

fn too_many(_: Box<pingora::Error>) -> Result<(), Refused> {
    Err(Refused::TooManyHeaders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::no_request;

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
