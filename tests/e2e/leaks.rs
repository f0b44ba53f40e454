//! Nothing is left of runs that ended half way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::support::*;

const RUNS: usize = 100_000;
const CLIENTS: usize = 16;
/// One in so many clients leaves without waiting for its answer.
const IMPATIENT: usize = 16;

/// What there may be of, and nothing after the runs.
const GAUGES: [&str; 6] = [
    "phasegate_requests_in_flight",
    "phasegate_mailboxes",
    "phasegate_timers",
    "phasegate_spawned_runs",
    "phasegate_named_sessions",
    "phasegate_connections{transport=\"tcp\"}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_runs_that_were_cancelled_half_way() {
    let origin = listener().await;
    let mut site = Site::new();
    let leaver = Script::guest("leaver", "leaver")
        .main(origin)
        .key("wasm_main_timeout_config = '1'")
        .key(format!("allow = {{ net = ['{origin}'] }}"));
    site.answered("/").script("wasm_access", leaver);
    site.answered("/quiet");
    let proxy = Arc::new(Proxy::start(&site.to_string()));

    // What a process opens once, such as the connections of the clients, is open before it counts.
    runs(&proxy, 100).await;
    let (files, threads) = (proxy.open_files(), proxy.threads());
    runs(&proxy, RUNS).await;

    for gauge in GAUGES {
        proxy.wait_for_metric(gauge, 0.0);
    }
    eventually("as many files are open as before", || proxy.open_files() <= files);
    assert!(proxy.threads() <= threads, "{} threads, {threads} before", proxy.threads());
    assert!(proxy.metric("phasegate_plugin_runs_total{script=\"leaver\",phase=\"wasm_access\"}") >= RUNS as f64);
}

/// So many requests, over as many connections as there are clients.
async fn runs(proxy: &Arc<Proxy>, runs: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (proxy, next) = (proxy.clone(), next.clone());
            tokio::spawn(async move {
                let mut connection = Raw::connect(proxy.addr()).await;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= runs {
                        return;
                    }
                    connection.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
                    if number % IMPATIENT == 0 {
                        connection = Raw::connect(proxy.addr()).await;
                    } else {
                        assert_eq!(connection.read_response().await.status(), 200);
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
}

/// Takes connections and waits for their end. It resets them, so that none stays in TIME_WAIT: there are not so many ports.
async fn listener() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
                stream.set_zero_linger().unwrap();
            });
        }
    });
    addr
}
