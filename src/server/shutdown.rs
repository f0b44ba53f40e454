//! SIGTERM, SIGINT and SIGQUIT: no new connections, and an end when the last request has ended. A SIGINT after that,
//! as by a second Ctrl-C, ends the waiting. Before anything is served, they end the process: not by themselves, for the first
//! process of a container would not feel them.

use std::io;
use std::mem;
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Condvar, Mutex};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

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

/// How far the process is.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    /// Nothing is served yet.
    #[default]
    Starting,
    Serving,
    /// It has been asked to end when the requests in flight have ended.
    Ending,
    /// It has been asked to end at once.
    EndingNow,
}

/// Knows which signals have come. Clones know the same.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<Signals>);

#[derive(Default)]
struct Signals {
    stage: Mutex<Stage>,
    changed: Condvar,
    /// For Pingora.
    end: Notify,
}

impl Shutdown {
    /// From now on signals are listened for on this runtime, which must run by itself.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn listen(runtime: &Runtime) -> io::Result<Shutdown> {
        let shutdown = Shutdown::default();
        let _inside = runtime.enter();
        let (mut terminate, mut quit) = (signal(SignalKind::terminate())?, signal(SignalKind::quit())?);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listening = shutdown.clone();
        runtime.spawn(async move {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = quit.recv() => SignalKind::quit(),
            };
            if listening.reach(Stage::Ending) == Stage::Starting {
                // As shells say it of a process that the signal itself has ended.
                process::exit(128 + kind.as_raw_value());
            }
            interrupt.recv().await;
            listening.reach(Stage::EndingNow);
        });
        Ok(shutdown)
    }

    /// Something is served now, and is to end well. What tells Pingora when.
    pub fn serve(&self) -> impl ShutdownSignalWatch + use<> {
        self.reach(Stage::Serving);
        End(self.clone())
    }

    /// Waits for a signal.
    ///
    /// # Errors
    /// When the server ends first.
    pub fn wait(&self, server: JoinHandle<()>) -> Result<(), ServerError> {
        let mut stage = self.0.stage.lock();
        while *stage == Stage::Serving && !server.is_finished() {
            self.0.changed.wait_for(&mut stage, Duration::from_millis(200));
        }
        let by_itself = *stage == Stage::Serving;
        if by_itself { Err(ServerError::Ended { panicked: server.join().is_err() }) } else { Ok(()) }
    }

    /// The stage before this one.
    fn reach(&self, stage: Stage) -> Stage {
        let before = mem::replace(&mut *self.0.stage.lock(), stage);
        self.0.changed.notify_all();
        if stage == Stage::Ending {
            self.0.end.notify_one();
        }
        before
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
        *self.shutdown.0.stage.lock() == Stage::EndingNow
    }
}

struct End(Shutdown);

#[async_trait]
impl ShutdownSignalWatch for End {
    async fn recv(&self) -> ShutdownSignal {
        self.0.0.end.notified().await;
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
        let shutdown = Shutdown::default();
        let _end = shutdown.serve();
        let wait = |serve: fn()| shutdown.wait(thread::spawn(serve)).unwrap_err().to_string();
        assert_eq!(wait(|| ()), "the server has ended by itself");
        let panicked = "the server has ended by itself: a panic, which is reported before this";
        assert_eq!(wait(|| std::panic::resume_unwind(Box::new(()))), panicked);
    }

    #[test]
    fn a_signal_is_no_error() {
        let shutdown = Shutdown::default();
        let _end = shutdown.serve();
        shutdown.reach(Stage::Ending);
        assert!(shutdown.wait(thread::spawn(|| ())).is_ok());
    }
}
