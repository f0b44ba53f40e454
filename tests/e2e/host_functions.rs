//! The functions that plugins call: `wasm-std` for the request and the response, and `wasm-log`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::support::*;

/// Every function of `wasm-std` about request and response, with the phases where it works.
fn functions(guest: &str) -> Vec<(Value, &'static [&'static str])> {
    let every = &PHASES[..];
    let edit_request = &PHASES[..3];
    let read_response = &PHASES[3..];
    let edit_response = &PHASES[3..5];
    let end = &PHASES[..2];
    let response = json!({ "status": 200 });
    let mut functions = vec![
        (json!(["curr-session-id"]), every),
        (json!(["in-get-request"]), every),
        (json!(["in-get-header", "host"]), every),
        (json!(["in-get-headers"]), every),
        (json!(["in-is-header", "host"]), every),
        (json!(["in-add-header", "x-a", "1"]), edit_request),
        (json!(["in-add-headers", [["x-a", "1"], ["x-b", "2"]]]), edit_request),
        (json!(["in-set-header", "x-a", "1"]), edit_request),
        (json!(["in-del-header", "x-a"]), edit_request),
        (json!(["in-del-headers", ["x-a", "x-b"]]), edit_request),
        (json!(["in-set-method", "GET"]), edit_request),
        (json!(["in-set-uri", "/changed"]), edit_request),
        (json!(["out-get-status"]), read_response),
        (json!(["out-get-header", "x-a"]), read_response),
        (json!(["out-get-headers"]), read_response),
        (json!(["out-is-header", "x-a"]), read_response),
        (json!(["out-set-status", 200]), edit_response),
        (json!(["out-add-header", "x-a", "1"]), edit_response),
        (json!(["out-add-headers", [["x-a", "1"], ["x-b", "2"]]]), edit_response),
        (json!(["out-set-header", "x-a", "1"]), edit_response),
        (json!(["out-del-header", "x-a"]), edit_response),
        (json!(["out-del-headers", ["x-a", "x-b"]]), edit_response),
        (json!(["out-set-response", response]), end),
        (json!(["anyproxy-version"]), every),
        (json!(["variable", "request_id"]), every),
        (json!(["new-session-id"]), every),
        (json!(["main-session-id"]), every),
        (json!(["session-send", "$0", "x"]), every),
        (json!(["session-try-recv"]), every),
        (json!(["spawn", "wasm-main-ext1", "[]"]), every),
        (json!(["add-timer", 0, 1, "x"]), every),
        (json!(["del-timer", 2]), every),
        (json!(["log-enabled", "error"]), every),
        (json!(["hset-string", "k", "f", "1"]), every),
        (json!(["hget-string", "k", "f"]), every),
        (json!(["incr", "counter", 1]), every),
    ];
    if guest == "probe" {
        functions.push((json!(["sleep", 1]), every));
        functions.push((json!(["get-timer-timeout", 1]), every));
        functions.push((json!(["in-body-read-exact"]), edit_request));
        // Last: in the phases where it works, it ends the request.
        functions.push((json!(["out-response", response]), end));
    }
    functions
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_in_every_phase() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for guest in ["probe", "probe_sync"] {
        let calls: Vec<_> = functions(guest).into_iter().map(|(call, _)| call).collect();
        for phase in PHASES {
            let name = format!("{guest}.{phase}");
            site.proxied(&format!("/{name}"), origin.addr()).script(phase, probe(guest, &name, &calls));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    for guest in ["probe", "probe_sync"] {
        for phase in PHASES {
            let name = format!("{guest}.{phase}");
            let answer = send(http1().get(proxy.url(&format!("/{name}")))).await;
            assert_eq!(answer.status, 200, "{name}");
            let given = results(&proxy, &name);
            for ((call, phases), result) in functions(guest).iter().zip(&given) {
                let function = call[0].as_str().unwrap();
                if phases.contains(&phase) {
                    assert!(result.get("ok").is_some(), "{function} in {phase}: {result}");
                } else {
                    let error = result["err"].as_str().unwrap_or_else(|| panic!("{function} in {phase}: {result}"));
                    let start = format!("{function}: not possible in the phase {phase}: ");
                    assert!(error.starts_with(&start), "{function} in {phase}: {error}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn method_and_uri_can_be_set() {
    let origin = Origin::saying("hello").await;
    let good = [("PATCH", "/x/y?z=1"), ("PURGE", "/"), ("GET", "/%E4%BD%A0?a=b&c")];
    let bad_methods = ["", "G ET", "GE\r\nT", "GÉT"].map(|method| json!(["in-set-method", method]));
    let bad_uris = ["", "x", "*", "http://elsewhere/", "/a b", "/a\r\nb", "?a"].map(|uri| json!(["in-set-uri", uri]));
    let mut site = Site::new();
    for (n, (method, uri)) in good.iter().enumerate() {
        for phase in ["wasm_access", "wasm_http_in_headers"] {
            let calls =
                [&[json!(["in-set-method", method]), json!(["in-set-uri", uri])], &bad_methods[..], &bad_uris[..]]
                    .concat();
            site.proxied(&format!("/{phase}/{n}"), origin.addr())
                .script(phase, probe("probe_sync", &format!("{phase}.{n}"), &calls));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    for client in [http1(), http2()] {
        for (n, (method, uri)) in good.iter().enumerate() {
            for phase in ["wasm_access", "wasm_http_in_headers"] {
                let answer = send(client.get(proxy.url(&format!("/{phase}/{n}?before")))).await;
                assert_eq!(answer.status, 200, "{phase} {method} {uri}");
                let received = origin.last();
                assert_eq!((received.method.as_str(), received.uri.as_str()), (*method, *uri), "{phase}");
                let given = results(&proxy, &format!("{phase}.{n}"));
                assert!(given[..2].iter().all(|result| result["ok"].is_null() && result.get("err").is_none()));
                assert!(given[2..].iter().all(|result| result["err"].is_string()), "{given:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_as_a_record() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe_sync", "plain", &[json!(["in-get-request"])]));
    let calls = [json!(["in-get-request"]), json!(["in-body-read-exact"]), json!(["in-get-request"])];
    site.proxied("/body", origin.addr()).script("wasm_access", probe("probe", "body", &calls));
    site.proxied("/odd", origin.addr()).script("wasm_access", probe("probe_sync", "odd", &[json!(["in-get-request"])]));
    let proxy = Proxy::start(&site.to_string());

    let mut client = Raw::connect(proxy.addr()).await;
    client
        .send("DELETE /p?a=1&b=%20x+y&c&a=2&%C3%A9=%E4%BD%A0&=&d=%zz HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\n\r\n")
        .await;
    assert_eq!(client.read_response().await.status(), 200);
    let request = &results(&proxy, "plain")[0]["ok"];
    assert_eq!(request["method"], "delete");
    assert_eq!(request["uri"], "/p?a=1&b=%20x+y&c&a=2&%C3%A9=%E4%BD%A0&=&d=%zz");
    let params = json!([["a", "1"], ["b", " x y"], ["c", ""], ["a", "2"], ["é", "你"], ["", ""], ["d", "%zz"]]);
    assert_eq!(request["params"], params);
    assert_eq!(request["headers"], json!([["host", "h"], ["x-a", "1"], ["x-a", "2"]]));
    assert_eq!(request["body"], json!(null));

    assert_eq!(send(http2().post(proxy.url("/body")).body("12345")).await.status, 200);
    let given = results(&proxy, "body");
    assert_eq!((&given[0]["ok"]["method"], &given[0]["ok"]["body"]), (&json!("post"), &json!(null)));
    assert_eq!(given[1]["ok"], json!({ "len": 5, "fnv": fnv(b"12345") }));
    assert_eq!(given[2]["ok"]["body"], "12345", "once it was read it is there");
    assert_eq!(origin.last().body, "12345");

    // A method that the enum does not have.
    let odd = send(http1().request("PROPFIND".parse().unwrap(), proxy.url("/odd"))).await;
    assert_eq!(odd.status, 200);
    assert!(results(&proxy, "odd")[0]["err"].as_str().unwrap().contains("PROPFIND"));
    assert_eq!(origin.last().method.as_str(), "PROPFIND");
}

#[tokio::test(flavor = "multi_thread")]
async fn version_and_ids() {
    let (given, _) = in_access(&[
        json!(["anyproxy-version"]),
        json!(["curr-session-id"]),
        json!(["main-session-id"]),
        json!(["new-session-id"]),
        json!(["new-session-id"]),
        json!(["curr-fd"]),
        json!(["main-fd"]),
    ])
    .await;
    assert_eq!(given[0]["ok"], phasegate::VERSION);
    assert_eq!(given[1], given[2], "in `wasm-main` they are one");
    let ids: BTreeSet<_> = [1, 3, 4].map(|n| given[n]["ok"].as_u64().unwrap()).into();
    assert_eq!(ids.len(), 3, "{given:?}");
    assert!(given[5]["ok"].is_u64());
    assert_eq!(given[5], given[6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_have_bounds() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    let statuses = [0, 100, 101, 199, 600, 999, 1000, 65535];
    for phase in &PHASES[3..5] {
        let mut calls: Vec<_> = [200, 599, 404].iter().map(|status| json!(["out-set-status", status])).collect();
        calls.extend(statuses.iter().map(|status| json!(["out-set-status", status])));
        calls.push(json!(["out-get-status"]));
        site.proxied(&format!("/{phase}"), origin.addr()).script(phase, probe("probe_sync", phase, &calls));
    }
    let mut calls: Vec<_> = statuses.iter().map(|status| json!(["out-set-response", { "status": status }])).collect();
    for header in [["a b", "1"], ["x", "a\r\nb"], ["content-length", "5"], ["transfer-encoding", "chunked"]] {
        calls.push(json!(["out-set-response", { "status": 200, "headers": [header], "body": "1234" }]));
    }
    site.answered("/reply").script("wasm_access", probe("probe_sync", "reply", &calls));
    let proxy = Proxy::start(&site.to_string());
    for phase in &PHASES[3..5] {
        let answer = send(http1().get(proxy.url(&format!("/{phase}")))).await;
        assert_eq!((answer.status, answer.text().as_str()), (404, "hello"), "{phase}");
        let given = results(&proxy, phase);
        assert!(given[..3].iter().all(|result| result.get("ok").is_some()), "{given:?}");
        assert!(given[3..3 + statuses.len()].iter().all(|result| result["err"].is_string()), "{given:?}");
        assert_eq!(given.last().unwrap()["ok"], 404);
    }
    assert_eq!(send(http1().get(proxy.url("/reply"))).await.text(), "hello");
    let given = results(&proxy, "reply");
    assert!(given.iter().all(|result| result["err"].is_string()), "{given:?}");
}

/// `out-response` answers at once and the plugin goes on; then nothing that it does matters to the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_sent_at_once() {
    let origin = Origin::saying("hello").await;
    let early = json!({ "status": 202, "headers": [["x-early", "1"]], "body": "early" });
    let filter = r#"[{"call": "out-set-header", "args": ["x-filter", "1"]}]"#;
    let mut site =
        Site::with("access_log = { path = 'stdout', format = '${http_request_path} ${status} ${client_bytes_sent}' }");
    for phase in &PHASES[..2] {
        for verdict in ["ok", "break", "finish", "error", "return", "ext1"] {
            let mut steps: Vec<_> = [
                json!(["out-response", early]),
                json!(["out-response", { "status": 200, "body": "second" }]),
                json!(["out-set-response", { "status": 200, "body": "third" }]),
                json!(["in-set-header", "x-still", "works"]),
                json!(["in-get-header", "x-still"]),
                json!(["sleep", 200]),
            ]
            .iter()
            .map(step)
            .collect();
            steps.extend([json!({ "deliver": "log" }), json!({ "verdict": verdict })]);
            let name = format!("{phase}.{verdict}");
            site.proxied(&format!("/{name}"), origin.addr())
                .script(phase, Script::guest("probe", &name).main(Value::from(steps)).key("on_ext1 = \"status:500\""))
                .script("wasm_http_filter_headers", Script::guest("probe_sync", "filter").main(filter));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for phase in &PHASES[..2] {
        for verdict in ["ok", "break", "finish", "error", "return", "ext1"] {
            let name = format!("{phase}.{verdict}");
            let answer = send(client.get(proxy.url(&format!("/{name}")))).await;
            assert!(!proxy.log().contains(&format!("script={name} ")), "the plugin still runs");
            assert_eq!((answer.status, answer.text().as_str()), (202, "early"), "{name}");
            assert_eq!((answer.header("x-early"), answer.header("x-filter")), (Some("1"), Some("1")), "{name}");
            let given = results(&proxy, &name);
            assert!(given[1]["err"].as_str().unwrap().contains("already sent"), "{given:?}");
            assert_eq!(given[4]["ok"], "works", "{given:?}");
            proxy.wait_for_stdout(&format!("/{name} 202 5"));
        }
    }
    assert_eq!(origin.received().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_plugins_say_where_they_come_from() {
    let levels = ["error", "warn", "info", "debug", "trace"];
    let mut calls: Vec<_> =
        levels.map(|level| json!([format!("log-{level}"), format!("{level} of the plugin")])).into();
    calls.extend(levels.map(|level| json!(["log-enabled", level])));
    calls.push(json!(["variable", "request_id"]));
    calls.push(json!(["log-warn", "one\n2026-01-01T00:00:00Z ERROR forged: two"]));
    // The last one logs what the compiler does: by then the module is in the cache.
    for (level, enabled) in [("info", 3), ("debug", 4), ("trace", 5)] {
        let mut site = Site::with(&format!("error_log = \"{level}\""));
        let mut steps: Vec<_> = calls.iter().map(step).collect();
        steps.extend([json!({ "deliver": "response" }), json!({ "verdict": "return" })]);
        site.answered("/").script("wasm_access", Script::guest("probe_sync", "talker").main(Value::from(steps)));
        let proxy = Proxy::start(&site.to_string());
        let given = send(http1().get(proxy.url("/"))).await.json();
        for (n, level) in levels.iter().enumerate() {
            assert_eq!(given[5 + n]["ok"], json!(n < enabled), "{level}");
        }
        assert!(proxy.terminate().success());
        let log = proxy.log();
        let from = format!("script=talker phase=wasm_access request={}", given[10]["ok"].as_str().unwrap());
        for (n, level) in levels.iter().enumerate() {
            let line = log.lines().find(|line| line.ends_with(&format!("{from} {level} of the plugin")));
            assert_eq!(line.is_some(), n < enabled, "{level} in {log}");
            assert!(line.is_none_or(|line| line.contains(&level.to_uppercase())), "{line:?}");
        }
        let others = log.lines().any(|line| line.contains(" DEBUG ") && !line.contains(" DEBUG phasegate"));
        assert!(!others || level == "trace", "the level is for the proxy and its plugins: {log}");
        // No line begins with what a plugin says.
        assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
    }
}
