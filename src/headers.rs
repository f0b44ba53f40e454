//! What headers are about.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// By these a message says whether its connection is kept, and how: HTTP/2 has none of them (RFC 9113, section 8.2.2).
pub static KEEPING: [HeaderName; 4] = [
    header::CONNECTION,
    header::TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whether a header is about one connection, and not about the message (RFC 9110, section 7.6.1).
pub fn is_of_connection(name: &HeaderName) -> bool {
    KEEPING.contains(name) || matches!(*name, header::TRAILER | header::TRANSFER_ENCODING | header::UPGRADE)
}

/// What stands in `connection`: options of the connection, and the names of headers that are for it only (RFC 9110, section
/// 7.6.1).
pub fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(header::CONNECTION).iter();
    let tokens = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
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
pub fn is_length(value: &HeaderValue) -> bool {
    match value.as_bytes() {
        [] => false,
        [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Whether a header says where the body ends.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
}

/// RFC 9110, sections 6.4.1 and 15.3.6.
pub fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
}
