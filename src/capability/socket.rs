//! The open sockets of a run: streams, to other machines and to the client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::future::join_all;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Capabilities;
use super::net::{Duplex, NetError, Policy, Transport};
use super::websocket::{Handshake, WebSocket, WebSocketError};
use crate::observe::metrics::Counted;

/// The socket to the client, in every run.
pub const CLIENT: u64 = 0;

/// Most sockets that a run has open, beside that to the client.
const MOST: usize = 64;

/// Most bytes of one read.
const READ: usize = 64 << 10;

/// Most bytes of one exact read.
const READ_EXACT: usize = 16 << 20;

/// Why a call on a socket failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("there is no open socket {0}")]
    Unknown(u64),
    #[error("socket {0} was closed")]
    Closed(u64),
    #[error("socket {0} is a plain stream: use the functions of wasm-socket")]
    NoWebSocket(u64),
    #[error("socket {0} speaks WebSocket: use the functions of wasm-websocket")]
    IsWebSocket(u64),
    #[error("{MOST} sockets are open in this run, which is the most there can be: close one with socket-close")]
    TooMany,
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    #[error("{addr}: not connected within {timeout_ms} ms")]
    NotConnected { addr: String, timeout_ms: u64 },
    #[error("socket {fd}: not done within {timeout_ms} ms")]
    TimedOut { fd: u64, timeout_ms: u64 },
    #[error("socket {fd}: {why}")]
    Failed { fd: u64, why: String },
}

/// A stream to another machine, or to the client.
pub type AnyStream = Box<dyn Duplex>;

/// The sockets of a run, by number.
#[derive(Default)]
pub struct Sockets {
    open: Mutex<HashMap<u64, Socket>>,
    /// Held while the socket to the client is opened, and while the head of its response is sent.
    client: AsyncMutex<ClientState>,
}

/// What has become of the socket to the client.
#[derive(Default)]
pub struct ClientState {
    pub opened: bool,
    /// Whether the head of the response was asked for.
    pub answered: bool,
}

#[derive(Clone)]
enum Socket {
    Bytes(Arc<ByteSocket>),
    WebSocket(Arc<WebSocket>),
}

impl Sockets {
    /// Opens a stream to `addr`, `host:port`; its number, which no other socket of this process has, but for that of the
    /// client.
    ///
    /// # Errors
    /// When the policy does not permit it, it fails or takes too long, and when too many are open.
    pub async fn connect(
        &self,
        (capabilities, policy): (&Capabilities, &Policy),
        transport: Transport,
        addr: &str,
        server_name: Option<&str>,
        timeout_ms: u64,
    ) -> Result<u64, SocketError> {
        self.has_room()?;
        let connecting = capabilities.network.connect(policy, transport, addr, server_name, &[]);
        let stream = timeout(Duration::from_millis(timeout_ms), connecting)
            .await
            .map_err(|_| SocketError::NotConnected { addr: addr.to_owned(), timeout_ms })??;
        let fd = next_fd();
        let socket = ByteSocket::new(fd, Box::new(stream), &capabilities.live.sockets);
        self.insert(fd, Socket::Bytes(Arc::new(socket)))?;
        Ok(fd)
    }

    /// Opens a WebSocket connection to an URI; its number.
    ///
    /// # Errors
    /// As [`Sockets::connect`], and when the server refuses the upgrade.
    pub async fn connect_websocket(
        &self,
        (capabilities, policy): (&Capabilities, &Policy),
        transport: Transport,
        handshake: Handshake,
        timeout_ms: u64,
    ) -> Result<u64, SocketError> {
        self.has_room()?;
        let addr = handshake.addr().to_owned();
        let connecting = async {
            let stream = capabilities.network.connect(policy, transport, &addr, None, &[]).await?;
            Ok(handshake.upgrade(stream).await?)
        };
        let stream: Result<_, SocketError> = timeout(Duration::from_millis(timeout_ms), connecting)
            .await
            .map_err(|_| SocketError::NotConnected { addr: addr.clone(), timeout_ms })?;
        let fd = next_fd();
        let socket = WebSocket::new(fd, stream?, &capabilities.live.sockets);
        self.insert(fd, Socket::WebSocket(Arc::new(socket)))?;
        Ok(fd)
    }

    /// What has become of the socket to the client. Whoever holds it may open that socket, or answer the request.
    pub async fn client(&self) -> AsyncMutexGuard<'_, ClientState> {
        self.client.lock().await
    }

    /// Adds the stream to the client, for which there is always room: it can be had only once.
    pub fn add_client(&self, stream: impl Duplex + 'static, open: &Gauge) {
        let socket = ByteSocket::new(CLIENT, Box::new(stream), open);
        self.open.lock().insert(CLIENT, Socket::Bytes(Arc::new(socket)));
    }

    /// Adds the stream to the client, which has switched to WebSocket.
    pub async fn add_client_websocket(&self, stream: impl Duplex + 'static, open: &Gauge) {
        let socket = WebSocket::server(CLIENT, Box::new(stream), open).await;
        self.open.lock().insert(CLIENT, Socket::WebSocket(Arc::new(socket)));
    }

    /// Whether another socket can be opened.
    ///
    /// # Errors
    /// When too many are open.
    pub fn has_room(&self) -> Result<(), SocketError> {
        let open = self.open.lock().keys().filter(|fd| **fd != CLIENT).count();
        if open < MOST { Ok(()) } else { Err(SocketError::TooMany) }
    }

    /// # Errors
    /// When it is not open, or speaks WebSocket.
    pub fn bytes(&self, fd: u64) -> Result<Arc<ByteSocket>, SocketError> {
        match self.open.lock().get(&fd) {
            Some(Socket::Bytes(socket)) => Ok(socket.clone()),
            Some(Socket::WebSocket(_)) => Err(SocketError::IsWebSocket(fd)),
            None => Err(SocketError::Unknown(fd)),
        }
    }

    /// # Errors
    /// When it is not open, or does not speak WebSocket.
    pub fn websocket(&self, fd: u64) -> Result<Arc<WebSocket>, SocketError> {
        match self.open.lock().get(&fd) {
            Some(Socket::WebSocket(socket)) => Ok(socket.clone()),
            Some(Socket::Bytes(_)) => Err(SocketError::NoWebSocket(fd)),
            None => Err(SocketError::Unknown(fd)),
        }
    }

    /// Forgets a socket: whoever waits for it gets an error.
    pub fn remove(&self, fd: u64) {
        if let Some(socket) = self.open.lock().remove(&fd) {
            socket.cancel();
        }
    }

    /// Closes what is open at the end of a run: that to the client, and when nothing that was spawned lives on, everything.
    /// WebSocket connections are told how it ended.
    pub async fn end(&self, failed: bool, everything: bool) {
        let ended: Vec<_> = self.open.lock().extract_if(|fd, _| everything || *fd == CLIENT).collect();
        if ended.is_empty() {
            return;
        }
        join_all(ended.into_iter().map(|(_, socket)| async move {
            socket.cancel();
            if let Socket::WebSocket(socket) = socket {
                socket.end(failed).await;
            }
        }))
        .await;
    }

    fn insert(&self, fd: u64, socket: Socket) -> Result<(), SocketError> {
        self.has_room()?;
        self.open.lock().insert(fd, socket);
        Ok(())
    }
}

impl Socket {
    fn cancel(&self) {
        match self {
            Socket::Bytes(socket) => socket.closed.cancel(),
            Socket::WebSocket(socket) => socket.cancel(),
        }
    }
}

/// A stream of bytes. One entry point can read from it while another writes.
pub struct ByteSocket {
    fd: u64,
    reader: AsyncMutex<Reader>,
    writer: AsyncMutex<Writer>,
    closed: CancellationToken,
    _open: Counted,
}

struct Reader {
    stream: ReadHalf<AnyStream>,
    /// Read, and not asked for yet.
    buffer: BytesMut,
}

struct Writer {
    stream: WriteHalf<AnyStream>,
    /// Whether a write was cut off in the middle: what follows would make no sense to the peer.
    torn: bool,
    /// Bytes that may still be written, when that was said.
    room: Option<u64>,
}

impl ByteSocket {
    fn new(fd: u64, stream: AnyStream, open: &Gauge) -> ByteSocket {
        let (reader, writer) = tokio::io::split(stream);
        ByteSocket {
            fd,
            reader: Reader { stream: reader, buffer: BytesMut::new() }.into(),
            writer: Writer { stream: writer, torn: false, room: None }.into(),
            closed: CancellationToken::new(),
            _open: Counted::new(open),
        }
    }

    /// At most `size` bytes, as soon as there are some; none at the end of the stream.
    ///
    /// # Errors
    /// When nothing comes in time, the stream fails, or `size` is 0.
    pub async fn read(&self, size: u64, timeout_ms: u64) -> Result<Vec<u8>, SocketError> {
        let size = usize::try_from(size).unwrap_or(READ).min(READ);
        if size == 0 {
            return Err(self.failed("a read of 0 bytes could not be told from the end of the stream"));
        }
        let read = async {
            let mut reader = self.reader.lock().await;
            if reader.buffer.is_empty() {
                reader.fill(size).await.map_err(|error| self.failed(error))?;
            }
            let size = size.min(reader.buffer.len());
            Ok(reader.buffer.split_to(size).into())
        };
        within(self.fd, &self.closed, timeout_ms, read).await
    }

    /// `size` bytes. What came of them stays for the next read when it fails.
    ///
    /// # Errors
    /// When they do not come in time, the stream ends before or fails, or `size` is too large.
    pub async fn read_exact(&self, size: u64, timeout_ms: u64) -> Result<Vec<u8>, SocketError> {
        let size = match usize::try_from(size) {
            Ok(size) if size <= READ_EXACT => size,
            _ => return Err(self.failed(format!("at most {READ_EXACT} bytes can be read at once, not {size}"))),
        };
        let read = async {
            let mut reader = self.reader.lock().await;
            while reader.buffer.len() < size {
                if reader.fill(READ).await.map_err(|error| self.failed(error))? == 0 {
                    let had = reader.buffer.len();
                    return Err(self.failed(format!("the stream ended after {had} of {size} bytes")));
                }
            }
            Ok(reader.buffer.split_to(size).into())
        };
        within(self.fd, &self.closed, timeout_ms, read).await
    }

    /// Writes some bytes; how many.
    ///
    /// # Errors
    /// When none can be written in time, or the stream fails.
    pub async fn write(&self, data: &[u8], timeout_ms: u64) -> Result<u64, SocketError> {
        if data.is_empty() {
            return Ok(0);
        }
        let write = async {
            let mut writer = self.writer(data).await?;
            let written = writer.stream.write(data).await.map_err(|error| self.failed(error))? as u64;
            writer.room = writer.room.map(|room| room - written);
            Ok(written)
        };
        within(self.fd, &self.closed, timeout_ms, write).await
    }

    /// Writes all bytes, and flushes; how many they are. Cut off in the middle, it was the last write.
    ///
    /// # Errors
    /// When it is not done in time, or the stream fails.
    pub async fn write_all(&self, data: &[u8], timeout_ms: u64) -> Result<u64, SocketError> {
        let write = async {
            let mut writer = self.writer(data).await?;
            writer.torn = true;
            writer.stream.write_all(data).await.map_err(|error| self.failed(error))?;
            writer.stream.flush().await.map_err(|error| self.failed(error))?;
            writer.torn = false;
            writer.room = writer.room.map(|room| room - data.len() as u64);
            Ok(data.len() as u64)
        };
        within(self.fd, &self.closed, timeout_ms, write).await
    }

    /// # Errors
    /// When it is not done in time, or the stream fails.
    pub async fn flush(&self, timeout_ms: u64) -> Result<(), SocketError> {
        let flush = async { self.writer(&[]).await?.stream.flush().await.map_err(|error| self.failed(error)) };
        within(self.fd, &self.closed, timeout_ms, flush).await
    }

    /// Flushes, and says that nothing more will come. The socket has to be removed before.
    ///
    /// # Errors
    /// When it is not done in time, or the stream fails.
    pub async fn shut_down(&self, timeout_ms: u64) -> Result<(), SocketError> {
        let shut_down = async {
            let mut writer = self.writer.lock().await;
            writer.stream.shutdown().await.map_err(|error| self.failed(error))
        };
        within(self.fd, &CancellationToken::new(), timeout_ms, shut_down).await
    }

    /// Takes no more than this many bytes from now on.
    pub async fn limit(&self, room: Option<u64>) {
        self.writer.lock().await.room = room;
    }

    /// The writer, if it takes these bytes.
    async fn writer(&self, data: &[u8]) -> Result<AsyncMutexGuard<'_, Writer>, SocketError> {
        let writer = self.writer.lock().await;
        if writer.torn {
            return Err(self.failed("an earlier write was cut off in the middle; only socket-close is left"));
        }
        if let Some(room) = writer.room.filter(|room| *room < data.len() as u64) {
            return Err(self.failed(format!("content-length leaves room for {room} bytes, not for {}", data.len())));
        }
        Ok(writer)
    }

    fn failed(&self, why: impl ToString) -> SocketError {
        SocketError::Failed { fd: self.fd, why: why.to_string() }
    }
}

impl Reader {
    /// Reads at most this many bytes into the buffer. Cancelled, nothing is lost.
    async fn fill(&mut self, size: usize) -> std::io::Result<usize> {
        self.buffer.reserve(size);
        self.stream.read_buf(&mut (&mut self.buffer).limit(size)).await
    }
}

/// Waits for the end of an operation, that of the time, or that of the socket.
pub(super) async fn within<T>(
    fd: u64,
    closed: &CancellationToken,
    timeout_ms: u64,
    operation: impl Future<Output = Result<T, SocketError>>,
) -> Result<T, SocketError> {
    tokio::select! {
        biased;
        () = closed.cancelled() => Err(SocketError::Closed(fd)),
        result = timeout(Duration::from_millis(timeout_ms), operation) => {
            result.unwrap_or(Err(SocketError::TimedOut { fd, timeout_ms }))
        }
    }
}

fn next_fd() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(CLIENT + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
