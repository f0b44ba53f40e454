//! Many updates while many requests go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::*;

const CONNECTIONS: usize = 16;
const UPDATES: usize = 200;
/// Updates after which everything has been used, and memory should not grow any more.
const WARM: usize = 60;
/// How much more memory the proxy may hold at the end.
const SLACK: u64 = 16 << 20;

/// What clients and updates know of each other. A version is a number, counted up.
#[derive(Default)]
struct Progress {
    /// The newest version that an update has begun with, and that it has ended with.
    begun: AtomicUsize,
    ended: AtomicUsize,
    requests: AtomicUsize,
    stop: AtomicBool,
}

/// Odd updates change the configuration, even ones the module.
fn texts(version: usize) -> (String, String) {
    (format!("v{}", version.div_ceil(2)), format!("{:08}", version / 2))
}

fn version(mark: &str) -> usize {
    let (text, module) = mark.strip_prefix('v').unwrap().split_once(' ').unwrap();
    let (text, module): (usize, usize) = (text.parse().unwrap(), module.parse().unwrap());
    assert!(text == module || text == module + 1, "{mark} is a mixture");
    text + module
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_or_sees_two_versions() {
    let module = Module::new(&texts(0).1);
    let config = |version: usize| marked(&module.path(), &texts(version).0);
    let proxy = Arc::new(Proxy::start(&config(0)));
    let progress = Arc::new(Progress::default());
    let url = proxy.url("/");
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(client(url.clone(), progress.clone()))).collect();

    let mut warm = 0;
    for version in 1..=UPDATES {
        progress.begun.store(version, SeqCst);
        match version % 2 {
            1 => proxy.configure(&config(version)),
            _ => module.write(&texts(version).1),
        }
        let (status, report) = reload(&proxy);
        assert_eq!((status, &report["generation"]), (200, &(version + 1).into()), "{report}");
        progress.ended.store(version, SeqCst);
        if version == WARM {
            warm = proxy.memory("VmRSS");
        }
        // Requests see each version.
        let before = progress.requests.load(SeqCst);
        eventually("requests go on", || progress.requests.load(SeqCst) >= before + CONNECTIONS / 4);
    }
    let end = proxy.memory("VmRSS");
    progress.stop.store(true, SeqCst);
    for client in clients {
        soon("the last response", client).await.unwrap();
    }
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
    proxy.wait_for_metric(r#"phasegate_requests_total{status="5xx"}"#, 0.0);
    assert_eq!(attempts(&proxy, "ok"), UPDATES as f64);
    assert!(proxy.metric("phasegate_instances") <= 2.0 * CONNECTIONS as f64);
    let requests = progress.requests.load(SeqCst);
    println!("{requests} requests, {UPDATES} updates; {} KiB, then {} KiB", warm >> 10, end >> 10);
    assert!(end < warm + SLACK, "{warm} bytes of memory have become {end}");
}

/// Sends requests on one connection. Each gets a version that was there while it was on its way.
async fn client(url: String, progress: Arc<Progress>) {
    let client = http1();
    while !progress.stop.load(SeqCst) {
        let oldest = progress.ended.load(SeqCst);
        let version = version(&mark(&send(client.get(&url)).await));
        let newest = progress.begun.load(SeqCst);
        assert!((oldest..=newest).contains(&version), "{version} between {oldest} and {newest}");
        progress.requests.fetch_add(1, SeqCst);
    }
}
