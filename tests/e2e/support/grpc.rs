//! gRPC over HTTP/2, both ends, as far as a proxy sees it.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::soon;

type Pieces = StreamBody<UnboundedReceiver<Result<Frame<Bytes>, Infallible>>>;

/// A server without TLS, in HTTP/2. `/test.Echo/Chat` gives back each piece of the body as it comes, and then trailers with
/// status 0 and what `te` was; anything else is answered without a body: status 5. It ends when this is dropped.
pub struct GrpcOrigin {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl GrpcOrigin {
    pub async fn start() -> GrpcOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let service = service_fn(|request| async { Ok::<_, Infallible>(serve(request)) });
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        GrpcOrigin { addr, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for GrpcOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve(request: Request<Incoming>) -> Response<http_body_util::Either<Pieces, Empty<Bytes>>> {
    let (head, mut body) = request.into_parts();
    let response = Response::builder().header(header::CONTENT_TYPE, "application/grpc");
    if head.uri.path() != "/test.Echo/Chat" {
        let response = response.header("grpc-status", "5").header("grpc-message", "no%20such%20method");
        return response.body(http_body_util::Either::Right(Empty::new())).unwrap();
    }
    let (pieces, stream) = unbounded();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            let _ = pieces.unbounded_send(Ok(frame));
        }
        let te = head.headers.get(header::TE).cloned();
        let trailers = [("grpc-status", HeaderValue::from_static("0"))];
        let trailers = trailers.into_iter().chain(te.map(|te| ("x-te", te)));
        let trailers: HeaderMap = trailers.map(|(name, value)| (name.parse().unwrap(), value)).collect();
        let _ = pieces.unbounded_send(Ok(Frame::trailers(trailers)));
    });
    response.body(http_body_util::Either::Left(StreamBody::new(stream))).unwrap()
}

/// One call.
pub struct GrpcCall {
    pieces: Option<UnboundedSender<Result<Frame<Bytes>, Infallible>>>,
    pub response: Response<Incoming>,
    _connection: http2::SendRequest<Pieces>,
}

impl GrpcCall {
    /// On a connection of its own. The first piece goes at once.
    pub async fn start(addr: SocketAddr, method: &str, piece: &'static [u8]) -> GrpcCall {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let (pieces, stream) = unbounded();
        let request = Request::post(format!("http://{addr}/test.Echo/{method}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(StreamBody::new(stream))
            .unwrap();
        pieces.unbounded_send(Ok(Frame::data(Bytes::from_static(piece)))).unwrap();
        let response = soon("a response", sender.send_request(request)).await.unwrap();
        GrpcCall { pieces: Some(pieces), response, _connection: sender }
    }

    pub fn send(&self, piece: &'static [u8]) {
        let pieces = self.pieces.as_ref().expect("it has not ended");
        pieces.unbounded_send(Ok(Frame::data(Bytes::from_static(piece)))).unwrap();
    }

    /// Ends the request.
    pub fn end(&mut self) {
        self.pieces = None;
    }

    /// What comes next: a piece, or the trailers; none after the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, HeaderMap>> {
        let frame = soon("a frame", self.response.body_mut().frame()).await?.unwrap();
        Some(frame.into_data().map_err(|frame| frame.into_trailers().unwrap()))
    }
}
