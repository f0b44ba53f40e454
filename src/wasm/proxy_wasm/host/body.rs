//! Buffers: bodies, messages, configurations.

use bytes::Bytes;

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

/// Puts bytes in the place of a range: beyond the end they are appended. Only bodies can be changed, and only while they
/// are shown.
pub fn set_buffer_bytes(call: &mut Call<'_>, kind: u32, start: u32, length: u32, from: u32, size: u32) -> Answer {
    let kind = BufferType::parse(kind)?;
    let (bytes, state) = call.read(from, size)?;
    let direction = match kind {
        BufferType::RequestBody => Direction::Request,
        BufferType::ResponseBody => Direction::Response,
        other => return Err(with(state, other, |_| Status::BadArgument)?.into()),
    };
    let context = state.contexts.stream().map_err(|_| Status::BadArgument)?;
    let mut http = context.stream.lock();
    let held = http.held(direction, context.position);
    if !held.visible {
        return Err(Status::BadArgument.into());
    }
    let body = &mut held.body;
    let start = body.len().min(start as usize);
    let end = body.len().min(start.saturating_add(length as usize));
    body.splice(start..end, bytes);
    Ok(())
}

/// Looks into a buffer. As in Envoy, one that has nothing to show now is empty, and only some are not found.
fn with<T>(state: &State, kind: BufferType, look: impl FnOnce(&[u8]) -> T) -> Result<T, Status> {
    let shown = &state.shown;
    let buffer = match kind {
        BufferType::RequestBody => return Ok(of_stream(state, Direction::Request, look)),
        BufferType::ResponseBody => return Ok(of_stream(state, Direction::Response, look)),
        BufferType::Tcp => &[],
        BufferType::CallBody => shown.call_body.as_deref().ok_or(Status::NotFound)?,
        BufferType::GrpcMessage => shown.grpc_message.as_deref().unwrap_or_default(),
        // One of Higress alone.
        BufferType::RedisReply => shown.redis_reply.as_deref().ok_or(Status::BadArgument)?,
        // What a foreign function of the filter was called with: the host calls none.
        BufferType::ForeignArguments => return Err(Status::NotFound),
        BufferType::VmConfiguration => state.vm.configuration.as_bytes(),
        BufferType::PluginConfiguration => shown.plugin_configuration.as_deref().ok_or(Status::NotFound)?.as_bytes(),
    };
    Ok(look(buffer))
}

fn of_stream<T>(state: &State, direction: Direction, look: impl FnOnce(&[u8]) -> T) -> T {
    let Ok(context) = state.contexts.stream() else { return look(&[]) };
    let mut http = context.stream.lock();
    let held = http.held(direction, context.position);
    if held.visible { look(&held.body) } else { look(&[]) }
}
