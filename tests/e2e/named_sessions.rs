//! Named sessions: one running instance a name in the whole process.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

const RUNNING: &str = "phasegate_named_sessions";

fn session(name: &str, guest: &str, keys: &str) -> String {
    format!("[[wasm_session]]\nname = \"{name}\"\nwasm_path = '{}'\n{keys}\n", guests::path(guest).display())
}

/// Sessions `a` and `b` of the guest `session`, and a route for each order that `a` is asked, and one for `b`.
fn proxy(orders: &[&str]) -> Proxy {
    let config = "wasm_main_config = 'of a'";
    let mut site = Site::with(&format!("{}{}", session("a", "session", config), session("b", "session", "")));
    let ask = |name: &str, order: &str| answers(&[json!(["uniq-session-request", name, order, 15_000])]);
    for order in orders {
        let path = format!("/{}", order.replace(' ', "-"));
        site.answered(&path).script("wasm_access", Script::guest("probe", "asks").main(ask("a", order)));
        let tell = answers(&[json!(["uniq-session-send", "a", order])]);
        site.answered(&format!("/tell{path}")).script("wasm_access", Script::guest("probe_sync", "tells").main(tell));
    }
    site.answered("/b").script("wasm_access", Script::guest("probe", "asks").main(ask("b", "count")));
    let unknown = answers(&[json!(["uniq-session-send", "c", "x"]), json!(["uniq-session-request", "c", "x", 10])]);
    site.answered("/unknown").script("wasm_access", Script::guest("probe", "asks").main(unknown));
    Proxy::start(&site.to_string())
}

async fn ask(proxy: &Proxy, path: &str) -> Value {
    let given = send(http1().get(proxy.url(path))).await.json();
    given[0].get("ok").cloned().unwrap_or_else(|| panic!("{path}: {given}"))
}

fn runs(proxy: &Proxy, name: &str) -> f64 {
    proxy.metric(&format!("phasegate_plugin_runs_total{{script=\"{name}\",phase=\"session\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_runs_however_many_ask() {
    let proxy = std::sync::Arc::new(proxy(&["count", "config", "request", "spawn ext1", "spawn ext2", "timer 20"]));
    assert_eq!(proxy.metric(RUNNING), 0.0, "it starts on its first use");
    let asks = (0..16).map(|_| {
        let proxy = proxy.clone();
        tokio::spawn(async move { ask(&proxy, "/count").await })
    });
    let asks: Vec<_> = asks.collect();
    let mut counts = Vec::new();
    for asked in asks {
        counts.push(asked.await.unwrap().as_str().unwrap().parse::<u32>().unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=16).collect::<Vec<_>>());
    assert_eq!((runs(&proxy, "a"), runs(&proxy, "b"), proxy.metric(RUNNING)), (1.0, 0.0, 1.0));
    let starts = "script=a phase=session request=- the session starts";
    proxy.wait_for_log(starts);
    assert_eq!(proxy.log().matches(starts).count(), 1);

    assert_eq!(ask(&proxy, "/config").await, "of a");
    assert_eq!(ask(&proxy, "/request").await, "there is no request in a session");
    assert_eq!(ask(&proxy, "/spawn-ext1").await, "spawned");
    assert_eq!(ask(&proxy, "/spawn-ext2").await, "the plugin has no entry point `wasm-main-ext2`");
    assert_eq!(ask(&proxy, "/timer-20").await, "expired");
    assert_eq!(ask(&proxy, "/b").await, "1", "another name is another session");
    assert_eq!(proxy.metric(RUNNING), 2.0);

    let (_, plugins) = proxy.admin("GET", "/plugins");
    let plugins: Value = serde_json::from_str(&plugins).unwrap();
    let listed = plugins.as_array().unwrap().iter().filter(|plugin| plugin["phase"] == "session");
    assert_eq!(listed.map(|plugin| &plugin["name"]).collect::<Vec<_>>(), ["a", "b"]);

    let given = send(http1().get(proxy.url("/unknown"))).await.json();
    let unknown = "there is no session named `c`: add `[[wasm_session]]` with `name = \"c\"` to the configuration";
    assert_eq!((&given[0]["err"], &given[1]["err"]), (&json!(unknown), &json!(unknown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_restarted_after_a_failure_and_what_was_sent_waits() {
    let proxy = proxy(&["count", "trap", "err"]);
    for (failure, kind, failures) in [("trap", "trap", 1.0), ("err", "err", 1.0)] {
        let start = Instant::now();
        assert_eq!(ask(&proxy, &format!("/tell/{failure}")).await, Value::Null);
        assert_eq!(ask(&proxy, "/count").await, "1", "a new instance");
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        let labels = format!("{{script=\"a\",phase=\"session\",kind=\"{kind}\"}}");
        assert_eq!(proxy.metric(&format!("phasegate_plugin_failures_total{labels}")), failures);
        proxy.wait_for_log(&format!("script=a phase=session request=- failed: {kind}: "));
    }
    assert_eq!(runs(&proxy, "a"), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_end_the_next_use_starts_it_anew() {
    let proxy = proxy(&["count", "return", "quit"]);
    for end in ["/tell/return", "/tell/quit"] {
        assert_eq!(ask(&proxy, "/count").await, "1");
        assert_eq!(ask(&proxy, end).await, Value::Null);
        proxy.wait_for_metric(RUNNING, 0.0);
        proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    }
    assert_eq!(ask(&proxy, "/count").await, "1");
    let failures = "phasegate_plugin_failures_total{script=\"a\",phase=\"session\",kind=\"err\"}";
    assert_eq!(proxy.metric(failures), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_or_computes_holds_up_nobody() {
    let loops = session("loops", "hostile", "wasm_main_config = 'loop'\nlimits = { cpu_ms = 100 }");
    let waits = session("waits", "hostile", "wasm_main_config = 'sleep-forever'\nlimits = { wall_ms = 50 }");
    let mut site = Site::with(&format!("{loops}{waits}{}", session("b", "session", "")));
    let calls = [
        json!(["uniq-session-send", "loops", "x"]),
        json!(["uniq-session-send", "waits", "x"]),
        json!(["uniq-session-request", "b", "count", 15_000]),
    ];
    site.answered("/").script("wasm_access", Script::guest("probe", "asks").main(answers(&calls)));
    let proxy = Proxy::start(&site.to_string());
    let given = send(http1().get(proxy.url("/"))).await.json();
    assert_eq!(given[2]["ok"], "1", "{given}");
    for (name, kind) in [("loops", "cpu"), ("waits", "wall")] {
        let labels = format!("{{script=\"{name}\",phase=\"session\",kind=\"{kind}\"}}");
        eventually(&labels, || proxy.metric(&format!("phasegate_plugin_failures_total{labels}")) >= 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_is_theirs_too() {
    let proxy = proxy(&["count", "hang"]);
    assert_eq!(ask(&proxy, "/b").await, "1");
    assert_eq!(ask(&proxy, "/tell/hang").await, Value::Null);
    eventually("both run", || proxy.metric(RUNNING) == 2.0);
    let start = Instant::now();
    assert_eq!(proxy.terminate().code(), Some(0));
    // The one that hangs is cancelled, long before the grace period is over.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let log = proxy.log();
    assert!(log.contains("script=b phase=session request=- the session ends: this session has quit"), "{log}");
    assert!(log.contains("the session `a` did not quit within 1000 ms: it is cancelled"), "{log}");
}
