//! `proxy_call_foreign_function`.

use serde_json::json;

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn foreign() {
    compare("foreign", cases()).await;
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::probe(
            "unknown_function",
            json!({ "on_request_headers": [["foreign", "nothing", "x"], ["foreign", "", ""]] }),
        ),
        Case::probe(
            "compress_and_uncompress",
            json!({ "on_request_headers": [
            ["foreign", "uncompress", { "hex": "789ccb48cdc9c907000 62c0215".replace(' ', "") }],
            ["foreign", "uncompress", "no zlib"],
            ["foreign", "uncompress", ""],
            ["foreign", "compress", ""],
            ["foreign", "compress", "hello"],
        ] }),
        ),
        Case::probe(
            "clear_route_cache",
            json!({
                "on_request_headers": [["foreign", "clear_route_cache", ""]],
                "on_configure": [["foreign", "clear_route_cache", ""]],
            }),
        ),
        // SetEnvoyFilterStateArguments { path = 1, value = 2, span = 3 }
        Case::probe(
            "set_envoy_filter_state",
            json!({ "on_request_headers": [
            ["foreign", "set_envoy_filter_state", { "hex": "0a036b65791205 76616c7565".replace(' ', "") }],
            ["property", ["filter_state", "key"]],
            ["foreign", "set_envoy_filter_state", { "hex": "ff" }],
            ["foreign", "set_envoy_filter_state", ""],
        ] }),
        ),
        // DeclarePropertyArguments { name = 1, readonly = 2, type = 3, schema = 4, span = 5 }
        Case::probe(
            "declare_property",
            json!({ "on_request_headers": [
            ["foreign", "declare_property", { "hex": "0a04726f6e6c1001" }],
            ["set_property", ["ronl"], "first"], ["property", ["ronl"]], ["set_property", ["ronl"], "second"], ["property", ["ronl"]],
            ["foreign", "declare_property", { "hex": "0a03737472 1801".replace(' ', "") }],
            ["set_property", ["str"], "text"], ["property", ["str"]],
            ["foreign", "declare_property", { "hex": "0a03737472" }],
            ["foreign", "declare_property", { "hex": "ff" }],
            ["foreign", "declare_property", ""],
        ] }),
        ),
        Case::probe(
            "read_only_for_all",
            json!({
                "on_configure": [["foreign", "declare_property", { "hex": "0a04726f6e6c1001" }]],
                "on_request_headers": [["set_property", ["ronl"], "first"]],
            }),
        )
        .then(Filter::probe(json!({
            "on_request_headers": [["set_property", ["ronl"], "second"], ["property", ["ronl"]]],
        }))),
        Case::probe(
            "expressions",
            json!({ "on_request_headers": [
            ["foreign", "expr_create", "request.method"],
            ["foreign", "expr_create", "((("],
            ["foreign", "expr_evaluate", { "hex": "00000000" }],
            ["foreign", "expr_delete", { "hex": "00000000" }],
        ] }),
        ),
    ]
}
