use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use h2::Reason;
use http::{Request as HttpRequest, Response};
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::capability::callout::reset;
use crate::capability::cluster::{Cluster, Endpoint};
use crate::config::{Config, Diagnostics};
use crate::observe::metrics::Metrics;

type Piece = Result<Frame<Bytes>, h2::Error>;
type Pieces = Either<StreamBody<futures::channel::mpsc::UnboundedReceiver<Piece>>, Empty<Bytes>>;

/// A server whose method `/s.S/NAME` does what the name says.
struct Server {
    addr: SocketAddr,
    task: JoinHandle<()>,
    /// What came of requests to `Hang`: "begun", and then their body, or the reason for which they were reset.
    hung: mpsc::UnboundedReceiver<Result<Bytes, Option<u32>>>,
}

impl Server {
    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (hangs, hung) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let hangs = hangs.clone();
                let service = service_fn(move |request| {
                    let hangs = hangs.clone();
                    async move { Ok::<_, Infallible>(serve(request, hangs).await) }
                });
                tasks.spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Server { addr, task, hung }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    request: HttpRequest<Incoming>,
    hangs: mpsc::UnboundedSender<Result<Bytes, Option<u32>>>,
) -> Response<Pieces> {
    let (head, mut body) = request.into_parts();
    let (pieces, stream) = futures::channel::mpsc::unbounded();
    let response = Response::builder().header("content-type", "application/grpc+proto").header("x-initial", "a");
    let put = |piece: Piece| drop(pieces.unbounded_send(piece));
    let data = |bytes: &[u8]| put(Ok(Frame::data(Bytes::copy_from_slice(bytes))));
    let end = |code: &'static str| put(Ok(Frame::trailers(trailers(code))));
    let response = match head.uri.path().strip_prefix("/s.S/").unwrap() {
        "Echo" => {
            data(&body.collect().await.unwrap().to_bytes());
            end("0");
            response
        }
        "Chat" => {
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let _ = pieces.unbounded_send(Ok(frame));
                }
                let _ = pieces.unbounded_send(Ok(Frame::trailers(trailers("0"))));
            });
            response
        }
        "Headers" => {
            let header = |name| head.headers.get(name).map_or("", |value| value.to_str().unwrap());
            let names = ["content-type", "te", "grpc-timeout", "x-meta", "content-length"];
            let said =
                format!("{} {} {}", head.method, head.uri.authority().unwrap().host(), names.map(header).join(" "));
            data(&frame(said.as_bytes()));
            end("0");
            response
        }
        "Split" => {
            let framed = [frame(b"one"), frame(b"")].concat();
            framed.iter().for_each(|byte| data(&[*byte]));
            end("0");
            response
        }
        "Status" => {
            data(&frame(b"one"));
            end("7");
            response
        }
        "Only" => response.header("grpc-status", "5").header("grpc-message", "caf%C3%A9"),
        "OnlyOk" => response.header("grpc-status", "0"),
        "NoTrailers" => {
            data(&frame(b"one"));
            response
        }
        "NoStatus" => {
            put(Ok(Frame::trailers(HeaderMap::new())));
            response
        }
        "BadStatus" => {
            end("x");
            response
        }
        "SignedStatus" => {
            end("+5");
            response
        }
        "NoMessage" => {
            end("0");
            response
        }
        "Cut" => {
            data(&frame(b"one")[..6]);
            end("0");
            response
        }
        "Reset" => {
            data(&frame(b"one"));
            tokio::spawn(async move {
                let _ = body.collect().await;
                let _ = pieces.unbounded_send(Err(Reason::ENHANCE_YOUR_CALM.into()));
            });
            response
        }
        "Deaf" => {
            tokio::spawn(async move {
                let _nothing_is_taken = (body, pieces);
                std::future::pending::<()>().await
            });
            response
        }
        "Large" => {
            data(&[0, 0xff, 0, 0, 0]);
            end("0");
            response
        }
        "Compressed" => {
            data(b"\x01\0\0\0\x01a");
            end("0");
            response.header("grpc-encoding", "gzip")
        }
        "CompressedSomehow" => {
            data(b"\x01\0\0\0\x01a");
            end("0");
            response
        }
        "Html" => Response::builder().header("content-type", "text/html"),
        "Missing" => Response::builder().status(404),
        "Busy" => Response::builder().status(503).header("content-type", "text/plain"),
        "Hang" => {
            let _ = hangs.send(Ok("begun".into()));
            let whole = body.collect().await;
            let _ = hangs.send(whole.map(|body| body.to_bytes()).map_err(|error| reset(&error)));
            std::future::pending().await
        }
        other => panic!("{other}"),
    };
    let only = response.headers_ref().unwrap().contains_key("grpc-status");
    response.body(if only { Either::Right(Empty::new()) } else { Either::Left(StreamBody::new(stream)) }).unwrap()
}

fn trailers(code: &'static str) -> HeaderMap {
    let trailers = [("grpc-status", code), ("grpc-message", "no%20luck"), ("x-trailing", "b")];
    HeaderMap::from_iter(trailers.map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))))
}

struct At(SocketAddr);

impl Cluster for At {
    fn pick(&self, _: &[u8]) -> Option<Endpoint> {
        // gRPC needs HTTP/2 whatever is configured.
        let (host, connect_timeout) = ("127.0.0.1".into(), Duration::from_secs(10));
        Some(Endpoint { addr: self.0, host, tls: None, h2: false, connect_timeout, in_use: None })
    }

    fn servers(&self) -> Vec<(SocketAddr, bool)> {
        vec![(self.0, true)]
    }
}

fn capabilities(addr: SocketAddr) -> Arc<Capabilities> {
    let mut diagnostics = Diagnostics::new("".as_ref(), String::new());
    let config = Config::empty("phasegate.toml".as_ref());
    let capabilities = Capabilities::load(&config, &Metrics::new(), &mut diagnostics);
    capabilities.clusters.replace(HashMap::from([("c".to_owned(), Arc::new(At(addr)) as Arc<dyn Cluster>)]));
    Arc::new(capabilities)
}

fn to(method: &str) -> GrpcCall {
    GrpcCall {
        cluster: "c".into(),
        service: "s.S".into(),
        method: method.into(),
        metadata: HeaderMap::from_iter([("x-meta".parse().unwrap(), HeaderValue::from_static("m"))]),
        timeout: None,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes too long")
}

async fn call(capabilities: &Capabilities, method: &str) -> Result<Reply, Status> {
    soon(unary(capabilities, to(method), Bytes::from("hello"))).await
}

#[tokio::test]
async fn one_message_for_another() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let reply = call(&capabilities, "Echo").await.unwrap();
    assert_eq!(&reply.message[..], b"hello");
    assert_eq!(reply.initial_metadata["x-initial"], "a");
    assert_eq!(reply.trailing_metadata["x-trailing"], "b");
    let said = call(&capabilities, "Headers").await.unwrap().message;
    assert_eq!(said, "POST c application/grpc trailers  m ");
    let timeout = Some(Duration::from_secs(10));
    let said = soon(unary(&capabilities, GrpcCall { timeout, ..to("Headers") }, Bytes::new())).await.unwrap().message;
    assert_eq!(said, "POST c application/grpc trailers 10000m m ");
}

#[tokio::test]
async fn what_is_not_an_answer_is_a_status() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    for (method, code, message) in [
        ("Status", 7, "no luck"),
        ("Only", 5, "café"),
        ("OnlyOk", 13, "there is no message"),
        ("NoTrailers", 2, "the stream has ended without a status"),
        ("NoStatus", 2, "the trailers have no `grpc-status`"),
        ("BadStatus", 2, "`grpc-status` is not a number"),
        ("SignedStatus", 2, "`grpc-status` is not a number"),
        ("NoMessage", 13, "there is no message"),
        ("Split", 13, "there is more than one message"),
        ("Cut", 13, "the stream has ended in the middle of a message"),
        (
            "Large",
            8,
            "a message of 4278190080 bytes is larger than 33554432 bytes: body_limit of [network] can permit more",
        ),
        ("Compressed", 13, "the message is compressed (gzip), which was not asked for"),
        ("CompressedSomehow", 13, "the message is compressed, and `grpc-encoding` does not say how"),
        ("Html", 2, "the server answered 200 OK, and not in gRPC"),
        ("Missing", 12, "the server answered 404 Not Found, and not in gRPC"),
        ("Busy", 14, "the server answered 503 Service Unavailable, and not in gRPC"),
    ] {
        let status = call(&capabilities, method).await.unwrap_err();
        assert_eq!((status.code, status.message.as_str()), (code, message), "{method}");
        assert_eq!(
            status.trailers.contains_key("grpc-status"),
            ["Status", "Only", "BadStatus", "SignedStatus"].contains(&method),
            "{method}"
        );
    }
    assert_eq!(call(&capabilities, "Reset").await.unwrap_err().code, 8);
    let large = unary(&capabilities, to("Echo"), vec![0; (32 << 20) + 1].into());
    assert_eq!(soon(large).await.unwrap_err().code, 8);
    let bad = GrpcCall { method: "a b".into(), ..to("") };
    assert_eq!(soon(unary(&capabilities, bad, Bytes::new())).await.unwrap_err().code, 13);
    let unknown = GrpcCall { cluster: "d".into(), ..to("Echo") };
    assert_eq!(soon(unary(&capabilities, unknown, Bytes::new())).await.unwrap_err().code, 14);
}

#[tokio::test]
async fn nobody_listens() {
    // Bound, and not listening: refused.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let capabilities = capabilities(socket.local_addr().unwrap());
    assert_eq!(call(&capabilities, "Echo").await.unwrap_err().code, 14);
    let (_stream, mut events) = stream(&capabilities, to("Chat"));
    assert!(matches!(soon(events.recv()).await, Some(Event::TrailingMetadata(trailers)) if trailers.is_empty()));
    assert!(matches!(soon(events.recv()).await, Some(Event::Closed(status)) if status.code == 14));
    assert!(soon(events.recv()).await.is_none());
}

#[tokio::test]
async fn a_call_takes_no_longer_than_it_may() {
    let mut server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let call = GrpcCall { timeout: Some(Duration::from_millis(50)), ..to("Hang") };
    let status = soon(unary(&capabilities, call.clone(), Bytes::new())).await.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (4, "no status within 50 ms"));
    begun(&mut server).await;
    assert_eq!(soon(server.hung.recv()).await, Some(Ok(frame(b""))));
    let (_stream, mut events) = stream(&capabilities, call);
    soon(events.recv()).await;
    assert!(matches!(soon(events.recv()).await, Some(Event::Closed(status)) if status.code == 4));
    // It was taken back before its end.
    begun(&mut server).await;
    assert_eq!(soon(server.hung.recv()).await, Some(Err(Some(Reason::CANCEL.into()))));
}

async fn begun(server: &mut Server) {
    assert_eq!(soon(server.hung.recv()).await, Some(Ok("begun".into())));
}

async fn message(events: &mut mpsc::Receiver<Event>) -> Bytes {
    match soon(events.recv()).await {
        Some(Event::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

/// The code at the end, and whether trailers came with it.
async fn end(events: &mut mpsc::Receiver<Event>) -> (u32, bool) {
    let Some(Event::TrailingMetadata(trailers)) = soon(events.recv()).await else { panic!("no trailing metadata") };
    let Some(Event::Closed(status)) = soon(events.recv()).await else { panic!("no end") };
    assert!(soon(events.recv()).await.is_none());
    (status.code, trailers.contains_key("x-trailing"))
}

async fn initial(events: &mut mpsc::Receiver<Event>) -> HeaderMap {
    match soon(events.recv()).await {
        Some(Event::InitialMetadata(metadata)) => metadata,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_both_ways_until_half_close() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let (stream, mut events) = stream(&capabilities, to("Chat"));
    stream.send(b"one", false).unwrap();
    assert_eq!(initial(&mut events).await["x-initial"], "a");
    assert_eq!(message(&mut events).await, "one");
    stream.send(b"", false).unwrap();
    assert_eq!(message(&mut events).await, "");
    let large = vec![7; 1 << 20];
    stream.send(&large, false).unwrap();
    assert_eq!(message(&mut events).await, large);
    stream.close();
    assert_eq!(stream.send(b"late", false), Err(SendError::Closed));
    assert_eq!(end(&mut events).await, (0, true));
}

#[tokio::test]
async fn the_last_message_closes() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let (stream, mut events) = stream(&capabilities, to("Chat"));
    stream.send(b"last", true).unwrap();
    initial(&mut events).await;
    assert_eq!(message(&mut events).await, "last");
    assert_eq!(end(&mut events).await, (0, true));
}

#[tokio::test]
async fn streams_end_as_servers_say() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    for (method, messages, code, own) in [
        ("Split", &["one", ""][..], 0, true),
        ("Status", &["one"], 7, true),
        ("NoTrailers", &["one"], 2, false),
        ("Reset", &["one"], 8, false),
        ("Cut", &[], 13, false),
        ("Large", &[], 8, false),
        ("Html", &[], 2, false),
    ] {
        let (stream, mut events) = stream(&capabilities, to(method));
        initial(&mut events).await;
        for expected in messages {
            assert_eq!(message(&mut events).await, expected, "{method}");
        }
        if method == "Reset" {
            stream.close();
        }
        assert_eq!(end(&mut events).await, (code, own), "{method}");
        assert_eq!(stream.send(b"late", false), Err(SendError::Closed));
    }
    let (_stream, mut events) = stream(&capabilities, to("Only"));
    assert!(initial(&mut events).await.is_empty());
    assert_eq!(end(&mut events).await, (5, false));
}

#[tokio::test]
async fn who_drops_a_stream_cancels_it() {
    let mut server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let cancelled = Some(Err(Some(Reason::CANCEL.into())));
    let (sender, events) = stream(&capabilities, to("Hang"));
    sender.send(b"one", false).unwrap();
    begun(&mut server).await;
    drop(sender);
    assert_eq!(soon(server.hung.recv()).await, cancelled);
    drop(events);
    let (_sender, events) = stream(&capabilities, to("Hang"));
    begun(&mut server).await;
    drop(events);
    assert_eq!(soon(server.hung.recv()).await, cancelled);
}

#[tokio::test]
async fn who_sends_too_much_is_told() {
    let server = Server::start().await;
    let capabilities = capabilities(server.addr);
    let (stream, mut events) = stream(&capabilities, to("Deaf"));
    let (length, limit) = ((32 << 20) + 1, 32 << 20);
    assert_eq!(stream.send(&vec![0; length], false), Err(SendError::TooLarge { length, limit }));
    initial(&mut events).await;
    let message = vec![1; 100_000];
    let full = async {
        loop {
            match stream.send(&message, false) {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        }
    };
    let full = soon(full).await;
    assert!(matches!(full, SendError::Full(waiting) if waiting > 1 << 20));
    stream.fail(full);
    assert_eq!(end(&mut events).await, (8, false));
}

#[test]
fn timeouts_have_eight_digits() {
    for (timeout, text) in [
        (Duration::from_micros(1), "1m"),
        (Duration::from_millis(99_999_999), "99999999m"),
        (Duration::from_millis(100_000_000), "100000S"),
        (Duration::MAX, "99999999S"),
    ] {
        assert_eq!(grpc_timeout(timeout), text);
    }
}
