//! Properties.

use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::Status;
use crate::wasm::proxy_wasm::property;

pub fn get(call: &mut Call<'_>, path: u32, path_size: u32, to: u32, size: u32) -> Answer {
    let (path, state) = call.read(path, path_size)?;
    let mut value = Vec::new();
    property::get(state, path, &mut value)?;
    call.give(&value, to, size)
}

pub fn set(call: &mut Call<'_>, path: u32, path_size: u32, value: u32, size: u32) -> Answer {
    let (path, value, state) = call.read_two((path, path_size), (value, size))?;
    match property::set(state, path, value) {
        Err(Status::InternalFailure) => {
            state.end_stream("proxy_set_property", &"the filters of a stream can set 1 MiB");
            Ok(())
        }
        set => Ok(set?),
    }
}
