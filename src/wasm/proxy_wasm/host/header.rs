//! Header maps.

use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::{Direction, MapType, Status};
use crate::wasm::proxy_wasm::fields::{Fields, FieldsMut, Unsendable};
use crate::wasm::proxy_wasm::module::Abi;
use crate::wasm::proxy_wasm::pairs;
use crate::wasm::proxy_wasm::state::State;

pub fn get_map_size(call: &mut Call<'_>, map: u32, to: u32) -> Answer {
    let mut size = 0;
    let count = |fields: Fields<'_>| fields.each(|name, value| size += name.len() + value.len());
    with(call.state(), MapType::parse(map)?, count).ok_or(Status::BadArgument)?;
    Ok(call.write_u32(to, u32::try_from(size).unwrap_or(u32::MAX))?)
}

pub fn get_map_pairs(call: &mut Call<'_>, map: u32, to: u32, size: u32) -> Answer {
    let pairs = with(call.state(), MapType::parse(map)?, |fields| pairs::encode(|pair| fields.each(pair)));
    // What is not there is empty to those who ask for all of it.
    call.give(&pairs.unwrap_or_default(), to, size)
}

pub fn set_map_pairs(call: &mut Call<'_>, map: u32, from: u32, size: u32) -> Answer {
    let map = MapType::parse(map)?;
    let (bytes, state) = call.read(from, size)?;
    Ok(change(state, "proxy_set_header_map_pairs", map, |mut fields| fields.set(&pairs::decode(bytes)?))?)
}

/// The first value. In ABI 0.1.0 a value that is not there is an empty one. Envoy calls it a bad argument when the whole map
/// is not there, over which SDKs panic: here it is not found.
pub fn get_map_value(call: &mut Call<'_>, map: u32, key: u32, key_size: u32, to: u32, size: u32) -> Answer {
    let map = MapType::parse(map)?;
    let (key, state) = call.read(key, key_size)?;
    let value = with(state, map, |fields| fields.get(key).map(|value| value.into_owned())).flatten();
    let value = match value {
        Some(value) => value,
        None if state.vm.abi == Abi::V0_1_0 => Vec::new(),
        None => return Err(Status::NotFound.into()),
    };
    call.give(&value, to, size)
}

pub fn add_map_value(call: &mut Call<'_>, map: u32, key: u32, key_size: u32, value: u32, size: u32) -> Answer {
    let map = MapType::parse(map)?;
    let (key, value, state) = call.read_two((key, key_size), (value, size))?;
    Ok(change(state, "proxy_add_header_map_value", map, |mut fields| fields.add(key, value))?)
}

pub fn replace_map_value(call: &mut Call<'_>, map: u32, key: u32, key_size: u32, value: u32, size: u32) -> Answer {
    let map = MapType::parse(map)?;
    let (key, value, state) = call.read_two((key, key_size), (value, size))?;
    Ok(change(state, "proxy_replace_header_map_value", map, |mut fields| fields.replace(key, value))?)
}

pub fn remove_map_value(call: &mut Call<'_>, map: u32, key: u32, key_size: u32) -> Answer {
    let map = MapType::parse(map)?;
    let (key, state) = call.read(key, key_size)?;
    Ok(change(state, "proxy_remove_header_map_value", map, |mut fields| {
        fields.remove(key);
        Ok(())
    })?)
}

/// Looks into a map, if it is there. One of a message that has gone on can still be read.
fn with<T>(state: &State, map: MapType, look: impl FnOnce(Fields<'_>) -> T) -> Option<T> {
    let shown = &state.shown;
    let plain = match map {
        MapType::GrpcTrailingMetadata => &shown.grpc_trailing_metadata,
        MapType::GrpcInitialMetadata | MapType::CallHeaders => {
            let header = if map == MapType::CallHeaders { &shown.call_headers } else { &shown.grpc_initial_metadata };
            return header.as_ref().map(|header| look(Fields::Response(header)));
        }
        MapType::CallTrailers => &shown.call_trailers,
        _ => return of_stream(state, map, look),
    };
    plain.as_ref().map(|fields| look(Fields::Plain(fields)))
}

fn of_stream<T>(state: &State, map: MapType, look: impl FnOnce(Fields<'_>) -> T) -> Option<T> {
    let http = state.contexts.stream().ok()?.stream.lock();
    let fields = match map {
        MapType::RequestHeaders => http.fields(Direction::Request),
        MapType::ResponseHeaders => http.fields(Direction::Response),
        MapType::RequestTrailers => http.trailers(Direction::Request).map(Fields::Plain),
        _ => http.trailers(Direction::Response).map(Fields::Plain),
    };
    fields.map(look)
}

/// Changes a map, if it may still be changed. What cannot be sent is no bad argument, as in Envoy: the stream ends.
fn change(
    state: &mut State,
    function: &str,
    map: MapType,
    change: impl FnOnce(FieldsMut<'_>) -> Result<(), Unsendable>,
) -> Result<(), Status> {
    let context = state.contexts.stream().map_err(|_| Status::BadArgument)?;
    let mut locked = context.stream.lock();
    let http = &mut *locked;
    let moved = http.target.moved;
    let keeps_route = http.held(Direction::Request, context.position).keeps_route;
    let fields = match map {
        MapType::RequestHeaders if http.request.open.header => {
            let header = http.request.header.as_mut();
            header.map(|header| FieldsMut::Request(header, &mut http.target))
        }
        MapType::ResponseHeaders if http.response.open.header => http.response.header.as_mut().map(FieldsMut::Response),
        MapType::RequestTrailers if http.request.open.trailers => {
            Some(FieldsMut::Plain(http.request.trailers.get_or_insert_default()))
        }
        MapType::ResponseTrailers if http.response.open.trailers => {
            Some(FieldsMut::Plain(http.response.trailers.get_or_insert_default()))
        }
        _ => None,
    };
    let changed = change(fields.ok_or(Status::BadArgument)?);
    if keeps_route {
        http.target.moved = moved;
    }
    drop(locked);
    if let Err(error) = changed {
        state.end_stream(function, &error);
    }
    Ok(())
}
