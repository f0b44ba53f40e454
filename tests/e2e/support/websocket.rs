//! WebSocket clients and origins.

use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response as Accepted};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

use super::soon;

/// A WebSocket client that has been let in.
pub struct WebSocket<S> {
    pub stream: WebSocketStream<S>,
    /// The answer to its handshake.
    pub answer: Response<Option<Vec<u8>>>,
}

impl WebSocket<TcpStream> {
    pub async fn connect(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        WebSocket::over(stream, path, headers).await.unwrap_or_else(|error| panic!("no WebSocket: {error}"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// # Errors
    /// When it is not let in.
    pub async fn over(
        stream: S,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket<S>, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("ws://a.example{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let (stream, answer) = soon("an answer to the handshake", client_async(request, stream)).await?;
        Ok(WebSocket { stream, answer })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.headers().get(name).map(|value| value.to_str().unwrap())
    }

    pub async fn send(&mut self, message: Message) {
        soon("a message is sent", self.stream.send(message)).await.unwrap();
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The next frame that means something to the test; none: the connection has ended.
    pub async fn receive(&mut self) -> Option<Message> {
        soon("a message", self.stream.next()).await.and_then(Result::ok)
    }

    /// Sends a message, and has it back.
    pub async fn echo(&mut self, message: Message) {
        self.send(message.clone()).await;
        let got = self.receive().await;
        assert!(got.as_ref() == Some(&message), "{} bytes came back as {:?}", message.len(), got.map(|got| got.len()));
    }

    /// Closes with this code and reason.
    pub async fn close(&mut self, code: u16, reason: &'static str) {
        self.send(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))).await;
    }

    /// The code and reason of the close frame that comes, and nothing after it.
    pub async fn closed(&mut self) -> (u16, String) {
        let Some(Message::Close(frame)) = self.receive().await else { panic!("no close frame") };
        assert_eq!(self.receive().await, None);
        frame.map_or((CloseCode::Status.into(), String::new()), |frame| (frame.code.into(), frame.reason.to_string()))
    }
}

/// A WebSocket server on a free port that sends everything back. It ends when this is dropped.
pub struct WebSocketOrigin {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl WebSocketOrigin {
    /// Its handshake says in `x-seen` what it received as `x-sent`, and agrees to any subprotocol. The text `close CODE`
    /// makes it close with that code.
    pub async fn start() -> WebSocketOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream));
            }
        });
        WebSocketOrigin { addr, task }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for WebSocketOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection of a [`WebSocketOrigin`].
#[expect(clippy::result_large_err, reason = "it is the signature of the callback")]
pub async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let accept = |request: &Request, mut response: Accepted| {
        for (from, to) in [("x-sent", "x-seen"), ("sec-websocket-protocol", "sec-websocket-protocol")] {
            if let Some(value) = request.headers().get(from) {
                response.headers_mut().insert(to, value.clone());
            }
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, accept).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let code = message.to_text().ok().and_then(|text| text.strip_prefix("close ")?.parse::<u16>().ok());
        let sent = match (&message, code) {
            (Message::Text(_), Some(code)) => {
                socket.close(Some(CloseFrame { code: code.into(), reason: "as asked".into() })).await
            }
            (Message::Text(_) | Message::Binary(_), _) => socket.send(message).await,
            _ => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}
