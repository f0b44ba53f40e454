//! Origins: what stands behind the proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::{Raw, eventually, fnv};

/// What an origin answers with.
pub type Reply = Response<Full<Bytes>>;

/// A response with this status and body.
pub fn reply(status: u16, body: impl Into<Bytes>) -> Reply {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

/// A request as an origin received it.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    /// Path and query.
    pub uri: String,
    pub version: Version,
    /// Of HTTP/2 and HTTP/3, which have no `host`.
    pub authority: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False: the connection ended, or failed, before the body did.
    pub whole: bool,
    /// Counts the connections of the origin, from 0.
    pub connection: usize,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The checksum of the body: see `support::fnv`.
    pub fn fnv(&self) -> String {
        fnv(&self.body)
    }
}

/// An HTTP/1.1 server on a free port. It ends when this is dropped.
pub struct Origin {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Answers each request with what the function makes of it, once its body is there.
    pub async fn start(answer: impl Fn(Received) -> Reply + Send + Sync + 'static) -> Origin {
        let answer = Arc::new(answer);
        Origin::start_async(move |received| std::future::ready(answer(received))).await
    }

    /// The same with an answer that takes its time.
    pub async fn start_async<A>(answer: impl Fn(Received) -> A + Send + Sync + 'static) -> Origin
    where
        A: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (received.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let (log, answer) = (log.clone(), answer.clone());
                let service = service_fn(move |request| {
                    let (log, answer) = (log.clone(), answer.clone());
                    async move {
                        let request = receive(request, connection).await;
                        log.lock().unwrap().push(request.clone());
                        Ok::<_, Infallible>(answer(request).await)
                    }
                });
                connections.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .half_close(true)
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Origin { addr, received, task }
    }

    /// Answers everything with 200 and this body.
    pub async fn saying(body: &'static str) -> Origin {
        Origin::start(move |_| reply(200, body)).await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All requests so far, each from when its body had come.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// The only request.
    #[track_caller]
    pub fn only(&self) -> Received {
        let received = self.received();
        assert_eq!(received.len(), 1, "{received:?}");
        received.into_iter().next().unwrap()
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Received {
        self.received().pop().expect("the origin has received something")
    }

    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        eventually(&format!("the origin receives {count} requests"), || self.received().len() >= count);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) async fn receive(request: hyper::Request<Incoming>, connection: usize) -> Received {
    let (head, mut body) = request.into_parts();
    let (mut bytes, mut whole) = (Vec::new(), true);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            Err(_) => {
                whole = false;
                break;
            }
        }
    }
    let authority = head.uri.authority().map(ToString::to_string);
    let uri = head.uri.path_and_query().map_or("", |uri| uri.as_str()).to_owned();
    let (method, version, headers) = (head.method, head.version, head.headers);
    Received { method, uri, version, authority, headers, body: bytes.into(), whole, connection }
}

/// A server that does by hand what the test says, for responses that no server should give.
pub struct RawOrigin {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl RawOrigin {
    /// Hands each connection, with its number from 0, to the function.
    pub async fn start<A>(serve: impl Fn(Raw, usize) -> A + Send + 'static) -> RawOrigin
    where
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(Raw::of(stream), connection));
            }
        });
        RawOrigin { addr, task }
    }

    /// Answers each request on each connection with these bytes.
    pub async fn saying(response: &'static str) -> RawOrigin {
        RawOrigin::start(move |mut client, _| async move {
            while client.read_request().await.is_some() {
                client.send(response).await;
            }
        })
        .await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nothing listens, for as long as this lives.
pub struct DownOrigin {
    addr: SocketAddr,
    _bound: TcpSocket,
}

impl DownOrigin {
    pub fn new() -> DownOrigin {
        // Bound, so that nobody else gets the port; not listening, so that connections are refused.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        DownOrigin { addr: socket.local_addr().unwrap(), _bound: socket }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A server with no room for a connection: to connect to it takes for ever.
pub struct FullOrigin {
    addr: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl FullOrigin {
    pub async fn start() -> FullOrigin {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Nobody accepts them. Where there is room, a connection stands at once.
        while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
            waiting.push(stream.unwrap());
        }
        FullOrigin { addr, _listener: listener, _waiting: waiting }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
