//! `request.*` and `response.*`.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Version, header};

use super::{Found, count, duration, int, put};
use crate::capability::grpc::{code_of_http, parse_status};
use crate::facts::Origin;
use crate::wasm::proxy_wasm::abi::Direction;
use crate::wasm::proxy_wasm::fields::Fields;
use crate::wasm::proxy_wasm::pairs;
use crate::wasm::proxy_wasm::stream::Http;

pub fn request(http: &Http, path: &[&[u8]], out: &mut Vec<u8>) -> Found {
    let fields = http.fields(Direction::Request)?;
    let header = http.request.header.as_ref()?;
    let facts = &http.facts;
    match path {
        [b"path"] => put(out, header.raw_path()),
        [b"url_path"] => put(out, split_query(header.raw_path()).0),
        [b"query"] => put(out, split_query(header.raw_path()).1),
        [b"host"] => put(out, fields.get(b":authority")?),
        [b"scheme"] => put(out, http.scheme()),
        [b"method"] => put(out, header.method.as_str()),
        [b"referer"] => put(out, header.headers.get(header::REFERER)?),
        [b"useragent"] => put(out, header.headers.get(header::USER_AGENT)?),
        [b"protocol"] => put(out, protocol(header.version)),
        [b"id"] => match header.headers.get("x-request-id") {
            Some(id) => put(out, id),
            None => put(out, facts.request_id()),
        },
        [b"time"] => {
            let started = SystemTime::now().checked_sub(facts.started.elapsed())?;
            duration(out, started.duration_since(UNIX_EPOCH).ok()?)
        }
        [b"duration"] => duration(out, facts.duration?),
        [b"size"] => count(out, length(&header.headers).unwrap_or(facts.client_bytes_received)),
        [b"headers_bytes"] => count(out, size(fields)),
        [b"total_size"] => count(out, size(fields) + facts.client_bytes_received),
        [b"headers"] => all(Some(fields), out),
        [b"headers", name] => joined(fields, name, out),
        _ => None,
    }
}

pub fn response(http: &Http, path: &[&[u8]], out: &mut Vec<u8>) -> Found {
    let facts = &http.facts;
    let fields = http.fields(Direction::Response);
    let trailers = http.response.trailers.as_ref().map(Fields::Plain);
    match path {
        [b"code"] => int(out, status(http)?.into()),
        [b"code_details"] => put(out, details(http)?),
        [b"flags"] => int(out, facts.origin.map_or(0, |origin| flags(http, origin))),
        [b"grpc_status"] => int(out, grpc_status(http)?),
        [b"size"] => count(out, facts.client_bytes_sent),
        [b"headers_bytes"] => count(out, fields.map_or(0, size)),
        [b"total_size"] => count(out, fields.map_or(0, size) + trailers.map_or(0, size) + facts.client_bytes_sent),
        [b"backend_latency"] => duration(out, facts.upstream.as_ref()?.latency.filter(|_| facts.duration.is_some())?),
        [b"headers"] => all(fields, out),
        [b"headers", name] => joined(fields?, name, out),
        [b"trailers"] => all(trailers, out),
        [b"trailers", name] => joined(trailers?, name, out),
        _ => None,
    }
}

/// Path and query. There is no fragment in a request.
fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

/// As Envoy writes it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// What the message itself says of its body.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The bytes of names and values.
fn size(fields: Fields<'_>) -> u64 {
    let mut size = 0;
    fields.each(|name, value| size += name.len() as u64 + value.len() as u64);
    size
}

fn joined(fields: Fields<'_>, name: &[u8], out: &mut Vec<u8>) -> Found {
    put(out, fields.joined(std::str::from_utf8(name).ok()?)?)
}

/// Each name once, with all its values. An empty map, also of a message that is not there, has its number of pairs here, unlike
/// those of the header functions.
fn all(fields: Option<Fields<'_>>, out: &mut Vec<u8>) -> Found {
    let mut merged: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let pair = |name: &[u8], value: &[u8]| match merged.last_mut() {
        // All values of a name come one after another.
        Some((last, values)) if last == name => {
            values.push(b',');
            values.extend_from_slice(value);
        }
        _ => merged.push((name.to_owned(), value.to_owned())),
    };
    if let Some(fields) = fields {
        fields.each(pair);
    }
    if merged.is_empty() {
        return put(out, 0_u32.to_le_bytes());
    }
    put(out, pairs::encode(|pair| merged.iter().for_each(|(name, values)| pair(name, values))))
}

fn status(http: &Http) -> Option<u16> {
    http.response.header.as_ref().map(|response| response.status.as_u16()).or(http.facts.status)
}

/// From the trailers, else the header, else what stands for the status of HTTP.
fn grpc_status(http: &Http) -> Option<i64> {
    let header = http.response.header.as_ref()?;
    let said = [http.response.trailers.as_ref(), Some(&header.headers)];
    let said = said.into_iter().flatten().find_map(|headers| headers.get("grpc-status"));
    match said {
        Some(status) => parse_status(status.as_bytes()).map(Into::into),
        None => Some(code_of_http(header.status).into()),
    }
}

/// What a filter says of its own response, else Envoy's word for where it comes from.
fn details(http: &Http) -> Option<&str> {
    if let Some(details) = &http.details {
        return Some(details);
    }
    Some(match http.facts.origin? {
        Origin::Upstream => "via_upstream",
        Origin::Route => "direct_response",
        Origin::NoRoute => "route_not_found",
        Origin::NoServer => "no_healthy_upstream",
        Origin::ConnectFailure => "upstream_reset_before_response_started{remote_connection_failure}",
        Origin::UpstreamTimeout => "upstream_response_timeout",
        Origin::UpstreamReset => "upstream_reset_before_response_started{connection_termination}",
        Origin::UpstreamBroken if is_http2(http) => "upstream_reset_after_response_started{remote_reset}",
        Origin::UpstreamBroken => "upstream_reset_after_response_started{protocol_error}",
        Origin::ClientGone => "downstream_remote_disconnect",
        Origin::ClientReset => "http2.remote_reset",
        Origin::ClientError => "downstream_protocol_error",
        Origin::Failure => "internal_error",
    })
}

/// Envoy's response flags (`CoreResponseFlag`): a bit for each.
fn flags(http: &Http, origin: Origin) -> i64 {
    match origin {
        Origin::Upstream | Origin::Route | Origin::Failure => 0,
        Origin::NoServer => 1 << 1,
        Origin::UpstreamTimeout => 1 << 2,
        Origin::ConnectFailure => 1 << 5,
        Origin::UpstreamBroken if is_http2(http) => 1 << 4,
        Origin::UpstreamReset => 1 << 6,
        Origin::NoRoute => 1 << 8,
        Origin::ClientGone => 1 << 14,
        Origin::ClientError => 1 << 18,
        Origin::UpstreamBroken => 1 << 23,
        Origin::ClientReset => 1 << 28,
    }
}

/// Whether the upstream speaks HTTP/2, where a response that breaks off is a stream that is reset.
fn is_http2(http: &Http) -> bool {
    http.facts.upstream.as_ref().and_then(|upstream| upstream.version) == Some(Version::HTTP_2)
}
