//! A script: a module with its configuration and limits, and the runs of its entry points.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::select_all;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, InstancePre, Linker};

use super::SERVICE;
use super::component::{self, wasi};
use super::engine::EngineClock;
use super::entry::EntryPoint;
use super::failure::Failure;
use super::limits::{Cpu, Exceeded, Memory};
use super::log::RunLog;
use super::module::{Module, ModuleError, Modules};
use super::pool::{Instance, InstanceMetrics, Pool};
use super::state::State;
use crate::capability::{Capabilities, Run};
use crate::exchange::Shared;
use crate::phase::{Phase, Verdict};

/// How long the first instance of a script whose runs have no limit may take.
const LONGEST_TRIAL: Duration = Duration::from_secs(10);

/// Compiles modules and links scripts: the engine with its clock, and all host functions.
pub struct Host {
    clock: EngineClock,
    linker: Linker<State>,
    modules: Modules,
    capabilities: Arc<Capabilities>,
}

impl Host {
    /// # Errors
    /// When the machine cannot run compiled WebAssembly.
    pub fn new(capabilities: Arc<Capabilities>) -> wasmtime::Result<Host> {
        let clock = EngineClock::start()?;
        let linker = component::linker(clock.engine())?;
        Ok(Host { clock, linker, modules: Modules::default(), capabilities })
    }

    /// Reads a file and compiles it, unless a module with the same content is in use.
    ///
    /// # Errors
    /// When the file is not a plugin.
    pub fn load(&self, path: &Path) -> Result<Arc<Module>, ModuleError> {
        self.modules.load(self.clock.engine(), path)
    }
}

/// What the configuration says about a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptSpec {
    pub name: Arc<str>,
    pub phase: Phase,
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
}

/// A script, linked and ready to run.
pub struct Script {
    spec: ScriptSpec,
    instances: InstanceMetrics,
    capabilities: Arc<Capabilities>,
    pre: InstancePre<State>,
    exports: [Option<ComponentExportIndex>; 5],
    /// The entry points that are on; `wasm-main` first.
    entries: Vec<EntryPoint>,
    /// Whether runs take the asynchronous path: the module can wait, several entry points run at once, or a run was so
    /// slow that it must not hold a worker.
    asynchronous: AtomicBool,
    pool: Pool,
}

impl Script {
    /// Links a module and makes its first instance as a trial.
    ///
    /// # Errors
    /// When the module imports what there is not, exports no `wasm-service`, or fails while it is instantiated.
    pub fn prepare(
        host: &Host,
        module: &Module,
        spec: ScriptSpec,
        instances: InstanceMetrics,
    ) -> Result<Script, ModuleError> {
        let pre =
            host.linker.instantiate_pre(&module.component).map_err(|error| ModuleError::Link(format!("{error:#}")))?;
        let service = module.component.get_export_index(None, SERVICE).ok_or(ModuleError::NoService)?;
        let exports = EntryPoint::ALL.map(|entry| module.component.get_export_index(Some(&service), entry.export()));
        let on = |entry: &EntryPoint| *entry == EntryPoint::Main || spec.configs[*entry as usize].is_some();
        let entries: Vec<EntryPoint> = EntryPoint::ALL.into_iter().filter(on).collect();

        let several = entries.len() > 1;
        let script = Script {
            spec,
            instances,
            capabilities: host.capabilities.clone(),
            pre,
            exports,
            entries,
            asynchronous: several.into(),
            pool: Pool::default(),
        };
        script.trial().map_err(|error| ModuleError::Instantiate(format!("{error:#}")))?;
        Ok(script)
    }

    pub fn spec(&self) -> &ScriptSpec {
        &self.spec
    }

    /// Whether the component exports this entry point.
    pub fn exports(&self, entry: EntryPoint) -> bool {
        self.exports[entry as usize].is_some()
    }

    /// Whether a run can finish without waiting: then [`Script::run_now`] is the way, else [`Script::run`].
    pub fn is_synchronous(&self) -> bool {
        !self.asynchronous.load(Ordering::Relaxed)
    }

    /// Runs `wasm-main` on the synchronous path, to its end.
    pub fn run_now(&self, exchange: &Shared) -> Result<Verdict, Failure> {
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => self.instantiate().map_err(|error| Failure::from_instantiation(&error))?,
        };
        let entry = instance.entries[EntryPoint::Main as usize].ok_or_else(no_export)?;
        let session = State::new_session_id();
        instance.begin(exchange, None, session, session, false);
        let result = entry.call(&mut instance.store, self.argument(EntryPoint::Main));
        if instance.store.data().cpu.was_slow() {
            self.asynchronous.store(true, Ordering::Relaxed);
        }
        self.finish(instance, result)
    }

    /// Runs the entry points that are on, concurrently. The first to finish gives the verdict; the others are cancelled.
    pub async fn run(&self, exchange: &Shared) -> Result<Verdict, Failure> {
        let Some(wall) = self.spec.wall else { return self.race(exchange).await };
        match tokio::time::timeout(wall, self.race(exchange)).await {
            Ok(result) => result,
            Err(_) => Err(Exceeded::Wall(wall).into()),
        }
    }

    async fn race(&self, exchange: &Shared) -> Result<Verdict, Failure> {
        let main_session = State::new_session_id();
        if self.entries.len() == 1 {
            return self.run_entry(EntryPoint::Main, exchange, None, main_session).await;
        }
        let shared = Arc::new(Run::default());
        // In the order of the entry points: that is how a tie is decided.
        let runs = self.entries.iter().map(|entry| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(self.run_entry(*entry, exchange, Some(shared.clone()), main_session))
        });
        let (result, _, others) = select_all(runs).await;
        drop(others);
        result
    }

    async fn run_entry(
        &self,
        entry: EntryPoint,
        exchange: &Shared,
        run: Option<Arc<Run>>,
        main_session: u64,
    ) -> Result<Verdict, Failure> {
        let mut instance = match self.pool.take() {
            Some(instance) => instance,
            None => self.instantiate_async().await.map_err(|error| Failure::from_instantiation(&error))?,
        };
        let function = instance.entries[entry as usize].ok_or_else(no_export)?;
        let session = if entry == EntryPoint::Main { main_session } else { State::new_session_id() };
        instance.begin(exchange, run, session, main_session, true);
        // Dropped in the middle, the instance goes with it: it cannot be used again.
        let result = function.call_async(&mut instance.store, self.argument(entry)).await;
        self.finish(instance, result)
    }

    /// Takes the result, and the instance back if it may live on.
    fn finish(
        &self,
        mut instance: Instance,
        result: wasmtime::Result<(Result<component::WitVerdict, String>,)>,
    ) -> Result<Verdict, Failure> {
        instance.store.data_mut().end();
        let (result,) = result.map_err(|error| Failure::from_run(&error))?;
        let verdict = result.map_err(Failure::err)?;
        instance.runs += 1;
        let worn =
            instance.runs >= self.spec.recycle_after || instance.store.data().memory.used() > self.spec.recycle_memory;
        if !self.spec.fresh && !worn {
            self.pool.put(instance);
        }
        Ok(verdict.into())
    }

    fn argument(&self, entry: EntryPoint) -> (Option<Arc<str>>,) {
        (self.spec.configs[entry as usize].clone(),)
    }

    /// The first instance. Wasmtime refuses the synchronous path to a module that imports a function that can wait.
    fn trial(&self) -> wasmtime::Result<()> {
        let instance = match self.instantiate() {
            Ok(instance) => instance,
            Err(_) => {
                self.asynchronous.store(true, Ordering::Relaxed);
                let limit = self.spec.wall.unwrap_or(LONGEST_TRIAL);
                block_on(async { tokio::time::timeout(limit, self.instantiate_async()).await })?
                    .map_err(|_| Exceeded::Wall(limit))??
            }
        };
        if !self.spec.fresh {
            self.pool.put(instance);
        }
        Ok(())
    }

    fn instantiate(&self) -> wasmtime::Result<Instance> {
        let mut store = self.store();
        let instance = self.pre.instantiate(&mut store)?;
        self.instance(store, instance)
    }

    async fn instantiate_async(&self) -> wasmtime::Result<Instance> {
        let mut store = self.store();
        store.data_mut().cpu.reset(true);
        let instance = self.pre.instantiate_async(&mut store).await?;
        self.instance(store, instance)
    }

    fn store(&self) -> Store<State> {
        let ScriptSpec { name, phase, memory, cpu, wall, env, .. } = &self.spec;
        let log = Arc::new(RunLog::new(name.clone(), *phase));
        let wasi = wasi::context(env, &log);
        let state = State::new(self.capabilities.clone(), Memory::new(*memory), Cpu::new(*cpu, *wall), log, wasi);
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(|mut store| store.data_mut().cpu.tick());
        store.set_epoch_deadline(1);
        store
    }

    fn instance(&self, mut store: Store<State>, instance: wasmtime::component::Instance) -> wasmtime::Result<Instance> {
        let mut entries = [const { None }; 5];
        for (slot, index) in entries.iter_mut().zip(&self.exports) {
            if let Some(index) = index {
                *slot = Some(instance.get_typed_func(&mut store, index)?);
            }
        }
        Ok(Instance { store, entries, runs: 0, _alive: self.instances.count() })
    }
}

impl Instance {
    fn begin(&mut self, exchange: &Shared, run: Option<Arc<Run>>, session: u64, main_session: u64, can_yield: bool) {
        self.store.data_mut().begin(exchange, run, session, main_session, can_yield);
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
