//! Runs in the background of a request.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Notify;

use super::support::*;

const SPAWNED: &str = "phasegate_spawned_runs";

fn spawn(calls: &[Value]) -> Value {
    let mut steps: Vec<_> = calls.iter().map(step).collect();
    steps.push(json!({ "deliver": "log" }));
    json!(["spawn", "wasm-main-ext1", Value::from(steps).to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_beside_the_phases_until_the_request_ends() {
    let gate = Arc::new(Notify::new());
    let origin = {
        let gate = gate.clone();
        Origin::start_async(move |_| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                reply(200, "hello")
            }
        })
        .await
    };
    // With the wall clock limit of a run it would be over before.
    let spawned = spawn(&[
        json!(["in-get-header", "x-own"]),
        json!(["main-session-id"]),
        json!(["session-send", "$1", "go on"]),
        json!(["get-timer-timeout", 10_000]),
        json!(["in-get-header", "x-own"]),
        json!(["in-body-read-exact"]),
    ]);
    let forever = spawn(&[json!(["sleep", 60_000])]);
    let calls = [spawned, forever, json!(["session-recv"]), json!(["add-timer", 300, 1, "of main"])];
    let mut site = Site::new();
    let script = Script::guest("probe", "spawner").main(calls.iter().map(step).collect::<Value>());
    site.proxied("/", origin.addr()).script("wasm_access", script.key("limits = { wall_ms = 200 }"));
    let proxy = Proxy::start(&site.to_string());

    let request = tokio::spawn(send(http1().post(proxy.url("/")).header("x-own", "1").body("body")));
    origin.wait_for_requests(1);
    let given = results(&proxy, "spawner");
    assert_eq!(given[0]["ok"], "1", "while `wasm-main` runs, the request is there");
    assert_eq!(given[3]["ok"], json!(["of main"]), "timers are shared");
    let not_now = "no script of the request runs now: a spawned run can work on the request only meanwhile";
    assert_eq!((&given[4]["err"], &given[5]["err"]), (&json!(not_now), &json!(not_now)));
    // The other still runs.
    proxy.wait_for_metric(SPAWNED, 1.0);
    gate.notify_one();
    assert_eq!(request.await.unwrap().text(), "hello");
    proxy.wait_until_idle();
    proxy.wait_for_metric(SPAWNED, 0.0);
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    proxy.wait_for_metric("phasegate_timers", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_a_session_and_the_request_while_somebody_waits() {
    let talks = spawn(&[
        json!(["session-recv"]),
        json!(["in-body-read-exact"]),
        json!(["main-session-id"]),
        json!(["session-send", "$2", "$0"]),
        json!(["main-fd"]),
    ]);
    let calls = [
        talks,
        json!(["session-send", "$0", "ping"]),
        json!(["session-recv"]),
        json!(["curr-fd"]),
        json!(["sleep", 200]),
    ];
    let mut site = Site::new();
    site.answered("/").script("wasm_access", Script::guest("probe", "talks").main(answers(&calls)));
    let early = spawn(&[json!(["out-response", { "status": 202, "body": "early" }])]);
    let calls = [early, json!(["sleep", 60_000])].map(|call| step(&call));
    site.answered("/early").script("wasm_access", Script::guest("probe", "early").main(Value::from(calls.to_vec())));
    let proxy = Proxy::start(&site.to_string());

    let request = http1().post(proxy.url("/")).body("the body");
    let given = send(request).await.json();
    assert_eq!((&given[1]["ok"], &given[2]["ok"]), (&json!(null), &json!("ping")), "{given}");
    let spawned = results(&proxy, "talks");
    assert_eq!(spawned[1]["ok"]["len"], 8, "{spawned:?}");
    assert_eq!(spawned[4], given[3], "the same connection");
    // It takes a driver to send it: the run that waits.
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("GET /early HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 202);
    drop(client);
}

/// There a spawned run is on whichever worker has time, beside the run that does for it what it asks.
#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_on_another_worker() {
    let talks = spawn(&[
        json!(["session-recv"]),
        json!(["in-body-read-exact"]),
        json!(["in-set-header", "x-spawned", "1"]),
        json!(["main-session-id"]),
        json!(["session-send", "$3", "$0"]),
    ]);
    let calls =
        [talks, json!(["session-send", "$0", "ping"]), json!(["session-recv"]), json!(["in-get-header", "x-spawned"])];
    let mut site = Site::with("threads = 4\nwork_stealing = true");
    site.answered("/").script("wasm_access", Script::guest("probe", "talks").main(answers(&calls)));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for _ in 0..50 {
        let given = send(client.post(proxy.url("/")).body("the body")).await.json();
        assert_eq!((&given[2]["ok"], &given[3]["ok"]), (&json!("ping"), &json!("1")), "{given}");
    }
    proxy.wait_until_idle();
    proxy.wait_for_metric(SPAWNED, 0.0);
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_synchronous_script_can_spawn_too() {
    let calls = [json!(["spawn", "wasm-main-ext1", "nonsense"]), json!(["spawn", "wasm-main-ext2", null])];
    let mut site = Site::new();
    site.answered("/").script("wasm_access", probe("probe_sync", "sync", &calls[..1]));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "its failure is not that of the request");
    assert!(results(&proxy, "sync")[0]["ok"].is_u64());
    proxy.wait_for_metric(SPAWNED, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_failure_is_logged_and_counted() {
    let calls =
        [json!(["variable", "request_id"]), json!(["spawn", "wasm-main-ext1", "nonsense"]), json!(["sleep", 30])];
    let mut site = Site::new();
    site.answered("/").script("wasm_access", Script::guest("probe", "fails").main(answers(&calls)));
    let proxy = Proxy::start(&site.to_string());
    let given = send(http1().get(proxy.url("/"))).await.json();
    let id = given[0]["ok"].as_str().unwrap();
    proxy.wait_for_log(&format!("script=fails phase=wasm_access request={id} failed: err: "));
    let labels = "{script=\"fails\",phase=\"wasm_access\",kind=\"err\"}";
    proxy.wait_for_metric(&format!("phasegate_plugin_failures_total{labels}"), 1.0);
    assert_eq!(proxy.metric("phasegate_plugin_runs_total{script=\"fails\",phase=\"wasm_access\"}"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_not_too_many() {
    let mut calls = vec![spawn(&[json!(["sleep", 60_000])]); 65];
    // One that has ended makes room.
    calls.insert(0, spawn(&[]));
    calls.insert(1, json!(["sleep", 500]));
    let mut site = Site::new();
    site.answered("/").script("wasm_access", Script::guest("probe", "many").main(answers(&calls)));
    let proxy = Proxy::start(&site.to_string());
    let given = send(http1().get(proxy.url("/"))).await.json();
    let (ok, err): (Vec<_>, Vec<_>) = given.as_array().unwrap().iter().partition(|result| result.get("ok").is_some());
    assert_eq!((ok.len(), err.len()), (66, 1), "{err:?}");
    assert!(err[0]["err"].as_str().unwrap().contains("64 runs in its background"), "{err:?}");
    proxy.wait_until_idle();
    proxy.wait_for_metric(SPAWNED, 0.0);
}
