//! temporary
#![allow(unused_variables, clippy::all)]
use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::Status;
pub fn http_call(
    call: &mut Call<'_>,
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
    i: u32,
    j: u32,
) -> Answer {
    Err(Status::NotFound.into())
}
pub fn grpc_call(
    call: &mut Call<'_>,
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
    i: u32,
    j: u32,
    k: u32,
    l: u32,
) -> Answer {
    Err(Status::NotFound.into())
}
pub fn grpc_stream(
    call: &mut Call<'_>,
    a: u32,
    b: u32,
    c: u32,
    d: u32,
    e: u32,
    f: u32,
    g: u32,
    h: u32,
    i: u32,
) -> Answer {
    Err(Status::NotFound.into())
}
pub fn grpc_send(call: &mut Call<'_>, a: u32, b: u32, c: u32, d: u32) -> Answer {
    Err(Status::NotFound.into())
}
pub fn grpc_cancel(call: &mut Call<'_>, a: u32) -> Answer {
    Err(Status::NotFound.into())
}
pub fn grpc_close(call: &mut Call<'_>, a: u32) -> Answer {
    Err(Status::NotFound.into())
}
