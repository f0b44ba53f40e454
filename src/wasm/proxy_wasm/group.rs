//! The VMs of one key: the same code, `vm_id`, `vm_configuration` and limits. All plugins with that key share them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use wasmtime::InstancePre;

use super::Services;
use super::module::FilterModule;
use super::plugin::{Identity, Plugin};
use super::slot::{Link, Lost, Restart, Slot};
use super::state::{Contexts, Environment, Mode, Purpose, Shown, State, StreamContext, Task};
use super::stream::Stream;
use super::vm::{Allowed, CpuTimes, StartError, Vm};
use crate::config::FailurePolicy;
use crate::observe::metrics::Counted;
use crate::wasm::limits::{Cpu, Memory, may_instantiate};
use crate::worker;

/// How long a plugin may compute while it starts: some build large tables from their configuration then.
const LONGEST_START: Duration = Duration::from_secs(10);

/// How long a VM that has failed is left alone at least (as Envoy's `reload_config`).
const BACKOFF: Duration = Duration::from_secs(1);

/// After an attempt to start a plugin anew, so many times as long as it took there is none: a start may compute for long.
const REST: u32 = 10;

/// How long a plugin that starts alone, but takes the VM of others with it, is left out of that at least.
const APART: Duration = Duration::from_secs(60);

/// What is done with a slot, for a plugin: when to look again; none, when its VM fails.
type Look = fn(&Arc<Group>, &Arc<Slot>, &Arc<Identity>) -> Option<Duration>;

pub struct Group {
    pub environment: Arc<Environment>,
    pub pre: InstancePre<State>,
    /// Is in use as long as this is: other plugins of the same code find it.
    pub module: Arc<FilterModule>,
    pub allowed: Allowed,
    /// Bytes of the memory of a VM.
    pub memory: usize,
    /// CPU time of a callback.
    pub cpu: Duration,
    /// Made with the first plugin that starts.
    pub slots: OnceLock<Vec<Arc<Slot>>>,
    /// How many there are to be; 0: one for every stream.
    pub size: usize,
    /// Held while a plugin starts, which can take long: who only wants to know the plugins does not wait for that.
    pub starting: Mutex<()>,
    pub plugins: Mutex<Vec<Weak<Plugin>>>,
    /// How many VMs there are, in the slots and beside them.
    pub vms: Gauge,
    pub services: Arc<Services>,
}

impl Group {
    /// The plugin of this identity. If it does not run yet, it has been tried in a VM of its own, where what is wrong with it
    /// hurts nobody; [`Group::start`] follows. `at_once`: it has been started as well, and the first is not tried before.
    ///
    /// # Errors
    /// When a VM cannot be started, or the plugin refuses its configuration.
    pub fn plugin(self: &Arc<Group>, identity: Identity, at_once: bool) -> Result<Arc<Plugin>, StartError> {
        let _starting = self.starting.lock();
        let known = self.known().find(|plugin| plugin.identity.is_same(&identity));
        let is_new = known.is_none();
        let plugin = known.unwrap_or_else(|| Arc::new(Plugin::new(identity, self.clone())));
        let is_first = at_once && self.size > 0 && self.slots().is_empty();
        let runs = || !plugin.is_started() || self.slots().iter().all(|slot| slot.runs(&plugin.identity));
        if !is_first && (is_new || !runs()) {
            self.lone(&plugin.identity, Purpose::Trial)?;
        }
        if at_once {
            self.start_in_slots(&plugin)?;
        }
        if is_new {
            self.plugins.lock().push(Arc::downgrade(&plugin));
        }
        Ok(plugin)
    }

    /// Starts a plugin wherever it does not run: in new slots, in those that run, and in those that have failed, which get a new
    /// VM.
    ///
    /// # Errors
    /// When it fails in one of them, beside others, although it has been tried. It is not started in the next.
    pub fn start(self: &Arc<Group>, plugin: &Arc<Plugin>) -> Result<(), StartError> {
        let _starting = self.starting.lock();
        self.start_in_slots(plugin)
    }

    fn start_in_slots(self: &Arc<Group>, plugin: &Arc<Plugin>) -> Result<(), StartError> {
        // Kept to the end: one that is dropped while a slot starts would not be shut down there.
        let others: Vec<_> = self.started().filter(|other| !Arc::ptr_eq(other, plugin)).collect();
        let before = plugin.set_started(true);
        for slot in self.slots.get_or_init(|| (0..self.size).map(|_| Slot::vacant()).collect()) {
            let restarted = slot.restart(Duration::ZERO, |slot| self.vm_with(slot, &others));
            let started = restarted.and_then(|_| self.join(slot, &plugin.identity, &others));
            match started {
                Ok(()) => {}
                // It runs elsewhere.
                Err(error) if before => plugin.identity.failed_to_start(&error, None),
                Err(error) => {
                    plugin.set_started(false);
                    return Err(error);
                }
            }
        }
        plugin.is_gone.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Starts a plugin in the VM of a slot. If it takes the VM with it, that is no reason for the others there to fail.
    fn join(&self, slot: &Arc<Slot>, identity: &Arc<Identity>, others: &[Arc<Plugin>]) -> Result<(), StartError> {
        let rebuild = |slot: &Weak<Slot>| if others.is_empty() { None } else { self.vm_with(slot, others).ok() };
        slot.start_plugin(identity, rebuild)
    }

    /// The plugins that there are.
    fn known(&self) -> impl Iterator<Item = Arc<Plugin>> {
        let mut plugins = self.plugins.lock();
        plugins.retain(|plugin| plugin.strong_count() > 0);
        let known: Vec<_> = plugins.iter().filter_map(Weak::upgrade).collect();
        known.into_iter()
    }

    /// Those of them that run, or should.
    fn started(&self) -> impl Iterator<Item = Arc<Plugin>> {
        self.known().filter(|plugin| plugin.is_started())
    }

    /// A stream of a plugin, in one of the VMs. `beside`: a stream of the same request in the VM that the request has, if each
    /// has its own.
    ///
    /// # Errors
    /// When all of them have failed, or the one that was taken does now.
    pub fn open<'a>(
        self: &Arc<Group>,
        plugin: &Plugin,
        policy: FailurePolicy,
        stream: &Arc<Stream>,
        position: usize,
        beside: impl FnOnce() -> Option<&'a Link>,
    ) -> Result<Link, Lost> {
        let identity = &plugin.identity;
        let context = |root| StreamContext { stream: stream.clone(), position, root, declared: Vec::new() };
        if self.size == 0 {
            let slot = match beside() {
                Some(link) => self.join(&link.slot, identity, &[]).map(|()| link.slot.clone()),
                None => self.lone(identity, Purpose::Request),
            };
            let slot = slot.map_err(|error| {
                identity.failed_to_start(&error, Some(stream));
                Lost
            })?;
            return slot.open(identity, context).unwrap_or(Err(Lost));
        }
        let slots = self.slots();
        let (others, first) = slots.split_at(worker::number() % self.size);
        // One that has failed may be starting, which can take long.
        let in_order = || first.iter().chain(others).filter(|slot| !slot.has_failed());
        let free = in_order().find_map(|slot| slot.try_open(identity, context));
        let opened = free.or_else(|| in_order().find_map(|slot| slot.open(identity, context)));
        if opened.is_none() && policy == FailurePolicy::Reload {
            identity.metrics.reload_backoff.inc();
        }
        let stays_gone = policy == FailurePolicy::Closed && !slots.iter().any(|slot| slot.is_limited());
        if opened.is_none() && stays_gone && !plugin.is_gone.swap(true, Ordering::Relaxed) {
            let name = &identity.name;
            log::error!(
                "filter={name} no VM of it is left: its requests end with 503 until it is started again, as by a reload"
            );
        }
        opened.unwrap_or(Err(Lost))
    }

    /// Has a look at each slot now, whenever its VM fails, and after the pause that the look gives, as long as the answer lives.
    pub fn look_after(&self, plugin: &Arc<Plugin>, look: Look) -> Vec<Task> {
        let look_after = |slot: &Arc<Slot>| {
            let (plugin, slot, fails) = (Arc::downgrade(plugin), Arc::downgrade(slot), slot.fails());
            let looking = self.services.background().spawn(async move {
                loop {
                    let failed = fails.notified();
                    let (plugin, slot) = (plugin.clone(), slot.clone());
                    let look = move || {
                        let (plugin, slot) = (plugin.upgrade()?, slot.upgrade()?);
                        look(&plugin.group, &slot, &plugin.identity)
                    };
                    // It may take as long as a plugin may need to start.
                    match tokio::task::spawn_blocking(look).await {
                        Ok(Some(pause)) => tokio::time::sleep(pause).await,
                        _ => failed.await,
                    }
                }
            });
            Task(looking.abort_handle())
        };
        self.slots().iter().map(look_after).collect()
    }

    /// Has the log say that a VM which has failed is not made anew, unless another plugin has that done.
    pub fn tell(self: &Arc<Group>, slot: &Arc<Slot>, identity: &Arc<Identity>) -> Option<Duration> {
        if slot.is_limited() {
            return self.reload(slot, identity);
        }
        if slot.has_failed() && !self.started().any(|other| other.revives()) {
            let name = &identity.name;
            log::error!("filter={name} a VM of this service stays down until it is started again, as by a reload");
        }
        None
    }

    /// As [`Group::reload`], where a VM has exceeded a limit, until the plugin runs again.
    pub fn reload_if_limited(self: &Arc<Group>, slot: &Arc<Slot>, identity: &Arc<Identity>) -> Option<Duration> {
        if slot.is_limited() { self.reload(slot, identity) } else { None }
    }

    /// Starts a plugin anew where it does not run any more: when to look again; none, when it runs.
    pub fn reload(self: &Arc<Group>, slot: &Arc<Slot>, identity: &Arc<Identity>) -> Option<Duration> {
        if slot.runs(identity) {
            return None;
        }
        let plugins = {
            // One that starts now is among them then.
            let _starting = self.starting.lock();
            self.started().collect::<Vec<_>>()
        };
        let (began, mut pause) = (Instant::now(), backoff());
        let started = match slot.restart(pause, |slot| self.vm_with(slot, &plugins)) {
            Ok(Restart::TooSoon(pause)) => return Some(pause),
            Ok(Restart::Done) => {
                plugins.iter().for_each(|plugin| plugin.is_gone.store(false, Ordering::Relaxed));
                Ok(())
            }
            // It was left out of the VM, which works for others: it may hurt one of its own first.
            Ok(Restart::Unneeded) => self.lone(identity, Purpose::Trial).and_then(|_| {
                let others = plugins.iter().filter(|other| !Arc::ptr_eq(&other.identity, identity));
                let joined = self.join(slot, identity, &others.cloned().collect::<Vec<_>>());
                joined.inspect_err(|_| pause = APART)
            }),
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            identity.failed_to_start(&error, None);
        }
        let metrics = &identity.metrics;
        if slot.runs(identity) {
            metrics.reload_success.inc()
        } else {
            metrics.reload_failure.inc()
        };
        Some(pause.max(began.elapsed() * REST))
    }

    /// Shuts a plugin down in every VM that is free before the time for it is over.
    pub fn shut_down(self: &Arc<Group>, identity: &Arc<Identity>, is_over: impl Fn() -> bool) {
        for slot in self.slots() {
            slot.shut_down(identity, &is_over);
        }
    }

    /// As [`Group::shut_down`], all plugins.
    pub fn shut_down_all(self: &Arc<Group>, is_over: impl Fn() -> bool) {
        for plugin in self.known() {
            self.shut_down(&plugin.identity, &is_over);
        }
    }

    fn slots(&self) -> &[Arc<Slot>] {
        self.slots.get().map_or(&[], Vec::as_slice)
    }

    /// A VM beside the slots.
    fn lone(self: &Arc<Group>, identity: &Arc<Identity>, purpose: Purpose) -> Result<Arc<Slot>, StartError> {
        let slot = Slot::vacant();
        slot.restart(Duration::ZERO, |slot| self.vm(slot, purpose))?;
        self.join(&slot, identity, &[])?;
        Ok(slot)
    }

    /// A VM with these plugins. One that does not start any more is left out: that is no reason for the others to fail.
    fn vm_with(&self, slot: &Weak<Slot>, plugins: &[Arc<Plugin>]) -> Result<Vm, StartError> {
        let mut plugins: Vec<_> = plugins.iter().map(|plugin| &plugin.identity).collect();
        loop {
            let mut vm = self.vm(slot, Purpose::Slot)?;
            let started = plugins.iter().try_for_each(|identity| match vm.start_plugin(identity) {
                Ok(_) => Ok(()),
                Err(error) => Err((Arc::as_ptr(identity), error)),
            });
            let Err((failed, error)) = started else { return Ok(vm) };
            plugins.retain(|identity| {
                let stays = Arc::as_ptr(identity) != failed;
                if !stays {
                    identity.failed_to_start(&error, None);
                }
                stays
            });
        }
    }

    fn vm(&self, slot: &Weak<Slot>, purpose: Purpose) -> Result<Vm, StartError> {
        let live = &self.services.capabilities.live;
        may_instantiate(self.vms.get() as usize, live.all_instances())
            .map_err(|error| StartError::Instantiate(error.to_string()))?;
        let of_callback = Cpu::new(self.cpu);
        // In the VM of a request, a start is a part of that.
        let of_start = if self.size == 0 { of_callback.clone() } else { Cpu::in_all(LONGEST_START) };
        let state = State {
            memory: None,
            allocate: None,
            mode: Mode::Initializing,
            limits: Memory::new(self.memory),
            cpu: of_start.clone(),
            contexts: Contexts::default(),
            calls: Default::default(),
            shown: Shown::default(),
            effects: Vec::new(),
            vm: self.environment.clone(),
            services: self.services.clone(),
            slot: slot.clone(),
            purpose,
            farewell: None,
            output: Default::default(),
            has_written: false,
            at_limit: Default::default(),
            unknown_clusters: Default::default(),
            _alive: (Counted::new(&live.filter_vms), Counted::new(&self.vms)),
        };
        Vm::start(&self.pre, state, CpuTimes { of_callback, of_start }, &self.allowed)
    }
}

/// How long a VM is left alone at least, from its start: as in Envoy, by half of that longer at random.
fn backoff() -> Duration {
    BACKOFF + BACKOFF.mul_f64(f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use crate::capability::Capabilities;
    use crate::config::{self, Loaded};
    use crate::observe::metrics::Metrics;
    use crate::wasm::Host;

    /// Starts a filter that does nothing in so many VMs, beside so many instances of scripts; gives how many there are then.
    fn start(slots: usize, scripts: i64) -> Result<i64, String> {
        let folder = tempfile::tempdir().unwrap();
        let module = "(module (memory (export \"memory\") 1) (func (export \"proxy_abi_version_0_2_1\"))
                       (func (export \"malloc\") (param i32) (result i32) (i32.const 0)))";
        std::fs::write(folder.path().join("f.wasm"), wat::parse_str(module).unwrap()).unwrap();
        let file = folder.path().join("p.toml");
        std::fs::write(&file, "[[wasm_service]]\nname = 'f'\nwasm_path = 'f.wasm'\n").unwrap();
        let Loaded { config, mut diagnostics } = config::load(&file);
        let metrics = Metrics::new();
        let capabilities = Capabilities::load(&config, &metrics, &mut diagnostics);
        let live = capabilities.live.clone();
        let host = Host::new(capabilities.into(), None, &metrics).unwrap();
        live.instances.set(scripts);
        let plugin = host.filters().plugin(&config.services[0].filter, slots, metrics.filter("f"), true);
        let plugin = plugin.map_err(|error| error.to_string())?;
        assert_eq!(live.all_instances() as i64, scripts + plugin.group.vms.get());
        Ok(plugin.group.vms.get())
    }

    #[test]
    fn vms_count_with_the_instances_of_scripts() {
        assert_eq!(start(2, 5), Ok(2));
        assert_eq!(start(0, 5), Ok(0), "that of the trial is gone");
        for slots in [0, 2] {
            let error = start(slots, 1 << 40).unwrap_err();
            assert!(
                error.starts_with("failed while it was instantiated: 0 instances of it are in use, of "),
                "{error}"
            );
        }
    }
}
