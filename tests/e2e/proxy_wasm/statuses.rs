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
        // What cannot be sent leaves everything as it was.
        ["set_pairs", "request_headers", [["x-wrong", "a\r\nb: c"]]], ["set_pairs", "request_headers", { "hex": "05000000" }],
        ["add", "request_headers", "x y", "1"], ["add", "request_headers", "x-nul", { "hex": "00" }],
        ["add", "request_headers", ":other", "1"], ["replace", "request_headers", ":path", "no path"],
        ["replace", "request_headers", ":method", "B A D"], ["replace", "request_headers", ":authority", "a b"],
    ], "on_response_headers": [
        ["replace", "response_headers", ":status", "abc"], ["replace", "response_headers", ":status", "103"],
        ["remove", "response_headers", ":status"], ["replace", "response_headers", ":status", "299"],
    ] });
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));

    assert_eq!(send(http1().get(proxy.url("/")).header("x-own", "1")).await.status, 299);
    let received = origin.last();
    assert_eq!((received.uri.as_str(), received.header("x-own")), ("/", Some("1")));
    assert_eq!(received.header("host"), Some(proxy.addr().to_string().as_str()));
    assert_eq!(outcomes(&proxy, "first", "on_request_headers")[3..], [BAD; 8]);
    assert_eq!(outcomes(&proxy, "first", "on_response_headers"), [BAD, BAD, "OK", "OK"]);

    assert_eq!(send(http1().get(proxy.url("/set")).header("x-own", "1")).await.status, 299);
    let received = origin.last();
    assert_eq!((received.uri.as_str(), received.header("x-own")), ("/other", None));
    assert!(received.headers.get_all("x-set").iter().eq(["1", "2"]));
    assert_eq!(received.header("host"), Some(proxy.addr().to_string().as_str()));
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
