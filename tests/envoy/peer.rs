//! Both ends of a case: the clients in front and the origins behind, with trailers, in HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::case::{Answer, Message, Origin, Request};
use super::seen::Seen;
use crate::support::DownOrigin;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Before each piece of a body, so that a proxy sees them one by one, after the headers have gone on.
const GAP: Duration = Duration::from_millis(200);

/// The same where something else is to happen first.
const LONG_GAP: Duration = Duration::from_millis(700);

/// For an answer. Where none is to come, this is how long the case takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// An origin that runs. It ends when this is dropped.
pub struct Server {
    pub addr: SocketAddr,
    received: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(origin: &Origin) -> Server {
        if origin.down {
            let nobody = DownOrigin::new();
            let addr = nobody.addr();
            let task = tokio::spawn(async move {
                let _nobody = nobody;
                std::future::pending().await
            });
            return Server { addr, received: Arc::default(), task };
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, origin) = (received.clone(), origin.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, origin.clone(), log.clone()));
            }
        });
        Server { addr, received, task }
    }

    /// The requests since the last time this was asked.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, origin: Origin, log: Arc<Mutex<Vec<Seen>>>) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (origin, log) = (origin.clone(), log.clone());
        async move { answer(request, &origin, &log).await }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().auto_date_header(false).half_close(true);
    builder.http2().auto_date_header(false);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

/// An error ends the connection.
async fn answer(
    request: hyper::Request<Incoming>,
    origin: &Origin,
    log: &Mutex<Vec<Seen>>,
) -> Result<hyper::Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |uri| uri.as_str()).to_owned();
    let mut headers = head.headers;
    if let Some(authority) = head.uri.authority() {
        // Whatever the version, it is the host.
        headers.insert("host", authority.as_str().parse().unwrap());
    }
    // What the request says of its body is told once that has come.
    let number = {
        let mut log = log.lock().unwrap();
        log.push(Seen { line: format!("{} {path}", head.method), headers, ..Seen::default() });
        log.len() - 1
    };
    let answered = (origin.answer)(number, &path);
    if let Answer::Early(_) = answered {
        tokio::spawn(read(body));
    } else if !matches!(answered, Answer::Silence) || path.contains("whole") {
        let (chunks, trailers, end) = read(body).await;
        if let Some(seen) = log.lock().unwrap().get_mut(number) {
            (seen.body, seen.trailers, seen.end) = (chunks, trailers, end);
        }
    }
    match answered {
        Answer::Reset => Err(io::ErrorKind::ConnectionReset.into()),
        Answer::Silence => std::future::pending().await,
        Answer::Response(message) | Answer::Early(message) => {
            let mut response = hyper::Response::builder().status(message.status);
            for (name, value) in &message.headers {
                response = response.header(*name, value);
            }
            // In HTTP/2 there is no such thing.
            if head.version == Version::HTTP_2 {
                response.headers_mut().unwrap().remove("transfer-encoding");
            }
            Ok(response.body(body_of(&message)).unwrap())
        }
    }
}

/// Sends a request on a connection of its own; what comes back.
pub async fn ask(addr: SocketAddr, host: &str, request: &Request) -> Seen {
    let time = request.leaves_after.unwrap_or(PATIENCE);
    match tokio::time::timeout(time, exchange(addr, host, request)).await {
        Ok(seen) => seen,
        Err(_) if request.leaves_after.is_some() => Seen { line: "the client has left".into(), ..Seen::default() },
        Err(_) => Seen { line: "no answer in time".into(), ..Seen::default() },
    }
}

async fn exchange(addr: SocketAddr, host: &str, request: &Request) -> Seen {
    let Ok(stream) = TcpStream::connect(addr).await else {
        return Seen { line: "no connection".into(), ..Seen::default() };
    };
    stream.set_nodelay(true).unwrap();
    let mut head = hyper::Request::builder().method(request.method);
    head = match request.h2 {
        true => head.uri(format!("http://{host}{}", request.path)).version(Version::HTTP_2),
        false => head.uri(&request.path).header("host", host),
    };
    // Envoy adds it where it is not there, before the filters see the request.
    head = head.header("x-forwarded-proto", "http");
    for (name, value) in &request.message.headers {
        if !(request.h2 && *name == "transfer-encoding") {
            head = head.header(*name, value);
        }
    }
    if !request.h2 && !request.message.trailers.is_empty() {
        // Hyper sends those that are announced.
        let names: Vec<_> = request.message.trailers.iter().map(|(name, _)| *name).collect();
        head = head.header("trailer", names.join(", "));
    }
    let head = head.body(body_of(&request.message)).unwrap();
    let io = TokioIo::new(stream);
    let (response, _connection) = if request.h2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 connection");
        let running = Running(tokio::spawn(async { drop(connection.await) }));
        (sender.send_request(head).await, running)
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a connection");
        let running = Running(tokio::spawn(async { drop(connection.await) }));
        (sender.send_request(head).await, running)
    };
    let Ok(response) = response else {
        return Seen { line: "no response".into(), ..Seen::default() };
    };
    let (head, body) = response.into_parts();
    let (body, trailers, end) = read(body).await;
    Seen { line: head.status.as_u16().to_string(), headers: head.headers, body, trailers, end }
}

/// A connection, which ends with its request.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body, its trailers, and how it ended.
async fn read(mut body: Incoming) -> (Vec<u8>, HeaderMap, Option<&'static str>) {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => bytes.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().unwrap_or_default(),
            Err(_) => return (bytes, trailers, Some("cut off")),
        }
    }
    (bytes, trailers, None)
}

fn body_of(message: &Message) -> Body {
    if message.has_length() {
        let whole: Vec<u8> = message.chunks.concat();
        return Full::new(Bytes::from(whole)).map_err(|never: Infallible| match never {}).boxed_unsync();
    }
    let mut frames: Vec<Result<Frame<Bytes>, io::Error>> =
        message.chunks.iter().map(|chunk| Ok(Frame::data(chunk.clone()))).collect();
    if !message.trailers.is_empty() {
        let trailers = message.trailers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        frames.push(Ok(Frame::trailers(trailers.collect())));
    }
    if message.broken {
        frames.push(Err(io::ErrorKind::ConnectionReset.into()));
    }
    let gap = if message.slow { LONG_GAP } else { GAP };
    let frames = stream::iter(frames).then(move |frame| async move {
        tokio::time::sleep(gap).await;
        frame
    });
    StreamBody::new(frames).boxed_unsync()
}
