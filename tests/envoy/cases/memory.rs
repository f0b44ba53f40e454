//! Pointers and lengths that are wrong.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    compare("memory", cases()).await;
}

pub fn cases() -> Vec<Case> {
    // Just in and just out of a memory of whatever size; negative is far out.
    const OUT: i32 = -16;
    let raw = |name, calls: Value| {
        let steps: Vec<_> = calls
            .as_array()
            .unwrap()
            .iter()
            .map(|call| {
                let mut step = vec![json!("raw")];
                step.extend(call.as_array().unwrap().iter().cloned());
                json!(step)
            })
            .collect();
        Case::probe(name, json!({ "on_request_headers": steps }))
    };
    vec![
        raw(
            "bad_pointers_to_read",
            json!([
                ["proxy_log", 2, OUT, 10],
                ["proxy_log", 2, 0, -1],
                ["proxy_log", 2, OUT, 0],
                ["proxy_log", 2, -1, -1],
                ["proxy_get_header_map_value", 0, OUT, 10, 8, 12],
                ["proxy_get_header_map_value", 0, 0, -1, 8, 12],
                ["proxy_add_header_map_value", 0, OUT, 5, 0, 0],
                ["proxy_add_header_map_value", 0, 0, 0, OUT, 5],
                ["proxy_replace_header_map_value", 0, OUT, 5, 0, 0],
                ["proxy_remove_header_map_value", 0, OUT, 5],
                ["proxy_set_header_map_pairs", 0, OUT, 10],
                ["proxy_get_property", OUT, 10, 8, 12],
                ["proxy_set_property", OUT, 10, 0, 0],
                ["proxy_set_property", 0, 0, OUT, 10],
                ["proxy_send_local_response", 200, OUT, 10, 0, 0, 0, 0, -1],
                ["proxy_send_local_response", 200, 0, 0, OUT, 10, 0, 0, -1],
                ["proxy_send_local_response", 200, 0, 0, 0, 0, OUT, 10, -1],
                ["proxy_http_call", OUT, 10, 0, 0, 0, 0, 0, 0, 1000, 8],
                ["proxy_http_call", 0, 0, OUT, 10, 0, 0, 0, 0, 1000, 8],
                ["proxy_grpc_call", OUT, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1000, 8],
                ["proxy_grpc_stream", OUT, 10, 0, 0, 0, 0, 0, 0, 8],
                ["proxy_grpc_send", 6, OUT, 10, 0],
                ["proxy_get_shared_data", OUT, 10, 8, 12, 16],
                ["proxy_set_shared_data", OUT, 10, 0, 0, 0],
                ["proxy_set_shared_data", 0, 0, OUT, 10, 0],
                ["proxy_register_shared_queue", OUT, 10, 8],
                ["proxy_resolve_shared_queue", OUT, 10, 0, 0, 8],
                ["proxy_resolve_shared_queue", 0, 0, OUT, 10, 8],
                ["proxy_enqueue_shared_queue", 1, OUT, 10],
                ["proxy_define_metric", 0, OUT, 10, 8],
                ["proxy_call_foreign_function", OUT, 10, 0, 0, 8, 12],
                ["proxy_call_foreign_function", 0, 0, OUT, 10, 8, 12],
                ["proxy_set_buffer_bytes", 0, 0, 0, OUT, 10],
            ]),
        ),
        raw(
            "bad_pointers_to_write",
            json!([
                ["proxy_get_log_level", OUT],
                ["proxy_get_current_time_nanoseconds", OUT],
                ["proxy_get_current_time_nanoseconds", -4],
                ["proxy_get_buffer_bytes", 6, 0, 1, OUT, 8],
                ["proxy_get_buffer_bytes", 6, 0, 1, 8, OUT],
                ["proxy_get_buffer_status", 6, OUT, 8],
                ["proxy_get_buffer_status", 6, 8, OUT],
                ["proxy_get_header_map_size", 0, OUT],
                ["proxy_get_header_map_pairs", 0, OUT, 8],
                ["proxy_get_header_map_pairs", 0, 8, OUT],
                ["proxy_get_status", OUT, 8, 12],
                ["proxy_get_status", 8, OUT, 12],
                ["proxy_get_metric", 4, OUT],
                ["proxy_register_shared_queue", 0, 0, OUT],
                ["proxy_define_metric", 0, 0, 0, OUT],
                ["proxy_dequeue_shared_queue", 1, OUT, 8],
            ]),
        ),
    ]
}
