//! Loading the configuration anew while requests go on: on SIGHUP, when the admin endpoint asks for it, or when a file has
//! changed. A new generation is built beside the running one and takes its place in whole, or not at all.

mod inputs;
mod restart;
mod watch;

pub use inputs::Inputs;

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use self::watch::Watch;
use crate::capability::Capabilities;
use crate::config::{self, Config, Diagnostics};
use crate::observe::metrics::ReloadResult;
use crate::proxy::{Generation, Shared};
use crate::snapshot::{Changes, Snapshot};
use crate::tls::Certificates;
use crate::wasm::{Host, Service};

/// A file counts as written when nothing has happened to any of them for this long.
const QUIET: Duration = Duration::from_millis(75);

/// SIGHUP. From the moment that this is made it does not end the process any more, but waits for [`start`].
pub struct Hangup {
    runtime: Runtime,
    signal: Signal,
}

impl Hangup {
    /// # Errors
    /// When the signal cannot be listened for.
    pub fn listen() -> io::Result<Hangup> {
        let runtime =
            runtime::Builder::new_multi_thread().worker_threads(1).thread_name("signals").enable_all().build()?;
        let signal = {
            let _inside = runtime.enter();
            // Who rotates logs may send it out of habit. There is nothing to do, but to go on.
            drop(signal(SignalKind::user_defined1())?);
            signal(SignalKind::hangup())?
        };
        Ok(Hangup { runtime, signal })
    }

    /// What signals are listened for with.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// What a reload needs of the running server.
pub struct Running {
    pub hangup: Hangup,
    pub shared: Arc<Shared>,
    pub capabilities: Arc<Capabilities>,
    pub host: Arc<Host>,
    /// Proxy-Wasm plugins without streams: they run as long as they are kept.
    pub services: Vec<Service>,
    pub certificates: Certificates,
    /// Of the generation that the process has started with.
    pub inputs: Inputs,
}

/// Asks for reloads. Clones ask the same thread.
#[derive(Clone)]
pub struct Reloads(mpsc::UnboundedSender<oneshot::Sender<Report>>);

/// How a reload ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// The generation that new requests get now.
    pub generation: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Ok {
        changes: Box<Changes>,
        took: Duration,
    },
    /// The files are those of the running generation, or those that failed last.
    Unchanged,
    Failed {
        /// The diagnostics for the log, as `check` shows them.
        shown: String,
        /// For others: without the lines of the file.
        told: String,
    },
    /// With the keys that only a restart can change.
    Refused(Vec<String>),
}

enum Trigger {
    Signal,
    Admin(oneshot::Sender<Report>),
    Files,
}

/// Starts the thread on which reloads are made, one after another, never on a worker.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(running: Running) -> io::Result<Reloads> {
    let (asks, asked) = mpsc::unbounded_channel();
    let Running { hangup, shared, capabilities, host, services, certificates, inputs } = running;
    let Hangup { runtime, signal: hangup } = hangup;
    let path = shared.current.load().config.path.clone();
    let changed = Arc::default();
    let triggers = Triggers { hangup, asked, changed, due: None };
    let mut reloader = Reloader {
        shared,
        capabilities,
        host,
        services,
        certificates,
        path,
        seen: Seen { running: inputs, failed: None },
        triggers,
        watch: None,
    };
    thread::Builder::new().name("reload".into()).spawn(move || reloader.serve(&runtime))?;
    Ok(Reloads(asks))
}

impl Reloads {
    /// Loads the configuration anew, whether it has changed or not; none: the process is about to end.
    pub async fn reload(&self) -> Option<Report> {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).ok()?;
        answered.await.ok()
    }
}

struct Reloader {
    shared: Arc<Shared>,
    capabilities: Arc<Capabilities>,
    host: Arc<Host>,
    services: Vec<Service>,
    certificates: Certificates,
    path: PathBuf,
    seen: Seen,
    triggers: Triggers,
    watch: Option<Watch>,
}

/// The files as they were read.
struct Seen {
    running: Inputs,
    /// Those of the last attempt, when it came to nothing.
    failed: Option<Inputs>,
}

struct Triggers {
    hangup: Signal,
    asked: mpsc::UnboundedReceiver<oneshot::Sender<Report>>,
    /// A file has changed.
    changed: Arc<Notify>,
    /// When to look what has changed.
    due: Option<Instant>,
}

impl Triggers {
    /// None when nobody can ask any more.
    async fn next(&mut self) -> Option<Trigger> {
        loop {
            let due = self.due;
            tokio::select! {
                _ = self.hangup.recv() => return Some(Trigger::Signal),
                asked = self.asked.recv() => return asked.map(Trigger::Admin),
                () = self.changed.notified() => self.due = Some(Instant::now() + QUIET),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.due = None;
                    return Some(Trigger::Files);
                }
            }
        }
    }
}

impl Reloader {
    fn serve(&mut self, runtime: &Runtime) {
        self.watch();
        // A trial may need a runtime of its own, so that nothing is built within this one.
        while let Some(trigger) = runtime.block_on(self.triggers.next()) {
            let report = self.reload(&trigger);
            if let Trigger::Admin(answer) = trigger {
                let _ = answer.send(report);
            }
            self.watch();
        }
    }

    fn reload(&mut self, trigger: &Trigger) -> Report {
        let started = Instant::now();
        // A compiler that panics over some module must not be the end of all reloads.
        let attempt = panic::catch_unwind(AssertUnwindSafe(|| self.attempt(trigger, started)));
        let outcome = attempt.unwrap_or_else(|_| {
            let shown =
                "error: the new generation could not be built: a panic, which is logged before this\n".to_owned();
            Outcome::Failed { told: shown.clone(), shown }
        });
        let report = Report { generation: self.shared.current.load().number, outcome };
        self.shared.metrics.reloads.ended(report.outcome.result());
        report.log(trigger);
        report
    }

    fn attempt(&mut self, trigger: &Trigger, started: Instant) -> Outcome {
        let own = Inputs::of(&self.path);
        let config::Loaded { config, diagnostics } = config::load_again(&self.path);
        // Before anything of them is used: what changes after this is another change.
        let inputs = own.with(&config.files);
        if matches!(trigger, Trigger::Files) && self.seen.know(&inputs) {
            return Outcome::Unchanged;
        }
        // Until it has come to something: that may end in a panic, which must not be tried again and again.
        self.seen.failed = Some(inputs.clone());
        match self.replace(config, &inputs, diagnostics) {
            Ok(changes) => {
                self.seen = Seen { running: inputs, failed: None };
                Outcome::Ok { changes, took: started.elapsed() }
            }
            Err(outcome) => outcome,
        }
    }

    /// Builds the next generation, and makes it the current one.
    fn replace(
        &mut self,
        config: Config,
        inputs: &Inputs,
        mut diagnostics: Diagnostics,
    ) -> Result<Box<Changes>, Outcome> {
        let current = self.shared.current.load_full();
        if !diagnostics.has_errors() {
            let mut keys = restart::needed_for(&current.config, &config);
            // Its authorities are read once.
            if !keys.iter().any(|key| key == "network")
                && config.network.ca.as_ref().is_some_and(|ca| inputs.differ_in(&self.seen.running, &ca.path))
            {
                keys.push("network.ca".to_owned());
            }
            if !keys.is_empty() {
                return Err(Outcome::Refused(keys));
            }
        }
        let certificates = Certificates::load(&config, &mut diagnostics);
        let _announced = self.capabilities.clusters.announce(config.upstream_names());
        let (snapshot, services) =
            Snapshot::build(&config, &self.host, &self.shared.metrics, Some(&current.snapshot), &mut diagnostics)
                .ok_or_else(|| Outcome::wrong(&diagnostics))?;
        let built = Generation::build(config, snapshot, Some(&current), &self.shared.metrics);
        let (next, _) = match built {
            Ok(built) => built,
            Err(error) => return Err(Outcome::wrong(&diagnostics.alone(error.diagnostic()))),
        };
        if diagnostics.iter().next().is_some() {
            log::warn!("the configuration has warnings:{}", indented(&diagnostics.to_string()));
        }
        let next = Arc::new(next);
        if let Err(error) = next.snapshot.start_plugins(&services) {
            let shown = format!("error: {}\n", error.to_string().trim_end());
            return Err(Outcome::Failed { told: shown.clone(), shown });
        }
        next.snapshot.take_care_of_plugins(&services);
        self.certificates.take_over(&certificates);
        // Before the swap: no request of the new generation finds an upstream or a session missing.
        self.capabilities.clusters.replace(next.clusters());
        self.capabilities.named.replace(next.snapshot.definitions());
        self.shared.current.store(next.clone());
        self.shared.metrics.reloads.loaded(next.number);
        let services = std::mem::replace(&mut self.services, services);
        Ok(Box::new(Changes::between((&current.snapshot, &services), (&next.snapshot, &self.services))))
    }

    /// Watches what the last attempt and the running generation were made of, if the running one says so. The places to
    /// watch are looked up anew each time: links may lead elsewhere, and folders be others of the same name.
    fn watch(&mut self) {
        if !self.shared.current.load().config.watch {
            self.watch = None;
            return;
        }
        let read = self.seen.failed.as_ref().unwrap_or(&self.seen.running);
        let files = self.seen.running.paths().chain(read.paths());
        match Watch::start(files, &self.triggers.changed) {
            // The one before is dropped when this one stands: nothing is missed between them.
            Ok(watch) => self.watch = Some(watch),
            Err(error) => log::error!("the files of the configuration cannot be watched: {error}"),
        }
        if read.have_changed() {
            // It happened before anybody watched.
            self.triggers.changed.notify_one();
        }
    }
}

impl Seen {
    /// Whether these come to nothing new.
    fn know(&mut self, inputs: &Inputs) -> bool {
        if self.running == *inputs {
            self.failed = None;
            return true;
        }
        self.failed.as_ref() == Some(inputs)
    }
}

impl Outcome {
    fn wrong(diagnostics: &Diagnostics) -> Outcome {
        Outcome::Failed { shown: diagnostics.to_string(), told: diagnostics.without_lines() }
    }

    fn result(&self) -> ReloadResult {
        match self {
            Outcome::Ok { .. } => ReloadResult::Ok,
            Outcome::Unchanged => ReloadResult::Unchanged,
            Outcome::Failed { .. } => ReloadResult::Failed,
            Outcome::Refused(_) => ReloadResult::Refused,
        }
    }

    /// Why a reload was refused.
    pub fn refusal(keys: &[String]) -> String {
        let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
        format!("{} cannot change while the proxy runs: restart to apply", keys.join(", "))
    }
}

impl Report {
    fn log(&self, trigger: &Trigger) {
        let generation = self.generation;
        match &self.outcome {
            Outcome::Ok { changes, took } => {
                let ms = took.as_millis();
                log::info!("reload by {trigger}: generation {generation} in {ms} ms; {changes}");
            }
            Outcome::Unchanged => log::debug!("reload by {trigger}: nothing has changed"),
            Outcome::Failed { shown, .. } => {
                let diagnostics = indented(shown);
                log::error!("reload by {trigger} failed, generation {generation} stays:{diagnostics}");
            }
            Outcome::Refused(keys) => {
                let refusal = Outcome::refusal(keys);
                log::error!("reload by {trigger} refused, generation {generation} stays: {refusal}");
            }
        }
    }
}

/// On lines that follow, which are indented: they must not look like lines of their own.
fn indented(text: &str) -> String {
    format!("\n    {}", text.trim_end().replace('\n', "\n    "))
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trigger::Signal => "SIGHUP",
            Trigger::Admin(_) => "POST /reload",
            Trigger::Files => "file change",
        })
    }
}
