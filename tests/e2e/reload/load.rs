//! Many updates while many requests go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::*;

const CONNECTIONS: usize = 16;
const UPDATES: usize = 200;
/// After so many updates memory has reached its height, which is compared with that after the last ones.
const WARM: usize = 40;
/// How much more it may be at the end: compiling moves it by some MiB. Versions that were kept would make it 80 MiB and more.
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

/// What the configuration and the module say: every fourth update changes the module, the others the configuration.
fn texts(version: usize) -> (String, String) {
    (format!("v{}", version - version / 4), format!("{:08}", version / 4))
}

fn version(mark: &str) -> usize {
    let (text, module) = mark.split_once(' ').unwrap();
    let number = |text: &str| text.trim_start_matches('v').parse::<usize>().unwrap();
    let version = number(text) + number(module);
    assert_eq!(texts(version), (text.to_owned(), module.to_owned()), "a mixture");
    version
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_or_sees_two_versions() {
    let module = Module::new(&texts(0).1);
    let config = |version: usize| marked(&module.path(), &texts(version).0);
    let proxy = Arc::new(Proxy::start(&config(0)));
    let progress = Arc::new(Progress::default());
    let url = proxy.url("/");
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(client(url.clone(), progress.clone()))).collect();

    let (mut warm, mut end) = (0, u64::MAX);
    for version in 1..=UPDATES {
        progress.begun.store(version, SeqCst);
        match version % 4 {
            0 => module.write(&texts(version).1),
            _ => proxy.configure(&config(version)),
        }
        let (status, report) = reload(&proxy);
        assert_eq!((status, &report["generation"]), (200, &(version + 1).into()), "{report}");
        progress.ended.store(version, SeqCst);
        let memory = proxy.memory("VmRSS");
        if version <= WARM {
            warm = warm.max(memory);
        } else if version > UPDATES - WARM {
            end = end.min(memory);
        }
        let before = progress.requests.load(SeqCst);
        eventually("requests go on", || progress.requests.load(SeqCst) >= before + CONNECTIONS);
    }
    progress.stop.store(true, SeqCst);
    for client in clients {
        soon("the last response", client).await.unwrap();
    }
    assert!(end < warm + SLACK, "{warm} bytes of memory have become {end}");
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
    proxy.wait_for_metric(r#"phasegate_requests_total{status="5xx"}"#, 0.0);
    assert_eq!(attempts(&proxy, "ok"), UPDATES as f64);
    assert!(proxy.metric("phasegate_instances") <= 2.0 * CONNECTIONS as f64);
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
        // Some of the machine is for the updates.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
