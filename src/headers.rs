//! What headers are about.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// By these a message says whether its connection is kept, and how: HTTP/2 has none of them (RFC 9113, section 8.2.2).
pub static KEEPING: [HeaderName; 4] = [
    header::CONNECTION,
    header::TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Most fields in the header of a message that a plugin makes or edits. A map of headers panics beyond some 24000.
pub const MOST_FIELDS: usize = 4096;

/// Whether a header is about one connection, and not about the message (RFC 9110, section 7.6.1).
pub fn is_of_connection(name: &HeaderName) -> bool {
    is_keeping(name) || matches!(*name, header::TRAILER | header::TRANSFER_ENCODING | header::UPGRADE)
}

/// Whether it is one of [`KEEPING`]: without going through them, as most messages are asked for each of their headers.
pub fn is_keeping(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::TE) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Headers of which a request has one line: several are made one, as in Envoy. A plugin that looks at the first value of
/// `authorization` has seen what the upstream gets.
pub static ONE_LINE_OF_REQUESTS: [HeaderName; 31] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::ORIGIN,
    header::PRAGMA,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("proxy-status"),
    HeaderName::from_static("x-client-trace-id"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-request-id"),
];

/// The same of responses, for filters.
pub static ONE_LINE_OF_RESPONSES: [HeaderName; 22] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::SERVER,
    header::VARY,
    header::VIA,
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("proxy-status"),
    HeaderName::from_static("x-request-id"),
];

/// The one line of those of these headers that have several.
pub fn joined_lines(headers: &HeaderMap, names: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
    // Few have any name twice.
    if headers.len() == headers.keys_len() {
        return Vec::new();
    }
    let several = names.iter().filter(|name| headers.get_all(*name).iter().nth(1).is_some());
    several.filter_map(|name| Some((name.clone(), joined(headers.get_all(name), b",")?))).collect()
}

/// Values as one (RFC 9110, section 5.3). Those that are empty leave nothing behind, as in Envoy.
pub fn joined<'a>(values: impl IntoIterator<Item = &'a HeaderValue>, separator: &[u8]) -> Option<HeaderValue> {
    let values = values.into_iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    HeaderValue::from_bytes(&values.collect::<Vec<_>>().join(separator)).ok()
}

/// What stands in `connection`: options of the connection, and the names of headers that are for it only (RFC 9110, section
/// 7.6.1).
pub fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    tokens(headers, &header::CONNECTION)
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).into_iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether a header that is a list of tokens has this one.
pub fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether a value begins or ends with a blank: HTTP/1.1 takes such off (RFC 9110, section 5.5), HTTP/2 refuses a message with
/// them (RFC 9113, section 8.2.1).
pub fn is_padded(value: impl AsRef<[u8]>) -> bool {
    let value = value.as_ref();
    [value.first(), value.last()].into_iter().flatten().any(|byte| matches!(byte, b' ' | b'\t'))
}

/// Whether the body is in chunks and nothing else, or no coding of transfer is named.
pub fn is_at_most_chunked(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    codings.next().is_none_or(is_chunked) && codings.next().is_none()
}

pub fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// Whether a length is a number that has one spelling.
pub fn is_length(value: &[u8]) -> bool {
    match value {
        [] => false,
        [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Whether a header says where the body ends.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
}

/// A name or an address, and a port. An empty one is allowed (RFC 9110, section 7.2). Of what RFC 3986, section 3.2.2, has
/// beside that, such as escapes, no name in use is made, and some servers undo it.
pub fn is_host(host: &[u8]) -> bool {
    let is_bracketed = host.starts_with(b"[");
    let end = host.iter().position(|byte| *byte == if is_bracketed { b']' } else { b':' });
    let (name, rest) = match (is_bracketed, end) {
        (true, Some(end)) => (&host[1..end], &host[end + 1..]),
        (true, None) => return false,
        (false, end) => host.split_at(end.unwrap_or(host.len())),
    };
    let mut before = Byte::Other;
    let is_name = name.iter().all(|byte| {
        let byte = HOST_BYTES[usize::from(*byte)];
        match (byte, std::mem::replace(&mut before, byte)) {
            (Byte::Of, _) => true,
            (Byte::Dot, before) => before != Byte::Dot,
            (Byte::OfAddress, _) => is_bracketed,
            (Byte::Other, _) => false,
        }
    });
    let is_port = match rest {
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        rest => rest.is_empty(),
    };
    is_name && is_port
}

/// What a byte is in a host.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Byte {
    Of,
    Dot,
    OfAddress,
    Other,
}

/// By their values: every request has its host looked at.
static HOST_BYTES: [Byte; 256] = {
    let mut bytes = [Byte::Other; 256];
    let mut value = 0;
    while value < 256 {
        bytes[value] = match value as u8 {
            b'.' => Byte::Dot,
            b'-' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => Byte::Of,
            b':' | b'%' => Byte::OfAddress,
            _ => Byte::Other,
        };
        value += 1;
    }
    bytes
};

/// RFC 9110, sections 6.4.1 and 15.3.6.
pub fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_ask_know_the_same_headers() {
        assert!(KEEPING.iter().all(is_keeping));
        let others = [&ONE_LINE_OF_REQUESTS[..], &ONE_LINE_OF_RESPONSES, &[header::UPGRADE, header::TRAILER]].concat();
        assert!(!others.iter().any(is_keeping));
    }
}
