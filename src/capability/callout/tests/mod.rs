mod http2;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::capability::Capabilities;
use crate::capability::cluster::{Cluster, EndpointTls};
use crate::capability::grpc::{self, Event, GrpcCall};
use crate::capability::resp::{Command, Login};
use crate::config::{self, Diagnostics};

type Reply = Response<Either<Full<Bytes>, StreamBody<futures::stream::Iter<std::vec::IntoIter<Piece>>>>>;
type Piece = Result<Frame<Bytes>, Infallible>;

/// A request: its head, body and trailers.
type Seen = (http::request::Parts, Bytes, Option<HeaderMap>);

/// A server that speaks HTTP/1.1 and, without TLS, HTTP/2. `/stuck` is never answered.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<Vec<_>>>::default());
        let (count, log) = (connections.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let log = log.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let log = log.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let path = head.uri.path().to_owned();
                        if path == "/stuck" {
                            std::future::pending::<()>().await;
                        }
                        let body = body.collect().await.unwrap();
                        let trailers = body.trailers().cloned();
                        log.lock().unwrap().push((head, body.to_bytes(), trailers));
                        Ok::<_, Infallible>(answer(&path))
                    }
                });
                tasks.spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Server { addr, connections, seen, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(path: &str) -> Reply {
    let data = |text: &'static str| Ok(Frame::data(Bytes::from(text)));
    let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), HeaderValue::from_static("yes"))]);
    let pieces: Vec<Piece> = match path {
        "/trailers" => vec![data("hello"), Ok(Frame::trailers(trailers))],
        "/broken" => {
            let short = Either::Right(StreamBody::new(futures::stream::iter(vec![data("hello")])));
            return Response::builder().header("content-length", "10").body(short).unwrap();
        }
        _ => return Response::builder().status(201).header("x-a", "1").body(Either::Left("hello".into())).unwrap(),
    };
    Response::builder()
        .header("trailer", "x-end")
        .body(Either::Right(StreamBody::new(futures::stream::iter(pieces))))
        .unwrap()
}

struct At(SocketAddr, bool);

impl Cluster for At {
    fn pick(&self, _: &[u8]) -> Option<Endpoint> {
        let (host, connect_timeout) = ("127.0.0.1".into(), Duration::from_secs(10));
        Some(Endpoint { addr: self.0, host, tls: None, h2: self.1, connect_timeout, in_use: None })
    }

    fn servers(&self) -> Vec<(SocketAddr, bool)> {
        vec![(self.0, true)]
    }
}

/// With a cluster `one` in HTTP/1.1 and `two` in HTTP/2.
fn capabilities(addr: SocketAddr) -> Capabilities {
    let config = config::Config::empty("phasegate.toml".as_ref());
    let mut diagnostics = Diagnostics::new("".as_ref(), String::new());
    let capabilities = Capabilities::load(&config, &Metrics::new(), &mut diagnostics);
    let cluster = |h2| Arc::new(At(addr, h2)) as Arc<dyn Cluster>;
    let clusters = [("one".to_owned(), cluster(false)), ("two".to_owned(), cluster(true))];
    capabilities.clusters.replace(HashMap::from(clusters));
    capabilities
}

fn get(path: &'static str) -> ClusterCall {
    ClusterCall {
        method: Method::GET,
        path: path.parse().unwrap(),
        host: "a.cn".parse().unwrap(),
        scheme: None,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        trailers: HeaderMap::new(),
        timeout: Some(Duration::from_secs(20)),
    }
}

async fn call(capabilities: &Capabilities, name: &str, call: ClusterCall) -> Result<ClusterResponse, CalloutError> {
    let Capabilities { callouts, network, clusters, .. } = capabilities;
    callouts.call_cluster(network, clusters, name, call).await
}

#[tokio::test]
async fn a_request_to_a_cluster_and_its_response() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    for (name, version) in [("one", Version::HTTP_11), ("two", Version::HTTP_2)] {
        let headers = [("x-b", "2"), ("connection", "close, x-b"), ("content-length", "77"), ("host", "b.cn")];
        let headers = headers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let mut request = get("/a?b=c");
        request.method = Method::POST;
        request.headers = HeaderMap::from_iter(headers);
        request.body = "body".into();
        request.trailers = HeaderMap::from_iter([("x-t".parse().unwrap(), HeaderValue::from_static("3"))]);
        let response = call(&capabilities, name, request).await.unwrap();
        assert_eq!(
            (response.status.as_u16(), &response.headers["x-a"], &response.body[..]),
            (201, &"1".parse().unwrap(), &b"hello"[..])
        );
        assert!(response.trailers.is_empty());

        let (head, body, trailers) = server.seen.lock().unwrap().pop().unwrap();
        assert_eq!((head.method, head.version, &body[..]), (Method::POST, version, &b"body"[..]));
        assert_eq!(head.uri.path_and_query().unwrap(), "/a?b=c");
        let host = head.headers.get("host").map(|host| host.to_str().unwrap());
        assert_eq!(host.or(head.uri.authority().map(|name| name.as_str())), Some("a.cn"));
        assert_eq!(head.headers["x-b"], "2");
        assert!(!head.headers.contains_key("connection") && !head.headers.contains_key("content-length"));
        assert_eq!(trailers.unwrap()["x-t"], "3");

        let response = call(&capabilities, name, get("/trailers")).await.unwrap();
        assert_eq!(&response.body[..], b"hello");
        if name == "two" {
            assert_eq!(response.trailers["x-end"], "yes");
        }
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 2, "one a protocol");
}

#[tokio::test]
async fn what_can_go_wrong_can_be_told_apart() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let short = || ClusterCall { timeout: Some(Duration::from_millis(50)), ..get("/stuck") };
    for name in ["one", "two"] {
        let error = call(&capabilities, name, short()).await.unwrap_err();
        assert!(matches!(&error, CalloutError::Timeout { from, .. } if from == name), "{error}");
        let error = call(&capabilities, name, get("/broken")).await.unwrap_err();
        // In HTTP/1.1 this server gives up before it has written anything.
        assert!(matches!(error, CalloutError::Broken(..)) || name == "one", "{error}");
        let large = ClusterCall { body: vec![0; (32 << 20) + 1].into(), ..get("/") };
        let error = call(&capabilities, name, large).await.unwrap_err();
        assert!(matches!(error, CalloutError::BodyTooLarge { .. }), "{error}");
    }
    let error = call(&capabilities, "three", get("/")).await.unwrap_err();
    assert!(matches!(error, CalloutError::Cluster(ClusterError::Unknown(_))), "{error}");

    let addr = server.addr;
    drop(server);
    for name in ["one", "two"] {
        // Connections that still stood end first.
        let gone = async {
            while !matches!(call(&capabilities, name, get("/")).await, Err(CalloutError::Net(NetError::Connect(..)))) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap_or_else(|_| panic!("{addr} is still there"));
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_before_it_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let capabilities = capabilities(listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for name in ["one", "two"] {
        let error = call(&capabilities, name, get("/")).await.unwrap_err();
        assert!(matches!(error, CalloutError::Unanswered { .. }), "{error}");
        assert!((1..=MOST_TRIES as usize).contains(&connections.swap(0, Ordering::Relaxed)), "{name}");
    }
}

/// Keeps its connections, and says nothing.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    addr
}

/// A cluster of this server behind TLS.
struct Secure {
    addr: SocketAddr,
    server_name: &'static str,
    verify: bool,
    h2: bool,
    connect_timeout: Duration,
}

impl Cluster for Secure {
    fn pick(&self, _: &[u8]) -> Option<Endpoint> {
        let Secure { addr, server_name, verify, h2, connect_timeout } = *self;
        let tls = Some(EndpointTls { server_name: server_name.into(), verify });
        Some(Endpoint { addr, host: "a.cn".into(), tls, h2, connect_timeout, in_use: None })
    }

    fn servers(&self) -> Vec<(SocketAddr, bool)> {
        vec![(self.addr, true)]
    }
}

#[tokio::test]
async fn a_cluster_behind_tls() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (front, capabilities) = secure(server.addr, &folder).await;
    let connect_timeout = Duration::from_secs(10);
    for (server_name, verify, h2, version) in [
        ("a.cn", true, true, Some(Version::HTTP_2)),
        ("a.cn", true, false, Some(Version::HTTP_11)),
        ("b.cn", true, true, None),
        ("127.0.0.1", true, true, None),
        ("b.cn", false, true, Some(Version::HTTP_2)),
        ("127.0.0.1", false, true, Some(Version::HTTP_2)),
        // Once more: a connection that was not verified is not for those who want that.
        ("b.cn", true, true, None),
    ] {
        let cluster: Arc<dyn Cluster> = Arc::new(Secure { addr: front, server_name, verify, h2, connect_timeout });
        capabilities.clusters.replace(HashMap::from([("tls".to_owned(), cluster)]));
        let result = call(&capabilities, "tls", get("/")).await;
        match version {
            Some(version) => {
                assert_eq!(result.unwrap().status, StatusCode::CREATED, "{server_name} {verify}");
                let (head, ..) = server.seen.lock().unwrap().pop().unwrap();
                assert_eq!((head.version, head.uri.scheme_str()), (version, h2.then_some("https")));
            }
            None => {
                let error = result.unwrap_err();
                assert!(matches!(error, CalloutError::Net(NetError::Tls(..))), "{server_name} {verify}: {error}");
            }
        }
    }
}

/// A certificate for `a.cn` in front of a server, and who trusts it.
async fn secure(server: SocketAddr, folder: &tempfile::TempDir) -> (SocketAddr, Capabilities) {
    let certified = rcgen::generate_simple_self_signed(["a.cn".to_owned()]).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(stream).await else { return };
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    let mut config = config::Config::empty("phasegate.toml".as_ref());
    config.network.ca = Some(config::Ca { path: ca, place: config::Place(0..0) });
    let mut diagnostics = Diagnostics::new("".as_ref(), String::new());
    (front, Capabilities::load(&config, &Metrics::new(), &mut diagnostics))
}

#[tokio::test]
async fn a_connection_takes_no_longer_than_it_may() {
    let addr = silent().await;
    let capabilities = capabilities(addr);
    let connect_timeout = Duration::from_millis(20);
    let cluster = Secure { addr, server_name: "a.cn", verify: false, h2: true, connect_timeout };
    capabilities.clusters.replace(HashMap::from([("tls".to_owned(), Arc::new(cluster) as Arc<dyn Cluster>)]));
    let endless = ClusterCall { timeout: None, ..get("/") };
    match call(&capabilities, "tls", endless).await.unwrap_err() {
        CalloutError::Net(NetError::Connect(_, error)) => assert_eq!(error.kind(), std::io::ErrorKind::TimedOut),
        error => panic!("{error}"),
    }
}

/// A runtime drives the connections that it has opened: another must not depend on them.
#[test]
fn each_runtime_has_connections_of_its_own() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (serving, first, second) = (runtime(), runtime(), runtime());
    let server = serving.block_on(Server::start());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || drop(serving.block_on(stopped)));
    let capabilities = capabilities(server.addr);
    for _ in 0..2 {
        // A runtime drives nothing while nobody blocks on it.
        for runtime in [&first, &second] {
            let response = runtime.block_on(call(&capabilities, "two", get("/"))).unwrap();
            assert_eq!(response.status, StatusCode::CREATED);
        }
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 2);
    drop(first);
    assert!(second.block_on(call(&capabilities, "two", get("/"))).is_ok());
    drop(stop);
    thread.join().unwrap();
}

#[tokio::test]
async fn callouts_that_are_refused_are_no_failures() {
    let mut capabilities = capabilities(silent().await);
    let short = Duration::from_millis(20);
    let command = Command::parse(b"*1\r\n$4\r\nPING\r\n").unwrap();
    for (most, failures) in [(0, 0), (1, 3)] {
        capabilities.callouts.most = most;
        let late = ClusterCall { timeout: Some(short), ..get("/") };
        call(&capabilities, "one", late).await.unwrap_err();
        let late = GrpcCall { timeout: Some(short), ..http2::grpc_call() };
        grpc::unary(&capabilities, late, Bytes::new()).await.unwrap_err();
        let client = capabilities.redis.get("one", Login::default());
        client.call(&capabilities, &command, short).await.unwrap_err();
        assert_eq!(capabilities.callouts.metrics.failed.get(), failures);
    }
}
