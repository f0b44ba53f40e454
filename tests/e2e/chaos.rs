//! Plugins that call the host at random: whatever they pass, the host lives, fails nobody else and keeps nothing.
//!
//! A seed that broke it belongs into [`BROKE`].

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::support::*;

/// Seeds that once failed.
const BROKE: [u64; 0] = [];

/// Requests in each phase, with a seed each, and calls in each of them.
const SEEDS: u64 = 24;
const CALLS: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn random_calls_harm_nobody() {
    random_calls("store = { size = \"4MiB\" }").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_calls_on_redis_harm_nobody() {
    let Some(redis) = RedisServer::start() else { return };
    random_calls(&format!("[store]\nkind = \"redis\"\nurl = \"{}\"\ntimeout_ms = 20000", redis.url())).await;
}

async fn random_calls(main: &str) {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with(main);
    for phase in PHASES {
        for (entries, key) in [("one", ""), ("two", "wasm_main_ext1_config = \"30\"")] {
            let script = Script::guest("chaos", &format!("{phase}-{entries}"))
                .main(CALLS)
                .key("limits = { cpu_ms = 5000, wall_ms = 20000 }")
                .key("allow = { net = [\"127.0.0.1\"] }")
                .key(key);
            site.proxied(&format!("/{phase}/{entries}"), origin.addr()).script(phase, script);
        }
    }
    site.answered("/calm").script("wasm_access", Script::guest("verdict", "calm").main("ok"));
    let proxy = Proxy::start(&site.to_string());
    let calm = async |when: &str| assert_eq!(send(http1().get(proxy.url("/calm"))).await.status, 200, "{when}");
    calm("before").await;
    proxy.wait_until_idle();
    let before = gauges(&proxy);

    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    for seed in BROKE.into_iter().chain((0..SEEDS).map(|n| start.wrapping_add(n))) {
        for (n, phase) in PHASES.into_iter().enumerate() {
            // Other calls in each phase.
            let own = seed.rotate_left(8 * n as u32);
            let path = format!("/{phase}/{}", if own % 3 == 0 { "two" } else { "one" });
            // Most are small, some are over the bound of what a plugin may read.
            let body = bytes(if own % 10 == 0 { (1 << 20) + 1 } else { (own % 100) as usize });
            if let Err(what) = request(&proxy, &path, own, origin.addr(), &body) {
                panic!("{what}: {path} with the seed {seed}");
            }
            assert!(!proxy.log().contains("panicked"), "the host panics: {path} with the seed {seed}");
        }
    }
    calm("after").await;
    for much in ["phasegate_store_failures_total", "phasegate_callouts_total"] {
        assert!(proxy.metric(much) > 0.0, "{much}: nothing was tried");
    }
    // Then it keeps no connections to it either.
    drop(origin);

    proxy.wait_until_idle();
    for line in proxy.admin("GET", "/metrics").1.lines().filter(|line| line.starts_with("phasegate_plugin_failures")) {
        assert!(line.ends_with(" 0"), "{line}, with the seeds from {start}");
    }
    eventually(&format!("the gauges return to {before:?}, after the seeds from {start}"), || gauges(&proxy) == before);
    assert!(proxy.terminate().success());
    assert!(!proxy.log().contains("panicked"), "with the seeds from {start}");
}

/// The response may be anything, as the plugin is what it is; but it must come, and end.
fn request(proxy: &Proxy, path: &str, seed: u64, server: SocketAddr, body: &[u8]) -> Result<(), String> {
    let mut stream = TcpStream::connect(proxy.addr()).map_err(|error| format!("no connection: {error}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nx-seed: {seed}\r\nx-server: {server}\r\n\
         connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    // The proxy may answer and close before it has all.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err("no end".to_owned()),
        _ => Ok(()),
    }
}

/// All gauges but those of what the store holds, and of instances, which wait for the next request.
fn gauges(proxy: &Proxy) -> BTreeMap<String, String> {
    let (_, text) = proxy.admin("GET", "/metrics");
    let names: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge"))
        .map(str::to_owned)
        .collect();
    let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    let is_gauge = |name: &str| {
        let name = name.split('{').next().unwrap_or_default();
        let kept = name.starts_with("phasegate_store_") || name == "phasegate_instances";
        names.iter().any(|gauge| gauge == name) && !kept
    };
    values.filter(|(name, _)| is_gauge(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
