//! SIGTERM, SIGINT and SIGQUIT: no new connections, and an end when the last request has ended.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::select_all;
use parking_lot::{Condvar, Mutex};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ServerError;
use super::connections::Connections;
use crate::observe::metrics::Metrics;

/// How often the end of the requests in flight is looked for.
const STEP: Duration = Duration::from_millis(10);

/// For this long after the signal, a connection that was accepted just before may still bring its request.
const LATECOMERS: Duration = Duration::from_millis(100);

/// For this long after the last request has ended, connections may take to end: in HTTP/2, what requests have written may
/// still be on its way.
const FAREWELL: Duration = Duration::from_secs(5);

/// Knows whether a signal has come.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// What tells Pingora, and this. From now on a signal does not end the process at once; one that comes before anybody
    /// waits for it is kept.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn listen(&self, runtime: &Runtime) -> io::Result<impl ShutdownSignalWatch + use<>> {
        let _inside = runtime.enter();
        let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()].map(signal);
        let signals = signals.into_iter().collect::<io::Result<_>>()?;
        Ok(Signals { shutdown: self.clone(), signals: Mutex::new(signals) })
    }

    /// Waits for a signal.
    ///
    /// # Errors
    /// When the server ends first.
    pub fn wait(&self, server: JoinHandle<()>) -> Result<(), ServerError> {
        let (came, changed) = &*self.0;
        let mut came = came.lock();
        while !*came && !server.is_finished() {
            changed.wait_for(&mut came, Duration::from_millis(200));
        }
        if *came { Ok(()) } else { Err(ServerError::Ended { panicked: server.join().is_err() }) }
    }

    fn come(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

struct Signals {
    shutdown: Shutdown,
    /// Until Pingora waits for them.
    signals: Mutex<Vec<Signal>>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let mut signals = std::mem::take(&mut *self.signals.lock());
        if !signals.is_empty() {
            select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
        }
        self.shutdown.come();
        ShutdownSignal::GracefulTerminate
    }
}

/// Waits until no request is in flight and their connections have ended, for at most the grace period.
pub fn drain(metrics: &Metrics, connections: &Connections, grace: Duration) {
    let start = Instant::now();
    let left = || grace.saturating_sub(start.elapsed());
    thread::sleep(LATECOMERS.min(grace));
    while metrics.requests_in_flight() > 0 {
        if left().is_zero() {
            log::warn!("the grace period is over: {} requests are cut off", metrics.requests_in_flight());
            return;
        }
        thread::sleep(STEP);
    }
    let end = Instant::now() + FAREWELL.min(left());
    while connections.count() > 0 && Instant::now() < end {
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_by_itself_is_an_error() {
        let wait = |serve: fn()| Shutdown::default().wait(thread::spawn(serve)).unwrap_err().to_string();
        assert_eq!(wait(|| ()), "the server has ended by itself");
        let panicked = "the server has ended by itself: a panic, which is reported before this";
        assert_eq!(wait(|| std::panic::resume_unwind(Box::new(()))), panicked);
    }

    #[test]
    fn a_signal_is_no_error() {
        let shutdown = Shutdown::default();
        shutdown.come();
        assert!(shutdown.wait(thread::spawn(|| ())).is_ok());
    }
}
