//! What the proxy keeps for one request.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;
use pingora::prelude::Session;
use pingora::protocols::l4::socket::SocketAddr as PingoraAddr;

use super::activity::Turn;
use super::body::RequestBody;
use super::decorate::Slot;
use super::filter::Filtering;
use super::final_response;
use super::generation::Generation;
use super::upstream::Selected;
use crate::exchange;
use crate::facts::{Client, Facts, Handshake};
use crate::observe::metrics::Counted;
use crate::phase::Phase;
use crate::snapshot::{LiveChain, Local, RouteId};

/// The context of a request: `ProxyHttp::CTX`.
pub struct Context {
    /// Boxed: it is lent to every chain.
    pub facts: Box<Facts>,
    pub route: Option<Route>,
    /// What plugins see. Made when the first chain runs, so that a request without plugins pays nothing.
    pub exchange: Option<exchange::Owned>,
    /// The exchange of the chain that a response passed while a script still ran: what it spawned lives on.
    pub answering: Option<exchange::Owned>,
    pub body: RequestBody,
    /// There when the route has Proxy-Wasm filters, from their first callback on.
    pub filtering: Option<Filtering>,
    /// Whether the header of the upstream's response was the end of it.
    pub header_only: bool,
    /// Whether what follows it has no place in the response.
    pub drops_body: bool,
    /// The upstream that a plugin chose, by name.
    pub upstream: Option<String>,
    /// The server of the upstream that a filter has chosen.
    pub server: Option<SocketAddr>,
    /// Held as long as the connection is used: `least_conn` counts it.
    pub selected: Option<Selected>,
    /// Servers of the upstream that could not be connected. Nothing is allocated for none.
    pub failed_servers: Vec<SocketAddr>,
    /// Bytes of the request body that were given to the connection of this attempt.
    pub body_sent: Option<u64>,
    /// Whether `wasm_http_filter_headers` has run: it runs once, also when it fails and the proxy answers by itself.
    pub filtered: bool,
    /// Whether a response that a plugin streamed has to be cut off.
    pub cut: bool,
    _in_flight: Counted,
    _turn: Option<Turn>,
}

/// What a request is served from, from its first phase to its last, whatever is loaded meanwhile.
pub struct Route {
    pub generation: Arc<Generation>,
    pub id: RouteId,
}

impl Context {
    pub fn new(in_flight: Counted) -> Context {
        Context {
            facts: Box::default(),
            route: None,
            exchange: None,
            answering: None,
            body: RequestBody::default(),
            filtering: None,
            header_only: false,
            drops_body: false,
            upstream: None,
            server: None,
            selected: None,
            failed_servers: Vec::new(),
            body_sent: None,
            filtered: false,
            cut: false,
            _in_flight: in_flight,
            _turn: Turn::begin(),
        }
    }

    /// None before the request has a route.
    pub fn local(&self) -> Option<&Local> {
        self.route.as_ref().map(|route| route.generation.snapshot.local(route.id))
    }

    /// Whether the route has Proxy-Wasm filters.
    pub fn has_filters(&self) -> bool {
        self.local().is_some_and(|local| local.filters.is_some())
    }

    /// Bytes of the largest request body that a plugin may read.
    pub fn body_limit(&self) -> usize {
        self.route.as_ref().map_or(0, |route| route.generation.config.body_limit)
    }

    /// What there is to run in a phase.
    pub fn chain(&self, phase: Phase) -> Option<&Arc<LiveChain>> {
        self.local()?.chain(phase)
    }

    /// Takes down who asks, and over what.
    pub fn arrive(&mut self, session: &Session, trusted: &[IpNet]) {
        let facts = &mut self.facts;
        facts.local = session.server_addr().and_then(inet);
        facts.remote = session.client_addr().and_then(inet);
        if let Some(tls) = session.digest().and_then(|digest| digest.ssl_digest.as_ref()) {
            facts.tls = true;
            facts.server_name = tls.extension.get::<Handshake>().and_then(|handshake| handshake.server_name.clone());
        }
        if let Some(peer) = facts.remote.filter(|_| !trusted.is_empty()) {
            facts.client = client(peer.ip(), &session.req_header().headers, trusted);
        }
    }

    /// The client's connection ends with the response: it is not worth keeping, or nothing else says where the response
    /// ends.
    pub fn end_connection(&self, session: &mut Session) {
        session.set_keepalive(None);
        let filtered = self.filtering.as_ref().and_then(Filtering::slot);
        filtered.into_iter().chain(self.body.slot()).for_each(Slot::close);
    }

    /// Takes down how it went.
    pub fn depart(&mut self, session: &Session) {
        self.measure(session);
        self.facts.status = final_response(session).map(|response| response.status.as_u16());
    }

    /// Takes down how much has gone to and fro.
    pub fn measure(&mut self, session: &Session) {
        let facts = &mut self.facts;
        facts.client_bytes_sent = session.body_bytes_sent() as u64;
        facts.client_bytes_received = session.body_bytes_read() as u64;
        facts.upstream_bytes_received = session.upstream_body_bytes_received() as u64;
        // Pingora counts for HTTP/1.1 only.
        facts.upstream_bytes_sent = session.upstream_body_bytes_sent().map(|bytes| bytes as u64).or(self.body_sent);
    }
}

/// A listener for both IPv6 and IPv4 sees an address of IPv4 as `::ffff:192.0.2.1`.
fn inet(addr: &PingoraAddr) -> Option<SocketAddr> {
    addr.as_inet().map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

/// The last address that a trusted proxy vouches for: read from the right, the first that is not itself trusted.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if !is_trusted(&peer) {
        return Client::Peer;
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut client = Client::Peer;
    for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(ip) = hop_address(hop) else { return Client::Unknown };
        client = Client::Named(ip);
        if !is_trusted(&ip) {
            break;
        }
    }
    client
}

/// Some proxies write a port as well, or IPv6 in brackets.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let ip = bare.parse().or_else(|_| hop.parse::<SocketAddr>().map(|addr| addr.ip())).ok()?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_name_the_client() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()).into();
        for (peer, header, expected) in [
            ("192.0.2.1", &b"198.51.100.1"[..], "peer"),
            ("10.0.0.1", b"198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", b"203.0.113.9, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", b"198.51.100.1:4711", "198.51.100.1"),
            ("10.0.0.1", b"\xff, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", b"::ffff:198.51.100.1, ::ffff:10.0.0.2", "198.51.100.1"),
            ("10.0.0.1", b"[2001:db8::1]", "2001:db8::1"),
            ("10.0.0.1", b"[2001:db8::1]:4711", "2001:db8::1"),
            ("::1", b"unknown", "unknown"),
            ("::1", b"198.51.100.1,", "unknown"),
            ("::1", b"198.51.100.1, \xff", "unknown"),
            ("::1", b"unknown, 10.0.0.2", "unknown"),
        ] {
            let value = http::HeaderValue::from_bytes(header).unwrap();
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), value)]);
            let expected = match expected {
                "peer" => Client::Peer,
                "unknown" => Client::Unknown,
                ip => Client::Named(ip.parse().unwrap()),
            };
            assert_eq!(client(peer.parse().unwrap(), &headers, &trusted), expected, "{peer} {header:?}");
        }
        assert_eq!(client("::1".parse().unwrap(), &HeaderMap::new(), &trusted), Client::Peer);
    }
}
