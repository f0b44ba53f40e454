//! Proxy-Wasm: filters written for Envoy, Istio, Kong and Higress (proxy-wasm/spec), the second skin over `capability`.

pub mod abi;
mod buffer;
mod calls;
pub mod chain;
mod code;
mod deliver;
mod fields;
mod group;
mod host;
pub mod module;
mod pairs;
mod plugin;
mod property;
mod slot;
mod state;
mod stream;
mod vm;
mod wasi;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::Handle;
use wasmtime::{Engine, ExternType, InstancePre, Linker, Val};

use self::group::Group;
use self::module::{FilterModule, FilterModuleError, FilterModules};
use self::state::{Environment, State};
use crate::capability::Capabilities;
use crate::config::abi::{HOST_FUNCTIONS, OF_HIGRESS, WASI_FUNCTIONS};
use crate::config::{Code, FilterConfig};
use crate::observe::metrics::FilterMetrics;
use crate::worker::Home;

pub use self::chain::{End, Filter, Filters, Flow};
pub use self::code::{CodeError, CodeStore};
pub use self::plugin::{Care, FailedStart, Identity, Plugin, Service};
pub use self::stream::{LocalReply, Stream};
pub use self::vm::StartError;

/// Compiles filters and starts them: once a process.
pub struct FilterHost {
    linker: Linker<State>,
    code: CodeStore,
    engine: Engine,
    modules: FilterModules,
    groups: Mutex<HashMap<Key, Weak<Group>>>,
    services: Arc<Services>,
}

/// What all VMs use.
pub struct Services {
    pub capabilities: Arc<Capabilities>,
    /// Shared by all plugins that are to call `proxy_done`.
    pub parked: Arc<()>,
    /// Where ticks, notifications and callouts of root contexts run.
    home: Home,
}

/// By which plugins share VMs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    code: [u8; 32],
    vm_id: String,
    vm_configuration: String,
    env: Vec<(String, String)>,
    allowed: Vec<String>,
    memory: usize,
    cpu: Duration,
    callouts: usize,
    slots: usize,
}

/// Why a filter cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error(transparent)]
    Code(#[from] CodeError),
    #[error(transparent)]
    Module(#[from] FilterModuleError),
    #[error("imports what there is not: {}", .0.join(", "))]
    Imports(Vec<String>),
    #[error("cannot be linked: {0}")]
    Link(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl FilterError {
    /// The callback that did not let it start.
    pub fn callback(&self) -> Option<&'static str> {
        match self {
            FilterError::Start(StartError::Trap { callback, .. } | StartError::Refused(callback)) => Some(callback),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            FilterError::Code(error) => error.help(),
            FilterError::Module(error) => error.help(),
            FilterError::Imports(_) | FilterError::Link(_) => {
                "a filter can import the functions of the Proxy-Wasm ABI and of wasi_snapshot_preview1, nothing else"
            }
            FilterError::Start(StartError::NoMemory | StartError::NoAllocator | StartError::Signature(_)) => {
                "build the filter with an SDK of Proxy-Wasm"
            }
            FilterError::Start(_) => "its log lines before this one may say more; `limits` bound what it may use",
        }
    }
}

impl FilterHost {
    /// # Errors
    /// When a host function is bound twice, or there is no thread for what belongs to no request.
    pub fn new(engine: &Engine, code: CodeStore, capabilities: Arc<Capabilities>) -> wasmtime::Result<FilterHost> {
        let services = Arc::new(Services { capabilities, parked: Arc::default(), home: Home::start("filters")? });
        Ok(FilterHost {
            linker: host::linker(engine)?,
            code,
            engine: engine.clone(),
            modules: FilterModules::default(),
            groups: Mutex::default(),
            services,
        })
    }

    /// The plugin of a configuration, for so many VMs; 0: for one for every stream. Those that run already are taken over; others
    /// have been tried, or `at_once` been started.
    ///
    /// # Errors
    /// When its code is no filter, imports what there is not, or does not start.
    pub fn plugin(
        &self,
        config: &FilterConfig,
        slots: usize,
        metrics: FilterMetrics,
        at_once: bool,
    ) -> Result<Arc<Plugin>, FilterError> {
        let running = match &config.code {
            // What runs need not be fetched.
            Code::Remote(remote) => self.modules.in_use(&remote.sha256),
            Code::Local(_) => None,
        };
        let module = match running {
            Some(module) => module,
            None => self.modules.load(&self.engine, &self.code.bytes(&config.code)?)?,
        };
        let identity = Identity {
            name: config.name.clone(),
            root_id: config.root_id.clone(),
            configuration: config.configuration.as_str().into(),
            metrics,
        };
        Ok(self.group(&module, config, slots)?.plugin(identity, at_once)?)
    }

    /// Shuts all plugins down, and waits for those that will tell when they are done, or until the time for it is over. Blocks.
    pub fn shut_down(&self, is_over: impl Fn() -> bool) {
        let groups: Vec<_> = self.groups.lock().values().filter_map(Weak::upgrade).collect();
        for group in &groups {
            group.shut_down_all(&is_over);
        }
        while Arc::strong_count(&self.services.parked) > 1 && !is_over() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn group(
        &self,
        module: &Arc<FilterModule>,
        config: &FilterConfig,
        slots: usize,
    ) -> Result<Arc<Group>, FilterError> {
        let key = Key {
            code: module.digest,
            vm_id: config.vm_id.clone(),
            vm_configuration: config.vm_configuration.clone(),
            env: config.env.clone(),
            allowed: config.allowed_capabilities.clone(),
            memory: config.limits.memory,
            cpu: config.limits.cpu,
            callouts: config.limits.callouts,
            slots,
        };
        let mut groups = self.groups.lock();
        groups.retain(|_, group| group.strong_count() > 0);
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade) {
            return Ok(group);
        }
        let environment = Environment {
            vm_id: config.vm_id.clone(),
            configuration: config.vm_configuration.as_str().into(),
            variables: config.env.clone(),
            callouts: config.limits.callouts,
            abi: module.abi,
            shared: self.services.capabilities.shared.open(&config.vm_id),
        };
        let allowed =
            (!config.allowed_capabilities.is_empty()).then(|| config.allowed_capabilities.iter().cloned().collect());
        let group = Arc::new(Group {
            environment: Arc::new(environment),
            pre: self.link(module, &allowed)?,
            module: module.clone(),
            allowed,
            memory: config.limits.memory,
            cpu: config.limits.cpu,
            slots: OnceLock::new(),
            size: slots,
            starting: Mutex::default(),
            plugins: Mutex::default(),
            vms: Gauge::default(),
            services: self.services.clone(),
        });
        groups.insert(key, Arc::downgrade(&group));
        Ok(group)
    }

    fn link(&self, module: &FilterModule, allowed: &vm::Allowed) -> Result<InstancePre<State>, FilterError> {
        let failed = |error: wasmtime::Error| FilterError::Link(format!("{error:#}"));
        let mut linker = self.linker.clone();
        linker.allow_shadowing(true);
        let mut unknown = BTreeSet::new();
        for import in module.module.imports() {
            let (from, name) = (import.module(), import.name());
            let ExternType::Func(ty) = import.ty() else {
                unknown.insert(format!("{from}.{name}"));
                continue;
            };
            if !is_bound(from, name) {
                unknown.insert(format!("{from}.{name}"));
                continue;
            }
            let is_allowed =
                host::BESIDE_THE_ABI.contains(&name) || allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
            if !is_allowed {
                let denied = Val::I32(if from == "env" { abi::Status::InternalFailure as i32 } else { ENOTCAPABLE });
                let (function, told) = (name.to_owned(), AtomicBool::new(false));
                let deny = move |caller: wasmtime::Caller<'_, State>, _: &[Val], results: &mut [Val]| {
                    if !told.swap(true, Ordering::Relaxed) {
                        caller.data().denied(&function);
                    }
                    results.fill(denied);
                    Ok(())
                };
                linker.func_new(from, name, ty, deny).map_err(failed)?;
            } else if from == "env" && ty.results().len() == 0 {
                host::without_status(&mut linker, name).map_err(failed)?;
            }
        }
        if !unknown.is_empty() {
            return Err(FilterError::Imports(unknown.into_iter().collect()));
        }
        linker.instantiate_pre(&module.module).map_err(failed)
    }
}

/// Whether there is a host function of this name.
fn is_bound(from: &str, name: &str) -> bool {
    match from {
        "env" => [HOST_FUNCTIONS, OF_HIGRESS, &host::BESIDE_THE_ABI].into_iter().any(|names| names.contains(&name)),
        "wasi_snapshot_preview1" | "wasi_unstable" => WASI_FUNCTIONS.contains(&name),
        _ => false,
    }
}

/// Of WASI.
const ENOTCAPABLE: i32 = 76;

impl Services {
    pub fn background(&self) -> &Handle {
        self.home.handle()
    }

    /// Where a callout runs: on the worker of its request, if there is one.
    pub fn here(&self) -> Handle {
        Handle::try_current().unwrap_or_else(|_| self.background().clone())
    }
}
