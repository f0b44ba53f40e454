//! Foreign functions: those that Envoy registers for HTTP filters, and Higress beside them, by their names.

use std::io::Read;

use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use prost::Message;

use super::call::{Answer, Call, Refusal, failed};
use super::context::log_level;
use crate::wasm::proxy_wasm::abi::Status;
use crate::wasm::proxy_wasm::property::{self, Declared};
use crate::wasm::proxy_wasm::state::State;

/// Bytes that `uncompress` gives at the most.
const LARGEST: u64 = 64 << 20;

/// Of Envoy alone, and only there to be imported: what filters look up is what they call out to, and that is in `[upstream]`.
pub fn resolve_dns(call: &mut Call<'_>, _name: u32, _size: u32, _token: u32) -> Answer {
    call.state().at_limit("envoy_resolve_dns", &"not implemented");
    Err(Status::Unimplemented.into())
}

pub fn call(call: &mut Call<'_>, name: u32, name_size: u32, from: u32, from_size: u32, to: u32, size: u32) -> Answer {
    let (name, arguments, state) = call.read_two((name, name_size), (from, from_size))?;
    let result = match name {
        b"compress" => compress(arguments)?,
        b"uncompress" => uncompress(state, arguments)?,
        b"set_envoy_filter_state" => set_filter_state(state, arguments)?,
        b"declare_property" => declare_property(state, arguments)?,
        // Routes are looked up anew whenever path or host have changed: there is nothing to clear.
        b"clear_route_cache" => Vec::new(),
        // Of Higress: each of its log lines asks.
        b"get_log_level" => log_level().to_le_bytes().to_vec(),
        // Of Higress: requests of a connection of HTTP/2 do not come in cycles.
        b"set_global_max_requests_per_io_cycle" => Vec::new(),
        _ => return Err(Status::NotFound.into()),
    };
    call.give(&result, to, size)
}

/// With the header and trailer of zlib (RFC 1950).
fn compress(data: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let compressed = ZlibEncoder::new(data, Compression::default()).read_to_end(&mut out);
    compressed.map(|_| out).map_err(|_| Status::SerializationFailure.into())
}

fn uncompress(state: &State, data: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    let read = ZlibDecoder::new(data).take(LARGEST + 1).read_to_end(&mut out);
    read.map_err(|_| Status::SerializationFailure)?;
    if out.len() as u64 > LARGEST {
        return Err(failed(state, "uncompress", &format!("comes to more than {LARGEST} bytes")));
    }
    Ok(out)
}

/// A value of Envoy's filter state: the property `filter_state.PATH` from now on.
fn set_filter_state(state: &State, arguments: &[u8]) -> Result<Vec<u8>, Refusal> {
    #[derive(Message)]
    struct Arguments {
        #[prost(string, tag = "1")]
        path: String,
        #[prost(string, tag = "2")]
        value: String,
    }
    let Arguments { path, value } = Arguments::decode(arguments).map_err(|_| Status::BadArgument)?;
    let path = [b"filter_state\0", path.as_bytes()].concat();
    state.contexts.stream()?.stream.lock().set_property(&path, value.as_bytes(), false)?;
    Ok(Vec::new())
}

/// Of its type nothing depends here: values are what was set. All of them live as long as the stream.
fn declare_property(state: &mut State, arguments: &[u8]) -> Result<Vec<u8>, Refusal> {
    #[derive(Message)]
    struct Arguments {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(bool, tag = "2")]
        read_only: bool,
    }
    let Arguments { name, read_only } = Arguments::decode(arguments).map_err(|_| Status::BadArgument)?;
    property::declare(&mut state.contexts, Declared { name, read_only })?;
    Ok(Vec::new())
}
