//! What is known of the connections of a request. Only filters ask for it: what costs anything is found out then.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use pingora::protocols::tls::SslDigest;
use pingora::protocols::{Digest, SocketDigest};

/// What a TLS connection keeps of its handshake.
pub struct Handshake {
    /// The name that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The certificate that it got.
    pub certificate: Option<Arc<Certificate>>,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// In the form of RFC 2253.
    pub subject: String,
    /// The first alternative name that is a name of the DNS.
    pub dns: Option<String>,
    /// The first alternative name that is a URI.
    pub uri: Option<String>,
}

/// One end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    socket: Option<Arc<SocketDigest>>,
    tls: Option<Arc<SslDigest>>,
}

impl Connection {
    pub fn of(digest: &Digest) -> Connection {
        Connection { socket: digest.socket_digest.clone(), tls: digest.ssl_digest.clone() }
    }

    /// A number that no other connection of this machine has.
    pub fn id(&self) -> Option<u64> {
        self.socket.as_ref()?.socket_cookie().ok()
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.as_ref()?.local_addr()?.as_inet().copied()
    }

    /// Such as `TLSv1.3`; none without TLS.
    pub fn tls_version(&self) -> Option<Cow<'_, str>> {
        let version = &self.tls.as_ref()?.version;
        Some(if version.contains('_') { version.replace('_', ".").into() } else { version.as_ref().into() })
    }

    /// SHA-256 of the certificate that the other end has shown.
    pub fn peer_digest(&self) -> Option<&[u8]> {
        self.tls.as_ref().map(|tls| tls.cert_digest.as_slice()).filter(|digest| !digest.is_empty())
    }

    /// Our own, where we are the server.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.tls.as_ref()?.extension.get::<Handshake>()?.certificate.as_deref()
    }
}
