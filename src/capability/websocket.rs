//! WebSocket (RFC 6455), on either side of a connection.

use std::sync::OnceLock;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{FutureExt, SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Request, Uri, header};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};
use tokio_util::sync::CancellationToken;

use super::callout::absolute;
use super::net::{Stream, Transport};
use super::socket::{AnyStream, SocketError, within};
use crate::headers::{is_host, is_of_connection};
use crate::observe::metrics::Counted;

/// Most bytes of a message from the peer.
const MESSAGE: usize = 1 << 20;

/// Most bytes that wait to be sent.
const OUTGOING: usize = 16 << 20;

/// For this long a close frame may take at the end of a run.
const GOODBYE: Duration = Duration::from_secs(1);

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Vec<u8>),
}

/// Why there is no WebSocket connection.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    #[error("`{0}` is not an absolute URI such as `ws://host/path` or `wss://host/path`")]
    Uri(String),
    #[error("{0}: the socket type tcp goes with ws://, and ssl with wss://")]
    Scheme(String),
    #[error("WebSocket over QUIC is not possible: use the socket type ssl")]
    Quic,
    #[error("`{0}` is not a valid header for the request of an upgrade")]
    Header(HeaderName),
    #[error("{addr}: the server has not switched to WebSocket: {why}")]
    Refused { addr: String, why: String },
}

/// A connection. One entry point can read from it while another writes.
pub struct WebSocket {
    fd: u64,
    reader: AsyncMutex<SplitStream<WebSocketStream<AnyStream>>>,
    writer: AsyncMutex<SplitSink<WebSocketStream<AnyStream>, Frame>>,
    /// The code and reason of the peer's close frame, once it has come; code 1005 stands for none.
    peer_closed: OnceLock<(u16, String)>,
    /// Why reading has come to its end, but for a close frame.
    broken: OnceLock<String>,
    closed: CancellationToken,
    _open: Counted,
}

impl WebSocket {
    pub fn new(fd: u64, stream: WebSocketStream<AnyStream>, open: &Gauge) -> WebSocket {
        let (writer, reader) = stream.split();
        WebSocket {
            fd,
            reader: reader.into(),
            writer: writer.into(),
            peer_closed: OnceLock::new(),
            broken: OnceLock::new(),
            closed: CancellationToken::new(),
            _open: Counted::new(open),
        }
    }

    /// On a stream whose peer has been told that it speaks WebSocket now.
    pub async fn server(fd: u64, stream: AnyStream, open: &Gauge) -> WebSocket {
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, Some(settings())).await;
        WebSocket::new(fd, stream, open)
    }

    /// The next message; none when the peer has closed. Pings that come meanwhile are answered.
    ///
    /// # Errors
    /// When none comes in time, or what comes is not valid: then the peer is told why, and the connection is over.
    pub async fn read(&self, timeout_ms: u64) -> Result<Option<Message>, SocketError> {
        within(self.fd, &self.closed, timeout_ms, async {
            let mut reader = self.reader.lock().await;
            loop {
                if self.peer_closed.get().is_some() {
                    return Ok(None);
                }
                if let Some(why) = self.broken.get() {
                    return Err(self.failed(why));
                }
                match reader.next().await {
                    Some(Ok(Frame::Text(text))) => return Ok(Some(Message::Text(text.as_str().to_owned()))),
                    Some(Ok(Frame::Binary(bytes))) => return Ok(Some(Message::Binary(bytes.into()))),
                    Some(Ok(Frame::Close(frame))) => {
                        self.set_peer_closed(frame);
                        // This is what sends the reply.
                        let _ = reader.next().now_or_never();
                    }
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
                    Some(Err(error)) => self.break_with(&error).await,
                    None => self.set_broken("the connection has ended".to_owned()),
                }
            }
        })
        .await
    }

    /// Sends a message. When it is not sent in time, it will be with the next one or a flush.
    ///
    /// # Errors
    /// When that takes too long, the message is too large, or the connection is closed.
    pub async fn write(&self, message: Message, timeout_ms: u64) -> Result<(), SocketError> {
        let frame = match message {
            Message::Text(text) => Frame::text(text),
            Message::Binary(bytes) => Frame::binary(bytes),
        };
        self.send(frame, timeout_ms).await
    }

    /// Sends a ping. The answer is not shown to plugins.
    ///
    /// # Errors
    /// As [`WebSocket::write`], and for more than 125 bytes.
    pub async fn ping(&self, data: Vec<u8>, timeout_ms: u64) -> Result<(), SocketError> {
        if data.len() > 125 {
            return Err(self.failed(&format!("a ping has at most 125 bytes, not {}", data.len())));
        }
        self.send(Frame::Ping(data.into()), timeout_ms).await
    }

    /// # Errors
    /// When it is not done in time, or the connection fails.
    pub async fn flush(&self, timeout_ms: u64) -> Result<(), SocketError> {
        let flush = async { self.writer.lock().await.flush().await.map_err(|error| self.failed_with(&error)) };
        within(self.fd, &self.closed, timeout_ms, flush).await
    }

    /// Sends a close frame, and waits for that of the peer for what is left of the time. The socket has to be removed
    /// before.
    ///
    /// # Errors
    /// When the close frame cannot be sent in time, and for a code or reason that none can have.
    pub async fn close(&self, code: u16, reason: String, timeout_ms: u64) -> Result<(), SocketError> {
        let mut sent = false;
        let close = async {
            self.send_close(code, reason).await.map_err(|error| self.failed_with(&error))?;
            sent = true;
            let mut reader = self.reader.lock().await;
            while let Some(Ok(frame)) = reader.next().await {
                if let Frame::Close(frame) = frame {
                    self.set_peer_closed(frame);
                    break;
                }
            }
            Ok(())
        };
        match within(self.fd, &CancellationToken::new(), timeout_ms, close).await {
            Err(SocketError::TimedOut { .. }) if sent => Ok(()),
            result => result,
        }
    }

    /// Code and reason of the peer's close frame, once it has come. Code 1005: it had none.
    pub fn close_code(&self) -> Option<(u16, String)> {
        self.peer_closed.get().cloned()
    }

    /// Whoever waits for something gets an error.
    pub fn cancel(&self) {
        self.closed.cancel();
    }

    /// Says goodbye, at the end of a run.
    pub async fn end(&self, failed: bool) {
        let code = if failed { CloseCode::Error } else { CloseCode::Normal };
        let _ = timeout(GOODBYE, self.send_close(code.into(), String::new())).await;
    }

    async fn send(&self, frame: Frame, timeout_ms: u64) -> Result<(), SocketError> {
        if frame.len() > OUTGOING - MESSAGE {
            let most = OUTGOING - MESSAGE;
            return Err(self.failed(&format!("a message has at most {most} bytes, not {}", frame.len())));
        }
        let send = async {
            let mut writer = self.writer.lock().await;
            writer.send(frame).await.map_err(|error| self.failed_with(&error))
        };
        within(self.fd, &self.closed, timeout_ms, send).await
    }

    /// Sends a close frame, unless one was sent before.
    async fn send_close(&self, code: u16, reason: String) -> Result<(), Error> {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        let mut writer = self.writer.lock().await;
        match writer.send(Frame::Close(Some(frame))).await {
            // The peer was first: what is left is the reply.
            Err(Error::Protocol(ProtocolError::SendAfterClosing)) => writer.flush().await.or(Ok(())),
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => Ok(()),
            result => result,
        }
    }

    /// Ends a connection whose peer does not keep to the protocol, and tells it so.
    async fn break_with(&self, error: &Error) {
        self.set_broken(describe(error));
        let code = match error {
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return,
            Error::Protocol(_) => CloseCode::Protocol,
            _ => return,
        };
        let _ = self.send_close(code.into(), String::new()).await;
    }

    fn set_peer_closed(&self, frame: Option<CloseFrame>) {
        let code = frame.map_or((CloseCode::Status.into(), String::new()), |frame| {
            (frame.code.into(), frame.reason.as_str().to_owned())
        });
        let _ = self.peer_closed.set(code);
    }

    fn set_broken(&self, why: String) {
        let _ = self.broken.set(why);
    }

    fn failed_with(&self, error: &Error) -> SocketError {
        self.failed(&describe(error))
    }

    fn failed(&self, why: &str) -> SocketError {
        SocketError::Failed { fd: self.fd, why: why.to_owned() }
    }
}

/// Checks the code and reason of a close frame (RFC 6455, sections 5.5 and 7.4).
///
/// # Errors
/// When no close frame can have them.
pub fn check_close(code: u16, reason: &str) -> Result<(), String> {
    if !CloseCode::from(code).is_allowed() {
        return Err(format!("{code} is no code for a close frame: 1000, 1001, 1007 to 1014 or 3000 to 4999"));
    }
    if reason.len() > 123 {
        return Err(format!("the reason of a close frame has at most 123 bytes, not {}", reason.len()));
    }
    Ok(())
}

/// The request for an upgrade, checked.
#[derive(Debug)]
pub struct Handshake {
    request: Request<()>,
    addr: String,
}

impl Handshake {
    /// # Errors
    /// For an URI that is not absolute or does not fit the transport, and for headers that belong to the handshake.
    pub fn new(
        transport: Transport,
        uri: &str,
        params: &[(String, String)],
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Handshake, WebSocketError> {
        let invalid = || WebSocketError::Uri(uri.to_owned());
        let (scheme, authority, path) = absolute(uri, params).ok_or_else(invalid)?;
        let secure = match scheme.as_str() {
            "ws" | "http" => false,
            "wss" | "https" => true,
            _ => return Err(invalid()),
        };
        match transport {
            Transport::Tcp if !secure => {}
            Transport::Ssl if secure => {}
            Transport::Quic => return Err(WebSocketError::Quic),
            _ => return Err(WebSocketError::Scheme(uri.to_owned())),
        }
        let scheme = if secure { "wss" } else { "ws" };
        let uri_of =
            Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().map_err(|_| invalid())?;
        let host = uri_of.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let addr = format!("{host}:{}", uri_of.port_u16().unwrap_or(if secure { 443 } else { 80 }));
        let mut request = uri_of.into_client_request().map_err(|_| invalid())?;
        for (name, value) in headers {
            // Tungstenite writes text.
            if belongs_to_the_handshake(&name) || value.to_str().is_err() {
                return Err(WebSocketError::Header(name));
            }
            if name == header::HOST {
                if !is_host(value.as_bytes()) {
                    return Err(WebSocketError::Header(name));
                }
                request.headers_mut().remove(header::HOST);
            }
            request.headers_mut().append(name, value);
        }
        Ok(Handshake { request, addr })
    }

    /// `host:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    pub(super) async fn upgrade(self, stream: Stream) -> Result<WebSocketStream<AnyStream>, WebSocketError> {
        let stream: AnyStream = Box::new(stream);
        match tokio_tungstenite::client_async_with_config(self.request, stream, Some(settings())).await {
            Ok((stream, _)) => Ok(stream),
            Err(Error::Http(response)) => {
                Err(WebSocketError::Refused { addr: self.addr, why: format!("it answered {}", response.status()) })
            }
            Err(error) => Err(WebSocketError::Refused { addr: self.addr, why: describe(&error) }),
        }
    }
}

/// All but the protocols that are offered.
fn belongs_to_the_handshake(name: &HeaderName) -> bool {
    let of_websocket = name.as_str().starts_with("sec-websocket-") && *name != header::SEC_WEBSOCKET_PROTOCOL;
    of_websocket || *name == header::CONTENT_LENGTH || is_of_connection(name)
}

fn settings() -> WebSocketConfig {
    // The buffer of tungstenite's own is one of 128 KiB for every connection.
    WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(OUTGOING)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
}

fn describe(error: &Error) -> String {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(ProtocolError::SendAfterClosing) => {
            "the connection is closed".to_owned()
        }
        Error::WriteBufferFull(_) => "too much waits to be sent already".to_owned(),
        error => error.to_string(),
    }
}
