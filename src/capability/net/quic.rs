//! QUIC as a client. A connection has an endpoint, which is a socket, of its own: so it depends on no runtime but the one
//! that it was made on, and is gone with its last stream.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, RecvStream, SendStream, StoppedError, TransportConfig, VarInt};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The protocol (ALPN) of streams without one: QUIC does without a protocol never (RFC 9001, section 8.1).
pub const STREAM_ALPN: &[u8] = b"phasegate";

/// Keeps a connection on which nothing happens from being given up, which is done after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connects, and verifies that the server has this name.
pub async fn connect(addr: SocketAddr, server_name: &str, tls: Arc<ClientConfig>) -> io::Result<quinn::Connection> {
    let crypto = QuicClientConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    // The server opens none of its own but the three of HTTP/3.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    config.transport_config(Arc::new(transport));
    let any = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let endpoint = quinn::Endpoint::client(SocketAddr::new(any, 0))?;
    let connecting = endpoint.connect_with(config, addr, server_name).map_err(io::Error::other)?;
    Ok(connecting.await?)
}

/// A connection with one bidirectional stream.
pub struct QuicStream {
    send: SendStream,
    receive: RecvStream,
    /// While it is being closed: until the peer has all that was written.
    closing: Option<Closing>,
    connection: quinn::Connection,
}

type Closing = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

impl QuicStream {
    /// The peer learns of the stream when something is written to it.
    pub async fn open(connection: quinn::Connection) -> io::Result<QuicStream> {
        let (send, receive) = connection.open_bi().await?;
        Ok(QuicStream { send, receive, closing: None, connection })
    }
}

impl AsyncRead for QuicStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.receive).poll_read(cx, into)
    }
}

impl AsyncWrite for QuicStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let QuicStream { send, closing, .. } = &mut *self;
        let closing = closing.get_or_insert_with(|| {
            // Closed already: then there is nothing to finish.
            let _ = send.finish();
            Box::pin(send.stopped())
        });
        let stopped = ready!(closing.as_mut().poll(cx));
        match stopped {
            // The peer may close the connection as soon as it has what it wants.
            Ok(_) | Err(StoppedError::ConnectionLost(ConnectionError::ApplicationClosed(_))) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

impl Drop for QuicStream {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}
