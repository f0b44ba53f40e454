//! How the servers of an upstream are spoken to: with TLS or without, in HTTP/2 or HTTP/1.1.

use std::net::SocketAddr;

use pingora::connectors::ConnectorOptions;
use pingora::prelude::HttpPeer;
use pingora::upstreams::peer::ALPN;

use crate::capability::cluster::EndpointTls;
use crate::config::{Ca, Upstream, UpstreamTls};

/// Requests at once on one HTTP/2 connection, if the server permits as many.
const MOST_STREAMS: usize = 100;

#[derive(Clone)]
pub struct Protocol {
    tls: Option<UpstreamTls>,
    h2: bool,
}

impl Protocol {
    pub fn of(spec: &Upstream) -> Protocol {
        Protocol { tls: spec.tls.clone(), h2: spec.h2 }
    }

    pub fn tls(&self) -> bool {
        self.tls.is_some()
    }

    pub fn h2(&self) -> bool {
        self.h2
    }

    /// As plugins connect to a server of this host.
    pub fn endpoint_tls(&self, host: &str) -> Option<EndpointTls> {
        let tls = self.tls.as_ref()?;
        Some(EndpointTls { server_name: self.server_name(host)?.into(), verify: tls.verify })
    }

    /// A server, as Pingora connects to it. The host may be an IPv6 address in its brackets.
    pub fn peer(&self, addr: SocketAddr, host: &str) -> HttpPeer {
        let mut peer = HttpPeer::new(addr, self.tls(), self.server_name(host).unwrap_or_default().to_owned());
        if let Some(tls) = &self.tls {
            peer.options.verify_cert = tls.verify;
            peer.options.verify_hostname = tls.verify;
        }
        peer.options.alpn = match (self.h2, self.tls()) {
            (false, _) => ALPN::H1,
            (true, true) => ALPN::H2H1,
            // Nothing can be agreed on: the server is known to speak it (RFC 9113, section 3.3).
            (true, false) => ALPN::H2,
        };
        peer.options.max_h2_streams = MOST_STREAMS;
        peer
    }

    /// The name that the certificate must have; it is sent as SNI unless it is an address.
    fn server_name<'a>(&'a self, host: &'a str) -> Option<&'a str> {
        let sni = self.tls.as_ref()?.sni.as_deref();
        Some(sni.unwrap_or_else(|| host.trim_matches(['[', ']'])))
    }
}

/// Whom to trust: the file, as it was read at the start; none: the roots of the system.
pub fn ca_file(ca: Option<&Ca>) -> Option<String> {
    ca.map(|ca| ca.path.to_string_lossy().into_owned())
}

/// For connections that are not kept.
pub fn connector_options(ca: Option<&Ca>) -> ConnectorOptions {
    let mut options = ConnectorOptions::new(1);
    options.ca_file = ca_file(ca);
    options
}
