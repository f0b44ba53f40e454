//! What the tests are told with: a proxy to start, origins behind it, clients in front of it, and the WebAssembly between.
//!
//! ```text
//! let origin = Origin::start(|_| reply(200, "hello")).await;
//! let proxy = Proxy::start(&proxy_to(origin.addr()));
//! let answer = send(http1().get(proxy.url("/"))).await;
//! assert_eq!((answer.status, answer.text()), (200, "hello".into()));
//! ```

// Each helper is there for whichever test needs it.
#![allow(dead_code, unused_imports)]

mod certificates;
mod client;
mod config;
mod grpc;
mod origin;
mod probe;
mod proxy;
mod raw;
mod redis;
mod secure;
mod site;
mod streaming;
mod wasm;
mod wat;
mod websocket;

use std::time::{Duration, Instant};

pub use certificates::{Authority, CertFiles};
pub use client::{Answer, http1, http2, https, send};
pub use config::{LISTEN, proxy_to, script, server};
pub use grpc::{GrpcCall, GrpcOrigin};
pub use origin::{DownOrigin, FullOrigin, Origin, RawOrigin, Received, Reply, reply};
pub use probe::{answers, calls_and_rest, in_access, probe, results, serve, step};
pub use proxy::{Output, Proxy, Signal, check, phasegate, refused};
pub use raw::{Raw, RawMessage};
pub use redis::{RedisPort, RedisServer};
pub use secure::SecureOrigin;
pub use site::{Script, Site};
pub use streaming::{assert_released, serverless, start_streaming, streaming};
pub use wasm::{cargo, guests, plugins};
pub use wat::Wat;
pub use websocket::{WebSocket, WebSocketOrigin, serve as serve_websocket};

/// The directives of all phases, in the order of a request.
pub const PHASES: [&str; 6] = [
    "wasm_access",
    "wasm_serverless",
    "wasm_http_in_headers",
    "wasm_http_filter_headers_pre",
    "wasm_http_filter_headers",
    "wasm_access_log",
];

/// How long anything may take before its test fails. Far more than it needs: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds, by asking for it again and again.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails the test when a future takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}

/// Bytes of some variety, so that a piece that is lost, repeated or moved shows.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// The checksum that the guest `probe` gives of a body: FNV-1a of 64 bits, in hexadecimal.
pub fn fnv(bytes: &[u8]) -> String {
    let hash =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, &b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
