//! The ways to a server: who may go there, and how it is spoken to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Notify;

use super::connection::Connection;
use super::{CalloutError, chain};
use crate::capability::cluster::{Endpoint, EndpointTls};
use crate::capability::net::{Link, NetError, Network, Policy, Target, Transport};

#[derive(Clone, Copy)]
pub enum Way<'a> {
    /// Where the policy of a script permits it. HTTP/2 is spoken where the server chooses it (ALPN, RFC 9113, section 3.2).
    Script { policy: &'a Policy, transport: Transport },
    /// To a server of the operator, who has said how.
    Cluster { endpoint: &'a Endpoint, http: Http },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Http {
    One,
    Two,
    /// What the server chooses.
    Either,
}

/// What a connection must have been made for, so that another call can go over it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key {
    target: Target,
    kind: Kind,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Kind {
    Script(Transport),
    Cluster {
        tls: Option<EndpointTls>,
        http: Http,
        /// A connection is driven by the runtime that has opened it: a call of another would wait for that, and fail should
        /// it end.
        runtime: tokio::runtime::Id,
    },
}

impl Key {
    /// Whether a connection may be one that calls share.
    pub fn shares(&self) -> bool {
        match self.kind {
            Kind::Script(transport) => transport != Transport::Tcp,
            Kind::Cluster { http, .. } => http != Http::One,
        }
    }
}

impl Http {
    /// As the operator has said.
    pub fn of(endpoint: &Endpoint) -> Http {
        match (endpoint.h2, &endpoint.tls) {
            (false, _) => Http::One,
            (true, Some(_)) => Http::Either,
            (true, None) => Http::Two,
        }
    }

    fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Http::One => &[b"http/1.1"],
            Http::Two => &[b"h2"],
            Http::Either => &[b"h2", b"http/1.1"],
        }
    }
}

impl Way<'_> {
    /// Called within the runtime of the call.
    pub fn key(&self, target: &Target) -> Key {
        let kind = match self {
            Way::Script { transport, .. } => Kind::Script(*transport),
            Way::Cluster { endpoint, http } => Kind::Cluster {
                tls: endpoint.tls.clone(),
                http: *http,
                runtime: tokio::runtime::Handle::current().id(),
            },
        };
        Key { target: target.clone(), kind }
    }

    /// Whether any connection to the target could be permitted: it is not worth waiting for one otherwise.
    ///
    /// # Errors
    /// When none could.
    pub fn check(&self, target: &Target) -> Result<(), NetError> {
        match self {
            Way::Script { policy, .. } => policy.check_before_lookup(target).map_err(NetError::Denied),
            Way::Cluster { .. } => Ok(()),
        }
    }

    /// Whether a connection to this address of the target may be used.
    pub fn permits(&self, target: &Target, addr: SocketAddr) -> bool {
        match self {
            Way::Script { policy, .. } => policy.check(target, addr.ip()).is_ok(),
            Way::Cluster { .. } => true,
        }
    }

    /// Opens a connection; the address that it goes to. `changed` learns when it may have room for another call.
    pub async fn open(
        &self,
        network: &Network,
        target: &Target,
        changed: Arc<Notify>,
    ) -> Result<(Connection, SocketAddr), CalloutError> {
        let (link, addr) = match self {
            Way::Script { policy, transport } => {
                let alpn: &[&[u8]] = match transport {
                    Transport::Tcp => &[],
                    Transport::Ssl => &[b"h2", b"http/1.1"],
                    Transport::Quic => &[b"h3"],
                };
                let connected = network.dial(policy, *transport, target, None, alpn).await?;
                (connected.link, connected.addr)
            }
            Way::Cluster { endpoint, http } => (network.reach(endpoint, http.alpn()).await?, endpoint.addr),
        };
        let connection = match link {
            Link::Quic(connection, open) => Connection::http3(connection, open).await,
            Link::Stream(stream, agreed) if self.speaks_http2(agreed.as_deref()) => {
                Connection::http2(stream, changed).await
            }
            Link::Stream(stream, _) => Connection::http1(stream).await,
        };
        let failed = |text: String| CalloutError::Unanswered { target: target.clone(), text, reset: None };
        let connection = connection.map_err(|error| failed(chain(&*error)))?;
        Ok((connection, addr))
    }

    /// With what was agreed on (ALPN).
    fn speaks_http2(&self, agreed: Option<&[u8]>) -> bool {
        // Without TLS nothing is agreed on: a server that is to speak it is spoken to in it.
        matches!(self, Way::Cluster { http: Http::Two, .. }) || agreed == Some(b"h2")
    }
}
