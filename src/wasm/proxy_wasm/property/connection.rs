//! `source.*`, `destination.*`, `connection.*` and `upstream.*`.

use std::io::Write;
use std::net::SocketAddr;

use super::{Found, count, duration, put};
use crate::wasm::proxy_wasm::stream::Http;

/// The client. Behind a trusted proxy its port is not known.
pub fn source(http: &Http, name: &[u8], out: &mut Vec<u8>) -> Found {
    let facts = &http.facts;
    address(SocketAddr::new(facts.client_ip()?, facts.client_port().unwrap_or(0)), name, out)
}

pub fn destination(http: &Http, name: &[u8], out: &mut Vec<u8>) -> Found {
    address(http.facts.local?, name, out)
}

/// That of the client. Clients are not asked for certificates.
pub fn downstream(http: &Http, name: &[u8], out: &mut Vec<u8>) -> Found {
    let connection = &http.way.connection;
    match name {
        b"id" => count(out, connection.id()?),
        b"mtls" => put(out, [0]),
        b"requested_server_name" => put(out, http.facts.server_name.as_deref().unwrap_or_default()),
        b"tls_version" => put(out, connection.tls_version()?.as_bytes()),
        b"subject_local_certificate" => put(out, &connection.certificate()?.subject),
        b"dns_san_local_certificate" => put(out, connection.certificate()?.dns.as_ref()?),
        b"uri_san_local_certificate" => put(out, connection.certificate()?.uri.as_ref()?),
        _ => None,
    }
}

pub fn upstream(http: &Http, name: &[u8], out: &mut Vec<u8>) -> Found {
    match name {
        b"num_endpoints" => return count(out, http.way.upstream.as_ref()?.1 as u64),
        b"request_attempt_count" => return count(out, http.facts.attempts.into()),
        _ => {}
    }
    let upstream = http.facts.upstream.as_ref()?;
    let connection = upstream.connection.as_ref();
    match name {
        b"address" | b"port" => address(upstream.addr, name, out),
        b"local_address" => address(connection?.local_addr()?, b"address", out),
        b"tls_version" => put(out, connection?.tls_version()?.as_bytes()),
        b"sha256_peer_certificate_digest" => {
            connection?.peer_digest()?.iter().try_for_each(|byte| write!(out, "{byte:02x}").ok())
        }
        b"cx_pool_ready_duration" => duration(out, upstream.connect_time?),
        // There is none, as far as anybody knows.
        b"transport_failure_reason" | b"locality" => Some(()),
        _ => None,
    }
}

fn address(addr: SocketAddr, name: &[u8], out: &mut Vec<u8>) -> Found {
    match name {
        b"address" => write!(out, "{addr}").ok(),
        b"port" => count(out, addr.port().into()),
        _ => None,
    }
}
