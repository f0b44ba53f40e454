//! Origins behind TLS: HTTP/2 and HTTP/1.1, and HTTP/3 over QUIC.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes};
use http::Version;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::origin::receive;
use super::{CertFiles, Received, Reply};

type Answer = Arc<dyn Fn(Received) -> Reply + Send + Sync>;

/// A server with a certificate on a free port. It never answers requests to `/hang`. It ends when this is dropped.
pub struct SecureOrigin {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl SecureOrigin {
    /// Over TLS: with what the client chooses of these protocols.
    pub async fn tls(
        files: &CertFiles,
        alpn: &[&str],
        answer: impl Fn(Received) -> Reply + Send + Sync + 'static,
    ) -> SecureOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(files.server(alpn)));
        let (log, answer): (Arc<Mutex<Vec<_>>>, Answer) = (Arc::default(), Arc::new(answer));
        let received = log.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, answer, acceptor) = (log.clone(), answer.clone(), acceptor.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let (log, answer) = (log.clone(), answer.clone());
                        async move {
                            let request = receive(request, connection).await;
                            log.lock().unwrap().push(request.clone());
                            hang(&request).await;
                            Ok::<_, Infallible>(answer(request))
                        }
                    });
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        SecureOrigin { addr, received, task }
    }

    /// HTTP/3.
    pub async fn quic(files: &CertFiles, answer: impl Fn(Received) -> Reply + Send + Sync + 'static) -> SecureOrigin {
        let endpoint = files.quic_endpoint("h3");
        let addr = endpoint.local_addr().unwrap();
        let (log, answer): (Arc<Mutex<Vec<_>>>, Answer) = (Arc::default(), Arc::new(answer));
        let received = log.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for connection in 0.. {
                let Some(incoming) = endpoint.accept().await else { return };
                let (log, answer) = (log.clone(), answer.clone());
                connections.spawn(async move {
                    let Ok(quic) = incoming.await else { return };
                    serve_h3(quic, connection, log, answer).await;
                });
            }
        });
        SecureOrigin { addr, received, task }
    }

    /// Where it is, by a name.
    pub fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.addr.port())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All requests so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for SecureOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CertFiles {
    /// For a TLS server with these protocols.
    pub fn server(&self, alpn: &[&str]) -> ServerConfig {
        let chain = CertificateDer::pem_file_iter(&self.cert).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config
    }

    /// A QUIC server with this protocol on a free port.
    pub fn quic_endpoint(&self, alpn: &str) -> quinn::Endpoint {
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(self.server(&[alpn])).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
    }
}

async fn serve_h3(quic: quinn::Connection, connection: usize, log: Arc<Mutex<Vec<Received>>>, answer: Answer) {
    let Ok(mut server) = h3::server::Connection::<_, Bytes>::new(h3_quinn::Connection::new(quic)).await else { return };
    let mut requests = JoinSet::new();
    while let Ok(Some(resolver)) = server.accept().await {
        let (log, answer) = (log.clone(), answer.clone());
        requests.spawn(async move {
            let (request, mut stream) = resolver.resolve_request().await.unwrap();
            let mut body = Vec::new();
            while let Ok(Some(data)) = stream.recv_data().await {
                body.extend_from_slice(data.chunk());
            }
            let (head, ()) = request.into_parts();
            let received = Received {
                method: head.method,
                uri: head.uri.path_and_query().map_or("", |uri| uri.as_str()).to_owned(),
                version: Version::HTTP_3,
                authority: head.uri.authority().map(ToString::to_string),
                headers: head.headers,
                body: body.into(),
                whole: true,
                connection,
            };
            log.lock().unwrap().push(received.clone());
            hang(&received).await;
            let (head, body) = answer(received).into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            // A client that has enough of it goes away.
            let _ = stream.send_response(http::Response::from_parts(head, ())).await;
            let _ = stream.send_data(body).await;
            let _ = stream.finish().await;
        });
    }
    requests.join_all().await;
}

async fn hang(request: &Received) {
    if request.uri == "/hang" {
        std::future::pending().await
    }
}
