//! Messages between the entry points of a run.

use serde_json::{Value, json};

use super::support::*;

/// A route whose `wasm-main` answers with what its calls gave, beside another entry point that makes calls and rests.
fn beside(site: &mut Site, path: &str, main: &[Value], ext1: &[Value]) {
    let ext1 = format!("wasm_main_ext1_config = '''{}'''", calls_and_rest(ext1));
    site.answered(path).script("wasm_access", Script::guest("probe", "beside").main(answers(main)).key(ext1));
}

/// The only route of a proxy, asked once.
async fn once(main: &[Value], ext1: &[Value]) -> Value {
    let mut site = Site::new();
    beside(&mut site, "/", main, ext1);
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await.json();
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_points_send_each_other_messages() {
    // Sent before anybody receives.
    let late =
        [json!(["sleep", 20]), json!(["session-recv"]), json!(["session-try-recv"]), json!(["session-try-recv"])];
    let send = [json!(["main-session-id"]), json!(["session-send", "$0", "a"]), json!(["session-send", "$0", "b"])];
    let given = once(&late, &send).await;
    assert_eq!(given, json!([{ "ok": null }, { "ok": "a" }, { "ok": "b" }, { "ok": null }]));

    // Received before anybody sends.
    let early = [json!(["main-session-id"]), json!(["sleep", 20]), json!(["session-send", "$0", "你好"])];
    assert_eq!(once(&[json!(["session-recv"])], &early).await, json!([{ "ok": "你好" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_an_answer() {
    let main = [
        json!(["session-recv"]),
        json!(["session-response", "2"]),
        json!(["session-response", "3"]),
        json!(["session-recv"]),
    ];
    let ext1 = [
        json!(["main-session-id"]),
        json!(["session-request", "$0", "1+1", 10_000]),
        json!(["session-send", "$0", "$1"]),
    ];
    let given = once(&main, &ext1).await;
    assert_eq!((&given[0]["ok"], &given[3]["ok"]), (&json!("1+1"), &json!("2")));
    assert!(given[2]["err"].as_str().unwrap().contains("no request to answer"), "{given}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_learns_of_the_end() {
    let ext1 = [json!(["main-session-id"]), json!(["sleep", 10]), json!(["session-quit", "$0"])];
    let given = once(&[json!(["session-recv"])], &ext1).await;
    assert_eq!(given[0]["err"], "this session has quit: no more messages come");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_is_an_error() {
    let large = "x".repeat((1 << 20) + 1);
    let mut calls = vec![
        (json!(["curr-session-id"]), None),
        (json!(["new-session-id"]), None),
        (json!(["session-send", "$1", "x"]), Some("there is no session ")),
        (json!(["session-send", u64::MAX, "x"]), Some("there is no session 18446744073709551615: it has ended")),
        (json!(["session-quit", "$1"]), Some("there is no session ")),
        (json!(["session-request", "$1", "x", 10_000]), Some("there is no session ")),
        (json!(["session-send", "$0", large]), Some("a message of 1048577 bytes is too large: 1048576 bytes")),
        (json!(["session-response", "x"]), Some("there is no request to answer")),
        (json!(["session-request", "$0", "x", 20]), Some("no answer within 20 ms")),
        (json!(["session-try-recv"]), None),
        (json!(["session-response", "x"]), Some("there is no request to answer")),
    ];
    calls.extend((0..1024).map(|_| (json!(["session-send", "$0", ""]), None)));
    calls.extend([
        (json!(["session-send", "$0", ""]), Some("is full: 1024 messages, or 16777216 bytes, wait in it")),
        (json!(["session-quit", "$0"]), None),
        (json!(["session-send", "$0", ""]), Some("has quit and takes no more messages")),
        (json!(["session-recv"]), None),
    ]);
    let (calls, expected): (Vec<_>, Vec<_>) = calls.into_iter().unzip();
    let (given, _) = in_access(&calls).await;
    for ((call, expected), given) in calls.iter().zip(expected).zip(&given) {
        match expected {
            Some(error) => {
                assert!(given["err"].as_str().is_some_and(|given| given.contains(error)), "{call:.80}: {given}")
            }
            None => assert!(given.get("ok").is_some(), "{call:.80}: {given}"),
        }
    }
}

/// The `visits` plugin gives no answer to a path; what is sent after that is not answered in its place.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_go_to_who_asked_before() {
    let visits = format!(
        "[[wasm_session]]\nname = \"visits\"\nwasm_path = '{}'\nwasm_main_config = 'role = \"keep\"'\n",
        plugins::path("visits").display()
    );
    let mut site = Site::with(&visits);
    let ask = answers(&[json!(["uniq-session-request", "visits", "/x", 15_000])]);
    let tell = [json!(["sleep", 50]), json!(["uniq-session-send", "visits", "show"])];
    let tell = format!("wasm_main_ext1_config = '''{}'''", calls_and_rest(&tell));
    site.answered("/").script("wasm_access", Script::guest("probe", "asks").main(ask).key(tell));
    let proxy = Proxy::start(&site.to_string());
    let given = send(http1().get(proxy.url("/"))).await.json();
    assert_eq!(given[0]["err"], "the session ended, or received another message, without an answer");
}

/// A module without functions that wait can use its mailbox all the same.
#[tokio::test(flavor = "multi_thread")]
async fn synchronous_scripts_send_and_receive() {
    let calls = [
        json!(["curr-session-id"]),
        json!(["main-session-id"]),
        json!(["session-try-recv"]),
        json!(["session-send", "$1", "x"]),
        json!(["session-try-recv"]),
        json!(["add-timer", 5, 1, "x"]),
        json!(["del-timer", 1]),
    ];
    let mut site = Site::new();
    site.answered("/").script("wasm_access", Script::guest("probe_sync", "sync").main(answers(&calls)));
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..3 {
        let given = send(http1().get(proxy.url("/"))).await.json();
        assert_eq!(given[0], given[1], "it is its own `wasm-main`");
        assert_eq!((&given[2]["ok"], &given[4]["ok"]), (&json!(null), &json!("x")), "{given}");
    }
    let (_, plugins) = proxy.admin("GET", "/plugins");
    assert!(plugins.contains("\"path\": \"synchronous\""), "{plugins}");
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    proxy.wait_for_metric("phasegate_timers", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_and_timers_of_cancelled_runs_are_gone() {
    let waits = [json!(["add-timer", 60_000, 1, "x"]), json!(["session-recv"])];
    let timeout = r#"wasm_main_timeout_config = '''[{"call": "sleep", "args": [2]}, {"verdict": "return"}]'''"#;
    let script = Script::guest("probe", "cancelled").main(calls_and_rest(&waits)).key(timeout);
    let mut site = Site::new();
    site.answered("/").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let requests: Vec<_> = (0..100).map(|_| tokio::spawn(send(http1().get(proxy.url("/"))))).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().status, 403);
    }
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    proxy.wait_for_metric("phasegate_timers", 0.0);
}
