//! `proxy_send_local_response`, phase by phase.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;
use crate::reason::Reason;

#[tokio::test(flavor = "multi_thread")]
async fn local_response() {
    compare("local_response", cases()).await;
}

pub fn cases() -> Vec<Case> {
    phases().into_iter().chain(kinds()).collect()
}

fn reply() -> Value {
    json!(["local_response", {
        "status": 418, "details": "a teapot", "body": "short and stout", "headers": [["X-Local", "1"], ["x-local", "2"]],
    }])
}

/// What the log knows of a response.
fn facts() -> Value {
    json!([
        ["property", ["response", "code"]],
        ["property", ["response", "code_details"]],
        ["pairs", "response_headers"]
    ])
}

fn phases() -> Vec<Case> {
    let case = |name, callback: &str, steps: Value| {
        Case::probe(name, json!({ callback: steps, "on_log": facts() }))
            .answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
            .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
    };
    let call = |side: &str, then: Value| json!([["http_call", { "cluster": "@callee", "then": then }], ["pause"], ["log", 2, side]]);
    vec![
        case("in_request_headers", "on_request_headers", json!([reply(), ["pause"]])),
        case("in_request_headers_and_continue", "on_request_headers", json!([reply()])),
        case("in_request_body", "on_request_body", json!([["if", 1, [reply()]], ["pause"]])).ends_under_way(),
        case("in_request_trailers", "on_request_trailers", json!([reply(), ["pause"]])).ends_under_way(),
        case("in_response_headers", "on_response_headers", json!([["if", 1, [reply()]], ["pause"]])),
        case("in_response_headers_and_continue", "on_response_headers", json!([["if", 1, [reply()]]])),
        case("in_response_body", "on_response_body", json!([["if", 1, [reply()]], ["pause"]])),
        case("in_response_trailers", "on_response_trailers", json!([reply(), ["pause"]])),
        case("in_log", "on_log", json!([reply()])),
        case("in_done", "on_done", json!([reply()])).crashes(Reason::Crash),
        case("in_context_create", "on_context_create", json!([reply()])),
        case("in_call_response_of_a_request", "on_request_headers", call("request", json!([reply()]))).callee(),
        case(
            "in_call_response_of_a_response",
            "on_response_headers",
            json!([["if", 1, call("response", json!([reply()]))]]),
        )
        .callee(),
        // Held to the end: what comes first, the answer or the rest of the body, is the same each time.
        Case::probe(
            "in_call_response_of_a_held_request_body",
            json!({
                "on_request_body": [["if", "end", call("body", json!([reply()])), [["pause"]]]], "on_log": facts(),
            }),
        )
        .ends_under_way()
        .callee()
        .request(post("/", "hello")),
        Case::probe(
            "in_call_response_of_a_held_response_body",
            json!({
                "on_response_body": [["if", "end", call("body", json!([reply()])), [["pause"]]]], "on_log": facts(),
            }),
        )
        .callee(),
        case("in_held_response_body_before_headers", "on_response_headers", json!([["if", 1, [["return", 1]]]]))
            .plan("on_response_body", json!([["if", 1, [reply()]], ["pause"]]))
            .stop_iteration(),
        Case::probe(
            "in_tick",
            json!({
                "on_request_headers": [["let", "stream", ["self"]], ["tick", 50], ["pause"]],
                "on_tick": [["tick", 0], ["effective", "$stream"], reply()],
                "on_log": facts(),
            }),
        ),
        Case::probe("without_a_stream", json!({ "on_configure": [reply()] })),
    ]
}

fn kinds() -> Vec<Case> {
    let case = |name, given: Value| {
        Case::probe(name, json!({ "on_request_headers": [["local_response", given], ["pause"]], "on_log": facts() }))
    };
    let own = |name, given: Value| case(name, given).request(get("/")).request(get("/").h2());
    let grpc = |name, given: Value| {
        case(name, given)
            .request(post("/", "").header("content-type", "application/grpc").h2())
            .request(post("/", "").header("content-type", "application/grpc"))
            .request(get("/"))
    };
    vec![
        own("no_body", json!({ "status": 403 })),
        own("with_its_own_content_type", json!({ "status": 200, "body": "{}", "headers": [["Content-Type", "application/json"]] })),
        own("with_its_own_length", json!({ "status": 200, "body": "hello", "headers": [["content-length", "2"]] })),
        own("with_its_own_status", json!({ "status": 200, "body": "hello", "headers": [[":status", "299"], [":path", "/x"]] })),
        own("no_content", json!({ "status": 204, "body": "hello" })),
        own("not_modified", json!({ "status": 304, "body": "hello" })),
        own("status_0", json!({ "status": 0 })),
        own("status_99", json!({ "status": 99 })),
        own("status_100", json!({ "status": 100 })),
        own("status_600", json!({ "status": 600 })),
        own("status_1000", json!({ "status": 1000, "body": "hello" })),
        own("status_negative", json!({ "status": -1, "body": "hello" })),
        own("headers_that_are_none", json!({ "status": 200, "body": "hello", "headers": { "hex": "ff000000" } })),
        own("a_line_break_in_a_local_header", json!({ "status": 200, "body": "x", "headers": [["x-break", "a\r\nx-injected: 1"]] })),
        own("a_large_local_body", json!({ "status": 200, "body": { "times": 100_000, "text": "abc" } })),
        case("to_head", json!({ "status": 200, "body": "hello" })).request(get("/").method("HEAD")),
        grpc("grpc_status", json!({ "status": 200, "body": "a message", "headers": [["x-local", "1"]], "grpc_status": 10 })),
        grpc("grpc_status_0", json!({ "status": 200, "grpc_status": 0 })),
        grpc("grpc_status_none", json!({ "status": 403, "body": "no entry", "grpc_status": -1 })),
        grpc("grpc_status_17", json!({ "status": 503, "body": "so", "grpc_status": 17 })),
        Case::probe("twice", json!({ "on_request_headers": [
            ["local_response", { "status": 401, "body": "first" }], ["local_response", { "status": 402, "body": "second" }], ["pause"],
        ], "on_log": facts() })),
        Case::probe("and_then_continue_stream", json!({ "on_request_headers": [
            ["local_response", { "status": 401, "body": "first" }], ["continue", "request"], ["pause"],
        ] })),
        Case::probe("and_then_a_callout", json!({ "on_request_headers": [
            ["local_response", { "status": 401, "body": "first" }], ["http_call", { "cluster": "@callee", "then": [["get", "call_headers", ":status"]] }], ["pause"],
        ] }))
        // The answer comes when the stream is over.
        .origin(Origin::new("callee", |_, _| response(200, "").chunks(["late"]).slowly()))
        .until("on_http_call_response"),
        Case::probe("changed_on_its_way", json!({
            "on_request_headers": [["local_response", { "status": 401, "body": "first" }], ["pause"]],
            "on_response_headers": [["pairs", "response_headers"], ["replace", "response_headers", ":status", "407"], ["add", "response_headers", "x-way", "1"], ["remove", "response_headers", "content-length"]],
            "on_response_body": [["if", "end", [["set_buffer", "response_body", 0, -1, "changed"]], [["pause"]]]],
        })),
        // Its own response phase sends another.
        Case::probe("answered_again", json!({
            "on_request_headers": [["local_response", { "status": 401, "body": "first" }], ["pause"]],
            "on_response_headers": [["if", 1, [["local_response", { "status": 402, "body": "second" }], ["pause"]]]],
        })),
        // Through a chain: the filters after the one that answers see nothing, those before see the response.
        Case::probe("from_the_second_filter", json!({ "on_response_headers": [["add", "response_headers", "x-first", "1"]] }))
            .then(Filter::probe(json!({ "on_request_headers": [["local_response", { "status": 401, "body": "second" }], ["pause"]], "on_response_headers": [["add", "response_headers", "x-second", "1"]] })))
            .then(Filter::probe(json!({ "on_response_headers": [["add", "response_headers", "x-third", "1"]] }))),
        Case::probe("from_the_first_filter", json!({ "on_request_headers": [["local_response", { "status": 401, "body": "first" }], ["pause"]] }))
            .then(Filter::probe(json!({ "on_response_headers": [["add", "response_headers", "x-second", "1"]] }))),
        Case::probe("from_the_second_filter_in_the_response", json!({ "on_response_headers": [["add", "response_headers", "x-first", "1"]] }))
            .then(Filter::probe(json!({ "on_response_headers": [["local_response", { "status": 401, "body": "second" }], ["pause"]] }))),
        Case::probe("from_the_first_filter_in_the_response", json!({ "on_response_headers": [["local_response", { "status": 401, "body": "first" }], ["pause"]] }))
            .then(Filter::probe(json!({ "on_response_headers": [["add", "response_headers", "x-second", "1"]] }))),
    ]
}
