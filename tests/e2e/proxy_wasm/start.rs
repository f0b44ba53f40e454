//! Plugins start with their configuration, and end with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use super::*;

/// Answers with the status 200 and the number of the request to its VM. A configuration of one letter makes it trap, one of
/// two letters refuse, one of six trap in a VM that has served requests.
fn visits() -> Guest {
    Guest::new()
        .on(
            "proxy_on_configure",
            "(if (i32.eq (local.get $a) (i32.const 1)) (then (call $say 'about to trap') unreachable))
             (if (i32.eq (local.get $a) (i32.const 2)) (then (return (i32.const 0))))
             (if (i32.eq (local.get $a) (i32.const 6)) (then
               (if (i32.load (i32.const 0x80)) (then unreachable))))",
        )
        .on(
            "proxy_on_request_headers",
            "(if (call $header 'x-harm') (then unreachable))
             (if (call $header 'x-wait') (then (return (i32.const 1))))
             (i32.store (i32.const 0x80) (i32.add (i32.const 1) (i32.load (i32.const 0x80))))
             (call $answer (i32.add (i32.const 200) (i32.load (i32.const 0x80))))",
        )
}

/// A route for each filter, of one VM with this configuration.
fn site(filters: &[(&str, &str)]) -> String {
    let mut site = Site::with("threads = 2");
    for (name, configuration) in filters {
        let keys = format!("instances = 1\nconfiguration = '{configuration}'\n");
        filtered(&mut site, &format!("/{name}"), "echo = true", name, &visits().path(), &keys);
    }
    site.answered("/");
    site.to_string()
}

async fn status(proxy: &Proxy, path: &str) -> u16 {
    send(http1().get(proxy.url(path))).await.status
}

fn reload(proxy: &Proxy, config: &str) -> (u16, Value) {
    proxy.configure(config);
    let (status, body) = proxy.admin("POST", "/reload");
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn a_plugin_that_does_not_start_is_an_error_of_the_configuration() {
    let at_start = |code: &str| Guest::new().on("proxy_on_vm_start", code);
    for (guest, key, message) in [
        (visits(), "configuration = 'x'", "failed in proxy_on_configure: "),
        (visits(), "configuration = 'xx'", "refused its configuration: `proxy_on_configure` answered false"),
        (
            at_start("(return (i32.const 0))"),
            "vm_configuration = 'v'",
            "refused its configuration: `proxy_on_vm_start`",
        ),
        (at_start("unreachable"), "vm_configuration = 'v'", "failed in proxy_on_vm_start: "),
        (Guest::new().on("proxy_on_context_create", "unreachable"), "wasm_path", "failed in proxy_on_context_create: "),
        (Guest::new().on("_initialize", "unreachable"), "wasm_path", "failed in _initialize: "),
        (Guest::new().on("_start", "(drop (call $tick_every (i32.const 1)))"), "wasm_path", "while it initializes"),
        (Guest::new().on("_start", "(call $proc_exit (i32.const 0))"), "wasm_path", "proc_exit(0)"),
        (Guest::new().on("_start", "(loop $more (drop (memory.grow (i32.const 16))) (br $more))"), "wasm_path", "KiB"),
    ] {
        let mut site = Site::new();
        let keys = if key == "wasm_path" { "" } else { key };
        filtered(&mut site, "/", "echo = true", "picky", &guest.path(), keys);
        let config = site.to_string();
        for output in [check(&config), refused(&config)] {
            let line = config.lines().position(|line| line.starts_with(key)).unwrap() + 1;
            let Output { code, stderr, .. } = output;
            assert_eq!(code, Some(1));
            assert!(stderr.contains("the filter picky "), "{stderr}");
            assert!(stderr.contains(message), "{message} in {stderr}");
            assert!(stderr.contains(&format!("phasegate.toml:{line}:")), "line {line} in {stderr}");
            if message == "failed in proxy_on_configure: " {
                let (said, shown) = (stderr.find("about to trap").unwrap(), stderr.find("the filter picky").unwrap());
                assert!(said < shown, "{stderr}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_has_not_changed_and_starts_the_rest() {
    let proxy = Proxy::start(&site(&[("a", ""), ("b", "same")]));
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/b").await), (201, 202), "they share the VM");
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0);

    let (code, report) = reload(&proxy, &site(&[("a", ""), ("c", "new"), ("b", "other")]));
    assert_eq!(code, 200, "{report}");
    assert_eq!(report["filters"], json!({ "changed": ["b"], "added": ["c"], "removed": [] }));
    assert_eq!(report["scripts"], json!({ "changed": [], "added": [], "removed": [] }));
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/c").await), (203, 204));
    proxy.wait_for_log("filters changed: b; filters added: c");

    let (_, report) = reload(&proxy, &site(&[("a", "")]));
    assert_eq!(report["filters"], json!({ "changed": [], "added": [], "removed": ["b", "c"] }));
    assert_eq!(status(&proxy, "/a").await, 205);
    let (_, report) = reload(&proxy, &site(&[("a", "")]).replace("instances", "failure_policy = 'open'\ninstances"));
    assert_eq!(report["filters"]["changed"], json!(["a"]));
    assert_eq!(status(&proxy, "/a").await, 206, "in the same VM");
    let (_, report) = reload(&proxy, &site(&[]));
    assert_eq!(report["filters"]["removed"], json!(["a"]));
    proxy.wait_for_metric("phasegate_filter_vms", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_does_not_start_does_not_hurt_the_vm_that_it_would_join() {
    let proxy = Proxy::start(&site(&[("a", "")]));
    assert_eq!(status(&proxy, "/a").await, 201);
    let waiting = tokio::spawn(send(http1().get(proxy.url("/a")).header("x-wait", "1")));
    proxy.wait_for_metric(&of("a", "filter_streams_paused"), 1.0);
    for (broken, message) in [("x", "failed in proxy_on_configure"), ("xx", "answered false")] {
        let (code, report) = reload(&proxy, &site(&[("a", ""), ("broken", broken)]));
        assert_eq!(code, 400, "{report}");
        let error = report["error"].as_str().unwrap();
        assert!(error.contains("the filter broken ") && error.contains(message), "{error}");
    }
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/broken").await), (202, 200));
    assert_eq!(proxy.metric(&of("a", "filter_streams_paused")), 1.0, "the stream goes on");
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0, "that of the trial is gone");
    waiting.abort();
    proxy.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_starts_alone_and_not_beside_others_is_refused_and_they_get_a_new_vm() {
    let proxy = Proxy::start(&site(&[("a", "")]));
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/a").await), (201, 202));
    let (code, report) = reload(&proxy, &site(&[("a", ""), ("broken", "beside")]));
    assert_eq!(code, 400, "{report}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains("the filter broken failed in proxy_on_configure: "), "{error}");
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/broken").await), (201, 200));
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_starts_a_vm_that_has_failed_anew() {
    let config = site(&[("a", ""), ("b", "")]);
    let proxy = Proxy::start(&config);
    assert_eq!(status(&proxy, "/a").await, 201);
    assert_eq!(send(http1().get(proxy.url("/a")).header("x-harm", "1")).await.status, 503);
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/b").await), (503, 503), "they share the VM");
    let (code, report) = reload(&proxy, &config);
    assert_eq!((code, &report["filters"]["changed"]), (200, &json!([])));
    assert_eq!((status(&proxy, "/a").await, status(&proxy, "/b").await), (201, 202));
}

/// Tells of its root contexts. With a configuration such a context ends only three ticks after it was told to.
fn farewell() -> Guest {
    Guest::new()
        .with(
            "(global $root (mut i32) (i32.const 0)) (global $slow (mut i32) (i32.const 0))
             (global $left (mut i32) (i32.const 0))",
        )
        .on("proxy_on_context_create", "(if (i32.eqz (local.get $a)) (then (global.set $root (local.get $context))))")
        .on("proxy_on_configure", "(global.set $slow (local.get $a)) (drop (call $tick_every (i32.const 10)))")
        .on("proxy_on_request_headers", "(if (call $header 'x-wait') (then (return (i32.const 1))))")
        .on(
            "proxy_on_done",
            "(if (i32.eq (local.get $context) (global.get $root)) (then
               (call $say 'root done')
               (if (global.get $slow) (then (global.set $left (i32.const 3)) (return (i32.const 0))))))",
        )
        .on(
            "proxy_on_tick",
            "(if (global.get $left) (then
               (call $say 'one more tick')
               (global.set $left (i32.sub (global.get $left) (i32.const 1)))
               (if (i32.eqz (global.get $left)) (then
                 (call $show 'done ' (call $proxy_done))
                 (call $show 'and again ' (call $proxy_done))))))",
        )
        .on(
            "proxy_on_delete",
            "(if (i32.eq (local.get $context) (global.get $root)) (then (call $say 'root deleted')))",
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_removed_ends_after_its_last_request() {
    for (configuration, lines) in [
        ("", &["root done", "root deleted"][..]),
        (
            "slow",
            &["root done", "one more tick", "one more tick", "one more tick", "done 0", "and again 1", "root deleted"],
        ),
    ] {
        let config = |name: &str| {
            let mut site = Site::new();
            let keys = format!("instances = 1\nconfiguration = '{configuration}'\n");
            filtered(&mut site, "/", "echo = true", name, &farewell().path(), &keys);
            site.to_string()
        };
        let proxy = Proxy::start(&config("old"));
        let waiting = tokio::spawn(send(http1().get(proxy.url("/")).header("x-wait", "1")));
        proxy.wait_for_metric(&of("old", "filter_streams_paused"), 1.0);
        let mut without = Site::new();
        without.answered("/");
        let (code, report) = reload(&proxy, &without.to_string());
        assert_eq!((code, &report["filters"]["removed"]), (200, &json!(["old"])));
        assert_eq!(status(&proxy, "/").await, 200);
        let said = || {
            let log = proxy.log();
            let lines = log.lines().filter_map(|line| Some(line.split_once("filter=old request=- ")?.1.to_owned()));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(said(), [""; 0], "it still has a request");
        waiting.abort();
        proxy.wait_for_metric("phasegate_filter_vms", 0.0);
        eventually("it ends", || said() == lines);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_vm_of_its_own_a_filter_ends_after_each_request() {
    for (configuration, lines) in [
        ("", &["root done", "root deleted"][..]),
        (
            "slow",
            &["root done", "one more tick", "one more tick", "one more tick", "done 0", "and again 1", "root deleted"],
        ),
    ] {
        let mut site = Site::new();
        let keys = format!("instances = 'request'\nconfiguration = '{configuration}'\n");
        filtered(&mut site, "/", "respond = { status = 200 }", "brief", &farewell().path(), &keys);
        let proxy = Proxy::start(&site.to_string());
        for round in 1..=2 {
            assert_eq!(status(&proxy, "/").await, 200);
            let said = || {
                let log = proxy.log();
                let lines =
                    log.lines().filter_map(|line| Some(line.split_once("filter=brief request=- ")?.1.to_owned()));
                lines.collect::<Vec<_>>()
            };
            eventually("it ends", || said() == lines.repeat(round));
            proxy.wait_for_metric("phasegate_filter_vms", 0.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_vm_of_its_own_a_filter_ends_after_the_callouts_that_nobody_waits_for() {
    let origin = Origin::saying("seen").await;
    let main = format!("[upstream.audit]\nservers = [{{ addr = '{}' }}]\n", origin.addr());
    let plan = json!({
        "on_log": [["http_call", { "cluster": "audit" }]],
    });
    let mut site = Site::with(&main);
    let chain = super::steps::pw_probe("audits", &plan) + "instances = 'request'\n";
    site.route("/", &format!("respond = {{ status = 200 }}\n{chain}"));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(status(&proxy, "/").await, 200);
    proxy.wait_for_log("#1 on_delete()");
    proxy.wait_for_metric("phasegate_filter_vms", 0.0);
    assert_eq!(origin.received().len(), 1);
    let log = proxy.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("{text} in {log}"));
    let order = ["#2 on_delete()", "#1 on_http_call_response(", "#1 on_done()", "#1 on_delete()"].map(at);
    assert!(order.is_sorted(), "{log}");
}

const CLIENTS: usize = 8;
const UPDATES: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_while_filters_change() {
    let config = |version: usize| {
        let mut site = Site::with("threads = 2");
        let origin = "respond = { status = 200, body = 'hello' }";
        let chain = [("kept", String::new()), ("changing", format!("configuration = 'v{}'\n", version / 2))]
            .map(|(name, keys)| filter(name, &farewell().path()) + &keys)
            .concat();
        // Another VM every third time.
        let vm = format!("vm_configuration = '{}'\n", version / 3);
        site.route("/", &format!("{origin}\n{chain}{}{vm}", filter("moving", &farewell().path())));
        site.to_string()
    };
    let proxy = Arc::new(Proxy::start(&config(0)));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (proxy, stop, done) = (proxy.clone(), stop.clone(), done.clone());
            tokio::spawn(async move {
                let client = if number.is_multiple_of(2) { http1() } else { http2() };
                while !stop.load(SeqCst) {
                    let answer = send(client.post(proxy.url("/")).body("body")).await;
                    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
                    done.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for version in 1..=UPDATES {
        let (code, report) = reload(&proxy, &config(version));
        assert_eq!(code, 200, "{report}");
        let before = done.load(SeqCst);
        eventually("requests go on", || done.load(SeqCst) >= before + CLIENTS);
    }
    stop.store(true, SeqCst);
    for client in clients {
        soon("the last response", client).await.unwrap();
    }
    proxy.wait_until_idle();
    // Those of two keys, and maybe of roots that have yet to end.
    proxy.wait_for_metric("phasegate_filter_vms", 4.0);
    for name in ["kept", "changing", "moving"] {
        assert_eq!(proxy.metric(&of(name, "filter_streams_in_flight")), 0.0);
        assert_eq!(failures(&proxy, name, "trap"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_vm_of_its_own_a_request_starts_a_filter_within_the_limits_of_a_callback() {
    let config = |guest: Guest| {
        let mut site = Site::new();
        filtered(&mut site, "/", "echo = true", "slow", &guest.path(), "instances = 'request'\n");
        site.to_string()
    };
    // Each callback keeps within the limit; all together they do not, if they get to compute.
    let long = ["proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure"]
        .into_iter()
        .fold(Guest::new(), |guest, callback| guest.on(callback, "(call $spin (i32.const 200))"));
    let config_of_long = config(long);
    eventually("the trial is bounded", || {
        check(&config_of_long).stderr.contains("computed for more than the limit of 250 ms in all")
    });

    let later = Guest::new().on(
        "proxy_on_configure",
        "(if (i32.eqz (call $proxy_get_shared_data 'tried' (i32.const 0x40) (i32.const 0x44) (i32.const 0x48)))
           (then (loop $for_ever (br $for_ever))))
         (drop (call $proxy_set_shared_data 'tried' 'x' (i32.const 0)))",
    );
    let proxy = Proxy::start(&config(later));
    assert_eq!(status(&proxy, "/").await, 503);
    let line = proxy.wait_for_log("filter=slow request=");
    assert!(line.contains("failed: instantiate: the plugin failed in proxy_on_configure"), "{line}");
    proxy.wait_for_log("computed for more than limits.cpu_ms, 50 ms, without calling the host");
}
