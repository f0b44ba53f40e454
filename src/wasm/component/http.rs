use super::bindings::phasegate::plugin::wasm_http::{Host, Request, Response, SocketType};
use super::not_available;
use crate::wasm::state::State;

impl Host for State {
    async fn handle_http(&mut self, _: SocketType, _: Request, _: u64) -> Result<Response, String> {
        not_available("handle-http")
    }
}
