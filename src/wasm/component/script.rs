//! A script: a module with its configuration and limits, and the runs of its entry points.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, select_all};
use prometheus_client::metrics::gauge::Gauge;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, InstancePre};

use super::entry::EntryPoint;
use super::host::{WitVerdict, wasi};
use super::module::{Module, ModuleError};
use super::pool::{Instance, Pool};
use super::session::Session;
use super::state::{Kind, State, Work};
use crate::capability::mailbox::Inbox;
use crate::capability::named::{Outcome, Program};
use crate::capability::net::Policy;
use crate::capability::{Capabilities, Run};
use crate::exchange::{self, Shared};
use crate::observe::metrics::{Counted, ScriptMetrics};
use crate::phase::{Place, Verdict};
use crate::wasm::limits::{Cpu, Exceeded, Memory, may_instantiate};
use crate::wasm::log::{RunLog, indented};
use crate::wasm::{Failure, Host, SERVICE};

/// How long the first instance of a script whose runs have no limit may take.
const LONGEST_TRIAL: Duration = Duration::from_secs(10);

/// What the configuration says about a script.
#[derive(Debug, Clone)]
pub struct ScriptSpec {
    pub name: Arc<str>,
    pub place: Place,
    /// Indexed by entry point; none switches it off, but for `wasm-main`.
    pub configs: [Option<Arc<str>>; 5],
    /// A new instance for every run.
    pub fresh: bool,
    /// Runs after which an instance is replaced.
    pub recycle_after: u64,
    /// Bytes of memory over which an instance is replaced.
    pub recycle_memory: usize,
    /// Most bytes of memory.
    pub memory: usize,
    /// CPU time between two host calls.
    pub cpu: Duration,
    /// Time of a whole run.
    pub wall: Option<Duration>,
    pub env: Vec<(String, String)>,
    /// Where it may connect to.
    pub net: Arc<Policy>,
    pub metrics: ScriptMetrics,
}

impl ScriptSpec {
    fn is_same(&self, other: &ScriptSpec) -> bool {
        // Taken apart whole: no field is forgotten.
        let ScriptSpec {
            name,
            place,
            configs,
            fresh,
            recycle_after,
            recycle_memory,
            memory,
            cpu,
            wall,
            env,
            net,
            metrics: _, // by name and place
        } = self;
        (name, place, configs, fresh) == (&other.name, &other.place, &other.configs, &other.fresh)
            && (recycle_after, recycle_memory) == (&other.recycle_after, &other.recycle_memory)
            && (memory, cpu, wall) == (&other.memory, &other.cpu, &other.wall)
            && (env, net) == (&other.env, &other.net)
    }
}

/// A script, linked and ready to run.
pub struct Script {
    spec: ScriptSpec,
    module: Arc<Module>,
    /// For its instances, which can spawn more runs of it.
    this: Weak<Script>,
    capabilities: Arc<Capabilities>,
    pre: InstancePre<State>,
    exports: [Option<ComponentExportIndex>; 5],
    sees_response: bool,
    /// The entry points that are on; `wasm-main` first.
    entries: Vec<EntryPoint>,
    /// Whether runs take the asynchronous path: the module can wait, several entry points run at once, or a run was so
    /// slow that it must not hold a worker.
    asynchronous: AtomicBool,
    pool: Pool,
    /// Those that live, idle or not.
    instances: Gauge,
    /// Bytes of memory with which an instance begins.
    first_memory: OnceLock<usize>,
}

impl Script {
    /// Links a module and makes its first instance as a trial.
    ///
    /// # Errors
    /// When the module imports what there is not, exports no `wasm-service`, or fails while it is instantiated.
    pub fn prepare(host: &Host, module: &Arc<Module>, spec: ScriptSpec) -> Result<Arc<Script>, ModuleError> {
        let pre = host.link(module)?;
        let service = module.component.get_export_index(None, SERVICE).ok_or(ModuleError::NoService)?;
        let declared = |entry| module.declared.as_ref().is_none_or(|declared| declared.contains(&entry));
        let exports = EntryPoint::ALL
            .map(|entry| module.component.get_export_index(Some(&service), entry.export()).filter(|_| declared(entry)));
        let on = |entry: &EntryPoint| *entry == EntryPoint::Main || spec.configs[*entry as usize].is_some();
        let entries: Vec<EntryPoint> = EntryPoint::ALL.into_iter().filter(on).collect();

        let several = entries.len() > 1;
        let script = Arc::new_cyclic(|this| Script {
            spec,
            module: module.clone(),
            this: this.clone(),
            capabilities: host.capabilities().clone(),
            pre,
            exports,
            sees_response: module
                .imports(|name| name == "variable" || name.starts_with("out-get-") || name.starts_with("out-is-")),
            entries,
            asynchronous: several.into(),
            pool: Pool::default(),
            instances: Gauge::default(),
            first_memory: OnceLock::new(),
        });
        let first_memory = script
            .trial()
            .map_err(|error| error.downcast().unwrap_or_else(|error| ModuleError::Instantiate(format!("{error:#}"))))?;
        let _ = script.first_memory.set(first_memory);
        Ok(script)
    }

    pub fn spec(&self) -> &ScriptSpec {
        &self.spec
    }

    /// Whether a script of this module with this configuration would be the same.
    pub fn is_of(&self, module: &Arc<Module>, spec: &ScriptSpec) -> bool {
        Arc::ptr_eq(&self.module, module) && self.spec.is_same(spec)
    }

    /// Whether it does what the other does.
    pub fn is_same(&self, other: &Script) -> bool {
        self.is_of(&other.module, &other.spec)
    }

    /// Whether the plugin has this entry point.
    pub fn exports(&self, entry: EntryPoint) -> bool {
        self.exports[entry as usize].is_some()
    }

    /// Whether the module can look at the response.
    pub fn sees_response(&self) -> bool {
        self.sees_response
    }

    /// Whether a run can finish without waiting: then [`Script::run_now`] is the way, else [`Script::run`].
    pub fn is_synchronous(&self) -> bool {
        !self.asynchronous.load(Ordering::Relaxed)
    }

    /// Drops the idle instances that were not used since the last time.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// Runs `wasm-main` on the synchronous path, to its end.
    pub fn run_now(&self, exchange: &Shared) -> Result<Verdict, Failure> {
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => self.instantiate().map_err(|error| Failure::from_instantiation(&error))?,
        };
        let entry = instance.entries[EntryPoint::Main as usize].ok_or_else(no_export)?;
        let (exchange, session) = (exchange.clone(), Session::default());
        instance.begin(Work { exchange, run: None, session, kind: Kind::Now, wall: self.spec.wall });
        let result = entry.call(&mut instance.store, (self.config(EntryPoint::Main),));
        if instance.store.data().cpu.was_slow() {
            self.asynchronous.store(true, Ordering::Relaxed);
        }
        self.finish(instance, result)
    }

    /// Runs the entry points that are on, concurrently. The first to finish gives the verdict; the others are cancelled.
    pub async fn run(&self, exchange: &Shared) -> Result<Verdict, Failure> {
        let run = Arc::new(Run::new(&self.capabilities));
        let result = self.within_wall(self.race(exchange, &run)).await;
        let alone = Arc::strong_count(&run) == 1;
        run.sockets.end(result.is_err(), alone).await;
        result
    }

    async fn within_wall(&self, run: impl Future<Output = Result<Verdict, Failure>>) -> Result<Verdict, Failure> {
        let Some(wall) = self.spec.wall else { return run.await };
        match tokio::time::timeout(wall, run).await {
            Ok(result) => result,
            Err(_) => Err(Exceeded::Wall(wall).into()),
        }
    }

    async fn race(&self, exchange: &Shared, run: &Arc<Run>) -> Result<Verdict, Failure> {
        let work = |session| Work {
            exchange: exchange.clone(),
            run: Some(run.clone()),
            session,
            kind: Kind::Waits,
            wall: self.spec.wall,
        };
        let mut main = Session::default();
        if self.entries.len() == 1 {
            return self.run_entry(EntryPoint::Main, self.config(EntryPoint::Main), work(main)).await;
        }
        // The others know its id from the beginning.
        main.open(&self.capabilities.mailboxes);
        let (main_id, mut main) = (main.id(), Some(main));
        // In the order of the entry points: that is how a tie is decided.
        let runs = self.entries.iter().map(|entry| -> BoxFuture<'_, _> {
            let session = main.take().unwrap_or_else(|| Session::of_other(main_id));
            Box::pin(self.run_entry(*entry, self.config(*entry), work(session)))
        });
        let (result, _, others) = select_all(runs).await;
        drop(others);
        result
    }

    async fn run_entry(&self, entry: EntryPoint, config: Option<Arc<str>>, work: Work) -> Result<Verdict, Failure> {
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => self.instantiate_async().await.map_err(|error| Failure::from_instantiation(&error))?,
        };
        let function = instance.entries[entry as usize].ok_or_else(no_export)?;
        instance.begin(work);
        // Dropped in the middle, the instance goes with it: it cannot be used again.
        let result = function.call_async(&mut instance.store, (config,)).await;
        self.finish(instance, result)
    }

    /// Runs an entry point beside the phases of a request. Nobody waits for its verdict, so a failure is reported here.
    pub fn run_beside(
        self: Arc<Script>,
        entry: EntryPoint,
        config: Option<Arc<str>>,
        work: Work,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.spec.metrics.runs.inc();
            let request = match &work.kind {
                Kind::Beside(request) => request.clone(),
                Kind::Now | Kind::Waits => "-".into(),
            };
            let run = work.run.clone();
            let result = self.run_entry(entry, config, work).await;
            if let Some(run) = run.filter(|run| Arc::strong_count(run) == 1) {
                run.sockets.end(result.is_err(), true).await;
            }
            if let Err(failure) = result {
                self.report(&failure, &request);
            }
        })
    }

    /// Counts a failure and logs it, once, with all that there is to know.
    pub fn report(&self, Failure { kind, detail }: &Failure, request: &str) {
        self.spec.metrics.failures(*kind).inc();
        let ScriptSpec { name, place, .. } = &self.spec;
        log::error!("script={name} phase={place} request={request} failed: {}: {}", kind.name(), indented(detail));
    }

    /// Takes the result, and the instance back if it may live on.
    fn finish(
        &self,
        mut instance: Box<Instance>,
        result: wasmtime::Result<(Result<WitVerdict, String>,)>,
    ) -> Result<Verdict, Failure> {
        let reply = instance.store.data_mut().end();
        let (result,) = result.map_err(|error| Failure::from_run(&error))?;
        let verdict = result.map_err(Failure::err)?;
        if let Some((exchange, reply)) = reply {
            exchange.lock().reply = Some(*reply);
        }
        instance.runs += 1;
        let worn =
            instance.runs >= self.spec.recycle_after || instance.store.data().memory.used() > self.spec.recycle_memory;
        if !self.spec.fresh && !worn {
            self.pool.put(instance);
        }
        Ok(verdict.into())
    }

    fn config(&self, entry: EntryPoint) -> Option<Arc<str>> {
        self.spec.configs[entry as usize].clone()
    }

    /// Bytes of memory with which an instance begins, if that is too much for it to be used again.
    pub fn is_worn_at_first(&self) -> Option<usize> {
        self.first_memory.get().copied().filter(|used| !self.spec.fresh && *used > self.spec.recycle_memory)
    }

    /// The first instance, and how much memory it has. Wasmtime refuses the synchronous path to a module that imports a function
    /// that can wait.
    fn trial(&self) -> wasmtime::Result<usize> {
        let instance = match self.instantiate() {
            Ok(instance) => instance,
            Err(_) => {
                self.asynchronous.store(true, Ordering::Relaxed);
                let limit = self.spec.wall.unwrap_or(LONGEST_TRIAL);
                block_on(async { tokio::time::timeout(limit, self.instantiate_async()).await })?
                    .map_err(|_| Exceeded::Wall(limit))??
            }
        };
        let memory = instance.store.data().memory.used();
        if !self.spec.fresh {
            self.pool.put(instance);
        }
        Ok(memory)
    }

    fn instantiate(&self) -> wasmtime::Result<Box<Instance>> {
        let mut store = self.store()?;
        let instance = self.pre.instantiate(&mut store)?;
        self.instance(store, instance)
    }

    async fn instantiate_async(&self) -> wasmtime::Result<Box<Instance>> {
        let mut store = self.store()?;
        store.data_mut().cpu.reset(true, self.spec.wall);
        let instance = self.pre.instantiate_async(&mut store).await?;
        self.instance(store, instance)
    }

    fn store(&self) -> wasmtime::Result<Store<State>> {
        let ScriptSpec { name, place, memory, cpu, env, net, .. } = &self.spec;
        may_instantiate(self.instances.get() as usize, self.capabilities.live.all_instances())?;
        let log = RunLog::new(name.clone(), *place);
        let wasi = wasi::context(env, log.output());
        let (memory, cpu) = (Memory::new(*memory), Cpu::new(*cpu));
        let (capabilities, this, net) = (self.capabilities.clone(), self.this.clone(), net.clone());
        let state = State::new(capabilities, this, net, memory, cpu, log, wasi);
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| store.data_mut().cpu.tick());
        store.set_epoch_deadline(1);
        Ok(store)
    }

    fn instance(
        &self,
        mut store: Store<State>,
        instance: wasmtime::component::Instance,
    ) -> wasmtime::Result<Box<Instance>> {
        let mut entries = [const { None }; 5];
        for ((slot, index), entry) in entries.iter_mut().zip(&self.exports).zip(EntryPoint::ALL) {
            if let Some(index) = index {
                let function = instance.get_typed_func(&mut store, index);
                let of_type = |error| ModuleError::Type { entry: entry.export(), error: format!("{error:#}") };
                *slot = Some(function.map_err(of_type)?);
            }
        }
        let alive = (self.spec.metrics.instance(), Counted::new(&self.instances));
        Ok(Box::new(Instance { store, entries, runs: 0, _alive: alive }))
    }
}

/// A named session is a run of `wasm-main`.
impl Program for Script {
    fn run(self: Arc<Script>, inbox: Arc<Inbox>) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            self.spec.metrics.runs.inc();
            // Nothing is ever lent to it; what the session spawns ends with it.
            let exchange = exchange::Owned::default();
            let run = Arc::new(Run::new(&self.capabilities));
            let work = Work {
                exchange: exchange.clone(),
                run: Some(run.clone()),
                session: Session::named(inbox.clone()),
                kind: Kind::Beside("-".into()),
                wall: None,
            };
            let result = self.run_entry(EntryPoint::Main, self.config(EntryPoint::Main), work);
            let result = self.within_wall(result).await;
            run.sockets.end(result.is_err(), true).await;
            match result {
                Ok(_) => Outcome::Returned,
                Err(_) if inbox.has_quit() => Outcome::Returned,
                Err(failure) => {
                    self.report(&failure, "-");
                    Outcome::Failed
                }
            }
        })
    }
}

impl Instance {
    fn begin(&mut self, work: Work) {
        self.store.data_mut().begin(work);
        self.store.set_epoch_deadline(1);
    }
}

/// Runs a future to its end on this thread, which must not be a worker.
fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(future))
}

fn no_export() -> Failure {
    Failure::err("the plugin does not export this entry point".into())
}
