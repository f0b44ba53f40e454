//! Listening sockets, bound before the server starts: an address that is taken is an error of the start, and port 0 is
//! a port by then.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora::services::listening::Service;
use tokio::sync::watch;

use super::ServerError;

/// A socket that listens.
pub struct Bound {
    pub addr: SocketAddr,
    socket: TcpListener,
}

/// Binds an address.
///
/// # Errors
/// When it is taken, or not an address of this machine.
pub fn bind(addr: SocketAddr) -> Result<Bound, ServerError> {
    let failed = |source| ServerError::Listen { addr, source };
    let socket = TcpListener::bind(addr).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(Bound { addr: socket.local_addr().map_err(failed)?, socket })
}

/// A service that finds its socket open already, as after an upgrade of Pingora.
pub struct Prebound<A> {
    service: Service<A>,
    sockets: ListenFds,
    /// There for a service that goes on during a shutdown: its own signal, which never comes.
    never: Option<watch::Sender<bool>>,
}

impl<A> Prebound<A> {
    /// The service must have been told to listen on the address of this socket.
    pub fn new(service: Service<A>, bound: Bound) -> Prebound<A> {
        let mut sockets = Fds::new();
        // Pingora owns the descriptor from here on.
        sockets.add(bound.addr.to_string(), bound.socket.into_raw_fd());
        Prebound { service, sockets: Arc::new(Mutex::new(sockets)), never: None }
    }

    /// Goes on during a shutdown, to the end of the process.
    pub fn until_the_end(mut self) -> Prebound<A> {
        self.never = Some(watch::Sender::new(false));
        self
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> PingoraService for Prebound<A> {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        let shutdown = self.never.as_ref().map_or(shutdown, watch::Sender::subscribe);
        self.service.start_service(Some(self.sockets.clone()), shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        PingoraService::name(&self.service)
    }

    fn threads(&self) -> Option<usize> {
        PingoraService::threads(&self.service)
    }
}
