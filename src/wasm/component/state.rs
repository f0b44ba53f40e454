//! What the host keeps for one instance. It is reset, not rebuilt, between requests.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::MutexGuard;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::entry::EntryPoint;
use super::script::Script;
use super::session::{Session, SpawnError};
use crate::capability::background::BackgroundError;
use crate::capability::mailbox::MailError;
use crate::capability::net::Policy;
use crate::capability::{Capabilities, Run};
use crate::exchange::{Exchange, Refused, Reply, Shared};
use crate::phase::Place;
use crate::wasm::limits::{Cpu, Memory};
use crate::wasm::log::{RunLog, enabled};

/// Handles that a guest may have of WASI, such as that of its standard output: they are memory of the host.
const MOST_RESOURCES: usize = 1024;

/// The data of a Wasmtime store: host functions are methods on it.
pub struct State {
    pub memory: Memory,
    pub cpu: Cpu,
    capabilities: Arc<Capabilities>,
    /// What this is an instance of. Not owned: the script owns its idle instances.
    script: Weak<Script>,
    net: Arc<Policy>,
    run: Option<Arc<Run>>,
    exchange: Option<Shared>,
    /// Whether the exchange is lent for the whole run; else only now and then.
    in_phase: bool,
    /// What this run has set: the exchange gets it with the verdict. Boxed: most runs set none.
    reply: Option<Box<Reply>>,
    session: Session,
    log: RunLog,
    wasi: WasiCtx,
    table: ResourceTable,
}

/// What an instance begins to work on.
pub struct Work {
    pub exchange: Shared,
    /// What it shares with other entry points, if there are any.
    pub run: Option<Arc<Run>>,
    pub session: Session,
    pub kind: Kind,
    /// The longest that it may take.
    pub wall: Option<Duration>,
}

/// How an instance is run.
pub enum Kind {
    /// On the synchronous path.
    Now,
    /// On the asynchronous path.
    Waits,
    /// On the asynchronous path, while the request goes on (or there is none): with its id, for the log.
    Beside(Arc<str>),
}

impl State {
    pub fn new(
        capabilities: Arc<Capabilities>,
        script: Weak<Script>,
        net: Arc<Policy>,
        memory: Memory,
        cpu: Cpu,
        log: RunLog,
        wasi: WasiCtx,
    ) -> State {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        State {
            memory,
            cpu,
            capabilities,
            script,
            net,
            run: None,
            exchange: None,
            in_phase: true,
            reply: None,
            session: Session::default(),
            log,
            wasi,
            table,
        }
    }

    pub fn begin(&mut self, work: Work) {
        let Work { exchange, run, session, kind, wall } = work;
        self.cpu.reset(!matches!(kind, Kind::Now), wall);
        self.in_phase = !matches!(kind, Kind::Beside(_));
        if let Kind::Beside(id) = kind {
            self.log.begin_beside(id);
        }
        self.exchange = Some(exchange);
        self.run = run;
        self.session = session;
    }

    /// Lets go of the request; gives the response that was set for it.
    pub fn end(&mut self) -> Option<(Shared, Box<Reply>)> {
        self.log.end(self.exchange.as_ref());
        self.run = None;
        self.session = Session::default();
        self.exchange.take().zip(self.reply.take())
    }

    /// What there is once in the process.
    pub fn capabilities(&mut self) -> &Arc<Capabilities> {
        self.cpu.host_call();
        &self.capabilities
    }

    /// The ways to other machines, with the policy to use them by.
    ///
    /// # Errors
    /// Outside of a run, as during initialization: there is nothing yet that could wait.
    pub fn net(&mut self) -> Result<(&Capabilities, &Policy), Refused> {
        self.cpu.host_call();
        match self.exchange {
            Some(_) => Ok((&self.capabilities, &self.net)),
            None => Err(Refused::Ended),
        }
    }

    /// What the entry points of this run share.
    pub fn run(&mut self) -> &Arc<Run> {
        self.cpu.host_call();
        self.run.get_or_insert_with(|| Arc::new(Run::new(&self.capabilities)))
    }

    /// The request and response. Every host function that works on them comes through here.
    ///
    /// # Errors
    /// When the instance works for no request, as during initialization, or for one that is elsewhere now.
    pub fn exchange(&mut self) -> Result<MutexGuard<'_, Exchange>, Refused> {
        self.cpu.host_call();
        let exchange = self.exchange.as_ref().ok_or(Refused::Ended)?.lock();
        match self.log.place() {
            _ if self.in_phase || exchange.lent => Ok(exchange),
            Place::Session => Err(Refused::NoRequest),
            Place::Phase(_) => Err(Refused::NotLent),
        }
    }

    /// Keeps the response that `return` and `error` send. Nobody looks at the verdict of a run beside the phases: what it sets
    /// counts at once.
    ///
    /// # Errors
    /// As [`State::exchange`] and [`Exchange::can_set_reply`].
    pub fn set_reply(&mut self, reply: Reply) -> Result<(), Refused> {
        let in_phase = self.in_phase;
        let mut exchange = self.exchange()?;
        exchange.can_set_reply()?;
        if in_phase {
            drop(exchange);
            self.reply = Some(Box::new(reply));
        } else {
            exchange.reply = Some(reply);
        }
        Ok(())
    }

    /// What this run has set.
    pub fn take_reply(&mut self) -> Option<Reply> {
        self.reply.take().map(|reply| *reply)
    }

    /// Where messages go.
    ///
    /// # Errors
    /// Outside of a run, as during initialization: nobody is there who could send.
    pub fn mail(&mut self) -> Result<&Capabilities, MailError> {
        self.cpu.host_call();
        self.exchange.as_ref().ok_or(MailError::NoRun)?;
        Ok(&self.capabilities)
    }

    /// The session of this run, with its mailbox open.
    ///
    /// # Errors
    /// Outside of a run: a mailbox would stay as long as the instance.
    pub fn session(&mut self) -> Result<&mut Session, MailError> {
        self.cpu.host_call();
        self.exchange.as_ref().ok_or(MailError::NoRun)?;
        self.session.open(&self.capabilities.mailboxes);
        Ok(&mut self.session)
    }

    /// Runs an entry point of the same script in the background of the request; its session id.
    ///
    /// # Errors
    /// When the plugin does not have it, too many run, or the request has ended.
    pub fn spawn(&mut self, entry: EntryPoint, config: Option<String>) -> Result<u64, SpawnError> {
        let Some(exchange) = self.exchange.clone() else { return Err(BackgroundError::Ended.into()) };
        let Some(script) = self.script.upgrade().filter(|script| script.exports(entry)) else {
            return Err(SpawnError::NoEntryPoint(entry.export()));
        };
        let run = self.run().clone();
        let request = self.log.request_id(Some(&exchange)).unwrap_or_else(|| "-".into());
        let mailboxes = self.capabilities.mailboxes.clone();
        let mut session = self.session.spawned(&mailboxes);
        let id = session.id();
        let work =
            Work { exchange: exchange.clone(), run: Some(run), session, kind: Kind::Beside(request), wall: None };
        let task = script.run_beside(entry, config.map(Arc::from), work);
        let mut exchange = exchange.lock();
        exchange.background.spawn(task, &self.capabilities.live)?;
        if let Some(reply) = self.take_reply() {
            // What it streams may begin with it.
            exchange.reply = Some(reply);
        }
        Ok(id)
    }

    pub fn logs(&mut self, level: log::Level) -> bool {
        self.cpu.host_call();
        enabled(level)
    }

    pub fn log(&mut self, level: log::Level, text: &str) {
        self.cpu.host_call();
        self.log.write(level, text, self.exchange.as_ref());
    }

    /// The guest has written to its standard output or error.
    pub fn flush_output(&mut self) {
        self.log.flush(self.exchange.as_ref());
    }

    pub fn warn(&mut self, text: &str) {
        self.log(log::Level::Warn, text);
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
