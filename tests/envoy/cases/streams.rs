//! Resuming, closing, chains, and every way in which a stream ends.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;
use crate::reason::Reason;

#[tokio::test(flavor = "multi_thread")]
async fn streams() {
    compare("streams", cases()).await;
}

pub fn cases() -> Vec<Case> {
    resumes().into_iter().chain(closes()).chain(chains()).chain(ends()).collect()
}

fn resumes() -> Vec<Case> {
    let by_tick = |name, callback: &str, side: &str| {
        Case::probe(
            name,
            json!({
                callback: [["let", "stream", ["self"]], ["tick", 50], ["pause"]],
                "on_tick": [["tick", 0], ["effective", "$stream"], ["continue", side]],
            }),
        )
        .answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
        .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
    };
    let each = |callback: &str| json!({ callback: [["continue", "downstream"], ["continue", "upstream"], ["continue", 4], ["continue", -1]] });
    let one = |callback: &str, side: &str| json!({ callback: [["continue", side]] });
    vec![
        by_tick("request_headers_resumed_by_tick", "on_request_headers", "request"),
        by_tick("request_trailers_resumed_by_tick", "on_request_trailers", "request"),
        by_tick("response_headers_resumed_by_tick", "on_response_headers", "response"),
        by_tick("response_trailers_resumed_by_tick", "on_response_trailers", "response"),
        Case::probe("continue_what_is_not_held", each("on_request_headers")),
        Case::probe("continue_in_the_response", each("on_response_headers")),
        Case::probe("continue_in_log", each("on_log")),
        Case::probe("continue_in_configure", each("on_configure")),
        Case::probe("continue_the_request_in_the_request", one("on_request_headers", "request")),
        Case::probe("continue_the_request_in_the_response", one("on_response_headers", "request")),
        Case::probe("continue_the_request_in_log", one("on_log", "request")),
        Case::probe("continue_the_response_in_the_request", one("on_request_headers", "response")).crashes(Reason::ContinueUnheld),
        Case::probe("continue_the_response_in_the_response", one("on_response_headers", "response")),
        Case::probe("continue_the_response_in_log", one("on_log", "response")),
        Case::probe("continue_and_pause", json!({ "on_request_headers": [["continue", "request"], ["pause"]], "on_response_headers": [["continue", "response"], ["pause"]] })),
        // The wrong side.
        Case::probe("continue_the_other_side", json!({
            "on_request_headers": [["let", "stream", ["self"]], ["tick", 50], ["pause"]],
            "on_tick": [["tick", 0], ["effective", "$stream"], ["continue", "response"], ["continue", "request"]],
        }))
        .crashes(Reason::ContinueUnheld),
        Case::probe("change_while_paused", json!({
            "on_request_headers": [["let", "stream", ["self"]], ["tick", 50], ["pause"]],
            "on_tick": [["tick", 0], ["effective", "$stream"], ["pairs", "request_headers"], ["get", "request_headers", "x-one"], ["add", "request_headers", "x-late", "1"], ["replace", "request_headers", ":path", "/late"], ["continue", "request"]],
        }))
        .request(get("/").header("x-one", "1")),
    ]
}

fn closes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, callback) in [
        ("request_headers", "on_request_headers"),
        ("request_body", "on_request_body"),
        ("request_trailers", "on_request_trailers"),
        ("response_headers", "on_response_headers"),
        ("response_body", "on_response_body"),
        ("response_trailers", "on_response_trailers"),
        ("log", "on_log"),
    ] {
        for side in ["request", "response"] {
            let name: &'static str = format!("close_{side}_in_{name}").leak();
            let mut plan =
                json!({ "on_log": [["property", ["response", "code"]], ["property", ["response", "code_details"]]] });
            plan[callback] = json!([["if", 1, [["close", side]]], ["pause"]]);
            let case = Case::probe(name, plan)
                .answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
                .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
                .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1"));
            cases.push(match callback {
                "on_log" => case.crashes(Reason::Crash),
                "on_request_body" | "on_request_trailers" => case.ends_under_way(),
                _ => case,
            });
        }
    }
    cases.push(Case::probe(
        "close_what_is_no_stream",
        json!({
            "on_request_headers": [["close", "downstream"], ["close", "upstream"], ["close", 4], ["close", -1]],
            "on_configure": [["close", "request"], ["close", "response"]],
        }),
    ));
    cases.push(
        Case::probe("close_by_a_callout", json!({ "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["close", "request"]] }], ["pause"]] })).callee(),
    );
    cases
}

fn chains() -> Vec<Case> {
    let marks = |mark: &str| {
        Filter::probe(json!({
            "on_request_headers": [["add", "request_headers", "x-way", mark]],
            "on_request_body": [["if", 1, [["set_buffer", "request_body", 0, 0, mark]]]],
            "on_response_headers": [["add", "response_headers", "x-way", mark], ["remove", "response_headers", "content-length"]],
            "on_response_body": [["if", 1, [["set_buffer", "response_body", 0, 0, mark]]]],
        }))
    };
    let whole = |side: &str| -> Value {
        json!({ format!("on_{side}_body"): [["if", "end", [["buffer", format!("{side}_body"), 0, 100]], [["pause"]]]] })
    };
    vec![
        Case::new("three_in_order", marks("1"))
            .then(marks("2"))
            .then(marks("3"))
            .answered(response(200, "").chunks(["one", "two"]))
            .request(post("/", "").chunks(["one", "two"])),
        Case::probe("the_first_holds", whole("request")).then(Filter::probe(json!({}))).request(post("/", "").chunks(["one", "two"])),
        Case::probe("the_second_holds", json!({})).then(Filter::probe(whole("request"))).request(post("/", "").chunks(["one", "two"])),
        Case::probe("the_second_holds_the_response", json!({}))
            .then(Filter::probe(whole("response")))
            .answered(response(200, "").chunks(["one", "two"])),
        Case::probe("both_pause_by_callouts", json!({ "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["continue", "request"]] }], ["pause"]] }))
            .then(Filter::probe(json!({ "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["continue", "request"]] }], ["pause"]] })))
            .callee(),
        Case::probe("the_first_sets_a_property_for_the_second", json!({ "on_request_headers": [["set_property", ["shared"], "by the first"]] }))
            .then(Filter::probe(json!({ "on_request_headers": [["property", ["shared"]], ["property", ["wasm.shared"]], ["property", ["filter_state", "wasm.shared"]]] }))),
        // Two plugins of one VM: two root contexts.
        Case::new("one_vm_two_roots", Filter { root_id: "a", ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_root_id"]]] })) })
            .then(Filter { root_id: "b", ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_root_id"]]] })) }),
        Case::new("two_vms", Filter { vm_id: Some("vm-a"), ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_vm_id"]]] })) }).answered(empty(204))
            .then(Filter { vm_id: Some("vm-b"), ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_vm_id"]]] })) }),
        // The body that waits for the first is not shown to it before the second has seen the headers.
        Case::probe("headers_pass_before_bodies", json!({
            "on_request_headers": [["http_call", { "cluster": "@callee", "then": [["continue", "request"]] }], ["pause"]],
            "on_request_body": [["local_response", { "status": 400, "body": "bad body" }], ["pause"]],
        }))
            .then(Filter::probe(json!({ "on_request_headers": [["local_response", { "status": 401, "body": "who are you" }], ["pause"]] })))
            .callee()
            .request(post("/", "hello"))
            .request(post("/", "hello").h2()),
        Case::probe("each_adds_a_trailer_at_the_end", json!({ "on_response_body": [["if", "end", [["add", "response_trailers", "x-first", "1"]]]] }))
            .then(Filter::probe(json!({ "on_response_body": [["if", "end", [["add", "response_trailers", "x-second", "2"]]]] })))
            .origin(Origin::new("origin", |_, _| response(200, "hello")).h2())
            .request(get("/").h2()),
        // The same plugin twice: one root context.
        Case::probe("the_same_twice", json!({ "on_request_headers": [["add", "request_headers", "x-way", "1"]] }))
            .then(Filter::probe(json!({ "on_request_headers": [["add", "request_headers", "x-way", "1"]] }))),
    ]
}

fn ends() -> Vec<Case> {
    let facts = json!([
        ["property", ["response", "code"]],
        ["property", ["response", "code_details"]],
        ["property", ["response", "flags"]],
        ["get", "request_headers", ":path"],
        ["pairs", "response_headers"],
    ]);
    let case = |name| Case::probe(name, json!({ "on_log": facts }));
    vec![
        case("the_origin_resets").origin(Origin::new("origin", |_, _| Answer::Reset)),
        case("the_origin_resets_in_the_body").answered(response(200, "").chunks(["one", "two"]).broken()),
        case("the_origin_resets_a_body_with_a_length").answered(response(200, "").chunks(["one"]).broken()),
        case("the_origin_resets_in_a_body_of_http2")
            .origin(Origin::new("origin", |_, _| response(200, "").chunks(["one", "two"]).broken()).h2()),
        case("the_client_leaves").origin(Origin::new("origin", |_, _| Answer::Silence)).request(get("/").leaves_after(200)).request(get("/").h2().leaves_after(200)),
        Case::probe("the_client_leaves_a_paused_stream", json!({ "on_request_headers": [["pause"]], "on_log": facts }))
            .request(get("/").leaves_after(200))
            .request(get("/").h2().leaves_after(200)),
        Case::probe("the_client_leaves_a_callout", json!({
            "on_request_headers": [["http_call", { "cluster": "@callee", "timeout": 500, "then": [["get", "request_headers", ":path"], ["continue", "request"]] }], ["pause"]],
        }))
        .origin(Origin::new("callee", |_, _| Answer::Silence))
        .until("on_http_call_response")
        .request(get("/").leaves_after(100)),
        Case::probe("the_client_leaves_a_paused_response", json!({ "on_response_headers": [["pause"]], "on_log": facts })).request(get("/").leaves_after(200)),
        Case::probe("the_client_leaves_a_held_body", json!({ "on_response_body": [["pause"]], "on_log": facts })).request(get("/").leaves_after(200)),
        case("the_client_breaks_off").request(Request { message: Message { broken: true, ..response(0, "").chunks(["one", "two"]) }, ..post("/whole", "") }).ends_under_way(),
        Case::probe("done_says_no", json!({ "on_done": [["return", 0]] })),
        Case::probe("done_says_no_and_then_yes", json!({ "on_done": [["return", 0], ["done"]], "on_request_headers": [["done"]] })),
        Case::probe("a_callout_in_log", json!({ "on_log": [["http_call", { "cluster": "@callee", "then": [["get", "call_headers", ":status"]] }]] })).callee().until("on_http_call_response"),
        Case::probe("a_tick_in_log", json!({ "on_log": [["tick", 50]], "on_tick": [["tick", 0]] })).until("on_tick"),
    ]
}
