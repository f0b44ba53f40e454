//! `node`, `xds.node`: this proxy, as the `envoy.config.core.v3.Node` that an Envoy is configured with. Here nobody configures
//! it: the id is the name of the host, the cluster `phasegate`; metadata and locality have no fields.

use std::sync::LazyLock;

use prost::Message;

use super::{Found, put};

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(string, tag = "6")]
    user_agent_name: String,
    #[prost(string, tag = "7")]
    user_agent_version: String,
}

static NODE: LazyLock<Node> = LazyLock::new(|| Node {
    id: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
    cluster: "phasegate".to_owned(),
    user_agent_name: "phasegate".to_owned(),
    user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
});

pub fn get(path: &[&[u8]], out: &mut Vec<u8>) -> Found {
    match path {
        [] => put(out, NODE.encode_to_vec()),
        [b"id"] => put(out, &NODE.id),
        [b"cluster"] => put(out, &NODE.cluster),
        [b"user_agent_name"] => put(out, &NODE.user_agent_name),
        [b"user_agent_version"] => put(out, &NODE.user_agent_version),
        [b"metadata" | b"locality"] | [b"locality", b"region" | b"zone" | b"sub_zone"] => Some(()),
        _ => None,
    }
}
