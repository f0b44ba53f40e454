//! Properties: what the proxy knows, as Envoy names and encodes it (Envoy's "Attributes"), what filters have set, and the
//! variables of Phasegate by their names. A path is names with a NUL after each but the last.
//!
//! Texts are as they are; a number is 64 bits, little-endian; a time or a duration is a number of nanoseconds; a truth value
//! is one byte; a map is pairs; a message is protobuf.

mod connection;
mod kong;
mod message;
mod node;

use bytes::Bytes;

use super::abi::{Direction, Status};
use super::state::{Contexts, State};
use super::stream::Http;
use crate::facts::View;
use crate::variables;

/// Names in a path of the proxy's own at the most.
const LONGEST: usize = 4;

/// What are only parts of a path: as values they cannot be encoded.
const GROUPS: [&[u8]; 8] =
    [b"request", b"response", b"connection", b"source", b"destination", b"upstream", b"xds", b"filter_state"];

/// Bytes that the filters of a stream may set, with the paths; and bytes of names that a context may declare.
const MOST_SET: usize = 1 << 20;

/// The value at the end of a path; none: there is none.
type Found = Option<()>;

/// A property that a plugin has declared before it is set (Envoy's `declare_property`).
pub struct Declared {
    pub name: String,
    pub read_only: bool,
}

/// Writes the value of a property.
///
/// # Errors
/// When there is none, or it is no value.
pub fn get(state: &State, path: &[u8], out: &mut Vec<u8>) -> Result<(), Status> {
    if path.is_empty() {
        return Err(Status::SerializationFailure);
    }
    let path = trimmed(path);
    let mut names = [&b""[..]; LONGEST];
    let mut count = 0;
    for name in path.split(|byte| *byte == 0) {
        if let Some(place) = names.get_mut(count) {
            *place = name;
        }
        count += 1;
    }
    let names = names.get(..count).unwrap_or_default();
    if of_plugin(state, names, out).is_some() {
        return Ok(());
    }
    let context = state.contexts.stream()?;
    if GROUPS.contains(&path) {
        return Err(Status::SerializationFailure);
    }
    let http = &mut *context.stream.lock();
    of_stream(http, names, out).or_else(|| of_filters(http, path, names, out)).ok_or(Status::NotFound)
}

/// Sets a property for all filters of the stream. `upstream_name` chooses the upstream; some have a meaning in Higress
/// (`Context::setProperty` of its Envoy).
///
/// # Errors
/// Without a stream; when it may be set only once, and is; when there is too much.
pub fn set(state: &mut State, path: &[u8], value: &[u8]) -> Result<(), Status> {
    let context = state.contexts.stream()?;
    let path = trimmed(path);
    match path {
        b"upstream_name" => {
            choose_upstream(state, value);
            return Ok(());
        }
        b"clear_route_cache" => {
            let mut http = context.stream.lock();
            http.held(Direction::Request, context.position).keeps_route = value == b"off";
            return Ok(());
        }
        b"set_decoder_buffer_limit" => {
            return limit_buffer(state, "set_decoder_buffer_limit", Direction::Request, value);
        }
        b"set_encoder_buffer_limit" => {
            return limit_buffer(state, "set_encoder_buffer_limit", Direction::Response, value);
        }
        _ => {}
    }
    let (_, root) = state.contexts.root()?;
    let mut http = context.stream.lock();
    let read_only = root.declared.iter().any(|declared| declared.name.as_bytes() == path && declared.read_only);
    http.set_property(path, value, read_only)
}

/// How much of a body the filter wants to hold, in decimal: no more than the operator permits, who learns of it.
fn limit_buffer(state: &mut State, name: &'static str, direction: Direction, value: &[u8]) -> Result<(), Status> {
    let context = state.contexts.stream()?;
    let asked = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
    let Some(asked): Option<usize> = asked else { return Ok(()) };
    let permitted = {
        let mut http = context.stream.lock();
        let held = http.held(direction, context.position);
        held.limit = asked.min(held.permitted);
        held.permitted
    };
    if asked > permitted {
        state.at_limit(name, &format!("it wants to hold {asked} bytes of a body; limits.buffer permits {permitted}"));
    }
    Ok(())
}

/// What a filter has set.
pub struct Property {
    value: Bytes,
    /// For all filters, by the declaration of the one that has set it.
    read_only: bool,
}

/// Declares a property: of the plugin, when its root context does. What a stream declares holds for nobody else, as in Envoy.
///
/// # Errors
/// When it is declared already, or there are too many.
pub fn declare(contexts: &mut Contexts, property: Declared) -> Result<(), Status> {
    let declared = contexts.declared().ok_or(Status::NotFound)?;
    if declared.iter().any(|declared| declared.name == property.name) {
        return Err(Status::BadArgument);
    }
    let bytes: usize = declared.iter().map(|declared| declared.name.len()).sum();
    if bytes + property.name.len() > MOST_SET {
        return Err(Status::InternalFailure);
    }
    declared.push(property);
    Ok(())
}

impl Http {
    /// # Errors
    /// When it is there and read-only, or there is too much.
    pub fn set_property(&mut self, path: &[u8], value: &[u8], read_only: bool) -> Result<(), Status> {
        if self.properties.get(path).is_some_and(|property| property.read_only) {
            return Err(Status::BadArgument);
        }
        let others = self.properties.iter().filter(|(other, _)| *other != path);
        let bytes: usize = others.map(|(path, property)| path.len() + property.value.len()).sum();
        if bytes + path.len() + value.len() > MOST_SET {
            return Err(Status::InternalFailure);
        }
        self.properties.insert(path.to_owned(), Property { value: Bytes::copy_from_slice(value), read_only });
        Ok(())
    }
}

/// What there is without a stream too.
fn of_plugin(state: &State, names: &[&[u8]], out: &mut Vec<u8>) -> Found {
    let identity = || state.contexts.root().ok().map(|(_, root)| &root.identity);
    match names {
        [b"plugin_name"] => put(out, &identity()?.name),
        [b"plugin_root_id"] => put(out, &identity()?.root_id),
        [b"plugin_vm_id"] => put(out, &state.vm.vm_id),
        [b"plugin_vm_memory"] => count(out, state.limits.used() as u64),
        [b"node", path @ ..] | [b"xds", b"node", path @ ..] => node::get(path, out),
        [b"listener_direction"] | [b"xds", b"listener_direction"] => int(out, INBOUND),
        [b"listener_metadata"] | [b"xds", b"listener_metadata"] => Some(()),
        _ => None,
    }
}

/// Envoy's `TrafficDirection` of a listener before the servers that it stands for.
const INBOUND: i64 = 1;

fn of_stream(http: &Http, names: &[&[u8]], out: &mut Vec<u8>) -> Found {
    match names {
        [b"request", path @ ..] => message::request(http, path, out),
        [b"response", path @ ..] => message::response(http, path, out),
        [b"source", name] => connection::source(http, name, out),
        [b"destination", name] => connection::destination(http, name, out),
        [b"connection", name] => connection::downstream(http, name, out),
        [b"connection_id"] => connection::downstream(http, b"id", out),
        [b"upstream", name] => connection::upstream(http, name, out),
        [b"xds", name] | [name @ (b"cluster_name" | b"cluster_metadata" | b"route_name" | b"route_metadata")] => {
            of_route(http, name, out)
        }
        // A message without fields.
        [b"metadata"] => Some(()),
        _ => None,
    }
}

fn of_route(http: &Http, name: &[u8], out: &mut Vec<u8>) -> Found {
    match name {
        b"cluster_name" => put(out, http.upstream_name()?),
        b"route_name" => put(out, &http.way.route.as_ref()?.route),
        b"virtual_host_name" => put(out, &http.way.route.as_ref()?.server),
        // Messages without fields, and the name of a chain that has none.
        b"cluster_metadata" | b"route_metadata" | b"virtual_host_metadata" | b"filter_chain_name" => Some(()),
        _ => None,
    }
}

/// What filters have set, also by the name that it has among Envoy's filter state; else the variable of that name.
fn of_filters(http: &Http, path: &[u8], names: &[&[u8]], out: &mut Vec<u8>) -> Found {
    if let Some(property) = http.properties.get(path) {
        return put(out, &property.value);
    }
    match names {
        [b"filter_state", name] => put(out, &http.properties.get(name.strip_prefix(b"wasm.")?)?.value),
        [b"upstream_name"] => put(out, http.upstream_name()?),
        [name] => variable(http, std::str::from_utf8(name).ok()?, out),
        _ => kong::get(http, names, out),
    }
}

fn variable(http: &Http, name: &str, out: &mut Vec<u8>) -> Found {
    let variable = variables::parse(name)?;
    let request = http.request.header.as_ref()?;
    let view = View { request, response: http.response.header.as_ref(), facts: &http.facts };
    put(out, view.variable(&variable)?.as_bytes())
}

/// Nothing here is refused: SDKs panic over that, and with the VM all of its streams would go.
fn choose_upstream(state: &State, name: &[u8]) {
    let Ok(context) = state.contexts.stream() else { return };
    let name = String::from_utf8_lossy(name).into_owned();
    let is_known = state.services.capabilities.clusters.is_known(&name);
    let mut http = context.stream.lock();
    let wrong = match http.upstream_open {
        false => Some("was set too late: the request is on its way already".to_owned()),
        true if is_known => None,
        true => Some(format!("is set to `{name}`, and there is no such upstream: the request cannot go on")),
    };
    if http.upstream_open {
        http.upstream = Some(name);
    }
    drop(http);
    if let Some(wrong) = wrong {
        state.log(log::Level::Warn, &format!("the property `upstream_name` {wrong}"));
    }
}

impl Http {
    /// The one that a filter or script has chosen, else that of the route.
    pub fn upstream_name(&self) -> Option<&str> {
        let connected = || self.facts.upstream.as_ref().map(|upstream| upstream.name.as_ref());
        let of_way = || self.way.upstream.as_ref().map(|(name, _)| name.as_ref());
        self.upstream.as_deref().or_else(connected).or_else(of_way)
    }
}

/// A path may end with a NUL.
fn trimmed(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"\0").unwrap_or(path)
}

fn put(out: &mut Vec<u8>, value: impl AsRef<[u8]>) -> Found {
    out.extend_from_slice(value.as_ref());
    Some(())
}

fn int(out: &mut Vec<u8>, value: i64) -> Found {
    put(out, value.to_le_bytes())
}

/// A number of things or bytes: no greater than an `i64` holds.
fn count(out: &mut Vec<u8>, value: u64) -> Found {
    put(out, value.to_le_bytes())
}

fn duration(out: &mut Vec<u8>, value: std::time::Duration) -> Found {
    int(out, i64::try_from(value.as_nanos()).unwrap_or(i64::MAX))
}
