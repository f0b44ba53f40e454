//! What a filter does with its stream: resume, end, answer.

use http::{HeaderName, HeaderValue, StatusCode};

use super::call::{Answer, Call, header_name, header_value};
use crate::wasm::proxy_wasm::abi::{Direction, Status, StreamType};
use crate::wasm::proxy_wasm::pairs;
use crate::wasm::proxy_wasm::state::State;
use crate::wasm::proxy_wasm::stream::LocalReply;

pub fn continue_request(call: &mut Call<'_>) -> Answer {
    resume(call, Direction::Request)
}

pub fn continue_response(call: &mut Call<'_>) -> Answer {
    resume(call, Direction::Response)
}

pub fn continue_stream(call: &mut Call<'_>, stream: u32) -> Answer {
    match StreamType::parse(stream)? {
        StreamType::Http(direction) => resume(call, direction),
        // As Envoy in an HTTP filter.
        StreamType::Downstream => Ok(()),
        StreamType::Upstream => Err(Status::Unimplemented.into()),
    }
}

/// Routes are looked up anew whenever path or host have changed: there is nothing to clear.
#[expect(clippy::unnecessary_wraps, reason = "a host function like any other")]
pub fn clear_route_cache(_call: &mut Call<'_>) -> Answer {
    Ok(())
}

/// Ends the stream without a response, or in the middle of it.
pub fn close_stream(call: &mut Call<'_>, stream: u32) -> Answer {
    if let StreamType::Http(_) = StreamType::parse(stream)? {
        close(call.state());
    }
    Ok(())
}

/// Whatever is wrong with the response, the stream does not go on: filters deny by it.
#[expect(clippy::too_many_arguments, reason = "of the ABI")]
pub fn send_local_response(
    call: &mut Call<'_>,
    status: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    grpc_status: u32,
) -> Answer {
    let details = call.text(details, details_size)?;
    let body = call.bytes(body, body_size)?;
    let (headers, state) = call.read(headers, headers_size)?;
    let headers = reply_headers(state, headers);
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status.filter(|status| !status.is_informational()) else {
        state
            .log(log::Level::Warn, "proxy_send_local_response: the status is none of a response: the stream is closed");
        close(state);
        return Ok(());
    };
    // A root context has nobody to answer.
    let Ok(context) = state.contexts.stream() else { return Ok(()) };
    let mut http = context.stream.lock();
    if http.reply.is_some() || http.closed {
        return Ok(());
    }
    if let Ok((_, root)) = state.contexts.root() {
        root.identity.metrics.local_replies.inc();
    }
    let details = details.replace(|c: char| c.is_ascii_whitespace(), "_");
    let mut reply = LocalReply { status, headers, body, details };
    if http.is_grpc() {
        reply = reply.into_grpc(grpc_status);
    }
    http.reply = Some(Box::new(reply));
    drop(http);
    context.stream.wake();
    Ok(())
}

/// Those that can be sent; the log tells of others.
fn reply_headers(state: &State, map: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
    let left_out = |what: &dyn std::fmt::Display| {
        state.log(log::Level::Warn, &format!("proxy_send_local_response: left out: {what}"));
    };
    let pairs = pairs::decode(map).unwrap_or_else(|error| {
        left_out(&error);
        Vec::new()
    });
    let checked = |(name, value): (&[u8], &[u8])| {
        let checked = header_name(name).and_then(|name| Ok((name, header_value(value)?))).ok();
        if checked.is_none() {
            left_out(&format!("the header {:?}", String::from_utf8_lossy(name)));
        }
        checked
    };
    // The status is given beside them. Filters that hand on what a callout has brought have it here as well.
    pairs.into_iter().filter(|(name, _)| !name.starts_with(b":")).filter_map(checked).collect()
}

/// A root context has no stream, and need not know that.
fn close(state: &State) {
    if let Ok(context) = state.contexts.stream() {
        context.stream.lock().closed = true;
        context.stream.wake();
    }
}

fn resume(call: &mut Call<'_>, direction: Direction) -> Answer {
    let Ok(context) = call.state().contexts.stream() else { return Ok(()) };
    context.stream.lock().held(direction, context.position).resume = true;
    context.stream.wake();
    Ok(())
}
