use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{Ca, load_rules};

/// A certificate for `localhost`, which is its own authority.
struct Certificate {
    der: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    folder: TempDir,
}

impl Certificate {
    fn new() -> Certificate {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Certificate { der: certificate.into(), key, folder }
    }

    fn server(&self, alpn: &[u8]) -> rustls::ServerConfig {
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![self.der.clone()], self.key.clone_key()).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    fn network(&self, metrics: &Metrics) -> Network {
        let ca = Ca { path: self.folder.path().join("ca.pem"), place: crate::config::Place(0..0) };
        let mut diagnostics = Diagnostics::new(Path::new(""), String::new());
        let network = Network::load(&Config { ca: Some(ca), ..Config::default() }, metrics, &mut diagnostics);
        assert!(!diagnostics.has_errors(), "{diagnostics}");
        network
    }
}

/// Gives back what it got, once it has all of it; the port.
async fn echo(certificate: &Certificate, transport: Transport) -> u16 {
    if transport == Transport::Quic {
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(certificate.server(quic::STREAM_ALPN)).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let (mut send, mut receive) = connection.accept_bi().await.unwrap();
                    let all = receive.read_to_end(1 << 24).await.unwrap();
                    send.write_all(&all).await.unwrap();
                    send.finish().unwrap();
                    connection.closed().await;
                });
            }
        });
        return port;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(certificate.server(b"echo")));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream: Box<dyn Duplex> = match transport {
                    Transport::Tcp => Box::new(tcp),
                    _ => Box::new(acceptor.accept(tcp).await.unwrap()),
                };
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                stream.write_all(&all).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn every_transport_carries_bytes_both_ways_to_their_end() {
    let (certificate, metrics) = (Certificate::new(), Metrics::new());
    let network = certificate.network(&metrics);
    let policy = Policy::new(load_rules(&["127.0.0.0/8"]));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    for transport in Transport::ALL {
        let port = echo(&certificate, transport).await;
        let open = metrics.connections(transport.name());
        let mut stream = network.connect(&policy, transport, &format!("localhost:{port}"), None, &[]).await.unwrap();
        assert_eq!(open.get(), 1);
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert!(received == sent, "{transport:?}");
        drop(stream);
        assert_eq!(open.get(), 0);
    }
}

#[tokio::test]
async fn what_was_written_arrives_before_the_connection_ends() {
    let (certificate, metrics) = (Certificate::new(), Metrics::new());
    let network = certificate.network(&metrics);
    let policy = Policy::new(load_rules(&["127.0.0.0/8"]));
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(certificate.server(quic::STREAM_ALPN)).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = format!("localhost:{}", endpoint.local_addr().unwrap().port());
    let server = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (_, mut receive) = connection.accept_bi().await.unwrap();
        receive.read_to_end(1 << 24).await.map(|all| all.len())
    });
    let mut stream = network.connect(&policy, Transport::Quic, &addr, None, &[]).await.unwrap();
    stream.write_all(&vec![0; 1_000_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(server.await.unwrap().unwrap(), 1_000_000);
}

#[tokio::test]
async fn the_server_must_have_the_name_that_is_asked_for() {
    let (certificate, metrics) = (Certificate::new(), Metrics::new());
    let network = certificate.network(&metrics);
    let policy = Policy::new(load_rules(&["127.0.0.0/8"]));
    for transport in [Transport::Ssl, Transport::Quic] {
        let addr = format!("127.0.0.1:{}", echo(&certificate, transport).await);
        let connect = async |name| network.connect(&policy, transport, &addr, name, &[]).await.err();
        assert!(connect(Some("localhost")).await.is_none(), "{transport:?}");
        for name in [None, Some("other.cn"), Some("not a name")] {
            let error = connect(name).await.expect("a refusal").to_string();
            assert!(error.contains("certificate"), "{error}");
        }
        assert_eq!(metrics.connections(transport.name()).get(), 0);
    }
}

#[tokio::test]
async fn a_protocol_that_the_server_does_not_have_is_refused() {
    let (certificate, metrics) = (Certificate::new(), Metrics::new());
    let network = certificate.network(&metrics);
    let policy = Policy::new(load_rules(&["127.0.0.0/8"]));
    for transport in [Transport::Ssl, Transport::Quic] {
        let addr = format!("localhost:{}", echo(&certificate, transport).await);
        assert!(network.connect(&policy, transport, &addr, None, &[b"other"]).await.is_err(), "{transport:?}");
    }
}

#[tokio::test]
async fn an_address_that_does_not_answer_holds_up_the_next_for_a_moment_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = listener.local_addr().unwrap();
    let silent: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let connect = |addr| async move { if addr == silent { std::future::pending().await } else { tcp(addr).await } };
    let (addr, _) = first(&[silent, good], connect).await.unwrap();
    assert_eq!(addr, good);
    // One that refuses, for no time at all.
    let error = first(&[silent], |_| async { Err::<(), _>(io::ErrorKind::ConnectionRefused.into()) }).await;
    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}
