//! Buffers, and bodies that are held.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn bodies() {
    compare("bodies", cases()).await;
}

pub fn cases() -> Vec<Case> {
    reads().into_iter().chain(changes()).chain(holds()).chain(limits()).collect()
}

fn reads() -> Vec<Case> {
    let ranges = |buffer: &str| {
        json!([[
            "if",
            "end",
            [
                ["buffer_status", buffer],
                ["buffer", buffer, 0, 5],
                ["buffer", buffer, 2, 2],
                ["buffer", buffer, 3, 100],
                ["buffer", buffer, 0, -1],
                ["buffer", buffer, 5, 1],
                ["buffer", buffer, 6, 1],
                ["buffer", buffer, 100, 1],
                ["buffer", buffer, 0, 0],
                ["buffer", buffer, -1, 1],
                ["buffer", buffer, 1, -1],
            ],
            [["pause"]]
        ]])
    };
    const BUFFERS: [&str; 9] = [
        "request_body",
        "response_body",
        "downstream_data",
        "upstream_data",
        "call_body",
        "grpc_message",
        "vm_configuration",
        "plugin_configuration",
        "call_data",
    ];
    let all = || -> Vec<Value> {
        BUFFERS
            .iter()
            .flat_map(|buffer| [json!(["buffer", buffer, 0, 5]), json!(["buffer_status", buffer])])
            .chain([json!(["buffer", 9, 0, 1]), json!(["buffer", -1, 0, 1])])
            .collect()
    };
    let writes = || -> Vec<Value> {
        BUFFERS
            .iter()
            .map(|buffer| json!(["set_buffer", buffer, 0, 0, "x"]))
            .chain([json!(["set_buffer", 9, 0, 0, "x"])])
            .collect()
    };
    let mut cases = vec![
        Case::probe("ranges_of_a_request_body", json!({ "on_request_body": ranges("request_body") }))
            .request(post("/", "hello")),
        Case::probe("ranges_of_a_response_body", json!({ "on_response_body": ranges("response_body") })),
    ];
    let phases = [
        ("buffers_in_request_headers", "on_request_headers"),
        ("buffers_in_request_trailers", "on_request_trailers"),
        ("buffers_in_response_headers", "on_response_headers"),
        ("buffers_in_response_trailers", "on_response_trailers"),
        ("buffers_in_log", "on_log"),
        ("buffers_in_done", "on_done"),
        ("buffers_in_context_create", "on_context_create"),
        ("buffers_in_configure", "on_configure"),
    ];
    for (name, callback) in phases {
        let mut filter = Filter::probe(json!({ callback: ([all(), writes()].concat()) }));
        filter.vm_configuration = json!({ "on_vm_start": all() }).to_string();
        cases.push(
            Case::new(name, filter)
                .answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
                .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2()),
        );
    }
    let other =
        |buffer: &'static str| -> Vec<Value> { writes().into_iter().filter(|step| step[1] != buffer).collect() };
    cases.push(
        Case::probe(
            "buffers_in_request_body",
            json!({ "on_request_body": [["if", "end", ([all(), other("request_body")].concat()), [["pause"]]]] }),
        )
        .request(post("/", "hello")),
    );
    cases.push(Case::probe(
        "buffers_in_response_body",
        json!({ "on_response_body": [["if", "end", ([all(), other("response_body")].concat()), [["pause"]]]] }),
    ));
    cases
}

/// Every splice, on the whole body and on the pieces.
fn changes() -> Vec<Case> {
    let splices = [
        ("prepend", json!([0, 0, "<<"])),
        ("append", json!([5, 0, ">>"])),
        ("append_far_behind", json!([1000, 0, ">>"])),
        ("replace_all", json!([0, 5, "other"])),
        ("replace_all_with_a_longer_one", json!([0, -1, "something longer"])),
        ("replace_with_nothing", json!([0, 5, ""])),
        ("replace_the_start", json!([0, 2, "HE"])),
        ("replace_the_middle", json!([1, 3, "i"])),
        ("insert", json!([2, 0, "--"])),
        ("replace_the_end", json!([3, 100, "p"])),
        ("drain_more_than_there_is", json!([0, 100, "x"])),
        ("append_with_a_size", json!([5, 5, "x"])),
    ];
    let mut cases = Vec::new();
    for (name, splice) in splices {
        for (side, callback, length) in [
            ("request_body", "on_request_body", "request_headers"),
            ("response_body", "on_response_body", "response_headers"),
        ] {
            let headers = callback.replace("_body", "_headers");
            let step = json!(["set_buffer", side, splice[0], splice[1], splice[2]]);
            let plan = json!({
                headers: [["remove", length, "content-length"]],
                callback: [["if", "end", [step, ["buffer", side, 0, 100], ["buffer_status", side]], [["pause"]]]],
            });
            let name: &'static str = format!("{name}_of_{side}").leak();
            cases.push(Case::probe(name, plan).request(post("/", "hello")));
        }
    }
    cases.extend([
        Case::probe("change_each_piece", json!({
            "on_request_headers": [["remove", "request_headers", "content-length"]],
            "on_request_body": [["set_buffer", "request_body", 0, 0, "["], ["set_buffer", "request_body", 1000, 0, "]"]],
            "on_response_body": [["set_buffer", "response_body", 0, 0, "("], ["set_buffer", "response_body", 1000, 0, ")"]],
        }))
        .answered(response(200, "").chunks(["one", "two"]))
        .request(post("/", "").chunks(["one", "two"]))
        .request(post("/", "").chunks(["one", "two"]).h2()),
        Case::probe("change_a_body_with_a_length", json!({
            "on_response_body": [["if", "end", [["set_buffer", "response_body", 0, -1, "longer than before"]], [["pause"]]]],
        }))
        .request(get("/"))
        .request(get("/").h2()),
        Case::probe("shorten_a_body_with_a_length", json!({
            "on_response_body": [["if", "end", [["set_buffer", "response_body", 0, -1, "he"]], [["pause"]]]],
        })),
        Case::probe("shorten_a_request_with_a_length", json!({
            "on_request_body": [["if", "end", [["set_buffer", "request_body", 0, -1, "he"]], [["pause"]]]],
        }))
        .request(post("/", "hello")),
    ]);
    cases
}

fn holds() -> Vec<Case> {
    let chunked = |case: Case| {
        case.answered(response(200, "").chunks(["one", "two", "three"]))
            .request(post("/", "").chunks(["one", "two", "three"]))
            .request(post("/", "").chunks(["one", "two", "three"]).h2())
    };
    let with_trailers = |case: Case| {
        case.answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
            .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
    };
    let until_end = |side: &str| json!([["if", "end", [["buffer", side, 0, 100]], [["pause"]]]]);
    let returning = |callback: &str, n: u32| json!({ callback: [["if", 1, [["return", n]]]] });
    let mut cases = vec![
        chunked(Case::probe("hold_bodies", json!({
            "on_request_body": until_end("request_body"),
            "on_response_body": until_end("response_body"),
        }))),
        // With trailers, the end of the stream is not told with the body.
        with_trailers(Case::probe("hold_a_request_body_with_trailers", json!({
            "on_request_body": [["if", "end", [], [["pause"]]]],
            "on_request_trailers": [["buffer", "request_body", 0, 100], ["set_buffer", "request_body", 0, 3, "ONE"]],
        }))),
        with_trailers(Case::probe("hold_a_response_body_with_trailers", json!({
            "on_response_body": [["buffer", "response_body", 0, 100], ["pause"]],
            "on_response_trailers": [["buffer", "response_body", 0, 100], ["set_buffer", "response_body", 0, 3, "ONE"]],
        }))),
        // Held to the end, and nobody lets it go but a callout.
        chunked(Case::probe("hold_at_the_end", json!({
            "on_request_body": [["if", "end", [
                ["http_call", { "cluster": "@callee", "then": [["buffer", "request_body", 0, 100], ["continue", "request"]] }],
            ]], ["pause"]],
            "on_response_body": [["if", "end", [
                ["http_call", { "cluster": "@callee", "then": [["buffer", "response_body", 0, 100], ["continue", "response"]] }],
            ]], ["pause"]],
        }))
        .callee()),
        chunked(Case::probe("change_while_held", json!({
            "on_request_headers": [["remove", "request_headers", "content-length"]],
            "on_request_body": [["if", "end", [["http_call", { "cluster": "@callee", "then": [
                ["set_buffer", "request_body", 0, -1, "changed"], ["add", "request_headers", "x-late", "1"], ["continue", "request"],
            ] }]]], ["pause"]],
            "on_response_headers": [["pause"], ["http_call", { "cluster": "@callee", "then": [
                ["add", "response_headers", "x-late", "1"], ["continue", "response"],
            ] }]],
        }))
        .callee()),
        with_trailers(Case::probe("hold_trailers", json!({
            "on_request_trailers": [["pause"], ["http_call", { "cluster": "@callee", "then": [
                ["add", "request_trailers", "x-late", "1"], ["continue", "request"],
            ] }]],
            "on_response_trailers": [["pause"], ["http_call", { "cluster": "@callee", "then": [
                ["add", "response_trailers", "x-late", "1"], ["continue", "response"],
            ] }]],
        }))
        .callee()),
        // The headers have not gone on when the body is held.
        chunked(Case::probe("headers_stopped_until_the_body", {
            json!({
                "on_request_headers": [["return", 1]],
                "on_request_body": [["if", "end", [["add", "request_headers", "x-of-body", "1"]], [["pause"]]]],
                "on_response_headers": [["return", 1]],
                "on_response_body": [["if", "end", [["add", "response_headers", "x-of-body", "1"]], [["pause"]]]],
            })
        })
        .stop_iteration()),
    ];
    let values: [(&'static str, u32); 5] = [("1", 1), ("2", 2), ("3", 3), ("4", 4), ("5", 5)];
    for (text, n) in values {
        for (side, headers, body) in [
            ("request", "on_request_headers", "on_request_body"),
            ("response", "on_response_headers", "on_response_body"),
        ] {
            let name: &'static str = format!("{side}_headers_return_{text}").leak();
            // What stops is let go by a tick; what does not gets there without.
            let mut plan = returning(headers, n);
            plan[headers].as_array_mut().unwrap().extend([json!(["let", "stream", ["self"]]), json!(["tick", 1800])]);
            plan["on_tick"] = json!([["tick", 0], ["effective", "$stream"], ["continue", side]]);
            cases.push(
                Case::probe(name, plan)
                    .answered(response(200, "").chunks(["one", "two"]))
                    .request(post("/", "").chunks(["one", "two"]))
                    .until("tick(0)")
                    .unordered(),
            );
            let name: &'static str = format!("{side}_body_returns_{text}").leak();
            let mut plan = returning(body, n);
            plan[body].as_array_mut().unwrap().extend([json!([
                "if",
                1,
                [["let", "stream", ["self"]], ["tick", 1800]]
            ])]);
            plan["on_tick"] = json!([["tick", 0], ["effective", "$stream"], ["continue", side]]);
            cases.push(
                Case::probe(name, plan)
                    .answered(response(200, "").chunks(["one", "two"]))
                    .request(post("/", "").chunks(["one", "two"]))
                    .until("tick(0)")
                    .unordered(),
            );
        }
    }
    cases
}

fn limits() -> Vec<Case> {
    let body = "x".repeat(100_000);
    let pieces = || (0..5).map(|_| "y".repeat(40_000));
    let mut cases = vec![
        Case::probe("request_over_the_limit", json!({ "on_request_body": [["if", "end", [], [["pause"]]]] }))
            .request(post("/", "").chunks([body, "more".into()]))
            .request(post("/", "").chunks(pieces())),
        Case::probe("response_over_the_limit", json!({ "on_response_body": [["if", "end", [], [["pause"]]]] }))
            .answered(response(200, "").chunks(pieces())),
        Case::probe("growing_over_the_limit", json!({
            "on_request_headers": [["remove", "request_headers", "content-length"]],
            "on_request_body": [["if", "end", [["set_buffer", "request_body", 0, -1, { "times": 100_000, "text": "z" }]], [["pause"]]]],
        }))
        .request(post("/", "hello")),
    ];
    for case in &mut cases {
        case.buffer_limit = Some(65536);
    }
    cases.push(
        Case::probe(
            "large_bodies",
            json!({
                "on_request_body": [["if", "end", [["buffer", "request_body", 0, -1]], [["pause"]]]],
                "on_response_body": [["if", "end", [["buffer", "response_body", 0, -1]], [["pause"]]]],
            }),
        )
        .answered(response(200, "y".repeat(300_000)))
        .request(post("/", "x".repeat(300_000)))
        .request(post("/", "x".repeat(300_000)).h2()),
    );
    cases
}
