//! VMs, configuration, ticks, the log, the clock, and what a trap does.

use serde_json::json;

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle() {
    compare("lifecycle", cases()).await;
}

pub fn cases() -> Vec<Case> {
    starts().into_iter().chain(runs()).chain(traps()).collect()
}

fn starts() -> Vec<Case> {
    let both = json!([["buffer", "vm_configuration", 0, 3], ["buffer", "plugin_configuration", 0, 3]]);
    let mut filter = Filter::probe(json!({ "on_configure": both }));
    filter.vm_configuration = json!({ "on_context_create": both, "on_vm_start": both }).to_string();
    let mut environment =
        Filter::probe(json!({ "on_request_headers": [["env", "OWN"], ["env", "NONE"], ["env", "PATH"]] }));
    environment.environment = vec![("OWN", "a value")];
    vec![
        Case::new("configurations", filter),
        Case::new("environment", environment),
        Case::new(
            "root_id",
            Filter {
                root_id: "a-root",
                ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_root_id"]]] }))
            },
        ),
        Case::new(
            "no_vm_id",
            Filter {
                vm_id: Some(""),
                ..Filter::probe(json!({ "on_request_headers": [["property", ["plugin_vm_id"]]] }))
            },
        ),
        Case::probe(
            "start_calls",
            json!({ "on_configure": [
            ["log_level"], ["time"], ["define_metric", 0, "of_configure"], ["register_queue", "q"], ["effective", 1], ["done"],
            ["close", "request"], ["tick", 0], ["status"], ["self"],
        ] }),
        ),
    ]
}

fn runs() -> Vec<Case> {
    vec![
        Case::probe("log_levels", json!({ "on_request_headers": [
            ["log_level"], ["log", 0, "trace"], ["log", 1, "debug"], ["log", 2, "info"], ["log", 3, "warn"], ["log", 4, "error"],
            ["log", 5, "critical"], ["log", 6, "none"], ["log", -1, "none"], ["log", 2, ""],
            ["print", "to stdout"], ["eprint", "to stderr"],
        ] })),
        Case::probe("clock", json!({ "on_request_headers": [["time"]] })),
        Case::probe("effective_contexts", json!({ "on_request_headers": [
            ["effective", 1], ["get", "request_headers", ":path"], ["effective", 2], ["get", "request_headers", ":path"],
            ["effective", 0], ["effective", 99], ["effective", -1], ["get", "request_headers", ":path"],
        ] })),
        Case::probe("effective_context_ends_with_the_callback", json!({
            "on_request_headers": [["effective", 1]],
            "on_response_headers": [["get", "response_headers", ":status"]],
        })),
        Case::probe("edit_another_stream", json!({
            "on_request_headers": [["if", "/waits", [["let", "waiting", ["self"]], ["pause"]]],
                ["if", "/edits", [["effective", "$waiting"], ["get", "request_headers", ":path"], ["add", "request_headers", "x-edited", "1"], ["continue", "request"]]]],
        }))
        .request(get("/waits").leaves_after(100))
        .request(get("/edits")),
        Case::probe("ticks", json!({
            "on_request_headers": [["tick", 30]],
            "on_tick": [["if", 3, [["tick", 0]]], ["get", "request_headers", ":path"], ["self"]],
        }))
        .until("tick(0)").unordered(),
        Case::new("two_plugins_tick", Filter { vm_id: Some("both-tick"), root_id: "a", ..Filter::probe(json!({ "on_request_headers": [["tick", 30]], "on_tick": [["tick", 0], ["property", ["plugin_root_id"]]] })) })
            .then(Filter { vm_id: Some("both-tick"), root_id: "b", ..Filter::probe(json!({ "on_request_headers": [["tick", 90]], "on_tick": [["tick", 0], ["property", ["plugin_root_id"]]] })) })
            .until("\"b\"")
        .unordered(),
        Case::new("denied_capabilities", Filter {
            allowed_capabilities: vec!["proxy_log", "proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure", "proxy_get_buffer_bytes", "proxy_on_request_headers", "proxy_on_delete", "random_get", "environ_get", "environ_sizes_get"],
            ..Filter::probe(json!({ "on_request_headers": [["get", "request_headers", ":path"], ["pairs", "request_headers"], ["buffer", "request_body", 0, 1], ["env", "X"], ["print", "hello"]] }))
        }),
    ]
}

/// A trap in each callback, by policy; then another request.
fn traps() -> Vec<Case> {
    let mut cases = Vec::new();
    for callback in [
        "on_request_headers",
        "on_request_body",
        "on_request_trailers",
        "on_response_headers",
        "on_response_body",
        "on_response_trailers",
        "on_done",
        "on_log",
        "on_delete",
        "on_tick",
        "on_http_call_response",
    ] {
        for policy in ["closed", "open"] {
            let name: &'static str = format!("trap_{callback}_{policy}").leak();
            let plan = match callback {
                "on_tick" => {
                    json!({ "on_request_headers": [["if", "/trap", [["tick", 30], ["pause"]]]], callback: [["trap"]] })
                }
                "on_http_call_response" => json!({
                    "on_request_headers": [["if", "/trap", [["http_call", { "cluster": "@callee" }], ["pause"]]]], callback: [["trap"]],
                }),
                // Later there is no path to ask for.
                "on_request_headers" => json!({ callback: [["if", "/trap", [["trap"]]]] }),
                _ => json!({
                    "on_request_headers": [["if", "/trap", [["let", "trap", ["self"]]]]], callback: [["if", "$trap", [["trap"]]]],
                }),
            };
            let case = Case::new(name, Filter { failure_policy: policy, ..Filter::probe(plan) })
                .answered(response(200, "").chunks(["one", "two"]).trailer("x-after", "1"))
                .callee()
                .request(get("/"))
                .request(post("/trap", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
                .request(post("/after", "").chunks(["one", "two"]).trailer("x-end", "1").h2())
                .request(get("/after"));
            cases.push(case);
        }
    }
    // A VM older than the longest backoff, 1.5 s, is loaded anew at once.
    let reload = json!({ "on_request_headers": [["if", "/trap", [["trap"]]]] });
    cases.push(
        Case::new("trap_and_reload", Filter { failure_policy: "reload", ..Filter::probe(reload) })
            .request(get("/trap").after(3000))
            .request(get("/after").after(3000))
            .request(get("/trap"))
            .request(get("/after").after(3000)),
    );
    cases
}
