use super::bindings::phasegate::plugin::wasm_socket::{Host, SocketType};
use super::not_available;
use crate::capability::net::Transport;
use crate::wasm::state::State;

impl Host for State {
    async fn socket_connect(&mut self, _: SocketType, _: String, _: Option<String>, _: u64) -> Result<u64, String> {
        not_available("socket-connect")
    }

    async fn socket_read(&mut self, _: u64, _: u64, _: u64) -> Result<Vec<u8>, String> {
        not_available("socket-read")
    }

    async fn socket_read_exact(&mut self, _: u64, _: u64, _: u64) -> Result<Vec<u8>, String> {
        not_available("socket-read-exact")
    }

    async fn socket_write(&mut self, _: u64, _: Vec<u8>, _: u64) -> Result<u64, String> {
        not_available("socket-write")
    }

    async fn socket_write_all(&mut self, _: u64, _: Vec<u8>, _: u64) -> Result<u64, String> {
        not_available("socket-write-all")
    }

    async fn socket_flush(&mut self, _: u64, _: u64) -> Result<(), String> {
        not_available("socket-flush")
    }

    async fn socket_close(&mut self, _: u64, _: u64) -> Result<(), String> {
        not_available("socket-close")
    }
}

impl From<SocketType> for Transport {
    fn from(typ: SocketType) -> Transport {
        match typ {
            SocketType::Tcp => Transport::Tcp,
            SocketType::Ssl => Transport::Ssl,
            SocketType::Quic => Transport::Quic,
        }
    }
}
