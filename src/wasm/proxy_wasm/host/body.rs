//! Buffers: bodies, messages, configurations.

use bytes::{Bytes, BytesMut};

use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::{BufferType, Direction, Status};
use crate::wasm::proxy_wasm::state::State;

pub fn get_buffer_bytes(call: &mut Call<'_>, kind: u32, start: u32, length: u32, to: u32, size: u32) -> Answer {
    let kind = BufferType::parse(kind)?;
    let part = with(call.state(), kind, |buffer| {
        let rest = buffer.get(start as usize..).unwrap_or_default();
        Bytes::copy_from_slice(&rest[..rest.len().min(length as usize)])
    })?;
    call.give(&part, to, size)
}

pub fn get_buffer_status(call: &mut Call<'_>, kind: u32, size: u32, flags: u32) -> Answer {
    let kind = BufferType::parse(kind)?;
    let length = with(call.state(), kind, <[u8]>::len)?;
    call.write_u32(size, u32::try_from(length).unwrap_or(u32::MAX))?;
    Ok(call.write_u32(flags, 0)?)
}

/// Puts bytes in the place of a range: beyond the end they are appended.
pub fn set_buffer_bytes(call: &mut Call<'_>, kind: u32, start: u32, length: u32, from: u32, size: u32) -> Answer {
    let direction = match BufferType::parse(kind)? {
        BufferType::RequestBody => Direction::Request,
        BufferType::ResponseBody => Direction::Response,
        _ => return Err(Status::BadArgument.into()),
    };
    let (bytes, state) = call.read(from, size)?;
    let context = state.contexts.stream()?;
    let mut http = context.stream.lock();
    let held = http.held(direction, context.position);
    if !held.visible {
        return Err(Status::NotFound.into());
    }
    let body = &mut held.body;
    let start = body.len().min(start as usize);
    let end = body.len().min(start.saturating_add(length as usize));
    if start == body.len() {
        body.extend_from_slice(bytes);
        return Ok(());
    }
    let mut changed = BytesMut::with_capacity(start + bytes.len() + body.len() - end);
    changed.extend_from_slice(&body[..start]);
    changed.extend_from_slice(bytes);
    changed.extend_from_slice(&body[end..]);
    *body = changed;
    Ok(())
}

/// Looks into a buffer.
fn with<T>(state: &State, kind: BufferType, look: impl FnOnce(&[u8]) -> T) -> Result<T, Status> {
    let shown = &state.shown;
    match kind {
        BufferType::RequestBody => of_stream(state, Direction::Request, look),
        BufferType::ResponseBody => of_stream(state, Direction::Response, look),
        BufferType::CallBody => shown.call_body.as_deref().map(look).ok_or(Status::NotFound),
        BufferType::GrpcMessage => shown.grpc_message.as_deref().map(look).ok_or(Status::NotFound),
        BufferType::ForeignArguments => shown.foreign_arguments.as_deref().map(look).ok_or(Status::NotFound),
        BufferType::VmConfiguration => {
            let configuration = state.vm.configuration.as_deref().unwrap_or_default();
            Ok(look(configuration.as_bytes()))
        }
        BufferType::PluginConfiguration => {
            let configuration = shown.plugin_configuration.as_deref().ok_or(Status::NotFound)?;
            Ok(look(configuration.as_bytes()))
        }
    }
}

fn of_stream<T>(state: &State, direction: Direction, look: impl FnOnce(&[u8]) -> T) -> Result<T, Status> {
    let context = state.contexts.stream()?;
    let mut http = context.stream.lock();
    let held = http.held(direction, context.position);
    if held.visible { Ok(look(&held.body)) } else { Err(Status::NotFound) }
}
