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
use super::generation::Generation;
use super::upstream::Selected;
use crate::exchange;
use crate::facts::{Facts, Handshake};
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
    /// The upstream that a plugin chose, by name.
    pub upstream: Option<String>,
    /// Held as long as the connection is used: `least_conn` counts it.
    pub selected: Option<Selected>,
    /// Servers of the upstream that could not be connected. Nothing is allocated for none.
    pub failed_servers: Vec<SocketAddr>,
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
            upstream: None,
            selected: None,
            failed_servers: Vec::new(),
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
        if !trusted.is_empty() {
            facts.forwarded_for =
                facts.remote.and_then(|peer| forwarded_for(peer.ip(), &session.req_header().headers, trusted));
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
        self.facts.status = session.response_written().map(|response| response.status.as_u16());
    }

    /// Takes down how much has gone to and fro.
    pub fn measure(&mut self, session: &Session) {
        let facts = &mut self.facts;
        facts.client_bytes_sent = session.body_bytes_sent() as u64;
        facts.client_bytes_received = session.body_bytes_read() as u64;
        facts.upstream_bytes_received = session.upstream_body_bytes_received() as u64;
        facts.upstream_bytes_sent = session.upstream_body_bytes_sent().map(|bytes| bytes as u64);
    }
}

fn inet(addr: &PingoraAddr) -> Option<SocketAddr> {
    addr.as_inet().copied()
}

/// The last address that a trusted proxy vouches for: read from the right, the first that is not itself trusted.
fn forwarded_for(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if !is_trusted(&peer) {
        return None;
    }
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let mut client = None;
    for hop in values.iter().rev().flat_map(|value| value.rsplit(',')) {
        let hop = hop.trim();
        // Some proxies write the port as well.
        let Ok(ip) = hop.parse().or_else(|_| hop.parse::<SocketAddr>().map(|addr| addr.ip())) else { break };
        client = Some(ip);
        if !is_trusted(&ip) {
            break;
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_name_the_client() {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()).into();
        for (peer, header, client) in [
            ("192.0.2.1", "198.51.100.1", None),
            ("10.0.0.1", "198.51.100.1", Some("198.51.100.1")),
            ("10.0.0.1", "203.0.113.9, 198.51.100.1, 10.0.0.2", Some("198.51.100.1")),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", Some("10.0.0.3")),
            ("10.0.0.1", "198.51.100.1:4711", Some("198.51.100.1")),
            ("::1", "unknown", None),
        ] {
            let headers = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), header.parse().unwrap())]);
            let client = client.map(|ip: &str| ip.parse().unwrap());
            assert_eq!(forwarded_for(peer.parse().unwrap(), &headers, &trusted), client, "{peer} {header}");
        }
    }
}
