//! Where a response ends, and what in it is about a connection.

use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::ResponseHeader;
use pingora::prelude::Session;

use super::context::Context;
use super::error;
use crate::headers::{
    KEEPING, connection_tokens, has_body, is_at_most_chunked, is_chunked, is_framing, is_keeping, is_length,
};

/// Whether there is nothing to check, and nothing about a connection. In one pass: every response comes by here.
pub fn is_plain(response: &ResponseHeader) -> bool {
    let mut framed = false;
    response.headers.iter().all(|(name, value)| match *name {
        header::CONTENT_LENGTH => !std::mem::replace(&mut framed, true) && is_length(value.as_bytes()),
        header::TRANSFER_ENCODING => !std::mem::replace(&mut framed, true) && is_chunked(value),
        header::UPGRADE => false,
        _ => !is_keeping(name),
    })
}

/// Checks how a response of the upstream is framed.
///
/// # Errors
/// For codings of transfer other than `chunked`: nobody has asked for them, and not every client could be told of them
/// (RFC 9112, section 6.1).
pub fn check(response: &mut ResponseHeader) -> pingora::Result<()> {
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).iter();
    let is_one = lengths.next().is_none_or(|length| is_length(length.as_bytes())) && lengths.next().is_none();
    if !is_one {
        // Pingora has seen to it that they are the same: a list, or several lines (RFC 9110, section 8.6).
        let first = response.headers.get(header::CONTENT_LENGTH).map(HeaderValue::as_bytes).unwrap_or_default();
        let first = first.split(|byte| *byte == b',').next().and_then(|first| std::str::from_utf8(first).ok());
        let length: Option<u64> = first.and_then(|first| first.trim().parse().ok());
        response.insert_header(header::CONTENT_LENGTH, length.ok_or_else(error::bad_framing)?)?;
    }
    if is_at_most_chunked(&response.headers) { Ok(()) } else { Err(error::bad_framing()) }
}

/// Takes out of a response what is about the connection that it came by (RFC 9110, section 7.6.1), and what else HTTP/2 does
/// not have. What is about the client's connection Pingora writes.
pub fn end_connection(response: &mut ResponseHeader) {
    let tokens = connection_tokens(&response.headers);
    let named: Vec<_> = tokens.filter_map(|token| HeaderName::from_bytes(token).ok()).collect();
    let named = named.iter().filter(|name| !is_framing(name));
    for name in named.chain(&KEEPING).chain([&header::UPGRADE]) {
        response.remove_header(name);
    }
}

/// An interim response is not about a connection either, and has no body (RFC 9110, sections 8.6 and 15.2).
pub fn end_interim(response: &mut ResponseHeader) {
    end_connection(response);
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        response.remove_header(&name);
    }
}

/// Frames a response of the upstream whose status may have been changed: what follows its header is as it was.
pub fn frame(session: &Session, response: &mut ResponseHeader, ctx: &mut Context) -> pingora::Result<()> {
    let request = session.req_header();
    if !has_body(response.status) {
        ctx.drops_body = !ctx.header_only;
        response.remove_header(&header::TRANSFER_ENCODING);
        // The length in a 304 is that of the response to GET without a condition (RFC 9110, section 8.6).
        if ctx.drops_body || response.status != StatusCode::NOT_MODIFIED {
            without_body(response)?;
        }
    } else if ctx.header_only && request.method != Method::HEAD {
        let has_length = response.headers.contains_key(header::CONTENT_LENGTH);
        // Nothing else says in HTTP/1.1 that there is none.
        if has_length || request.version < Version::HTTP_2 {
            response.remove_header(&header::TRANSFER_ENCODING);
            response.set_content_length(0)?;
        }
    }
    Ok(())
}

/// Frames a response whose status, which the chain may have changed, has no body.
pub fn without_body(response: &mut ResponseHeader) -> pingora::Result<()> {
    match response.status {
        // A client cannot know that there is none unless it is told (RFC 9110, section 15.3.6).
        StatusCode::RESET_CONTENT => response.set_content_length(0),
        status if !has_body(status) => {
            response.remove_header(&header::CONTENT_LENGTH);
            Ok(())
        }
        _ => Ok(()),
    }
}

pub fn is_framed(response: &ResponseHeader) -> bool {
    response.headers.contains_key(header::CONTENT_LENGTH) || response.headers.contains_key(header::TRANSFER_ENCODING)
}

/// A filter has removed the length of a body that follows.
pub fn frame_anew(session: &mut Session, ctx: &Context, response: &mut ResponseHeader) {
    if !has_body(response.status) {
        return;
    }
    match session.req_header().version {
        Version::HTTP_11 => drop(response.insert_header(header::TRANSFER_ENCODING, "chunked")),
        // The end of the connection ends the body.
        Version::HTTP_10 | Version::HTTP_09 => ctx.end_connection(session),
        _ => {}
    }
}
