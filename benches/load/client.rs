//! The load: connections that are kept alive, each with one request at a time.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::Result;
use crate::process::Process;

const CONNECTIONS: usize = 16;

/// Until caches are warm and connections to the origin are open.
const WARM_UP: Duration = Duration::from_millis(500);

const REQUEST: &[u8] = b"GET /path/of/a/page?query=1 HTTP/1.1\r\nhost: www.example.cn\r\nuser-agent: load\r\n\
    accept: text/html,application/xhtml+xml\r\naccept-language: en\r\nx-drop: request\r\n\r\n";

/// Microseconds of CPU time that the proxy needs for a request, over `time`.
pub async fn cpu_per_request(addr: SocketAddr, proxy: &Process, time: Duration) -> Result<f64> {
    let served = Rc::new(Cell::new(0));
    let tasks = LocalSet::new();
    let connections: Vec<_> = (0..CONNECTIONS).map(|_| tasks.spawn_local(connection(addr, served.clone()))).collect();
    let measured = tasks.run_until(async {
        tokio::time::sleep(WARM_UP).await;
        let (served_before, cpu_before) = (served.get(), proxy.cpu()?);
        tokio::time::sleep(time).await;
        let (requests, cpu) = (served.get() - served_before, proxy.cpu()? - cpu_before);
        if connections.iter().any(|connection| connection.is_finished()) {
            return Err("a connection failed under load".into());
        }
        Ok(cpu.as_secs_f64() * 1e6 / requests as f64)
    });
    measured.await
}

/// Requests without end. Every response must be as long as the first, and a 200.
async fn connection(addr: SocketAddr, served: Rc<Cell<u64>>) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let expected = exchange(&mut stream, REQUEST).await?.len();
    let mut response = vec![0; expected];
    loop {
        stream.write_all(REQUEST).await?;
        stream.read_exact(&mut response).await?;
        if !response.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other("not a 200"));
        }
        served.set(served.get() + 1);
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
