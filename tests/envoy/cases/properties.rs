//! Properties, with their encodings.

use serde_json::{Value, json};

use crate::case::*;
use crate::compare;

#[tokio::test(flavor = "multi_thread")]
async fn properties() {
    compare("properties", cases()).await;
}

/// Steps that read these.
fn read(paths: &[&str]) -> Vec<Value> {
    paths.iter().map(|path| json!(["property", (path.split('.').collect::<Vec<_>>())])).collect()
}

/// Steps that tell only the length: for what differs from run to run.
fn exist(paths: &[&str]) -> Vec<Value> {
    paths.iter().map(|path| json!(["has_property", (path.split('.').collect::<Vec<_>>())])).collect()
}

const REQUEST: [&str; 14] = [
    "request.path",
    "request.url_path",
    "request.host",
    "request.scheme",
    "request.method",
    "request.referer",
    "request.useragent",
    "request.protocol",
    "request.query",
    "request.size",
    "request.total_size",
    "request.id",
    "request.headers.x-one",
    "request.headers.x-none",
];
const RESPONSE: [&str; 9] = [
    "response.code",
    "response.code_details",
    "response.flags",
    "response.grpc_status",
    "response.size",
    "response.total_size",
    "response.headers.x-own",
    "response.trailers.x-after",
    "response.headers.x-none",
];
const TIMES: [&str; 4] = ["request.time", "request.duration", "response.backend_latency", "connection.id"];
const CONNECTION: [&str; 15] = [
    "connection.mtls",
    "connection.requested_server_name",
    "connection.tls_version",
    "connection.subject_local_certificate",
    "connection.subject_peer_certificate",
    "connection.dns_san_local_certificate",
    "connection.dns_san_peer_certificate",
    "connection.uri_san_local_certificate",
    "connection.uri_san_peer_certificate",
    "connection.sha256_peer_certificate_digest",
    "connection.peer_certificate",
    "connection.transport_failure_reason",
    "connection.termination_details",
    "connection_id",
    "connection.nothing",
];
const PEERS: [&str; 4] = ["source.address", "source.port", "destination.address", "destination.port"];
const UPSTREAM: [&str; 8] = [
    "upstream.address",
    "upstream.port",
    "upstream.local_address",
    "upstream.num_endpoints",
    "upstream.tls_version",
    "upstream.transport_failure_reason",
    "upstream.request_attempt_count",
    "upstream.locality",
];
const XDS: [&str; 12] = [
    "xds.node",
    "xds.cluster_name",
    "xds.cluster_metadata",
    "xds.listener_direction",
    "xds.listener_metadata",
    "xds.route_name",
    "xds.route_metadata",
    "xds.virtual_host_name",
    "xds.virtual_host_metadata",
    "xds.upstream_host_metadata",
    "xds.filter_chain_name",
    "xds.upstream_host_locality_metadata",
];
const PLUGIN: [&str; 3] = ["plugin_name", "plugin_root_id", "plugin_vm_id"];
const LEGACY: [&str; 8] = [
    "node",
    "cluster_name",
    "cluster_metadata",
    "route_name",
    "route_metadata",
    "listener_direction",
    "listener_metadata",
    "upstream_host_metadata",
];
const NONE: [&str; 6] = ["", "nothing", "request", "request.nothing", "response", "request.headers"];

pub fn cases() -> Vec<Case> {
    let with = |case: Case| {
        case.answered(response(200, "hello").header("x-own", "1").header("x-own", "2").trailer("x-after", "1")).request(
            post("/a/b?c=d#e", "body")
                .header("x-one", "1")
                .header("x-one", "2")
                .header("referer", "http://from.test/")
                .header("user-agent", "a client")
                .header("x-request-id", "an-id"),
        )
    };
    let phases = [
        ("in_request_headers", "on_request_headers"),
        ("in_response_headers", "on_response_headers"),
        ("in_log", "on_log"),
    ];
    let mut cases = Vec::new();
    for (phase, callback) in phases {
        let mut case = |name: &str, steps: Vec<Value>| {
            let name: &'static str = format!("{name}_{phase}").leak();
            cases.push(with(Case::probe(name, json!({ callback: steps }))));
        };
        case("request", read(&REQUEST));
        case("response", read(&RESPONSE));
        case("times", exist(&TIMES));
        case("connection", read(&CONNECTION).into_iter().filter(|step| step[1] != json!(["connection_id"])).collect());
        case("peers", [read(&["source.address", "destination.address"]), exist(&PEERS)].concat());
        case("upstream", exist(&UPSTREAM));
        case(
            "xds",
            exist(&XDS)
                .into_iter()
                .chain(read(&[
                    "xds.cluster_name",
                    "xds.route_name",
                    "xds.virtual_host_name",
                    "xds.listener_direction",
                    "xds.filter_chain_name",
                    "xds.node.id",
                    "xds.node.cluster",
                ]))
                .collect(),
        );
        case("legacy", exist(&LEGACY));
        case("plugin", read(&PLUGIN));
        case("none", exist(&NONE));
    }
    cases.extend([
        with(Case::probe("maps_of_properties", json!({ "on_request_headers": [
            ["property_map", ["response", "headers"]], ["property_map", ["response", "trailers"]], ["property", ["response", "headers", "a"]],
        ], "on_log": [
            ["property_map", ["request", "headers"]], ["property_map", ["response", "headers"]], ["property_map", ["response", "trailers"]],
            ["property", ["request", "headers", "X-ONE"]], ["property", ["request", "headers", ":path"]],
        ] }))),
        Case::probe("properties_of_the_root", json!({
            "on_context_create": [["property", ["plugin_name"]], ["property", ["plugin_root_id"]], ["property", ["plugin_vm_id"]]],
            "on_configure": [
                ["property", ["plugin_name"]], ["property", ["plugin_root_id"]], ["property", ["plugin_vm_id"]],
                ["has_property", ["node"]], ["has_property", ["xds", "node"]], ["property", ["xds", "node", "id"]], ["property", ["request", "path"]], ["has_property", ["listener_direction"]],
                ["set_property", ["a"], "b"],
            ],
        })),
        Case::probe("own_properties", json!({
            "on_request_headers": [
                ["set_property", ["own"], "one"], ["property", ["own"]], ["set_property", ["own"], "two"], ["property", ["own"]],
                ["property", ["filter_state", "wasm.own"]], ["property", ["wasm.own"]], ["property", ["filter_state", "own"]],
                ["set_property", ["a", "b"], "nested"], ["property", ["a", "b"]], ["property", ["a"]],
                ["set_property", ["own.dot"], "x"], ["property", ["own.dot"]],
                ["set_property", ["empty"], ""], ["property", ["empty"]],
                ["set_property", [""], "no name"], ["property", [""]],
                ["set_property", ["request", "path"], "/other"], ["property", ["request", "path"]],
                ["set_property", ["bytes"], { "hex": "00ff" }], ["property", ["bytes"]],
            ],
            "on_response_headers": [["property", ["own"]]],
            "on_log": [["property", ["own"]]],
        })),
        Case::probe("paths_as_bytes", json!({ "on_request_headers": [
            ["property", { "hex": "72657175657374006d6574686f6400" }],
            ["property", { "hex": "72657175657374006d6574686f64" }],
            ["property", { "hex": "00" }], ["property", { "hex": "0000" }], ["property", { "hex": "ff" }],
            ["property", "request.method"],
        ] })),
        Case::probe("changed_headers_in_properties", json!({
            "on_request_headers": [["replace", "request_headers", ":path", "/new?x"], ["add", "request_headers", "x-new", "1"], ["property", ["request", "path"]], ["property", ["request", "url_path"]], ["property", ["request", "headers", "x-new"]]],
        })),
        Case {
            lua: Some(
                "function envoy_on_request(handle)\n  handle:streamInfo():dynamicMetadata():set('envoy.filters.http.lua', 'key', 'VALUE')\n  handle:streamInfo():dynamicMetadata():set('envoy.filters.http.lua', 'number', 5)\nend",
            ),
            ..Case::probe("dynamic_metadata", json!({ "on_request_headers": [
                ["property", ["metadata", "filter_metadata", "envoy.filters.http.lua", "key"]],
                ["property", ["metadata", "filter_metadata", "envoy.filters.http.lua", "number"]],
                ["property_map", ["metadata", "filter_metadata", "envoy.filters.http.lua"]],
                ["property", ["metadata", "filter_metadata", "envoy.filters.http.lua", "none"]],
                ["property", ["metadata", "filter_metadata", "none"]],
            ] }))
        },
    ]);
    cases
}
