//! Maps of headers and trailers.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn headers() {
    compare("headers", cases()).await;
}

pub fn cases() -> Vec<Case> {
    [reads(), changes(), phases(), trailers(), ends()].into_iter().flatten().collect()
}

fn reads() -> Vec<Case> {
    let one_line = || {
        ["authorization", "accept", "referer", "user-agent", "if-range", "vary", "x-one"]
            .iter()
            .fold(get("/").header("pragma", "").header("pragma", "b"), |request, name| {
                request.header(name, "a").header(name, "b")
            })
    };
    let several = || get("/a?b=c").header("x-one", "1").header("x-one", "2").header("X-Case", "yes");
    vec![
        Case::probe(
            "read_request_headers",
            json!({ "on_request_headers": [
                ["pairs", "request_headers"],
                ["map_size", "request_headers"],
                ["get", "request_headers", ":path"],
                ["get", "request_headers", ":authority"],
                ["get", "request_headers", "host"],
                ["get", "request_headers", "x-one"],
                ["get", "request_headers", "X-ONE"],
                ["get", "request_headers", "x-none"],
                ["get", "request_headers", ""],
            ]}),
        )
        .request(several())
        .request(several().h2()),
        Case::probe(
            "pseudo_headers_in_capitals",
            json!({
                "on_request_headers": [
                    ["get", "request_headers", ":PATH"],
                    ["get", "request_headers", ":Authority"],
                    ["replace", "request_headers", ":Path", "/other"],
                    ["replace", "request_headers", ":METHOD", "DELETE"],
                    ["pairs", "request_headers"],
                ],
                "on_response_headers": [
                    ["get", "response_headers", ":Status"],
                    ["replace", "response_headers", ":STATUS", "201"],
                ],
            }),
        )
        .request(several())
        .request(several().h2()),
        Case::probe(
            "read_response_headers",
            json!({ "on_response_headers": [
                ["pairs", "response_headers"],
                ["map_size", "response_headers"],
                ["get", "response_headers", ":status"],
                ["get", "response_headers", "x-one"],
                ["get", "response_headers", "X-Two"],
                ["get", "response_headers", "x-none"],
            ]}),
        )
        .answered(response(201, "made").header("x-one", "1").header("x-one", "2").header("X-Two", ""))
        .request(get("/"))
        .request(get("/").h2()),
        Case::probe(
            "lines_that_are_one",
            json!({
                "on_request_headers": [
                    ["get", "request_headers", "authorization"],
                    ["pairs", "request_headers"],
                    ["add", "request_headers", "Authorization", "c"],
                    ["add", "request_headers", "Authorization", ""],
                    ["get", "request_headers", "authorization"],
                ],
                "on_response_headers": [
                    ["get", "response_headers", "vary"],
                    ["pairs", "response_headers"],
                    ["add", "response_headers", "Vary", "c"],
                    ["add", "response_headers", "link", "c"],
                    ["get", "response_headers", "vary"],
                ],
            }),
        )
        .answered(
            ["vary", "link", "cache-control", "origin"]
                .iter()
                .fold(response(200, "made"), |response, name| response.header(name, "a").header(name, "b")),
        )
        .request(one_line())
        .request(one_line().h2()),
        Case::probe(
            "maps_that_are_none",
            json!({ "on_request_headers": [
                ["pairs", 8], ["get", 8, "a"], ["add", 8, "a", "b"], ["replace", 8, "a", "b"], ["remove", 8, "a"],
                ["map_size", 8], ["set_pairs", 8, [["a", "b"]]],
                ["pairs", -1], ["get", 99, "a"],
                ["pairs", "call_headers"], ["get", "call_headers", "a"], ["add", "call_headers", "a", "b"],
                ["pairs", "grpc_initial_metadata"], ["get", "grpc_initial_metadata", "a"],
                ["map_size", "call_trailers"],
            ]}),
        ),
    ]
}

fn changes() -> Vec<Case> {
    let plain = || get("/").header("x-one", "1").header("x-one", "2").header("x-gone", "1");
    let request = |name, steps: Value| {
        let mut steps = steps.as_array().unwrap().clone();
        steps.push(json!(["pairs", "request_headers"]));
        Case::probe(name, json!({ "on_request_headers": steps })).request(plain()).request(plain().h2())
    };
    vec![
        request(
            "add_request_headers",
            json!([
                ["add", "request_headers", "x-new", "1"],
                ["add", "request_headers", "x-one", "3"],
                ["add", "request_headers", "X-Upper", "Value"],
                ["add", "request_headers", "x-empty", ""],
            ]),
        ),
        request("add_an_empty_name", json!([["add", "request_headers", "", "v"]])),
        request(
            "replace_request_headers",
            json!([
                ["replace", "request_headers", "x-one", "only"],
                ["replace", "request_headers", "X-New", "1"],
                ["replace", "request_headers", ":path", "/other?q=1"],
                ["replace", "request_headers", ":authority", "other.replace_request_headers.test"],
            ]),
        ),
        request("replace_the_method", json!([["replace", "request_headers", ":method", "DELETE"]])),
        request("make_it_a_head", json!([["replace", "request_headers", ":method", "HEAD"]])),
        request("replace_the_host", json!([["replace", "request_headers", "host", "other.replace_the_host.test"]])),
        request("add_pseudo_headers", json!([["add", "request_headers", ":path", "/more"]])),
        request("add_an_unknown_pseudo_header", json!([["add", "request_headers", ":other", "x"]])),
        request(
            "remove_request_headers",
            json!([
                ["remove", "request_headers", "x-one"],
                ["remove", "request_headers", "X-GONE"],
                ["remove", "request_headers", "x-none"],
            ]),
        ),
        request("remove_the_path", json!([["remove", "request_headers", ":path"]])),
        request("remove_the_method", json!([["remove", "request_headers", ":method"]])),
        request("remove_the_authority", json!([["remove", "request_headers", ":authority"]])),
        request("remove_the_scheme", json!([["remove", "request_headers", ":scheme"]])),
        request(
            "set_request_pairs",
            json!([[
                "set_pairs",
                "request_headers",
                [
                    [":method", "PUT"],
                    [":path", "/set"],
                    [":authority", "other.set_request_pairs.test"],
                    [":scheme", "http"],
                    ["x-forwarded-proto", "http"],
                    ["x-set", "1"],
                    ["X-Set", "2"],
                ]
            ]]),
        ),
        request("set_pairs_without_pseudo_headers", json!([["set_pairs", "request_headers", [["x-set", "1"]]]])),
        request("set_no_pairs", json!([["set_pairs", "request_headers", []]])),
        request(
            "set_pairs_that_are_none",
            json!([
                ["set_pairs", "request_headers", { "hex": "05000000" }],
            ]),
        ),
        request("set_pairs_of_zero_bytes", json!([["set_pairs", "request_headers", null]])),
        request("bytes_in_a_value", json!([["add", "request_headers", "x-bytes", { "hex": "fffe41" }]])),
        request("a_line_break_in_a_value", json!([["add", "request_headers", "x-break", "a\r\nx-injected: 1"]])),
        request("a_nul_in_a_value", json!([["add", "request_headers", "x-nul", { "hex": "610062" }]])),
        request("a_space_in_a_name", json!([["add", "request_headers", "x a", "1"]])),
        request("a_body_that_is_none", json!([["add", "request_headers", "content-length", "5"]])),
        Case::probe(
            "change_response_headers",
            json!({ "on_response_headers": [
                ["add", "response_headers", "x-new", "1"],
                ["add", "response_headers", "x-one", "3"],
                ["replace", "response_headers", "X-Two", "2"],
                ["replace", "response_headers", "x-fresh", ""],
                ["remove", "response_headers", "x-gone"],
                ["remove", "response_headers", "x-none"],
                ["replace", "response_headers", ":status", "202"],
                ["pairs", "response_headers"],
            ]}),
        )
        .answered(response(200, "hello").header("x-one", "1").header("x-two", "0").header("x-gone", "1"))
        .request(get("/"))
        .request(get("/").h2()),
        Case::probe(
            "a_status_that_is_none",
            json!({ "on_response_headers": [
                ["replace", "response_headers", ":status", "abc"], ["pairs", "response_headers"],
            ]}),
        ),
        Case::probe(
            "a_line_break_in_a_value_of_a_response",
            json!({ "on_response_headers": [
                ["add", "response_headers", "x-break", "a\r\nx-injected: 1"], ["pairs", "response_headers"],
            ]}),
        )
        .request(get("/"))
        .request(get("/").h2()),
        Case::probe(
            "remove_the_status",
            json!({ "on_response_headers": [
                ["remove", "response_headers", ":status"], ["pairs", "response_headers"],
            ]}),
        ),
        Case::probe(
            "set_response_pairs",
            json!({ "on_response_headers": [
                ["set_pairs", "response_headers", [[":status", "203"], ["x-set", "1"], ["x-set", "2"]]],
                ["pairs", "response_headers"],
            ]}),
        ),
        Case::probe(
            "set_response_pairs_without_status",
            json!({ "on_response_headers": [
                ["set_pairs", "response_headers", [["x-set", "1"]]], ["pairs", "response_headers"],
            ]}),
        ),
        Case::probe(
            "remove_the_length",
            json!({ "on_response_headers": [["remove", "response_headers", "content-length"]] }),
        )
        .request(get("/"))
        .request(get("/").h2()),
        Case::probe(
            "remove_the_length_of_a_request",
            json!({
                "on_request_headers": [["remove", "request_headers", "content-length"]],
            }),
        )
        .request(post("/", "hello"))
        .request(post("/", "hello").h2()),
        // The route is chosen after the filters: changing it is what `:path` and `:authority` are for.
        Case::probe(
            "many_pairs",
            json!({ "on_request_headers": [
                ["set_pairs", "request_headers", (0..1100).map(|i| json!([format!("x-{i}"), "1"])).collect::<Vec<_>>()],
                ["get", "request_headers", ":path"],
            ]}),
        ),
    ]
}

/// Which maps there are when.
fn phases() -> Vec<Case> {
    const MAPS: [&str; 4] = ["request_headers", "request_trailers", "response_headers", "response_trailers"];
    let reads = || -> Vec<Value> {
        let of = |map| [json!(["pairs", map]), json!(["map_size", map]), json!(["get", map, "x-none"])];
        MAPS.iter().flat_map(of).chain([json!(["get", "request_headers", ":path"])]).collect()
    };
    let writes = || -> Vec<Value> {
        let of = |map| {
            [
                json!(["add", map, "x-add", "1"]),
                json!(["replace", map, "x-replace", "1"]),
                json!(["remove", map, "x-remove"]),
                json!(["set_pairs", map, [["x-set", "1"]]]),
            ]
        };
        MAPS.iter().flat_map(of).collect()
    };
    let other_writes =
        |own: &'static str| -> Vec<Value> { writes().into_iter().filter(|step| step[1] != own).collect() };
    let case = |name, callback: &str, steps: Vec<Value>| {
        Case::probe(name, json!({ callback: steps }))
            .answered(response(200, "x").chunks(["one", "two"]).trailer("x-after", "1"))
            .request(post("/", "x").chunks(["one", "two"]).trailer("x-end", "1").h2())
    };
    vec![
        case("maps_in_request_headers", "on_request_headers", [reads(), other_writes("request_headers")].concat()),
        case("maps_in_request_body", "on_request_body", vec![json!(["if", 1, reads()])]),
        case("changes_in_request_body", "on_request_body", vec![json!(["if", 1, writes()])]),
        case("maps_in_request_trailers", "on_request_trailers", [reads(), other_writes("request_trailers")].concat()),
        case("maps_in_response_headers", "on_response_headers", [reads(), other_writes("response_headers")].concat()),
        case("maps_in_response_body", "on_response_body", vec![json!(["if", 1, reads()])]),
        case("changes_in_response_body", "on_response_body", vec![json!(["if", 1, writes()])]),
        case(
            "maps_in_response_trailers",
            "on_response_trailers",
            [reads(), other_writes("response_trailers")].concat(),
        ),
        case("maps_in_log", "on_log", reads()),
        case("changes_in_log", "on_log", writes()),
        case("maps_in_done", "on_done", reads()),
        case("changes_in_done", "on_done", writes()),
        case("maps_in_delete", "on_delete", reads()),
        case("maps_in_context_create", "on_context_create", reads()),
        Case::probe("maps_in_log_without_trailers", json!({ "on_log": reads() })),
        Case::probe("maps_in_configure", json!({ "on_configure": ([reads(), writes()].concat()) })),
        Case::probe(
            "maps_in_tick",
            json!({
                "on_configure": [["tick", 20]],
                "on_tick": ([vec![json!(["tick", 0])], reads(), writes()].concat()),
            }),
        )
        .unordered(),
    ]
}

fn trailers() -> Vec<Case> {
    let both = |case: Case| {
        case.answered(response(200, "x").chunks(["one", "two"]).trailer("x-after", "1").trailer("x-gone", "1"))
            .request(post("/", "x").chunks(["one", "two"]).trailer("x-end", "1").trailer("x-gone", "2").h2())
            .request(post("/", "x").chunks(["one", "two"]).trailer("x-end", "1").trailer("x-gone", "2"))
    };
    let changes = |map: &str| {
        json!([
            ["pairs", map],
            ["map_size", map],
            ["get", map, "x-gone"],
            ["add", map, "x-add", "1"],
            ["replace", map, "x-gone", "3"],
            ["remove", map, "x-none"],
            ["pairs", map],
        ])
    };
    let add_at_end = |callback: &str, map: &str| json!({ callback: [["if", "end", [["add", map, "x-added", "1"], ["add", map, "x-added", "2"], ["pairs", map]]]] });
    vec![
        both(Case::probe("trailers_pass", json!({}))),
        both(Case::probe("change_request_trailers", json!({ "on_request_trailers": changes("request_trailers") }))),
        both(Case::probe("change_response_trailers", json!({ "on_response_trailers": changes("response_trailers") }))),
        both(Case::probe(
            "set_trailers",
            json!({
                "on_request_trailers": [["set_pairs", "request_trailers", [["x-set", "1"]]]],
                "on_response_trailers": [["set_pairs", "response_trailers", [["x-set", "1"]]]],
            }),
        )),
        both(Case::probe(
            "remove_all_trailers",
            json!({
                "on_request_trailers": [["remove", "request_trailers", "x-end"], ["remove", "request_trailers", "x-gone"]],
                "on_response_trailers": [["remove", "response_trailers", "x-after"], ["remove", "response_trailers", "x-gone"]],
            }),
        )),
        Case::probe("add_request_trailers", add_at_end("on_request_body", "request_trailers"))
            .request(post("/", "hello").h2())
            .request(post("/", "hello").chunks(["one", "two"])),
        Case::probe("add_response_trailers", add_at_end("on_response_body", "response_trailers"))
            .request(get("/").h2())
            .request(get("/")),
        Case::probe(
            "add_trailers_without_a_body",
            json!({
                "on_request_headers": [["add", "request_trailers", "x-added", "1"]],
                "on_response_headers": [["add", "response_trailers", "x-added", "1"]],
            }),
        )
        .answered(empty(204)),
    ]
}

/// Where the end of the stream is told.
fn ends() -> Vec<Case> {
    vec![
        Case::probe("end_of_head", json!({})).answered(response(200, "")).request(get("/").method("HEAD")),
        Case::probe("end_of_204", json!({})).answered(empty(204)).request(get("/")).request(get("/").h2()),
        Case::probe("end_of_304", json!({})).answered(empty(304)).request(get("/")).request(get("/").h2()),
        Case::probe("end_of_an_empty_body", json!({}))
            .answered(empty(200))
            .request(post("/", ""))
            .request(post("/", "").h2()),
        Case::probe("end_of_an_empty_chunked_body", json!({}))
            .answered(empty(200).header("transfer-encoding", "chunked"))
            .request(post("/", "").chunks::<&str>([]))
            .request(get("/").h2()),
        Case::probe("end_of_bodies", json!({}))
            .answered(response(200, "").chunks(["one", "two", "three"]))
            .request(post("/", "hello"))
            .request(post("/", "").chunks(["one", "two", "three"]))
            .request(post("/", "").chunks(["one", "two", "three"]).h2()),
        Case::probe("h2_origin", json!({}))
            .origin(Origin::new("origin", |_, _| response(200, "").chunks(["one", "two"]).trailer("x-after", "1")).h2())
            .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
            .request(post("/", "").chunks(["one", "two"]).trailer("x-end", "1"))
            .request(get("/")),
    ]
}
