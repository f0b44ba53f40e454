//! What host functions answer to what makes no sense, or not now: as Envoy, but never worse for the SDKs, which panic over
//! statuses that they do not expect.

use serde_json::{Value, json};

use super::steps::*;
use crate::support::*;

const BAD: &str = "BAD_ARGUMENT";
const NONE: &str = "NOT_FOUND";
const EMPTY: &str = r#""""#;

/// A proxy with this filter, which has answered one POST.
async fn answered(plan: &Value) -> Proxy {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", plan)));
    assert_eq!(send(http1().post(proxy.url("/")).body("body")).await.status, 200);
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn buffers_that_are_not_there() {
    let reads = json!([
        ["buffer", "request_body", 0, 5],
        ["buffer", "response_body", 0, 5],
        ["buffer", "downstream_data", 0, 5],
        ["buffer", "upstream_data", 0, 5],
        ["buffer", "grpc_message", 0, 5],
        ["buffer", "vm_configuration", 0, 5],
        ["buffer_status", "request_body"],
        ["buffer", "call_body", 0, 5],
        ["buffer", "plugin_configuration", 0, 5],
        ["buffer_status", "call_body"],
        ["buffer", 9, 0, 5],
        ["set_buffer", "request_body", 0, 0, "x"],
        ["set_buffer", "upstream_data", 0, 0, "x"],
        ["set_buffer", "vm_configuration", 0, 0, "x"],
        ["set_buffer", "call_body", 0, 0, "x"],
        ["set_buffer", "plugin_configuration", 0, 0, "x"],
        ["set_buffer", 9, 0, 0, "x"],
    ]);
    let callbacks = ["on_request_headers", "on_response_headers", "on_log"];
    let plan: serde_json::Map<_, _> =
        callbacks.into_iter().map(|callback| (callback.to_owned(), reads.clone())).collect();
    let proxy = answered(&Value::from(plan)).await;
    for callback in callbacks {
        let given = outcomes(&proxy, "first", callback);
        assert_eq!(given[..6], [EMPTY; 6], "{callback}");
        assert_eq!(given[6], "0 bytes, flags 0", "{callback}");
        assert_eq!(given[7..], [NONE, NONE, NONE, BAD, BAD, BAD, BAD, NONE, NONE, BAD], "{callback}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_body() {
    let plan = json!({ "on_request_body": [
        ["buffer", "request_body", 0, 100], ["buffer", "request_body", 1, 2], ["buffer", "request_body", 1, -1],
        ["buffer", "request_body", 4, 1], ["buffer", "request_body", 100, 1], ["buffer", "request_body", -1, -1],
        ["buffer", "response_body", 0, 1], ["set_buffer", "response_body", 0, 0, "x"],
        ["set_buffer", "request_body", 1, 2, "--"], ["buffer", "request_body", 0, 100],
        ["set_buffer", "request_body", 2, 0, "<>"], ["buffer", "request_body", 0, 100],
        ["set_buffer", "request_body", 100, -1, "end"], ["buffer", "request_body", 0, 100],
        ["set_buffer", "request_body", 0, 0, "start"], ["buffer", "request_body", 0, 100],
        ["set_buffer", "request_body", 3, -1, ""], ["buffer", "request_body", 0, 100],
        ["set_buffer", "request_body", 0, -1, "body"],
    ] });
    let given = outcomes(&answered(&plan).await, "first", "on_request_body");
    let shown = |index: usize| given[index].trim_matches('"');
    let reads: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 15, 17].map(shown).into();
    assert_eq!(reads, ["body", "od", "ody", "", "", "", "", "b--y", "b-<>-y", "b-<>-yend", "startb-<>-yend", "sta"]);
    assert_eq!(given[7], BAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_that_are_not_there() {
    let plan = json!({ "on_request_headers": [
        ["pairs", "response_headers"], ["get", "response_headers", "a"], ["map_size", "response_headers"],
        ["add", "response_headers", "a", "b"], ["set_pairs", "response_trailers", [["a", "b"]]],
        ["pairs", "call_headers"], ["get", "call_headers", "a"], ["replace", "call_headers", "a", "b"],
        ["pairs", 8], ["get", 8, "a"], ["get", "request_headers", ""], ["get", "request_headers", "x y"],
        ["map_size", "request_headers"],
        ["effective", 1], ["pairs", "request_headers"], ["get", "request_headers", ":path"], ["add", "request_headers", "a", "b"],
        ["effective", 99], ["effective", 0], ["get", "request_headers", ":path"],
    ], "on_log": [["get", "request_headers", ":path"], ["remove", "request_headers", "a"], ["get", "request_trailers", "a"]] });
    let proxy = answered(&plan).await;
    let given = outcomes(&proxy, "first", "on_request_headers");
    assert_eq!(given[..12], ["[]", NONE, BAD, BAD, BAD, "[]", NONE, BAD, BAD, BAD, NONE, NONE]);
    assert!(given[12].parse::<usize>().is_ok_and(|size| size > 40), "{}", given[12]);
    assert_eq!(given[13..], ["OK", "[]", NONE, BAD, BAD, "OK", r#""/""#]);
    assert_eq!(outcomes(&proxy, "first", "on_log"), [r#""/""#, BAD, NONE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_a_request_cannot_do_without_stay() {
    let origin = Origin::saying("hello").await;
    let plan = json!({ "on_request_headers": [
        ["remove", "request_headers", "host"], ["remove", "request_headers", ":authority"], ["remove", "request_headers", ":path"],
        ["if", "/set", [["set_pairs", "request_headers", [["x-set", "1"], ["X-Set", "2"], [":path", "/other"]]]]],
        ["add", "request_headers", ":other", "1"],
    ], "on_response_headers": [
        ["remove", "response_headers", ":status"], ["replace", "response_headers", ":path", "/"],
        ["replace", "response_headers", ":status", "299"],
    ] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));

    assert_eq!(send(http1().get(proxy.url("/")).header("x-own", "1")).await.status, 299);
    let received = origin.last();
    assert_eq!((received.uri.as_str(), received.header("x-own")), ("/", Some("1")));
    assert_eq!(received.header("host"), Some(proxy.addr().to_string().as_str()));
    assert_eq!(outcomes(&proxy, "first", "on_request_headers"), ["OK"; 4]);
    assert_eq!(outcomes(&proxy, "first", "on_response_headers"), ["OK"; 3]);

    assert_eq!(send(http1().get(proxy.url("/set")).header("x-own", "1")).await.status, 299);
    let received = origin.last();
    assert_eq!((received.uri.as_str(), received.header("x-own")), ("/other", None));
    assert!(received.headers.get_all("x-set").iter().eq(["1", "2"]));
    assert_eq!(received.header("host"), Some(proxy.addr().to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sent_ends_its_stream_and_no_other() {
    const VALUE: &str = "invalid header value for: ";
    let origin = Origin::saying("hello").await;
    let cases = |map: &str, replaced: &[(&str, &str)]| {
        let mut cases = vec![
            (json!(["add", map, "x-wrong", "a\r\nb: c"]), format!("{VALUE}x-wrong")),
            (json!(["replace", map, "x-wrong", { "hex": "00" }]), format!("{VALUE}x-wrong")),
            (json!(["add", map, "x y", "1"]), "invalid header name: x y".into()),
            (json!(["set_pairs", map, [["x-new", "1"], ["x-wrong", "a\r\nb: c"]]]), format!("{VALUE}x-wrong")),
            (json!(["set_pairs", map, { "hex": "05000000" }]), "invalid headers: the map ends too early".into()),
        ];
        let replace = |(name, value): &(&str, &str)| (json!(["replace", map, name, value]), format!("{VALUE}{name}"));
        cases.extend(replaced.iter().map(replace));
        cases
    };
    let pseudo =
        [(":path", "no path"), (":method", "B A D"), (":method", "HEAD"), (":authority", "a b"), ("host", "a b")];
    let requests = cases("request_headers", &pseudo);
    let responses = cases("response_headers", &[(":status", "abc"), (":status", "103")]);
    // The map is as it was.
    let steps = |start: &str, map: &str, cases: &[(Value, String)]| -> Vec<Value> {
        let step = |(number, (step, _)): (usize, &(Value, String))| {
            json!(["if", format!("/{start}{number}"), [step, ["get", map, "x-own"], ["get", map, "x-new"]]])
        };
        cases.iter().enumerate().map(step).collect()
    };
    let plan = json!({
        "on_request_headers": steps("request", "request_headers", &requests),
        "on_response_headers": steps("response", "response_headers", &responses),
    });
    let again = json!({ "on_request_headers": [["if", "/own", [
        ["add", "request_headers", "x-wrong", "\n"], ["local_response", { "status": 403, "body": "own" }],
    ]]] });
    let filters = pw_probe("first", &plan) + &pw_probe("second", &again);
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &filters));
    for client in [http1(), http2()] {
        for (start, cases, status) in [("request", &requests, 503), ("response", &responses, 502)] {
            for (number, (step, text)) in cases.iter().enumerate() {
                let before = origin.received().len();
                let answer = send(client.get(proxy.url(&format!("/{start}{number}"))).header("x-own", "1")).await;
                assert_eq!((answer.status, answer.text()), (status, text.clone()), "{step}");
                assert_eq!(answer.header("x-wrong"), None);
                assert_eq!(origin.received().len() - before, usize::from(status == 502), "{step}");
                proxy.wait_for_log(&format!("{text}: the stream ends"));
            }
        }
        // What a filter says itself counts.
        let answer = send(client.get(proxy.url("/own"))).await;
        assert_eq!((answer.status, answer.text()), (403, "own".into()));
        assert_eq!(send(client.get(proxy.url("/"))).await.text(), "hello");
    }
    let of_requests =
        lines(&proxy, "first").into_iter().filter(|line| line.contains("x-own") || line.contains("x-new"));
    let wrong: Vec<_> = of_requests
        .filter(|line| line.contains("request_headers") && line.starts_with("get"))
        .filter(|line| !line.ends_with("\"1\"") && !line.ends_with(NONE))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(!lines(&proxy, "first").iter().any(|line| line.contains(BAD)));
    assert!(!proxy.log().contains("failed:"), "the VM lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_switches_protocols_has_no_other_status() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        client.read_to_end().await;
    })
    .await;
    let plan = json!({ "on_response_headers": [["replace", "response_headers", ":status", "200"]] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.read_head().await.unwrap().status(), 502);
    proxy.wait_for_log("invalid header value for: :status: the stream ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_one_length() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let plan = json!({
        "on_request_headers": [["add", "request_headers", "content-length", "5"], ["pairs", "request_headers"]],
        "on_response_headers": [["add", "response_headers", "content-length", "5"], ["pairs", "response_headers"]],
    });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));
    let answer = send(http1().post(proxy.url("/")).body("hello")).await;
    assert_eq!((answer.status, answer.text()), (200, "hello".into()));
    for callback in ["on_request_headers", "on_response_headers"] {
        let given = outcomes(&proxy, "first", callback);
        assert_eq!(given[1].matches("content-length").count(), 1, "{callback}: {}", given[1]);
    }
}

/// What the host has no room for, and what filters ask it for beyond that.
#[tokio::test(flavor = "multi_thread")]
async fn limits_are_told_by_statuses_that_sdks_know() {
    let origin = Origin::saying("hello").await;
    let large = json!({ "times": 20 << 20, "text": "x" });
    let long = json!({ "times": 3 << 10, "text": "x" });
    let fill = |step: &str| -> Vec<Value> {
        (0..4)
            .map(
                |n| if step == "enqueue" { json!([step, "$q", large]) } else { json!([step, n.to_string(), large, 0]) },
            )
            .collect()
    };
    let mut steps = vec![json!(["let", "q", ["register_queue", "q"]])];
    steps.extend(fill("enqueue"));
    steps.extend(fill("set_shared"));
    steps.extend([
        json!(["let", "none", ["register_queue", { "times": 20 << 20, "text": "x" }]]),
        json!(["enqueue", "$none", "x"]),
        json!(["dequeue", "$none"]),
        json!(["let", "metric", ["define_metric", 0, long]]),
        json!(["increment_metric", "$metric", 1]),
        json!(["record_metric", "$metric", 1]),
        json!(["get_metric", "$metric"]),
    ]);
    let plan = json!({ "on_request_headers": steps });
    let keys = "limits = { memory = '1GiB', cpu_ms = 5000 }\n";
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan) + keys));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let given = outcomes(&proxy, "first", "on_request_headers");
    assert_eq!(given[1..9], ["OK", "OK", "OK", "OK", "OK", "OK", "OK", "CAS_MISMATCH"]);
    assert_eq!(given[10..12], [NONE, NONE]);
    assert_eq!(given[13..], ["OK", "OK", "0"]);
    for function in ["enqueue_shared_queue", "set_shared_data", "register_shared_queue", "define_metric"] {
        proxy.wait_for_log(&format!("proxy_{function}: "));
    }
}

/// A status does not say so, and a panic of an SDK hides it.
#[tokio::test(flavor = "multi_thread")]
async fn a_callout_to_a_cluster_that_is_not_there_is_logged_once() {
    let plan = json!({ "on_request_headers": [
        ["http_call", { "cluster": "nowhere" }],
        ["http_call", { "cluster": "nowhere" }],
        ["grpc_call", { "cluster": "neither" }],
        ["grpc_stream", { "cluster": "neither" }],
    ] });
    let mut site = Site::with("threads = 1");
    site.route("/", &format!("respond = {{ status = 200 }}\n{}", pw_probe("first", &plan)));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let given = outcomes(&proxy, "first", "on_request_headers");
    assert_eq!(given, ["BAD_ARGUMENT", "BAD_ARGUMENT", "PARSE_FAILURE", "PARSE_FAILURE"]);
    for line in ["proxy_http_call: there is no [upstream.nowhere]", "gRPC: there is no [upstream.neither]"] {
        assert!(proxy.wait_for_log(line).contains("filter=first "));
        assert_eq!(proxy.log().matches(line).count(), 1, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_that_cannot_be_sent() {
    let deaf = RawOrigin::start(|client, _| async move { std::mem::forget(client) }).await;
    let grpc = |keys: Value| {
        let mut call = json!({ "cluster": "grpc" });
        call.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        call
    };
    let part = json!({ "times": 600 << 10, "text": "x" });
    let plan = json!({ "on_request_headers": [
        ["grpc_call", grpc(json!({ "timeout": 3_000_000_000_u32 }))],
        ["grpc_call", grpc(json!({ "metadata": [[":path", "/x"], ["x-own", "1"]] }))],
        ["grpc_stream", grpc(json!({ "metadata": [[":path", "/x"]] }))],
        ["grpc_call", grpc(json!({ "metadata": [["x-wrong", "a\nb"]] }))],
        ["grpc_stream", grpc(json!({ "metadata": [["x y", "b"]] }))],
        ["let", "s", ["grpc_stream", grpc(json!({}))]],
        ["grpc_send", "$s", part, 0], ["grpc_send", "$s", part, 0], ["grpc_send", "$s", part, 0],
        ["let", "s", ["grpc_stream", grpc(json!({}))]],
        ["grpc_send", "$s", "last", 1], ["grpc_send", "$s", "late", 0],
    ] });
    let mut site = Site::with(&format!("[upstream.grpc]\nservers = [{{ addr = '{}' }}]\nh2 = true\n", deaf.addr()));
    site.route("/", &format!("respond = {{ status = 200 }}\n{}", pw_probe("first", &plan)));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let given = outcomes(&proxy, "first", "on_request_headers");
    let ids = given[..3].iter().filter(|id| id.parse::<u32>().is_ok()).count();
    assert_eq!(ids, 3, "{given:?}");
    assert_eq!(given[3..5], ["INTERNAL_FAILURE", "INTERNAL_FAILURE"]);
    assert_eq!([&given[6..9], &given[10..]].concat(), ["OK"; 5]);
    proxy.wait_for_log("proxy_grpc_send: the server does not take what has been sent before");
    proxy.wait_for_log("on_grpc_close(18, 8)");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_none() {
    let streams = json!([
        ["continue", "request"],
        ["continue", "downstream"],
        ["continue", "upstream"],
        ["continue", 4],
        ["close", "downstream"],
        ["close", "upstream"],
        ["close", -1],
    ]);
    let root = json!([["effective", 1], ["close", "request"], ["local_response", { "status": 403 }], ["done"]]);
    let plan =
        json!({ "on_request_headers": streams, "on_response_headers": root, "on_log": [["continue", "response"]] });
    let proxy = answered(&plan).await;
    assert_eq!(outcomes(&proxy, "first", "on_request_headers"), ["OK", "OK", "UNIMPLEMENTED", BAD, "OK", "OK", BAD]);
    assert_eq!(outcomes(&proxy, "first", "on_response_headers"), ["OK", "OK", "OK", NONE]);
    assert_eq!(outcomes(&proxy, "first", "on_log"), ["OK"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_response_denies_whatever_is_wrong_with_it() {
    let origin = Origin::saying("secret").await;
    let deny = |path: &str, reply: Value| json!(["if", path, [["local_response", reply], ["pause"]]]);
    let plan = json!({ "on_request_headers": [
        deny("/map", json!({ "status": 403, "body": "no", "headers": { "hex": "ff000000" } })),
        deny("/header", json!({ "status": 403, "headers": [["x-good", "1"], ["x-bad", "a\r\nb: c"], ["x y", "1"], [":status", "200"]] })),
        deny("/0", json!({ "status": 0 })), deny("/100", json!({ "status": 100 })), deny("/-1", json!({ "status": -1 })),
        deny("/600", json!({ "status": 600 })),
    ] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));

    let answer = send(http1().get(proxy.url("/map"))).await;
    assert_eq!((answer.status, answer.text()), (403, "no".into()));
    proxy.wait_for_log("proxy_send_local_response: left out: the map ends too early");
    let answer = send(http1().get(proxy.url("/header"))).await;
    assert_eq!((answer.status, answer.header("x-good"), answer.header("x-bad")), (403, Some("1"), None));
    proxy.wait_for_log("left out: the header \"x-bad\"");
    assert_eq!(send(http1().get(proxy.url("/600"))).await.status, 600);
    for path in ["/0", "/100", "/-1"] {
        let error = soon("the end", http1().get(proxy.url(path)).send()).await.unwrap_err();
        assert!(error.is_request(), "{path}: {error:?}");
    }
    assert!(origin.received().is_empty());
    // The VM lives.
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "secret");
    assert!(!proxy.log().contains("failed:"));
}
