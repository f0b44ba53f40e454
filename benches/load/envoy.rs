//! Envoy with the same Proxy-Wasm filters, as close to Phasegate as its configuration allows: one worker, no access log, no
//! headers of its own that it can leave out.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::Result;
use crate::config::{FILTER, Filter, module};

/// Where it is, if `make envoy` has installed it.
pub fn binary() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/envoy/bin/envoy"));
    path.exists().then_some(path)
}

/// A configuration file.
pub fn config(filters: usize, listen: SocketAddr, origin: SocketAddr) -> Result<String> {
    let mut chain = Filter::chain(filters).map(wasm).collect::<Result<Vec<_>>>()?;
    chain.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({ "suppress_envoy_headers": true }),
    ));
    let manager = json!({
        "stat_prefix": "load",
        "codec_type": "HTTP1",
        "generate_request_id": false,
        "server_header_transformation": "PASS_THROUGH",
        "http_filters": chain,
        "route_config": { "virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "origin" } }],
        }] },
    });
    let listener = json!({
        "name": "listener",
        "address": address(listen),
        "filter_chains": [{ "filters": [typed(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            manager,
        )] }],
    });
    let cluster = json!({
        "name": "origin",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "origin",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(origin) } }] }],
        },
    });
    let bootstrap = json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } });
    Ok(serde_json::to_string_pretty(&bootstrap)?)
}

fn wasm(filter: Filter) -> Result<Value> {
    let config = json!({
        "name": filter.header,
        "configuration": { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": filter.header },
        "vm_config": {
            "vm_id": filter.vm_id,
            "runtime": "envoy.wasm.runtime.v8",
            "code": { "local": { "filename": module(FILTER)? } },
        },
    });
    let kind = "envoy.extensions.filters.http.wasm.v3.Wasm";
    Ok(typed("envoy.filters.http.wasm", kind, json!({ "config": config })))
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/{kind}").into();
    json!({ "name": name, "typed_config": config })
}

fn address(addr: SocketAddr) -> Value {
    json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } })
}
