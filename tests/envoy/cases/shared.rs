//! Shared data, shared queues, metrics.

use serde_json::json;

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn shared() {
    compare("shared", cases()).await;
}

pub fn cases() -> Vec<Case> {
    data().into_iter().chain(queues()).chain(metrics()).collect()
}

fn data() -> Vec<Case> {
    vec![
        Case::probe(
            "shared_data",
            json!({ "on_request_headers": [
            ["get_shared", "key"],
            ["set_shared", "key", "one", 0],
            ["let", "cas", ["get_shared", "key"]],
            ["set_shared", "key", "two", "$cas"],
            ["set_shared", "key", "three", "$cas"],
            ["get_shared", "key"],
            ["set_shared", "key", "four", 0],
            ["get_shared", "key"],
            ["set_shared", "fresh", "with a cas", 77],
            ["get_shared", "fresh"],
            ["set_shared", "key", "", 0],
            ["get_shared", "key"],
            ["set_shared", "", "no name", 0],
            ["get_shared", ""],
            ["set_shared", "bytes", { "hex": "00ff" }, 0],
            ["get_shared", "bytes"],
        ] }),
        ),
        Case::probe(
            "shared_data_stays",
            json!({
                "on_configure": [["set_shared", "key", "of configure", 0]],
                "on_request_headers": [["get_shared", "key"], ["set_shared", "key", "of a request", 0]],
                "on_log": [["get_shared", "key"]],
            }),
        )
        .request(get("/"))
        .request(get("/")),
        // By `vm_id`, whatever the code and its configuration.
        Case::new(
            "shared_data_of_one_vm_id",
            Filter {
                vm_id: Some("shared-data"),
                ..Filter::probe(json!({ "on_request_headers": [["set_shared", "key", "of the first", 0]] }))
            },
        )
        .answered(empty(204))
        .then(Filter {
            vm_id: Some("shared-data"),
            vm_configuration: "{}".into(),
            ..Filter::probe(json!({ "on_request_headers": [["get_shared", "key"]] }))
        })
        .then(Filter {
            vm_id: Some("other-data"),
            ..Filter::probe(json!({ "on_request_headers": [["get_shared", "key"]] }))
        }),
    ]
}

fn queues() -> Vec<Case> {
    vec![
        Case::probe("queues", json!({ "on_request_headers": [
            ["resolve_queue", "queues", "none"],
            ["let", "queue", ["register_queue", "a queue"]],
            ["dequeue", "$queue"],
            ["let", "same", ["resolve_queue", "queues", "a queue"]],
            ["let", "own", ["resolve_queue", "", "a queue"]],
            ["resolve_queue", "another", "a queue"],
            ["enqueue", "$same", "one"], ["enqueue", "$own", "two"], ["enqueue", "$queue", ""],
            ["dequeue", "$queue"], ["dequeue", "$queue"], ["dequeue", "$queue"], ["dequeue", "$queue"],
            ["dequeue", 0], ["enqueue", 0, "x"], ["dequeue", 999_999], ["enqueue", 999_999, "x"],
            ["register_queue", ""],
        ] })).unordered(),
        Case::probe("queue_is_registered_again", json!({ "on_request_headers": [
            ["let", "queue", ["register_queue", "a queue"]], ["enqueue", "$queue", "kept"],
            ["let", "again", ["register_queue", "a queue"]], ["dequeue", "$again"], ["dequeue", "$queue"],
        ] })).unordered(),
        Case::probe("queue_is_ready", json!({
            "on_request_headers": [["let", "queue", ["register_queue", "a queue"]], ["enqueue", "$queue", "one"], ["enqueue", "$queue", "two"]],
            "on_queue_ready": [["dequeue", "$queue"]],
        })).unordered()
        .until("two"),
        Case::new("queue_between_vms", Filter { vm_id: Some("sender"), ..Filter::probe(json!({ "on_response_headers": [
            ["let", "queue", ["resolve_queue", "receiver", "a queue"]], ["enqueue", "$queue", "from the sender"],
        ] })) }).answered(empty(204)).unordered()
        .then(Filter { vm_id: Some("receiver"), ..Filter::probe(json!({
            "on_request_headers": [["let", "queue", ["register_queue", "a queue"]]],
            "on_queue_ready": [["dequeue", "$queue"]],
        })) })
        .until("from the sender\""),
    ]
}

fn metrics() -> Vec<Case> {
    vec![
        Case::probe(
            "metrics",
            json!({ "on_request_headers": [
            ["let", "counter", ["define_metric", 0, "a_counter"]],
            ["let", "gauge", ["define_metric", 1, "a_gauge"]],
            ["let", "histogram", ["define_metric", 2, "a_histogram"]],
            ["increment_metric", "$counter", 2], ["get_metric", "$counter"],
            ["increment_metric", "$counter", 0], ["increment_metric", "$counter", -1], ["get_metric", "$counter"],
            ["record_metric", "$counter", 5], ["get_metric", "$counter"],
            ["record_metric", "$counter", -1], ["get_metric", "$counter"],
            ["record_metric", "$gauge", 7], ["get_metric", "$gauge"],
            ["increment_metric", "$gauge", -3], ["increment_metric", "$gauge", 1], ["get_metric", "$gauge"],
            ["increment_metric", "$gauge", -100], ["get_metric", "$gauge"],
            ["record_metric", "$histogram", 12], ["increment_metric", "$histogram", 1], ["get_metric", "$histogram"],
            ["get_metric", 0], ["record_metric", 0, 1], ["increment_metric", 0, 1],
            ["get_metric", 3], ["record_metric", 3, 1], ["increment_metric", 3, 1],
            ["get_metric", 4444], ["record_metric", 4444, 1], ["increment_metric", 4444, 1],
            ["get_metric", 4445], ["record_metric", 4445, 1], ["increment_metric", 4445, 1],
            ["get_metric", 4446], ["record_metric", 4446, 1], ["increment_metric", 4446, 1],
            ["define_metric", 3, "no_kind"], ["define_metric", -1, "no_kind"], ["define_metric", 0, ""],
        ] }),
        ),
        Case::probe(
            "a_metric_defined_twice",
            json!({ "on_request_headers": [
            ["let", "first", ["define_metric", 0, "a_twin"]], ["increment_metric", "$first", 1],
            ["let", "second", ["define_metric", 0, "a_twin"]], ["increment_metric", "$second", 1],
            ["get_metric", "$first"], ["get_metric", "$second"],
            ["define_metric", 1, "a_twin"],
        ] }),
        ),
        Case::new(
            "metrics_of_two_vms",
            Filter {
                vm_id: Some("metrics-a"),
                ..Filter::probe(json!({ "on_request_headers": [
            ["let", "m", ["define_metric", 0, "metric_of_both"]], ["increment_metric", "$m", 1],
        ] }))
            },
        )
        .answered(empty(204))
        .then(Filter {
            vm_id: Some("metrics-b"),
            ..Filter::probe(json!({ "on_request_headers": [
            ["let", "m", ["define_metric", 0, "metric_of_both"]], ["increment_metric", "$m", 1], ["get_metric", "$m"],
        ] }))
        }),
    ]
}
