//! `proxy_http_call` and its answers.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn callouts() {
    compare("callouts", cases()).await;
}

pub fn cases() -> Vec<Case> {
    requests().into_iter().chain(answers()).chain(places()).collect()
}

fn answer() -> Value {
    json!([
        ["pairs", "call_headers"],
        ["get", "call_headers", ":status"],
        ["get", "call_headers", "x-none"],
        ["buffer", "call_body", 0, 1000],
        ["buffer_status", "call_body"],
        ["buffer", "call_body", 2, 3],
        ["pairs", "call_trailers"],
        ["get", "call_trailers", "x-after"],
        ["status"],
        ["continue", "request"],
    ])
}

/// A call in request headers, which wait for its answer.
fn call(name: &'static str, mut given: Value) -> Case {
    if given["cluster"].is_null() {
        given["cluster"] = "@callee".into();
    }
    given["then"] = answer();
    Case::probe(name, json!({ "on_request_headers": [["http_call", given], ["pause"]] })).callee()
}

/// Pseudo-headers of a POST, and more.
fn headers(more: Value) -> Value {
    let mut headers = json!([[":method", "POST"], [":path", "/whole?a=b"], [":authority", "callee.test"]]);
    headers.as_array_mut().unwrap().extend(more.as_array().unwrap().iter().cloned());
    headers
}

fn requests() -> Vec<Case> {
    // What is refused leaves nothing to wait for.
    let refused = |name, given: Value| {
        Case::probe(name, json!({ "on_request_headers": [["http_call", given], ["status"]] })).callee()
    };
    vec![
        call("call_get", json!({})),
        call("call_post", json!({ "headers": headers(json!([["X-Own", "1"], ["x-own", "2"]])), "body": "hello" })),
        call(
            "call_with_a_length_of_its_own",
            json!({ "headers": headers(json!([["content-length", "5"]])), "body": "hello" }),
        ),
        call(
            "call_with_a_wrong_length",
            json!({ "headers": headers(json!([["content-length", "2"]])), "body": "hello" }),
        ),
        call(
            "call_with_trailers",
            json!({ "headers": headers(json!([])), "body": "hello", "trailers": [["x-end", "1"]] }),
        ),
        call(
            "call_h2_with_trailers",
            json!({ "headers": headers(json!([])), "body": "hello", "trailers": [["x-end", "1"]] }),
        )
        .origin(Origin::new("callee", |_, _| response(200, "").chunks(["one", "two"]).trailer("x-after", "1")).h2()),
        call("call_with_trailers_and_no_body", json!({ "headers": headers(json!([])), "trailers": [["x-end", "1"]] })),
        call("call_with_a_scheme", json!({ "headers": headers(json!([[":scheme", "https"]])) })),
        call(
            "call_with_a_large_body",
            json!({ "headers": headers(json!([])), "body": { "times": 300_000, "text": "x" } }),
        ),
        call("call_without_a_time_limit", json!({ "timeout": 0 })),
        call(
            "call_with_a_user_agent",
            json!({ "headers": headers(json!([["user-agent", "me"], ["x-forwarded-for", "1.2.3.4"]])) }),
        ),
        call(
            "call_with_an_empty_authority",
            json!({ "headers": [[":method", "GET"], [":path", "/"], [":authority", ""]] }),
        ),
        call(
            "call_with_an_authority_that_is_no_host",
            json!({ "headers": [[":method", "GET"], [":path", "/"], [":authority", "outbound|80||callee"]] }),
        ),
        refused(
            "call_without_a_path",
            json!({ "cluster": "@callee", "headers": [[":method", "GET"], [":authority", "a"]] }),
        ),
        refused(
            "call_without_a_method",
            json!({ "cluster": "@callee", "headers": [[":path", "/"], [":authority", "a"]] }),
        ),
        refused(
            "call_without_an_authority",
            json!({ "cluster": "@callee", "headers": [[":path", "/"], [":method", "GET"]] }),
        ),
        refused("call_without_headers", json!({ "cluster": "@callee", "headers": [] })),
        refused("call_of_an_unknown_cluster", json!({ "cluster": "nobody" })),
        refused("call_of_no_cluster", json!({ "cluster": "" })),
        refused("call_with_a_negative_time_limit", json!({ "cluster": "@callee", "timeout": -1 })),
        refused("call_with_headers_that_are_none", json!({ "cluster": "@callee", "headers": { "hex": "ff000000" } })),
    ]
}

fn answers() -> Vec<Case> {
    let from = |name, answer: fn(usize, &str) -> Answer| {
        call(name, json!({ "timeout": 2000 })).origin(Origin::new("callee", answer))
    };
    vec![
        from("answer_with_headers", |_, _| response(418, "teapot").header("x-one", "1").header("x-one", "2").into()),
        from("answer_without_a_body", |_, _| empty(204).into()),
        from("answer_in_pieces", |_, _| response(200, "").chunks(["one", "two", "three"]).into()),
        from("answer_of_500", |_, _| response(500, "broken").into()),
        from("answer_of_a_redirect", |_, _| response(302, "").header("location", "/elsewhere").into()),
        from("a_large_answer", |_, _| response(200, "y".repeat(300_000)).into()),
        from("answer_too_late", |_, _| Answer::Silence),
        from("answer_is_a_reset", |_, _| Answer::Reset),
        from("answer_is_cut_off", |_, _| response(200, "").chunks(["one", "two"]).broken().into()),
        call("nobody_answers", json!({})).origin(Origin::new("callee", |_, _| Answer::Reset).down()),
        call("maps_of_the_stream_in_an_answer", json!({})).plan("on_request_headers", json!([["http_call", { "cluster": "@callee", "then": [
            ["pairs", "request_headers"], ["add", "request_headers", "x-late", "1"], ["replace", "request_headers", ":path", "/late"],
            ["pairs", "response_headers"], ["buffer", "request_body", 0, 10], ["property", ["request", "path"]],
            ["add", "call_headers", "x", "y"], ["set_buffer", "call_body", 0, 0, "x"], ["continue", "request"],
        ] }], ["pause"]])),
        // Without the effective context, it is the root's.
        Case::probe("an_answer_in_the_root_context", json!({
            "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["continue", "request"]] }], ["pause"]],
            "on_http_call_response": [["pairs", "request_headers"], ["get", "request_headers", ":path"], ["get", "call_headers", ":status"], ["property", ["request", "path"]], ["self"]],
        }))
        .callee(),
        Case::probe("after_the_answer_there_is_none", json!({
            "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["continue", "request"]] }], ["pause"]],
            "on_response_headers": [["pairs", "call_headers"], ["get", "call_headers", ":status"], ["buffer", "call_body", 0, 10], ["status"]],
        }))
        .callee(),
    ]
}

fn places() -> Vec<Case> {
    let in_callback = |name, callback: &str, side: &str| {
        Case::probe(name, json!({ callback: [
            ["if", 1, [["http_call", { "cluster": "@callee", "then": [["buffer", "call_body", 0, 100], ["continue", side]] }]]], ["pause"],
        ] }))
        .callee()
        .answered(response(200, "").chunks(["one", "two"]).slowly())
        .request(post("/", "").chunks(["one", "two"]).slowly())
    };
    vec![
        in_callback("call_in_request_body", "on_request_body", "request"),
        in_callback("call_in_response_headers", "on_response_headers", "response"),
        in_callback("call_in_response_body", "on_response_body", "response"),
        Case::probe("one_after_another", json!({ "on_request_headers": [["http_call", { "cluster": "@callee", "then": [
            ["buffer", "call_body", 0, 100],
            ["http_call", { "cluster": "@callee", "then": [["buffer", "call_body", 0, 100], ["continue", "request"]] }],
        ] }], ["pause"]] }))
        .callee(),
        Case::probe("two_at_once", json!({ "on_request_headers": [
            ["http_call", { "cluster": "@callee", "then": [["buffer", "call_body", 0, 100]] }],
            ["http_call", { "cluster": "@slow", "timeout": 300, "then": [["get", "call_headers", ":status"], ["continue", "request"]] }],
            ["pause"],
        ] }))
        .callee()
        .origin(Origin::new("slow", |_, _| Answer::Silence)),
        Case::probe("nobody_waits_for_it", json!({ "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["get", "call_headers", ":status"]] }]] }))
            .answered(response(200, "").chunks(["one", "two"]).slowly())
            .callee()
            .unordered()
        .until("on_http_call_response"),
        // What pauses later, and for something else, is shown the body all the same.
        Case::probe("nobody_waits_for_what_never_comes", json!({
            "on_response_headers": [["remove", "response_headers", "content-length"], ["http_call", { "cluster": "@callee", "timeout": 0, "then": [] }]],
            "on_response_body": [["if", "end", [["set_buffer", "response_body", 0, 0, "<"]], [["pause"]]]],
        }))
        .origin(Origin::new("callee", |_, _| Answer::Silence))
        .answered(response(200, "").chunks(["one", "two", "three"])),
        Case::probe("call_in_tick", json!({
            "on_request_headers": [["tick", 20]],
            "on_tick": [["tick", 0], ["http_call", { "cluster": "@callee", "then": [["get", "call_headers", ":status"], ["get", "request_headers", ":path"]] }]],
        }))
        .callee()
        .until("on_http_call_response"),
        Case::probe("call_in_configure", json!({
            "on_configure": [["http_call", { "cluster": "@callee", "then": [["get", "call_headers", ":status"]] }]],
        }))
        .callee()
        .unordered(),
    ]
}
