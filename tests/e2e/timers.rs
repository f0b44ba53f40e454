//! Timers of a run.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::support::*;

fn main(calls: &[Value]) -> Script {
    Script::guest("probe", "timers").main(answers(calls))
}

async fn once(script: Script) -> Value {
    let mut site = Site::new();
    site.answered("/").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await.json();
    proxy.wait_for_metric("phasegate_timers", 0.0);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_expire_in_order() {
    let given = once(main(&[
        json!(["add-timer", 1000, 1, "late"]),
        json!(["add-timer", 1, 2, "early"]),
        json!(["add-timer", 1, 3, "removed"]),
        json!(["add-timer", 1, 4, "replaced"]),
        json!(["add-timer", 1100, 4, "new"]),
        json!(["add-timer", u64::MAX, 5, "never"]),
        json!(["del-timer", 3]),
        json!(["del-timer", 99]),
        json!(["get-timer-timeout", 10_000]),
        json!(["get-timer-timeout", 0]),
        json!(["sleep", 1300]),
        json!(["get-timer-timeout", 10_000]),
        json!(["get-timer-timeout", 5]),
    ]))
    .await;
    assert_eq!(given[8]["ok"], json!(["early"]));
    assert_eq!(given[11]["ok"], json!(["late", "new"]));
    assert_eq!(given[12]["ok"], json!([]));
}

/// What the time is for an idle machine is printed; what is sure is that it is not too early.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_of_50_ms_takes_50_ms() {
    let mut site = Site::new();
    let calls = [json!(["add-timer", 50, 1, "x"]), json!(["get-timer-timeout", 10_000])];
    site.answered("/").script("wasm_access", main(&calls));
    site.answered("/nothing").script("wasm_access", main(&[json!(["sleep", 0])]));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    send(client.get(proxy.url("/nothing"))).await;
    let mut late = Vec::new();
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(send(client.get(proxy.url("/"))).await.json()[1]["ok"], json!(["x"]));
        late.push(start.elapsed().saturating_sub(Duration::from_millis(50)));
        assert!(start.elapsed() >= Duration::from_millis(50) && start.elapsed() < Duration::from_secs(5));
    }
    println!("a timer of 50 ms is late by, request included: {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_point_waits_for_the_timer_of_another() {
    let ext1 = calls_and_rest(&[json!(["sleep", 10]), json!(["add-timer", 10, 1, "of ext1"])]);
    let script = main(&[json!(["get-timer-timeout", 10_000])]);
    let given = once(script.key(format!("wasm_main_ext1_config = '''{ext1}'''"))).await;
    assert_eq!(given[0]["ok"], json!(["of ext1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_timers_are_dropped_with_a_warning() {
    let mut calls: Vec<_> = (0..10_001).map(|key| json!(["add-timer", 60_000, key, ""])).collect();
    calls.push(json!(["add-timer", 0, 10_000, "no room"]));
    calls.push(json!(["add-timer", 0, 1, "in the place of another"]));
    calls.push(json!(["get-timer-timeout", 1]));
    let mut site = Site::new();
    let script = main(&calls).key("limits = { cpu_ms = 10000 }");
    site.answered("/").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let given = send(http1().get(proxy.url("/"))).await.json();
    assert_eq!(given.as_array().unwrap().last().unwrap()["ok"], json!(["in the place of another"]));
    let line = proxy.wait_for_log("add-timer: the run has 10000 timers already: the timer 10000 is dropped");
    assert!(line.contains(" WARN ") && line.contains("script=timers phase=wasm_access request="), "{line}");
    proxy.wait_for_metric("phasegate_timers", 0.0);
}
