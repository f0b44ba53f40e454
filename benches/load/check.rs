//! A proxy that answers wrong is fast for the wrong reason: the answer is looked at before anything is measured.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::Result;
use crate::client::exchange;
use crate::variant::Variant;

const REQUEST: &[u8] = b"GET /echo HTTP/1.1\r\nhost: www.example.cn\r\nx-drop: request\r\n\r\n";

/// Whether the origin and the client get what the variant's plugins make of request and response.
pub async fn answers(variant: Variant, addr: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(addr).await?;
    // Twice: a pooled instance must not remember the first.
    for _ in 0..2 {
        let answer = exchange(&mut stream, REQUEST).await?.to_lowercase();
        let (response, request) = answer.split_once("\r\n\r\n").ok_or("no header")?;
        let (added_in, added_out) = variant.added_headers();
        let right = response.starts_with("http/1.1 200 ")
            && is_edited(request, added_in, "x-phasegate: www.example.cn")
            && is_edited(response, added_out, "x-phasegate: origin")
            && is_set(request, variant.set_headers());
        if !right {
            return Err(format!("{} answers wrong:\n{answer}", variant.name()).into());
        }
    }
    Ok(())
}

/// `added` lines are there; `x-drop` is gone just when scripts ran.
fn is_edited(head: &str, added: usize, line: &str) -> bool {
    let count = head.lines().filter(|found| *found == line).count();
    let dropped = !head.lines().any(|found| found.starts_with("x-drop:"));
    count == added && dropped == (added > 0)
}

/// These headers of filters are there, each once, and no other.
fn is_set(head: &str, names: impl Iterator<Item = String>) -> bool {
    let mut found: Vec<_> = head.lines().filter(|line| line.starts_with("x-filter-")).collect();
    found.sort_unstable();
    found.into_iter().eq(names.map(|name| format!("{name}: set")))
}
