use super::bindings::phasegate::plugin::wasm_http::{Method, Request};
use super::bindings::phasegate::plugin::wasm_websocket::{Host, Message, SocketType};
use super::text;
use crate::capability::websocket::{self, Handshake};
use crate::exchange::message_headers;
use crate::wasm::component::state::State;

impl Host for State {
    async fn socket_connect(&mut self, typ: SocketType, request: Request, timeout_ms: u64) -> Result<u64, String> {
        if !matches!(request.method, Method::Get) || request.body.is_some_and(|body| !body.is_empty()) {
            return Err("the request of an upgrade is a GET without a body (RFC 6455, section 4.1)".to_owned());
        }
        let headers = message_headers(request.headers, 0).map_err(text)?;
        let handshake = Handshake::new(typ.into(), &request.uri, &request.params, headers).map_err(text)?;
        let run = self.run().clone();
        let net = self.net().map_err(text)?;
        run.sockets.connect_websocket(net, typ.into(), handshake, timeout_ms).await.map_err(text)
    }

    async fn socket_read(&mut self, fd: u64, timeout_ms: u64) -> Result<Option<Message>, String> {
        let socket = self.websocket("socket-read", fd).await.map_err(text)?;
        let message = socket.read(timeout_ms).await.map_err(text)?;
        Ok(message.map(|message| match message {
            websocket::Message::Text(text) => Message::Text(text),
            websocket::Message::Binary(bytes) => Message::Binary(bytes),
        }))
    }

    async fn socket_write(&mut self, fd: u64, value: Message, timeout_ms: u64) -> Result<(), String> {
        let socket = self.websocket("socket-write", fd).await.map_err(text)?;
        let message = match value {
            Message::Text(text) => websocket::Message::Text(text),
            Message::Binary(bytes) => websocket::Message::Binary(bytes),
        };
        socket.write(message, timeout_ms).await.map_err(text)
    }

    async fn socket_ping(&mut self, fd: u64, data: Vec<u8>, timeout_ms: u64) -> Result<(), String> {
        let socket = self.websocket("socket-ping", fd).await.map_err(text)?;
        socket.ping(data, timeout_ms).await.map_err(text)
    }

    async fn socket_flush(&mut self, fd: u64, timeout_ms: u64) -> Result<(), String> {
        let socket = self.websocket("socket-flush", fd).await.map_err(text)?;
        socket.flush(timeout_ms).await.map_err(text)
    }

    async fn socket_close(&mut self, fd: u64, timeout_ms: u64) -> Result<(), String> {
        self.socket_close_with(fd, 1000, String::new(), timeout_ms).await
    }

    async fn socket_close_with(&mut self, fd: u64, code: u16, reason: String, timeout_ms: u64) -> Result<(), String> {
        websocket::check_close(code, &reason)?;
        let socket = self.websocket("socket-close", fd).await.map_err(text)?;
        self.run().sockets.remove(fd);
        socket.close(code, reason, timeout_ms).await.map_err(text)
    }

    async fn socket_close_code(&mut self, fd: u64) -> Result<Option<(u16, String)>, String> {
        Ok(self.run().sockets.websocket(fd).map_err(text)?.close_code())
    }
}
