//! The load: connections that are kept alive, each with one request at a time.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Result;
use crate::process::Process;

const CONNECTIONS: usize = 16;

const REQUEST: &[u8] = b"GET /path/of/a/page?query=1 HTTP/1.1\r\nhost: www.example.cn\r\nuser-agent: load\r\n\
    accept: text/html,application/xhtml+xml\r\naccept-language: en\r\nx-drop: request\r\n\r\n";

/// The connections to one proxy.
pub struct Client {
    connections: Vec<Connection>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> io::Result<Client> {
        let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(addr))).await?;
        Ok(Client { connections })
    }

    /// Microseconds of CPU time that the proxy needs for a request: under full load for `time`, after a sixth of it for
    /// the caches to get warm.
    pub async fn cpu_per_request(&mut self, proxy: &Process, time: Duration) -> Result<f64> {
        self.load(time / 6).await?;
        let before = proxy.cpu()?;
        let requests = self.load(time).await?;
        let cpu = proxy.cpu()? - before;
        Ok(cpu.as_secs_f64() * 1e6 / requests as f64)
    }

    /// Full load for `time`; how many requests were answered.
    pub async fn load(&mut self, time: Duration) -> io::Result<u64> {
        let end = Instant::now() + time;
        let answered = try_join_all(self.connections.iter_mut().map(|connection| connection.requests(end))).await?;
        Ok(answered.iter().sum())
    }
}

struct Connection {
    stream: TcpStream,
    /// As long as the first response: every other must be as long.
    response: Vec<u8>,
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let response = exchange(&mut stream, REQUEST).await?.into_bytes();
        Ok(Connection { stream, response })
    }

    async fn requests(&mut self, end: Instant) -> io::Result<u64> {
        let mut answered = 0;
        while Instant::now() < end {
            self.stream.write_all(REQUEST).await?;
            self.stream.read_exact(&mut self.response).await?;
            if !self.response.starts_with(b"HTTP/1.1 200 ") {
                return Err(io::Error::other("not a 200 under load"));
            }
            answered += 1;
        }
        Ok(answered)
    }
}

/// Sends a request and reads one response with a `content-length`.
pub async fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<String> {
    stream.write_all(request).await?;
    let mut response = Vec::new();
    while !is_whole(&response) {
        if stream.read_buf(&mut response).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    String::from_utf8(response).map_err(io::Error::other)
}

fn is_whole(response: &[u8]) -> bool {
    let text = String::from_utf8_lossy(response).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}
