//! How long an instance lives, what it may use, and what it sees of the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use super::support::*;

fn counter(name: &str, config: &str, keys: &str) -> Script {
    let script = Script::guest("counter", name).main(config);
    if keys.is_empty() { script } else { script.key(keys) }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_requests_an_instance_serves() {
    let leak = "on = 'body'\nleak = 1048576";
    let cases = [
        ("reuse", counter("reuse", "on = 'body'", ""), "1 2 3 4 5 6 7 8", 1.0),
        ("fresh", counter("fresh", "on = 'body'", "instance = 'fresh'"), "1 1 1 1 1 1 1 1", 9.0),
        ("recycle-after", counter("recycle-after", "on = 'body'", "recycle_after = 3"), "1 2 3 1 2 3 1 2", 3.0),
        // Room for 3 MiB of what it keeps, beside what it began with.
        ("recycle-memory", counter("recycle-memory", leak, "recycle_memory = '4MiB'"), "1 2 3 1 2 3 1 2", 3.0),
        ("never", counter("never", leak, "recycle_memory = 0\nrecycle_after = 0"), "1 2 3 4 5 6 7 8", 1.0),
    ];
    let mut site = Site::new();
    for (name, script, _, _) in &cases {
        site.answered(&format!("/{name}")).script("wasm_access", script.clone());
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for (name, _, counts, instances) in &cases {
        let mut given = Vec::new();
        for _ in 0..8 {
            given.push(send(client.get(proxy.url(&format!("/{name}")))).await.text());
        }
        let given = given.join(" ");
        // How much memory a guest begins with is its compiler's business: only that it is replaced in time counts.
        if *name == "recycle-memory" {
            assert!(given.starts_with("1 2 ") && given.matches('1').count() >= 2, "{given}");
            continue;
        }
        assert_eq!(given, *counts, "{name}");
        assert_eq!(
            proxy.metric(&format!("phasegate_plugin_instances_total{{script=\"{name}\"}}")),
            *instances,
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_failed_is_not_used_again() {
    let mut site = Site::new();
    let script = counter("leaky", "on = 'body'\nleak = 1048576", "limits = { memory = '6MiB' }\nrecycle_memory = 0");
    site.answered("/").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let mut given = Vec::new();
    for _ in 0..20 {
        let answer = send(client.get(proxy.url("/"))).await;
        given.push(if answer.status == 200 { answer.text() } else { answer.status.to_string() });
    }
    let failed = given.iter().position(|answer| answer == "500").unwrap_or_else(|| panic!("no limit in {given:?}"));
    assert!((2..7).contains(&failed), "{given:?}");
    let life = &given[..=failed];
    for (n, answer) in given.iter().enumerate() {
        assert_eq!(answer, &life[n % life.len()], "after a failure it begins anew: {given:?}");
    }
    let kind = "{script=\"leaky\",phase=\"wasm_access\",kind=\"memory\"}";
    let failures = given.iter().filter(|answer| *answer == "500").count();
    assert_eq!(proxy.metric(&format!("phasegate_plugin_failures_total{kind}")), failures as f64);
    proxy.wait_for_log("used more memory than limits.memory permits, 6144 KiB");
}

/// An instance works for one request at a time: as many are made as requests wait at once, and they are kept for a while.
#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_have_an_instance_each() {
    let mut site = Site::new();
    site.answered("/").script("wasm_access", Script::guest("verdict", "waits").main("sleep 300 then return"));
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..2 {
        let requests: Vec<_> = (0..5).map(|_| tokio::spawn(send(http1().get(proxy.url("/"))))).collect();
        for request in requests {
            assert_eq!(request.await.unwrap().status, 403);
        }
    }
    let made = proxy.metric("phasegate_plugin_instances_total{script=\"waits\"}");
    assert!((2.0..=5.0).contains(&made), "{made} instances for 5 requests at once, twice");
    proxy.wait_for_metric("phasegate_instances", 1.0);
}

#[test]
fn an_instance_that_is_never_used_again_is_warned_of() {
    for (keys, is_warned) in
        [("recycle_memory = '64KiB'", true), ("recycle_memory = '64KiB'\ninstance = 'fresh'", false), ("", false)]
    {
        let mut site = Site::new();
        site.answered("/").script("wasm_access", Script::guest("counter", "counter").key(keys));
        let checked = check(&site.to_string());
        assert_eq!(checked.code, Some(0), "{checked:?}");
        assert_eq!(checked.stderr.contains("no instance is used again: one begins with "), is_warned, "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_nothing_of_the_machine() {
    let home = std::env::var("PATH").unwrap();
    let mut site = Site::new();
    site.answered("/closed").script("wasm_access", Script::guest("stdio", "closed").main("one\ntwo"));
    let script =
        Script::guest("stdio", "open").main("three").key("allow = { env = ['PATH'] }").key("instance = 'fresh'");
    site.answered("/open").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let client = http1();

    let closed = send(client.get(proxy.url("/closed"))).await.json();
    assert_eq!(closed["env"], serde_json::json!({}));
    for what in ["file", "tcp"] {
        assert!(closed[what]["err"].is_string(), "{what}: {closed}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(closed["unix_time"].as_u64().unwrap().abs_diff(now) < 60, "{closed}");
    assert_eq!(closed["terminal"], true, "else C writes its lines when its buffer is full");
    let open = send(client.get(proxy.url("/open"))).await.json();
    assert_eq!(open["env"], serde_json::json!({ "PATH": home }));
    let again = send(client.get(proxy.url("/open"))).await.json();
    assert_ne!(open["random"], again["random"], "random numbers");

    // Line by line, each with where it comes from.
    for (level, text) in [("INFO", "one"), ("INFO", "two"), ("ERROR", "stderr: one"), ("ERROR", "two")] {
        eventually(&format!("a line {level} {text}"), || {
            let log = proxy.log();
            let mut of_script = log.lines().filter(|line| line.contains("script=closed phase=wasm_access request="));
            of_script.any(|line| line.contains(level) && line.ends_with(&format!(" {text}")))
        });
    }
    assert_eq!(proxy.stdout(), "", "nothing of it is on the proxy's own output");
}
