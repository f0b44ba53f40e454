use super::bindings::phasegate::plugin::wasm_socket::{Host, SocketType};
use super::text;
use crate::capability::net::Transport;
use crate::wasm::component::state::State;

impl Host for State {
    async fn socket_connect(
        &mut self,
        typ: SocketType,
        addr: String,
        ssl_domain: Option<String>,
        timeout_ms: u64,
    ) -> Result<u64, String> {
        let run = self.run().clone();
        let net = self.net().map_err(text)?;
        run.sockets.connect(net, typ.into(), &addr, ssl_domain.as_deref(), timeout_ms).await.map_err(text)
    }

    async fn socket_read(&mut self, fd: u64, size: u64, timeout_ms: u64) -> Result<Vec<u8>, String> {
        let socket = self.byte_socket("socket-read", fd).await.map_err(text)?;
        socket.read(size, timeout_ms).await.map_err(text)
    }

    async fn socket_read_exact(&mut self, fd: u64, size: u64, timeout_ms: u64) -> Result<Vec<u8>, String> {
        let socket = self.byte_socket("socket-read-exact", fd).await.map_err(text)?;
        socket.read_exact(size, timeout_ms).await.map_err(text)
    }

    async fn socket_write(&mut self, fd: u64, data: Vec<u8>, timeout_ms: u64) -> Result<u64, String> {
        let socket = self.byte_socket_to_write("socket-write", fd).await.map_err(text)?;
        socket.write(&data, timeout_ms).await.map_err(text)
    }

    async fn socket_write_all(&mut self, fd: u64, data: Vec<u8>, timeout_ms: u64) -> Result<u64, String> {
        let socket = self.byte_socket_to_write("socket-write-all", fd).await.map_err(text)?;
        socket.write_all(&data, timeout_ms).await.map_err(text)
    }

    async fn socket_flush(&mut self, fd: u64, timeout_ms: u64) -> Result<(), String> {
        let socket = self.byte_socket_to_write("socket-flush", fd).await.map_err(text)?;
        socket.flush(timeout_ms).await.map_err(text)
    }

    async fn socket_close(&mut self, fd: u64, timeout_ms: u64) -> Result<(), String> {
        let socket = self.byte_socket("socket-close", fd).await.map_err(text)?;
        self.run().sockets.remove(fd);
        socket.shut_down(timeout_ms).await.map_err(text)
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
