//! What headers are about.

use http::{HeaderName, StatusCode, header};

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

/// Whether a header says where the body ends.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(*name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
}

/// RFC 9110, section 6.4.1.
pub fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
}
