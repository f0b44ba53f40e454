//! The connection to the client as a stream: what `curr-fd` is in `wasm_serverless`. Two ends; the plugin has one, and
//! whoever holds the connection carries bytes between the other and the client.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::channel::oneshot;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Ask, Exchange, Refused, Reply};
use crate::headers::lists;
use crate::phase::Phase;

/// Bytes on their way between plugin and client, each way. What is beyond waits where it comes from.
const IN_TRANSIT: usize = 64 << 10;

/// Both ends of a new stream.
pub fn stream() -> (PluginEnd, ClientEnd) {
    let (plugin, client) = tokio::io::duplex(IN_TRANSIT);
    let lost = Arc::new(OnceLock::new());
    (PluginEnd { stream: plugin, lost: lost.clone() }, ClientEnd { stream: client, lost })
}

/// What the plugin reads and writes.
#[derive(Debug)]
pub struct PluginEnd {
    stream: DuplexStream,
    lost: Arc<OnceLock<String>>,
}

/// The other end. Dropped, it is the end of the stream.
#[derive(Debug)]
pub struct ClientEnd {
    pub stream: DuplexStream,
    /// Why the stream ended before its time: a plugin must not take half a body for a whole one.
    pub lost: Arc<OnceLock<String>>,
}

impl AsyncRead for PluginEnd {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        match self.lost.get() {
            Some(why) if buf.filled().len() == before => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.clone())))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for PluginEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| match self.lost.get() {
            Some(why) => io::Error::new(error.kind(), why.clone()),
            None => error,
        }))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Waits for an answer, without holding the lock of the exchange.
type Asked<T> = oneshot::Receiver<T>;

impl Exchange {
    /// Asks for the stream to the client. There is one for a request.
    ///
    /// # Errors
    /// Outside `wasm_serverless`, and when another script has had it.
    pub fn ask_stream(&mut self, function: &'static str) -> Result<Asked<PluginEnd>, Refused> {
        self.can_stream(function)?;
        if self.streamed {
            return Err(Refused::Streamed);
        }
        let (answer, asked) = oneshot::channel();
        self.ask(Ask::Stream(answer))?;
        self.streamed = true;
        Ok(asked)
    }

    /// Asks for the head of the response that is streamed: the one that the run has set, else an earlier one, else 200. The
    /// answer is the number of bytes that the body has to have, if that is known.
    ///
    /// # Errors
    /// When a response was sent before.
    pub fn ask_head(&mut self, reply: Option<Reply>) -> Result<Asked<Result<Option<u64>, Refused>>, Refused> {
        let reply = reply.or(self.reply.take()).unwrap_or_else(|| Reply::of_status(StatusCode::OK));
        self.ask_start(reply)
    }

    /// The value of `sec-websocket-accept` for this request.
    ///
    /// # Errors
    /// When the request is none for an upgrade to WebSocket (RFC 6455, section 4.2.1).
    pub fn check_upgrade(&self, function: &'static str) -> Result<HeaderValue, Refused> {
        self.can_stream(function)?;
        accept(&self.request.method, self.request.version, &self.request.headers)
    }

    /// Asks for the switch to WebSocket, with the headers of the response that was set, as [`Exchange::ask_head`].
    ///
    /// # Errors
    /// When a response was sent before.
    pub fn ask_upgrade(
        &mut self,
        accept: HeaderValue,
        reply: Option<Reply>,
    ) -> Result<Asked<Result<Option<u64>, Refused>>, Refused> {
        let mut headers = reply.or(self.reply.take()).map(|reply| reply.headers).unwrap_or_default();
        headers.retain(|(name, _)| *name != header::UPGRADE && *name != header::CONNECTION);
        headers.extend([
            (header::UPGRADE, HeaderValue::from_static("websocket")),
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::SEC_WEBSOCKET_ACCEPT, accept),
        ]);
        self.ask_start(Reply { headers, ..Reply::of_status(StatusCode::SWITCHING_PROTOCOLS) })
    }

    fn ask_start(&mut self, reply: Reply) -> Result<Asked<Result<Option<u64>, Refused>>, Refused> {
        if self.replied {
            return Err(Refused::AlreadySent);
        }
        let (answer, asked) = oneshot::channel();
        self.ask(Ask::Head(reply, answer))?;
        self.replied = true;
        Ok(asked)
    }

    fn can_stream(&self, function: &'static str) -> Result<(), Refused> {
        if self.phase == Phase::Serverless {
            return Ok(());
        }
        Err(self.refuse(function, "curr-fd is a stream to the client in wasm_serverless only"))
    }
}

/// The value of `sec-websocket-accept` (RFC 6455, section 4.2.2).
fn accept(method: &Method, version: Version, headers: &HeaderMap) -> Result<HeaderValue, Refused> {
    let refuse = |why| Err(Refused::NoUpgrade(why));
    if version == Version::HTTP_2 {
        return refuse("WebSocket needs HTTP/1.1, this is HTTP/2");
    }
    if version != Version::HTTP_11 || method != Method::GET {
        return refuse("it is not a GET request of HTTP/1.1");
    }
    if !lists(headers, &header::UPGRADE, "websocket") || !lists(headers, &header::CONNECTION, "upgrade") {
        return refuse("it does not have `upgrade: websocket` and `connection: upgrade`");
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return refuse("`sec-websocket-version` is not 13");
    }
    // 16 bytes in base64.
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if key.len() != 24 || !key.ends_with(b"==") {
        return refuse("`sec-websocket-key` is not 16 bytes in base64");
    }
    HeaderValue::from_str(&derive_accept_key(key)).map_err(|_| Refused::NoUpgrade("`sec-websocket-key` is not valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_a_whole_request_for_an_upgrade_is_accepted() {
        let whole = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        // The example of RFC 6455, section 1.3.
        let answer = accept(&Method::GET, Version::HTTP_11, &request(&whole)).unwrap();
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(accept(&Method::POST, Version::HTTP_11, &request(&whole)).is_err());
        assert!(accept(&Method::GET, Version::HTTP_10, &request(&whole)).is_err());
        assert!(accept(&Method::GET, Version::HTTP_2, &request(&whole)).is_err());
        for missing in 0..whole.len() {
            let mut part = whole.to_vec();
            let (name, _) = part.remove(missing);
            assert!(accept(&Method::GET, Version::HTTP_11, &request(&part)).is_err(), "without {name}");
            part.push((name, "x"));
            assert!(accept(&Method::GET, Version::HTTP_11, &request(&part)).is_err(), "wrong {name}");
        }
    }
}
