//! What headers are about.

use http::{HeaderName, StatusCode, header};

/// Whether a header is about one connection, and not about the message (RFC 9110, section 7.6.1; RFC 9113, section 8.2.2).
pub fn is_of_connection(name: &HeaderName) -> bool {
    match *name {
        header::CONNECTION | header::TE | header::TRAILER | header::TRANSFER_ENCODING | header::UPGRADE => true,
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection"),
    }
}

/// RFC 9110, section 6.4.1.
pub fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT)
}
