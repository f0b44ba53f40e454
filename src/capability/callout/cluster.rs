//! Requests to clusters.

use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::CalloutError;
use super::body::Payload;
use super::request::Outgoing;
use crate::capability::cluster::Endpoint;
use crate::headers::{MOST_FIELDS, is_of_connection};

/// What a plugin asks a cluster for.
#[derive(Clone, Debug)]
pub struct ClusterCall {
    pub method: Method,
    pub path: PathAndQuery,
    /// What the server takes for its name.
    pub host: HeaderValue,
    /// For HTTP/2; none: as the connection is.
    pub scheme: Option<Scheme>,
    /// Those that are about the connection, or frame the body, are left out.
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// From the wait for the cluster to the last byte; none: as long as it takes.
    pub timeout: Option<Duration>,
}

/// The whole response of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl ClusterCall {
    /// # Errors
    /// When the body is too large, or there are too many headers.
    pub fn outgoing(self, endpoint: &Endpoint, body_limit: usize) -> Result<Outgoing, CalloutError> {
        let ClusterCall { method, path, host, scheme, mut headers, body: data, trailers, timeout: _ } = self;
        if data.len() > body_limit {
            return Err(CalloutError::BodyTooLarge { of: "request", limit: body_limit });
        }
        if headers.len().max(trailers.len()) > MOST_FIELDS {
            return Err(CalloutError::TooManyHeaders);
        }
        without_connection(&mut headers);
        if !trailers.is_empty() {
            // HTTP/1.1 sends those that are announced (RFC 9110, section 6.6.2).
            let names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
            if let Ok(names) = HeaderValue::from_str(&names.join(", ")) {
                headers.insert(header::TRAILER, names);
            }
        }
        let scheme = scheme.unwrap_or_else(|| default_scheme(endpoint));
        let (target, body) = (endpoint.addr.into(), Payload::Whole { data, trailers });
        Ok(Outgoing { method, body, target, scheme, host, path, headers })
    }
}

/// Of the connection to the server.
pub fn default_scheme(endpoint: &Endpoint) -> Scheme {
    if endpoint.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
}

/// Takes out what is about one connection, and what the proxy writes itself.
pub fn without_connection(headers: &mut HeaderMap) {
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let own = |name: &HeaderName| is_of_connection(name) || [header::CONTENT_LENGTH, header::HOST].contains(name);
    let names: Vec<HeaderName> = headers.keys().filter(|name| own(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}
