//! How a plugin comes by its sockets: those of its run, and `curr-fd`, which is opened when it is first used.

use std::sync::Arc;

use super::state::State;
use crate::capability::socket::{ByteSocket, CLIENT, SocketError};
use crate::capability::websocket::WebSocket;
use crate::exchange::Refused;

/// Why a plugin does not get a socket.
#[derive(Debug, thiserror::Error)]
pub enum NoSocket {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl State {
    /// The stream of this number.
    ///
    /// # Errors
    /// When it is not open, and when there is no stream to the client in this phase.
    pub async fn byte_socket(&mut self, function: &'static str, fd: u64) -> Result<Arc<ByteSocket>, NoSocket> {
        let run = self.run().clone();
        if fd == CLIENT {
            let mut client = run.sockets.client().await;
            if !client.opened {
                let asked = self.exchange()?.ask_stream(function)?;
                let stream = asked.await.map_err(|_| Refused::Ended)?;
                run.sockets.add_client(stream, &self.capabilities().live.sockets);
                client.opened = true;
            }
        }
        Ok(run.sockets.bytes(fd)?)
    }

    /// The same for writing: before the first byte goes to the client, the head of the response does.
    ///
    /// # Errors
    /// As [`State::byte_socket`], and when the head cannot be sent.
    pub async fn byte_socket_to_write(&mut self, function: &'static str, fd: u64) -> Result<Arc<ByteSocket>, NoSocket> {
        let socket = self.byte_socket(function, fd).await?;
        if fd == CLIENT {
            let run = self.run().clone();
            let mut client = run.sockets.client().await;
            if !client.answered {
                let reply = self.take_reply();
                let asked = self.exchange()?.ask_head(reply)?;
                socket.limit(asked.await.map_err(|_| Refused::Ended)??).await;
                client.answered = true;
            }
        }
        Ok(socket)
    }

    /// The WebSocket connection of this number. That with the client begins with the answer to its request for it.
    ///
    /// # Errors
    /// When it is not open, and when there is none with the client.
    pub async fn websocket(&mut self, function: &'static str, fd: u64) -> Result<Arc<WebSocket>, NoSocket> {
        let run = self.run().clone();
        if fd == CLIENT {
            let mut client = run.sockets.client().await;
            if !client.opened {
                let accept = self.exchange()?.check_upgrade(function)?;
                let asked = self.exchange()?.ask_stream(function)?;
                let stream = asked.await.map_err(|_| Refused::Ended)?;
                let reply = self.take_reply();
                let upgrade = self.exchange()?.ask_upgrade(accept, reply)?;
                upgrade.await.map_err(|_| Refused::Ended)??;
                run.sockets.add_client_websocket(stream, &self.capabilities().live.sockets).await;
                client.opened = true;
            }
        }
        Ok(run.sockets.websocket(fd)?)
    }
}
