//! `proxy_grpc_call`, `proxy_grpc_stream` and what comes of them.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::case::*;
use crate::compare;
use crate::reason::Reason;

#[tokio::test(flavor = "multi_thread")]
async fn grpc() {
    compare("grpc", cases()).await;
}

pub fn cases() -> Vec<Case> {
    calls().into_iter().chain(streams()).collect()
}

/// A message with its prefix (gRPC over HTTP/2, Length-Prefixed-Message).
fn message(text: &str) -> Bytes {
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend(text.as_bytes());
    message.into()
}

fn served(messages: &[&str], status: &'static str, text: &'static str) -> Message {
    response(200, "")
        .chunks(messages.iter().map(|text| message(text)))
        .header("content-type", "application/grpc")
        .header("x-initial", "1")
        .trailer("grpc-status", status)
        .trailer("grpc-message", text)
        .trailer("x-trailing", "1")
}

fn trailers_only(status: &'static str) -> Message {
    empty(200)
        .header("content-type", "application/grpc")
        .header("grpc-status", status)
        .header("grpc-message", "only%20this")
}

fn then() -> Value {
    json!({
        "on_grpc_receive": [
            ["buffer", "grpc_message", 0, 100], ["buffer_status", "grpc_message"], ["status"],
            ["pairs", "grpc_initial_metadata"], ["pairs", "grpc_trailing_metadata"], ["continue", "request"],
        ],
        "on_grpc_close": [["status"], ["continue", "request"]],
    })
}

fn calls() -> Vec<Case> {
    let call = |name, answer: fn(usize, &str) -> Answer, mut given: Value| {
        given["cluster"] = "@service".into();
        given["then"] = then();
        Case::probe(name, json!({ "on_request_headers": [["grpc_call", given], ["pause"]] }))
            .origin(Origin::new("service", answer).h2())
    };
    let refused =
        |name, given: Value| Case::probe(name, json!({ "on_request_headers": [["grpc_call", given], ["status"]] }));
    vec![
        call("unary", |_, _| served(&["answer"], "0", "").into(), json!({ "message": "question" })),
        call(
            "unary_with_metadata",
            |_, _| served(&["answer"], "0", "").into(),
            json!({ "metadata": [["x-own", "1"], ["X-Upper", "2"], ["x-bin", { "hex": "00ff" }]] }),
        ),
        call("unary_without_a_message", |_, _| served(&[""], "0", "").into(), json!({})),
        call("unary_fails", |_, _| served(&[], "5", "not here").into(), json!({})),
        call("unary_fails_at_once", |_, _| trailers_only("7").into(), json!({})),
        call("unary_of_http_500", |_, _| response(500, "broken").into(), json!({})),
        call("unary_of_no_grpc", |_, _| response(200, "hello").into(), json!({})),
        call("unary_too_late", |_, _| Answer::Silence, json!({ "timeout": 300 })),
        call("unary_is_reset", |_, _| Answer::Reset, json!({})),
        call("unary_with_two_answers", |_, _| served(&["one", "two"], "0", "").into(), json!({})),
        call("unary_without_an_answer", |_, _| served(&[], "0", "").into(), json!({})),
        refused("unary_of_an_unknown_cluster", json!({ "cluster": "nobody" })),
        refused("unary_of_no_cluster", json!({ "cluster": "" })).crashes(Reason::Crash),
        Case::probe(
            "unary_is_cancelled",
            json!({ "on_request_headers": [
            ["let", "call", ["grpc_call", { "cluster": "@service", "then": then() }]],
            ["grpc_cancel", "$call"], ["grpc_cancel", "$call"],
            ["let", "call", ["grpc_call", { "cluster": "@service", "then": then() }]],
            ["grpc_close", "$call"], ["grpc_close", "$call"],
            ["grpc_send", "$call", "more", 1],
        ] }),
        )
        .origin(Origin::new("service", |_, _| Answer::Silence).h2()),
        Case::probe(
            "unary_is_cancelled_in_its_answer",
            json!({
                "on_request_headers": [
                    ["let", "call", ["grpc_call", { "cluster": "@service", "then": { "on_grpc_receive": [
                        ["grpc_cancel", "$call"], ["grpc_cancel", "$call"], ["continue", "request"],
                    ] } }]],
                    ["pause"],
                ],
                "on_response_headers": [["grpc_cancel", "$call"]],
            }),
        )
        .origin(Origin::new("service", |_, _| served(&["a"], "0", "")).h2()),
        Case::probe(
            "calls_that_are_none",
            json!({ "on_request_headers": [
            ["grpc_cancel", 1], ["grpc_close", 1], ["grpc_send", 1, "x", 0],
            ["grpc_cancel", 2], ["grpc_close", 2], ["grpc_send", 2, "x", 0],
            ["grpc_cancel", 0], ["grpc_close", 0], ["grpc_send", 0, "x", 0],
            ["grpc_cancel", 9999], ["grpc_close", 9998], ["grpc_send", 9998, "x", 0],
        ] }),
        ),
    ]
}

fn streams() -> Vec<Case> {
    let all = json!({
        "on_grpc_receive_initial_metadata": [["pairs", "grpc_initial_metadata"], ["get", "grpc_initial_metadata", "x-initial"]],
        "on_grpc_receive": [["buffer", "grpc_message", 0, 100], ["status"]],
        "on_grpc_receive_trailing_metadata": [["pairs", "grpc_trailing_metadata"], ["get", "grpc_trailing_metadata", "x-trailing"]],
        "on_grpc_close": [["status"], ["continue", "request"]],
    });
    let stream = |name, answer: fn(usize, &str) -> Answer, rest: Value| {
        let mut steps = vec![
            json!(["let", "stream", ["grpc_stream", { "cluster": "@service", "metadata": [["x-own", "1"]], "then": all }]]),
        ];
        steps.extend(rest.as_array().unwrap().iter().cloned());
        steps.push(json!(["pause"]));
        Case::probe(name, json!({ "on_request_headers": steps })).origin(Origin::new("service", answer).h2())
    };
    let sends = || json!([["grpc_send", "$stream", "one", 0], ["grpc_send", "$stream", "two", 1]]);
    // One that the filter has not closed when the server ends it.
    let ended = |name, then: Value, mut plan: Value| {
        plan["on_request_headers"] = json!([
            ["let", "stream", ["grpc_stream", { "cluster": "@service", "then": then }]],
            ["grpc_send", "$stream", "one", 0],
            ["pause"],
        ]);
        Case::probe(name, plan).origin(Origin::new("service", |_, _| Answer::Early(served(&["a"], "0", ""))).h2())
    };
    vec![
        stream("stream_to_its_end", |_, _| served(&["a", "b"], "0", "fine").into(), sends()),
        stream("stream_is_closed", |_, _| served(&["a"], "0", "").into(), json!([["grpc_send", "$stream", "one", 0], ["grpc_close", "$stream"]])),
        stream("stream_fails", |_, _| served(&["a"], "9", "a%20reason").into(), sends()),
        stream("stream_fails_at_once", |_, _| trailers_only("7").into(), sends()),
        stream("stream_is_reset", |_, _| Answer::Reset, sends()),
        stream("stream_of_http_500", |_, _| response(500, "broken").into(), sends()),
        Case::probe("stream_is_cancelled", json!({ "on_request_headers": [
            ["let", "stream", ["grpc_stream", { "cluster": "@service", "then": all }]],
            ["grpc_send", "$stream", "one", 0], ["grpc_cancel", "$stream"], ["grpc_cancel", "$stream"], ["grpc_send", "$stream", "two", 0],
        ] }))
        .origin(Origin::new("service", |_, _| Answer::Silence).h2()),
        Case::probe("stream_after_its_end", json!({ "on_request_headers": [
            ["let", "stream", ["grpc_stream", { "cluster": "@service", "then": all }]],
            ["grpc_send", "$stream", "one", 1], ["grpc_send", "$stream", "two", 1], ["grpc_close", "$stream"], ["pause"],
        ] }))
        .origin(Origin::new("service", |_, _| served(&["a"], "0", "")).h2()),
        ended("stream_is_closed_in_its_end", json!({ "on_grpc_close": [
            ["grpc_send", "$stream", "late", 0], ["grpc_close", "$stream"], ["grpc_close", "$stream"], ["continue", "request"],
        ] }), json!({ "on_response_headers": [["grpc_close", "$stream"]] })),
        ended("stream_is_cancelled_in_its_end", json!({ "on_grpc_close": [
            ["grpc_cancel", "$stream"], ["grpc_cancel", "$stream"], ["continue", "request"],
        ] }), json!({})),
        ended("stream_is_closed_after_its_end", json!({ "on_grpc_close": [["continue", "request"]] }), json!({
            "on_response_headers": [["grpc_close", "$stream"], ["grpc_close", "$stream"]],
        })),
        Case::probe("stream_of_an_unknown_cluster", json!({ "on_request_headers": [["grpc_stream", { "cluster": "nobody" }], ["status"]] })),
    ]
}
