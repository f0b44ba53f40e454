use super::bindings::phasegate::plugin::wasm_http::Request;
use super::bindings::phasegate::plugin::wasm_websocket::{Host, Message, SocketType};
use super::not_available;
use crate::wasm::state::State;

impl Host for State {
    async fn socket_connect(&mut self, _: SocketType, _: Request, _: u64) -> Result<u64, String> {
        not_available("socket-connect")
    }

    async fn socket_read(&mut self, _: u64, _: u64) -> Result<Option<Message>, String> {
        not_available("socket-read")
    }

    async fn socket_write(&mut self, _: u64, _: Message, _: u64) -> Result<(), String> {
        not_available("socket-write")
    }

    async fn socket_flush(&mut self, _: u64, _: u64) -> Result<(), String> {
        not_available("socket-flush")
    }

    async fn socket_close(&mut self, _: u64, _: u64) -> Result<(), String> {
        not_available("socket-close")
    }
}
