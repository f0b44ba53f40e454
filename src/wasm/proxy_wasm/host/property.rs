//! temporary
#![allow(unused_variables, clippy::all)]
use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::Status;
pub fn get(call: &mut Call<'_>, p: u32, pl: u32, t: u32, s: u32) -> Answer {
    Err(Status::NotFound.into())
}
pub fn set(call: &mut Call<'_>, p: u32, pl: u32, v: u32, s: u32) -> Answer {
    Err(Status::NotFound.into())
}
