//! One end of a connection, by hand: for exact bytes, from a client or an origin.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

pub struct Raw {
    stream: TcpStream,
    /// Read, but not looked at yet.
    buffer: Vec<u8>,
}

/// A request or a response.
#[derive(Clone, Debug)]
pub struct RawMessage {
    /// Its first line.
    pub line: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl RawMessage {
    /// Of a response.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.ends_with("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length").map(|length| length.parse().unwrap())
    }
}

impl Raw {
    pub async fn connect(addr: SocketAddr) -> Raw {
        Raw::of(TcpStream::connect(addr).await.unwrap())
    }

    pub fn of(stream: TcpStream) -> Raw {
        stream.set_nodelay(true).unwrap();
        Raw { stream, buffer: Vec::new() }
    }

    /// Of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends these bytes; false when the other side is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Sends no more, but still reads.
    pub async fn shut_down_writing(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the connection the rude way, with a reset.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// A request with its body; none: the connection has ended.
    pub async fn read_request(&mut self) -> Option<RawMessage> {
        let mut request = self.read_head().await?;
        if request.is_chunked() {
            request.body = self.read_chunks().await;
        } else if let Some(length) = request.length() {
            request.body = self.read_exact(length).await;
        }
        Some(request)
    }

    /// A response with its body, to anything but HEAD. An informational one has none.
    pub async fn read_response(&mut self) -> RawMessage {
        let mut response = self.read_head().await.expect("a response");
        if response.status() < 200 || matches!(response.status(), 204 | 304) {
        } else if response.is_chunked() {
            response.body = self.read_chunks().await;
        } else if let Some(length) = response.length() {
            response.body = self.read_exact(length).await;
        } else {
            response.body = self.read_to_end().await;
        }
        response
    }

    /// First line and headers; none: the connection has ended before them.
    pub async fn read_head(&mut self) -> Option<RawMessage> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            if !self.read_more().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head[..end]).into_owned();
        let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let field = |field: &str| {
            let (name, value) = field.split_once(':').expect("a header field");
            (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap())
        };
        let headers = fields.split("\r\n").filter(|line| !line.is_empty()).map(field).collect();
        Some(RawMessage { line: line.to_owned(), headers, body: Vec::new() })
    }

    /// All that comes until the connection ends.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Whether the connection ends with nothing more on it.
    pub async fn is_closed(&mut self) -> bool {
        self.read_to_end().await.is_empty()
    }

    /// This many bytes, or less when the connection ends.
    pub async fn read_exact(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length && self.read_more().await {}
        self.buffer.drain(..length.min(self.buffer.len())).collect()
    }

    async fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16);
            let Ok(size) = size else { return body };
            body.extend(self.read_exact(size).await);
            self.read_line().await;
            if size == 0 {
                return body;
            }
        }
    }

    async fn read_line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8_lossy(&line[..end]).into_owned();
            }
            if !self.read_more().await {
                return String::new();
            }
        }
    }

    /// False: the connection has ended.
    async fn read_more(&mut self) -> bool {
        let read = soon("bytes on a connection", self.stream.read_buf(&mut self.buffer)).await;
        matches!(read, Ok(length) if length > 0)
    }
}
