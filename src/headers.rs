//! What headers are about.

use http::{HeaderName, StatusCode, header};
use pingora::http::ResponseHeader;

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

/// Takes out of a response what is about the connection that it came by, and no more: RFC 9110, section 7.6.1. The header
/// `connection` itself is the proxy's to set.
pub fn end_connection(response: &mut ResponseHeader) {
    let options =
        response.headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    let named: Vec<_> = options.filter_map(|option| HeaderName::from_bytes(option.trim_ascii()).ok()).collect();
    let frames = |name: &HeaderName| [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
    for name in named.into_iter().filter(|name| !frames(name)) {
        response.remove_header(&name);
    }
    for name in [header::TE, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
        if response.headers.contains_key(&name) {
            response.remove_header(&name);
        }
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
