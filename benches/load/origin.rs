//! The origin: answers every request with the same 200, at the least cost; `/echo` with the request that it got.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

const HEAD: &str = "HTTP/1.1 200 OK\r\nserver: origin\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
    content-type: text/plain\r\ncache-control: max-age=60\r\nx-drop: response\r\n";

pub fn run(addr: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(addr).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream));
        }
    })
}

/// Requests have no body, and come one after the other.
async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let page = response(&"x".repeat(100));
    let mut request = Vec::with_capacity(4096);
    while stream.read_buf(&mut request).await? > 0 {
        if request.ends_with(b"\r\n\r\n") {
            if request.starts_with(b"GET /echo ") {
                stream.write_all(response(&String::from_utf8_lossy(&request)).as_bytes()).await?;
            } else {
                stream.write_all(page.as_bytes()).await?;
            }
            request.clear();
        }
    }
    Ok(())
}

fn response(body: &str) -> String {
    format!("{HEAD}content-length: {}\r\n\r\n{body}", body.len())
}
