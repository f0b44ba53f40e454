//! Every function that filters can call has a case.

use std::collections::BTreeMap;
use std::fs;

use regex::Regex;

use crate::cases;

/// The functions, and what the test guest `pw_probe` calls them. Those of ABI 0.1.0 are called by the guest `abi_0_1_0`.
const FUNCTIONS: [(&str, &str); 43] = [
    ("proxy_log", "log"),
    ("proxy_get_log_level", "log_level"),
    ("proxy_get_current_time_nanoseconds", "time"),
    ("proxy_set_tick_period_milliseconds", "tick"),
    ("proxy_get_configuration", ""),
    ("proxy_set_effective_context", "effective"),
    ("proxy_done", "done"),
    ("proxy_get_status", "status"),
    ("proxy_get_buffer_bytes", "buffer"),
    ("proxy_get_buffer_status", "buffer_status"),
    ("proxy_set_buffer_bytes", "set_buffer"),
    ("proxy_get_header_map_size", "map_size"),
    ("proxy_get_header_map_pairs", "pairs"),
    ("proxy_set_header_map_pairs", "set_pairs"),
    ("proxy_get_header_map_value", "get"),
    ("proxy_add_header_map_value", "add"),
    ("proxy_replace_header_map_value", "replace"),
    ("proxy_remove_header_map_value", "remove"),
    ("proxy_get_property", "property"),
    ("proxy_set_property", "set_property"),
    ("proxy_continue_request", ""),
    ("proxy_continue_response", ""),
    ("proxy_clear_route_cache", ""),
    ("proxy_continue_stream", "continue"),
    ("proxy_close_stream", "close"),
    ("proxy_send_local_response", "local_response"),
    ("proxy_http_call", "http_call"),
    ("proxy_grpc_call", "grpc_call"),
    ("proxy_grpc_stream", "grpc_stream"),
    ("proxy_grpc_send", "grpc_send"),
    ("proxy_grpc_cancel", "grpc_cancel"),
    ("proxy_grpc_close", "grpc_close"),
    ("proxy_get_shared_data", "get_shared"),
    ("proxy_set_shared_data", "set_shared"),
    ("proxy_register_shared_queue", "register_queue"),
    ("proxy_resolve_shared_queue", "resolve_queue"),
    ("proxy_dequeue_shared_queue", "dequeue"),
    ("proxy_enqueue_shared_queue", "enqueue"),
    ("proxy_define_metric", "define_metric"),
    ("proxy_increment_metric", "increment_metric"),
    ("proxy_record_metric", "record_metric"),
    ("proxy_get_metric", "get_metric"),
    ("proxy_call_foreign_function", "foreign"),
];

#[test]
fn each_host_function_has_a_case() {
    let host = include_str!("../../src/wasm/proxy_wasm/host/mod.rs");
    let old = include_str!("../guests/wat/abi_0_1_0.wat");
    let recorded: BTreeMap<_, _> = cases::all()
        .into_iter()
        .map(|(group, _)| (group, fs::read_to_string(crate::recording(group)).unwrap()))
        .collect();
    assert!(recorded["text"].contains("=== abi_0_1_0\n"));
    let known: BTreeMap<_, _> = FUNCTIONS.into_iter().collect();
    let bound = Regex::new(r#"^        "(proxy_\w+)"\("#).unwrap();
    let (host, _) = host.split_once("// Of Higress.").unwrap();
    let functions: Vec<_> = host.lines().filter_map(|line| Some(bound.captures(line)?[1].to_owned())).collect();
    assert!(functions.len() > 40, "{functions:?}");
    for function in functions {
        let step = known.get(&*function).unwrap_or_else(|| panic!("{function} has no case"));
        let called = if step.is_empty() {
            old.contains(&format!("\"{function}\""))
        } else {
            recorded.values().any(|text| text.contains(&format!(" {step}(")))
        };
        assert!(called, "{function} has no case");
    }
}
