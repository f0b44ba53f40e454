//! Connections to other machines: resolved, permitted by the policy of the script, and opened over TCP, TLS or QUIC.
//! Whatever plugins say to other machines goes through here.

mod policy;
mod quic;
mod stream;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use policy::{Denied, Policy};
pub use stream::{Duplex, Stream};
pub use target::{Host, Target};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use prometheus_client::metrics::gauge::Gauge;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use self::quic::QuicStream;
use self::tls::Tls;
use super::cluster::{Endpoint, EndpointTls};
use crate::config::{Diagnostics, Network as Config};
use crate::observe::metrics::{Counted, Metrics};

/// What a stream goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Tcp,
    /// TLS over TCP.
    Ssl,
    /// One bidirectional stream on a QUIC connection of its own (RFC 9000).
    Quic,
}

impl Transport {
    /// In the order of their values.
    pub const ALL: [Transport; 3] = [Transport::Tcp, Transport::Ssl, Transport::Quic];

    pub fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Ssl => "ssl",
            Transport::Quic => "quic",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("`{0}` is not a host and a port, such as `api.example.cn:443` or `[2001:db8::1]:443`")]
    Address(String),
    #[error("{0}")]
    Denied(Denied),
    #[error("{0} cannot be resolved: {1}")]
    Resolve(Target, io::Error),
    #[error("{0} cannot be connected: {1}")]
    Connect(Target, io::Error),
    #[error("TLS with {0} failed: {1}")]
    Tls(Target, io::Error),
    #[error("`{0}` is not a name that a certificate can have")]
    ServerName(String),
    #[error("no certificate can be verified: the system has no roots ({0}): install them, or set `ca` in `[network]`")]
    Roots(String),
}

/// The way out: once a process.
pub struct Network {
    tls: Tls,
    /// Open connections, by transport.
    open: [Gauge; 3],
}

/// A connection that was permitted and opened.
pub(in crate::capability) struct Connected {
    /// What was connected to.
    pub addr: SocketAddr,
    pub link: Link,
}

pub(in crate::capability) enum Link {
    /// With the protocol that was agreed on (ALPN), if any.
    Stream(Stream, Option<Vec<u8>>),
    Quic(quinn::Connection, Counted),
}

impl Network {
    /// Opens nothing. What is wrong with the configured authorities is reported.
    pub fn load(config: &Config, metrics: &Metrics, diagnostics: &mut Diagnostics) -> Network {
        let open = Transport::ALL.map(|transport| metrics.connections(transport.name()));
        Network { tls: Tls::load(config.ca.as_ref(), diagnostics), open }
    }

    /// Opens a stream to `addr`, `host:port`. `server_name` is the name to verify and to send as SNI; the host when absent.
    /// `alpn` are the protocols to agree on (RFC 7301); without one QUIC has [`quic::STREAM_ALPN`]. It takes as long as it
    /// takes: bound it in time, and drop it to give up.
    ///
    /// # Errors
    /// When the policy does not permit it, and when it fails.
    pub async fn connect(
        &self,
        policy: &Policy,
        transport: Transport,
        addr: &str,
        server_name: Option<&str>,
        alpn: &[&[u8]],
    ) -> Result<Stream, NetError> {
        let target = Target::parse(addr)?;
        let alpn = if alpn.is_empty() && transport == Transport::Quic { &[quic::STREAM_ALPN] } else { alpn };
        match self.dial(policy, transport, &target, server_name, alpn).await?.link {
            Link::Stream(stream, _) => Ok(stream),
            Link::Quic(connection, open) => {
                let stream = QuicStream::open(connection).await.map_err(|error| NetError::Connect(target, error))?;
                Ok(Stream::new(stream, open))
            }
        }
    }

    /// As [`Network::connect`], and leaves QUIC without a stream.
    pub(in crate::capability) async fn dial(
        &self,
        policy: &Policy,
        transport: Transport,
        target: &Target,
        server_name: Option<&str>,
        alpn: &[&[u8]],
    ) -> Result<Connected, NetError> {
        let server_name = || server_name.map_or_else(|| target.host.server_name(), target::server_name);
        let addrs = resolve(policy, target).await?;
        let open = Counted::new(&self.open[transport as usize]);
        let failed = |error| NetError::Connect(target.clone(), error);
        let (addr, link) = match transport {
            Transport::Tcp => {
                let (addr, tcp) = first(&addrs, tcp).await.map_err(failed)?;
                (addr, Link::Stream(Stream::new(tcp, open), None))
            }
            Transport::Ssl => {
                let name = server_name()?;
                let (addr, tcp) = first(&addrs, tcp).await.map_err(failed)?;
                (addr, handshake(self.tls.settings(alpn).await?, name, target, tcp, open).await?)
            }
            Transport::Quic => {
                let name = text(&server_name()?);
                let settings = self.tls.quic_settings(alpn).await?;
                let connect = |addr| quic::connect(addr, &name, settings.clone());
                let (addr, connection) = first(&addrs, connect).await.map_err(failed)?;
                (addr, Link::Quic(connection, open))
            }
        };
        Ok(Connected { addr, link })
    }

    /// Opens a stream to a server of the operator, with one of these protocols if it is TLS. No policy is asked.
    pub(in crate::capability) async fn reach(&self, endpoint: &Endpoint, alpn: &[&[u8]]) -> Result<Link, NetError> {
        let target = Target::from(endpoint.addr);
        let failed = |error| NetError::Connect(target.clone(), error);
        let connecting = async {
            let tcp = tcp(endpoint.addr).await.map_err(failed)?;
            let open =
                Counted::new(&self.open[if endpoint.tls.is_some() { Transport::Ssl } else { Transport::Tcp } as usize]);
            let Some(EndpointTls { server_name, verify }) = &endpoint.tls else {
                return Ok(Link::Stream(Stream::new(tcp, open), None));
            };
            let settings = if *verify { self.tls.settings(alpn).await? } else { self.tls.unverified_settings(alpn)? };
            handshake(settings, target::server_name(server_name)?, &target, tcp, open).await
        };
        match tokio::time::timeout(endpoint.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

/// The addresses of the target that the policy permits; never none. They are connected to as they are here: a second
/// lookup could say something else.
async fn resolve(policy: &Policy, target: &Target) -> Result<Vec<SocketAddr>, NetError> {
    policy.check_before_lookup(target).map_err(NetError::Denied)?;
    let found: Vec<SocketAddr> = match &target.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, target.port)],
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), target.port))
            .await
            .map_err(|error| NetError::Resolve(target.clone(), error))?
            .collect(),
    };
    let mut denied = None;
    let mut permitted = Vec::with_capacity(found.len());
    for mut addr in found {
        addr.set_ip(addr.ip().to_canonical());
        match policy.check(target, addr.ip()) {
            Ok(()) => permitted.push(addr),
            Err(reason) => denied = denied.or(Some(reason)),
        }
    }
    match denied {
        Some(reason) if permitted.is_empty() => Err(NetError::Denied(reason)),
        _ if permitted.is_empty() => Err(NetError::Resolve(target.clone(), io::Error::other("it has no address"))),
        _ => Ok(permitted),
    }
}

/// How long an address has before the next one is tried as well.
const STAGGER: Duration = Duration::from_millis(250);

/// The first address that can be connected, so that one that does not answer costs no more than a moment (RFC 8305).
async fn first<T, F>(addrs: &[SocketAddr], connect: impl Fn(SocketAddr) -> F) -> io::Result<(SocketAddr, T)>
where
    F: Future<Output = io::Result<T>>,
{
    let connect = |addr| {
        let connecting = connect(addr);
        async move { connecting.await.map(|connection| (addr, connection)) }
    };
    let mut attempts = FuturesUnordered::new();
    let mut waiting = addrs.iter();
    let mut failure = io::Error::other("it has no address");
    loop {
        match waiting.next() {
            Some(addr) => attempts.push(connect(*addr)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = error,
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

async fn handshake(
    settings: Arc<ClientConfig>,
    name: ServerName<'static>,
    target: &Target,
    tcp: TcpStream,
    open: Counted,
) -> Result<Link, NetError> {
    let tls = TlsConnector::from(settings).connect(name, tcp).await;
    let tls = tls.map_err(|error| NetError::Tls(target.clone(), error))?;
    let agreed = tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    Ok(Link::Stream(Stream::new(tls, open), agreed))
}

async fn tcp(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// As Quinn takes it.
fn text(name: &ServerName<'_>) -> String {
    name.to_str().into_owned()
}
