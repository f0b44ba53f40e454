//! The VMs of one key: the same code, `vm_id`, `vm_configuration` and limits. All plugins with that key share them.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use wasmtime::InstancePre;

use super::Services;
use super::plugin::{Identity, Plugin};
use super::slot::{Link, Lost, Slot};
use super::state::{Contexts, Environment, Mode, Shown, State, StreamContext};
use super::vm::{Allowed, StartError, Vm};
use crate::config::{FailurePolicy, FilterLimits};
use crate::observe::metrics::Counted;
use crate::wasm::limits::{Cpu, Memory};

/// How long a VM that has failed is left alone at least (as Envoy's `reload_config`).
const BACKOFF: Duration = Duration::from_secs(1);

pub struct Group {
    pub environment: Arc<Environment>,
    pub pre: InstancePre<State>,
    pub allowed: Allowed,
    pub limits: FilterLimits,
    /// Made with the first plugin.
    pub slots: OnceLock<Vec<Arc<Slot>>>,
    /// How many there are to be; 0: one for every stream.
    pub size: usize,
    pub plugins: Mutex<Vec<Weak<Plugin>>>,
    pub services: Arc<Services>,
}

impl Group {
    /// The plugin of this identity, started in every VM.
    ///
    /// # Errors
    /// When a VM cannot be started, or the plugin refuses its configuration.
    pub fn plugin(self: &Arc<Group>, identity: Identity) -> Result<Arc<Plugin>, StartError> {
        let mut plugins = self.plugins.lock();
        let running = plugins.iter().filter_map(Weak::upgrade).find(|plugin| plugin.identity.is_same(&identity));
        let plugin = running.unwrap_or_else(|| Arc::new(Plugin { identity: Arc::new(identity), group: self.clone() }));
        let known: Vec<_> = plugins.iter().filter_map(Weak::upgrade).collect();
        self.start(&plugin, &known)?;
        plugins.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&plugin)));
        plugins.push(Arc::downgrade(&plugin));
        Ok(plugin)
    }

    /// In every slot: in new ones, in those that run, and in those that have failed, which get a new VM.
    fn start(self: &Arc<Group>, plugin: &Arc<Plugin>, known: &[Arc<Plugin>]) -> Result<(), StartError> {
        if self.size == 0 {
            // A trial: what is wrong shows now, and not with the first request.
            return self.fresh(&plugin.identity).map(drop);
        }
        if self.slots().is_empty() {
            let slots: Result<_, _> = (0..self.size).map(|_| Slot::start(|slot| self.vm(slot))).collect();
            let _ = self.slots.set(slots?);
        }
        for slot in self.slots() {
            if slot.failed().is_some() {
                slot.restart(|slot| self.vm_with(slot, known))?;
            }
            slot.start_plugin(&plugin.identity).unwrap_or(Ok(0))?;
        }
        Ok(())
    }

    /// A stream of a plugin, in one of the VMs.
    ///
    /// # Errors
    /// When all of them have failed, or the one that was taken does now.
    pub fn open(
        self: &Arc<Group>,
        plugin: &Plugin,
        policy: FailurePolicy,
        stream: &Arc<super::stream::Stream>,
        position: usize,
    ) -> Result<Link, Lost> {
        let identity = &plugin.identity;
        let context = |root| StreamContext { stream: stream.clone(), position, root };
        if self.size == 0 {
            let slot = self.fresh(identity).map_err(|error| {
                identity.failed_to_start(&error);
                Lost
            })?;
            return slot.open(identity, context).unwrap_or(Err(Lost));
        }
        let slots = self.slots();
        let own = worker() % slots.len();
        let (others, first) = slots.split_at(own);
        let in_order = || first.iter().chain(others);
        let free = in_order().find_map(|slot| slot.try_open(identity, context));
        let opened = free.or_else(|| in_order().find_map(|slot| slot.open(identity, context)));
        if let Some(opened) = opened {
            return opened;
        }
        if policy == FailurePolicy::Reload && self.reload(&slots[own], identity) {
            return slots[own].open(identity, context).unwrap_or(Err(Lost));
        }
        Err(Lost)
    }

    /// Starts a VM anew, if that is not too soon.
    fn reload(self: &Arc<Group>, slot: &Arc<Slot>, identity: &Identity) -> bool {
        let jitter = BACKOFF.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0);
        if slot.failed().is_some_and(|since| since < BACKOFF + jitter) {
            identity.metrics.reload_backoff.inc();
            return false;
        }
        let plugins: Vec<_> = self.plugins.lock().iter().filter_map(Weak::upgrade).collect();
        match slot.restart(|slot| self.vm_with(slot, &plugins)) {
            Ok(()) => {
                identity.metrics.reload_success.inc();
                true
            }
            Err(error) => {
                identity.metrics.reload_failure.inc();
                identity.failed_to_start(&error);
                false
            }
        }
    }

    pub fn shut_down(self: &Arc<Group>, identity: &Arc<Identity>) {
        for slot in self.slots() {
            slot.shut_down(identity);
        }
    }

    fn slots(&self) -> &[Arc<Slot>] {
        self.slots.get().map_or(&[], Vec::as_slice)
    }

    /// A slot for one stream.
    fn fresh(self: &Arc<Group>, identity: &Arc<Identity>) -> Result<Arc<Slot>, StartError> {
        let slot = Slot::start(|slot| self.vm(slot))?;
        slot.start_plugin(identity).unwrap_or(Ok(0))?;
        Ok(slot)
    }

    fn vm_with(&self, slot: &Weak<Slot>, plugins: &[Arc<Plugin>]) -> Result<Vm, StartError> {
        let mut vm = self.vm(slot)?;
        for plugin in plugins {
            vm.start_plugin(&plugin.identity)?;
        }
        Ok(vm)
    }

    fn vm(&self, slot: &Weak<Slot>) -> Result<Vm, StartError> {
        let state = State {
            memory: None,
            allocate: None,
            mode: Mode::Initializing,
            limits: Memory::new(self.limits.memory),
            cpu: Cpu::new(self.limits.cpu),
            contexts: Contexts::default(),
            calls: Default::default(),
            shown: Shown::default(),
            effects: Vec::new(),
            vm: self.environment.clone(),
            services: self.services.clone(),
            slot: slot.clone(),
            output: Default::default(),
            _alive: Counted::new(&self.services.capabilities.live.instances),
        };
        Vm::start(&self.pre, state, self.limits.cpu, &self.allowed)
    }
}

/// A number for the thread, so that each worker has a slot to itself.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static WORKER: Cell<Option<usize>> = const { Cell::new(None) });
    WORKER.with(|worker| {
        worker.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            worker.set(Some(number));
            number
        })
    })
}
