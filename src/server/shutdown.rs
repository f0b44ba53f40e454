//! SIGTERM, SIGINT and SIGQUIT: no new connections, and an end when the last request has ended. A SIGINT after that,
//! as by a second Ctrl-C, ends the waiting.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
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
pub(super) const LATECOMERS: Duration = Duration::from_millis(100);

/// For this long after the last request has ended, connections may take to end: in HTTP/2, what requests have written may
/// still be on its way.
const FAREWELL: Duration = Duration::from_secs(5);

/// What signals have asked for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nothing,
    /// To end when the requests in flight have ended.
    End,
    /// To end at once.
    EndNow,
}

/// Knows which signals have come.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<(Mutex<Asked>, Condvar)>);

impl Shutdown {
    /// What tells Pingora, and this. From now on a signal does not end the process at once; one that comes before anybody
    /// waits for it is kept.
    ///
    /// # Errors
    /// When the signals cannot be listened for.
    pub fn listen(&self, runtime: &Runtime) -> io::Result<impl ShutdownSignalWatch + use<>> {
        let _inside = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let (interrupt, quit) = (signal(SignalKind::interrupt())?, signal(SignalKind::quit())?);
        Ok(Signals { shutdown: self.clone(), signals: Mutex::new(Some([terminate, interrupt, quit])) })
    }

    /// Waits for a signal.
    ///
    /// # Errors
    /// When the server ends first.
    pub fn wait(&self, server: JoinHandle<()>) -> Result<(), ServerError> {
        let (asked, changed) = &*self.0;
        let mut asked = asked.lock();
        while *asked == Asked::Nothing && !server.is_finished() {
            changed.wait_for(&mut asked, Duration::from_millis(200));
        }
        let by_itself = *asked == Asked::Nothing;
        if by_itself { Err(ServerError::Ended { panicked: server.join().is_err() }) } else { Ok(()) }
    }

    fn ask(&self, what: Asked) {
        *self.0.0.lock() = what;
        self.0.1.notify_all();
    }
}

/// How long an end may take.
pub struct Grace {
    shutdown: Shutdown,
    end: Instant,
}

impl Grace {
    /// From now on, for so long, or until SIGINT comes.
    pub fn new(shutdown: Shutdown, period: Duration) -> Grace {
        Grace { shutdown, end: Instant::now() + period }
    }

    pub fn is_over(&self) -> bool {
        self.is_cut_short() || Instant::now() >= self.end
    }

    fn is_cut_short(&self) -> bool {
        *self.shutdown.0.0.lock() == Asked::EndNow
    }
}

struct Signals {
    shutdown: Shutdown,
    /// SIGTERM, SIGINT, SIGQUIT. Until Pingora waits for them.
    signals: Mutex<Option<[Signal; 3]>>,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let signals = self.signals.lock().take();
        if let Some([mut terminate, mut interrupt, mut quit]) = signals {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = quit.recv() => {}
            }
            let shutdown = self.shutdown.clone();
            shutdown.ask(Asked::End);
            tokio::spawn(async move {
                interrupt.recv().await;
                shutdown.ask(Asked::EndNow);
            });
        }
        ShutdownSignal::GracefulTerminate
    }
}

/// Waits until no request is in flight and their connections have ended, or the grace period is over.
pub fn drain(metrics: &Metrics, connections: &Connections, grace: &Grace) {
    let latecomers = Instant::now() + LATECOMERS;
    while Instant::now() < latecomers && !grace.is_over() {
        thread::sleep(STEP);
    }
    while metrics.requests_in_flight() > 0 {
        if grace.is_over() {
            let why = if grace.is_cut_short() { "SIGINT came during the shutdown" } else { "the grace period is over" };
            log::warn!("{why}: {} requests are cut off", metrics.requests_in_flight());
            return;
        }
        thread::sleep(STEP);
    }
    let end = Instant::now() + FAREWELL;
    while connections.count() > 0 && Instant::now() < end && !grace.is_over() {
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
        shutdown.ask(Asked::End);
        assert!(shutdown.wait(thread::spawn(|| ())).is_ok());
    }
}
