//! What the host keeps for one instance. It is reset, not rebuilt, between requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::MutexGuard;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::limits::{Cpu, Memory};
use super::log::RunLog;
use crate::capability::net::Policy;
use crate::capability::{Capabilities, Run};
use crate::exchange::{Exchange, Refused, Shared};

/// The data of a Wasmtime store: host functions are methods on it.
pub struct State {
    pub memory: Memory,
    pub cpu: Cpu,
    capabilities: Arc<Capabilities>,
    net: Arc<Policy>,
    run: Option<Arc<Run>>,
    exchange: Option<Shared>,
    session: u64,
    main_session: u64,
    log: RunLog,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl State {
    pub fn new(
        capabilities: Arc<Capabilities>,
        net: Arc<Policy>,
        memory: Memory,
        cpu: Cpu,
        log: RunLog,
        wasi: WasiCtx,
    ) -> State {
        State {
            memory,
            cpu,
            capabilities,
            net,
            run: None,
            exchange: None,
            session: 0,
            main_session: 0,
            log,
            wasi,
            table: ResourceTable::new(),
        }
    }

    /// Lends a request to this instance. `run` is what it shares with the other entry points, if there are any.
    pub fn begin(
        &mut self,
        exchange: &Shared,
        run: Option<Arc<Run>>,
        session: u64,
        main_session: u64,
        can_yield: bool,
    ) {
        self.exchange = Some(exchange.clone());
        self.run = run;
        self.session = session;
        self.main_session = main_session;
        self.cpu.reset(can_yield);
    }

    /// Lets go of the request.
    pub fn end(&mut self) {
        self.log.end(self.exchange.as_ref());
        self.exchange = None;
        self.run = None;
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
        self.run.get_or_insert_default()
    }

    /// The request and response. Every host function that works on them comes through here.
    ///
    /// # Errors
    /// When the instance works for no request, as during initialization.
    pub fn exchange(&mut self) -> Result<MutexGuard<'_, Exchange>, Refused> {
        self.cpu.host_call();
        self.exchange.as_ref().map(|exchange| exchange.lock()).ok_or(Refused::Ended)
    }

    /// The mailbox of this run, and that of its `wasm-main`.
    pub fn mailboxes(&mut self) -> (u64, u64) {
        self.cpu.host_call();
        (self.session, self.main_session)
    }

    /// An id that nothing else in this process has.
    pub fn new_session_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    pub fn logs(&mut self, level: log::Level) -> bool {
        self.cpu.host_call();
        self.log.enabled(level)
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
