//! A place for a VM. A stream is pinned to its slot from its first callback to its last; the slot is locked for one
//! callback at a time, never while anything waits.

use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::Services;
use super::abi::Direction;
use super::plugin::Identity;
use super::state::{Effect, Parked, Purpose, StreamContext, Task};
use super::vm::{StartError, Vm};
use crate::capability::shared::QueueListener;
use crate::phase::FailureKind;
use crate::wasm::Failure;

/// How long a plugin that is shut down may go on until it calls `proxy_done`, and the VM of a request that has ended with its
/// callouts.
const LONGEST_FAREWELL: Duration = Duration::from_secs(60);

/// How often who waits for a VM looks whether there is still time.
const STEP: Duration = Duration::from_millis(5);

/// A VM, or the place where it was.
pub struct Slot {
    vm: Mutex<Place>,
    /// Of the VM: counted up when it fails.
    generation: AtomicU64,
    has_failed: AtomicBool,
    /// Whether it has failed the last time by a limit of ours.
    is_limited: AtomicBool,
    /// It fails.
    fails: Arc<Notify>,
}

struct Place {
    /// None after a failure.
    vm: Option<Vm>,
    /// When it had been started, or that had been tried.
    started: Instant,
}

/// The VM has failed: before, or in this very callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the VM has failed")]
pub struct Lost;

/// What came of an attempt to put a new VM in the place of one that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Done,
    /// Somebody else has done it.
    Unneeded,
    /// By so much.
    TooSoon(Duration),
}

/// A stream context: where it is, and in which VM.
pub struct Link {
    pub slot: Arc<Slot>,
    generation: u64,
    id: u32,
}

impl Slot {
    /// Without a VM, as after a failure: [`Slot::restart`] brings one.
    pub fn vacant() -> Arc<Slot> {
        Arc::new(Slot {
            vm: Mutex::new(Place { vm: None, started: Instant::now() }),
            generation: AtomicU64::new(0),
            has_failed: AtomicBool::new(true),
            is_limited: AtomicBool::new(false),
            fails: Arc::default(),
        })
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// For those who live in the VM: it is gone with its slot.
    pub fn generation_of(slot: &Weak<Slot>) -> u64 {
        slot.upgrade().map_or(0, |slot| slot.generation())
    }

    /// Runs something on the VM, if it is still that of this generation.
    ///
    /// # Errors
    /// When it is not, or fails now.
    pub fn with<R>(
        self: &Arc<Slot>,
        generation: u64,
        callback: impl FnOnce(&mut Vm) -> wasmtime::Result<R>,
    ) -> Result<R, Lost> {
        // Nobody waits for a VM that is starting because theirs has failed.
        let is_gone = || self.generation() != generation;
        if is_gone() {
            return Err(Lost);
        }
        let mut place = self.vm.lock();
        if is_gone() { Err(Lost) } else { self.run(&mut place, callback) }
    }

    /// Opens a stream in the VM; none when there is no VM.
    pub fn open(
        self: &Arc<Slot>,
        identity: &Arc<Identity>,
        context: impl FnOnce(u32) -> StreamContext,
    ) -> Option<Result<Link, Lost>> {
        self.open_in(self.vm.lock(), identity, context)
    }

    /// As [`Slot::open`], unless the VM is busy.
    pub fn try_open(
        self: &Arc<Slot>,
        identity: &Arc<Identity>,
        context: impl FnOnce(u32) -> StreamContext,
    ) -> Option<Result<Link, Lost>> {
        self.open_in(self.vm.try_lock()?, identity, context)
    }

    fn open_in(
        self: &Arc<Slot>,
        mut place: MutexGuard<'_, Place>,
        identity: &Arc<Identity>,
        context: impl FnOnce(u32) -> StreamContext,
    ) -> Option<Result<Link, Lost>> {
        let root = place.vm.as_ref()?.root(identity)?;
        let generation = self.generation();
        let opened = self.run(&mut place, |vm| vm.create_stream(context(root)));
        Some(opened.map(|id| Link { slot: self.clone(), generation, id }))
    }

    /// Starts a plugin in the VM, if there is one. After a trap, the others of the VM get the one that `rebuild` makes, if it makes
    /// one.
    ///
    /// # Errors
    /// Of the plugin.
    pub fn start_plugin(
        self: &Arc<Slot>,
        identity: &Arc<Identity>,
        rebuild: impl FnOnce(&Weak<Slot>) -> Option<Vm>,
    ) -> Result<(), StartError> {
        let mut place = self.vm.lock();
        let started = self.call(&mut place, |vm| vm.start_plugin(identity)).unwrap_or(Ok(()));
        if let Err(StartError::Trap { .. }) = &started {
            // What it had running went on until here.
            self.is_limited.store(false, Ordering::Relaxed);
            self.take_down(&mut place);
            self.put(&mut place, rebuild(&Arc::downgrade(self)));
            self.fails.notify_waiters();
        }
        drop(place);
        self.settle();
        started
    }

    /// Whether a plugin runs here.
    pub fn runs(&self, identity: &Arc<Identity>) -> bool {
        self.vm.lock().vm.as_ref().is_some_and(|vm| vm.root(identity).is_some())
    }

    /// Shuts a plugin down, if it runs here and the VM is free before the time for it is over. In a VM that has failed none
    /// does: it may be starting, and that is not waited for.
    pub fn shut_down(self: &Arc<Slot>, identity: &Arc<Identity>, is_over: impl Fn() -> bool) {
        if self.has_failed() {
            return;
        }
        let mut place = loop {
            match self.vm.try_lock_for(STEP) {
                Some(place) => break place,
                None if is_over() => return,
                None => {}
            }
        };
        let Some(root) = place.vm.as_ref().and_then(|vm| vm.root(identity)) else { return };
        // A failure is logged, and nobody waits for more.
        let _ = self.run(&mut place, |vm| self.end_root(vm, root));
    }

    fn end_root(self: &Arc<Slot>, vm: &mut Vm, root: u32) -> wasmtime::Result<()> {
        if vm.on_root_done(root)? {
            return vm.delete(root);
        }
        self.park(vm, root);
        Ok(())
    }

    /// A stream has ended. With the last one of a request's VM its plugins end, but for callouts that are under way: the VM
    /// lives until they have ended too.
    fn leave(self: &Arc<Slot>, vm: &mut Vm) -> wasmtime::Result<()> {
        let state = vm.state();
        if state.purpose != Purpose::Request || state.contexts.streams().next().is_some() {
            return Ok(());
        }
        if state.calls.is_empty() {
            return self.end_roots(vm);
        }
        let (slot, generation, services) = (self.clone(), self.generation(), &state.services);
        let waiting = services.background().spawn(async move {
            tokio::time::sleep(LONGEST_FAREWELL).await;
            // A failure is logged.
            let _ = slot.with(generation, |vm| slot.end_roots(vm));
        });
        state.farewell = Some(Parked { _waiting: Task(waiting.abort_handle()), _counts: services.parked.clone() });
        Ok(())
    }

    fn end_roots(self: &Arc<Slot>, vm: &mut Vm) -> wasmtime::Result<()> {
        vm.state().farewell = None;
        vm.roots().into_iter().try_for_each(|root| self.end_root(vm, root))
    }

    /// Keeps the VM for a plugin that is to call `proxy_done`: in a tick, or when a callout is answered.
    fn park(self: &Arc<Slot>, vm: &mut Vm, id: u32) {
        let services = vm.state().services.clone();
        let Some(root) = vm.state().contexts.root_mut(id) else { return };
        let (slot, generation) = (self.clone(), self.generation());
        let waiting = services.background().spawn(async move {
            tokio::time::sleep(LONGEST_FAREWELL).await;
            // A failure is logged.
            let _ = slot.with(generation, |vm| vm.delete(id));
        });
        root.parked = Some(Parked { _waiting: Task(waiting.abort_handle()), _counts: services.parked.clone() });
    }

    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Whether the last VM that has failed here has computed for too long or needed too much memory. Envoy has no such limits: a
    /// client that can reach one must not take the filter away from all others for good.
    pub fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed)
    }

    /// All who wait are notified when the VM fails.
    pub fn fails(&self) -> Arc<Notify> {
        self.fails.clone()
    }

    /// Puts a new VM, which is told its slot, in the place of one that has failed, if that was started this long ago.
    ///
    /// # Errors
    /// Of `start`: it counts as started all the same, so that the next attempt waits.
    pub fn restart<E>(
        self: &Arc<Slot>,
        pause: Duration,
        start: impl FnOnce(&Weak<Slot>) -> Result<Vm, E>,
    ) -> Result<Restart, E> {
        let mut place = self.vm.lock();
        if place.vm.is_some() {
            return Ok(Restart::Unneeded);
        }
        let rest = pause.saturating_sub(place.started.elapsed());
        if !rest.is_zero() {
            return Ok(Restart::TooSoon(rest));
        }
        let started = start(&Arc::downgrade(self));
        let (vm, restarted) = match started {
            Ok(vm) => (Some(vm), Ok(Restart::Done)),
            Err(error) => (None, Err(error)),
        };
        self.put(&mut place, vm);
        drop(place);
        self.settle();
        restarted
    }

    fn put(&self, place: &mut Place, vm: Option<Vm>) {
        place.started = Instant::now();
        place.vm = vm;
        self.has_failed.store(place.vm.is_none(), Ordering::Relaxed);
    }

    /// What starting has asked for.
    fn settle(self: &Arc<Slot>) {
        let mut place = self.vm.lock();
        let _ = self.run(&mut place, |_| Ok(()));
    }

    fn run<R>(
        self: &Arc<Slot>,
        place: &mut Place,
        callback: impl FnOnce(&mut Vm) -> wasmtime::Result<R>,
    ) -> Result<R, Lost> {
        let run = |vm: &mut Vm| {
            let result = callback(vm)?;
            if vm.state().farewell.is_some() && vm.state().calls.is_empty() {
                self.end_roots(vm)?;
            }
            while let Some(effect) = vm.state().effects.pop() {
                match effect {
                    Effect::Tick(root) => self.arm(vm, root),
                    Effect::Done(root, _parked) => vm.delete(root)?,
                }
            }
            Ok(result)
        };
        self.call(place, run).ok_or(Lost)?.map_err(|error: wasmtime::Error| {
            self.fail(place, &Failure::from_run(&error));
            Lost
        })
    }

    /// Calls the VM; none when there is none. After a panic of the host nobody knows how far it has come: it is gone.
    fn call<R>(&self, place: &mut Place, callback: impl FnOnce(&mut Vm) -> R) -> Option<R> {
        let vm = place.vm.as_mut()?;
        let called = panic::catch_unwind(AssertUnwindSafe(|| callback(vm)));
        Some(called.unwrap_or_else(|panic| {
            self.fail(place, &Failure { kind: FailureKind::Trap, detail: "a panic of the host".to_owned() });
            panic::resume_unwind(panic)
        }))
    }

    fn fail(&self, place: &mut Place, failure: &Failure) {
        if let Some(vm) = &mut place.vm {
            vm.state().report(failure);
        }
        self.is_limited.store(matches!(failure.kind, FailureKind::Cpu | FailureKind::Memory), Ordering::Relaxed);
        self.take_down(place);
        self.fails.notify_waiters();
    }

    /// Takes the VM down, and tells all its streams.
    fn take_down(&self, place: &mut Place) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        self.has_failed.store(true, Ordering::Relaxed);
        if let Some(mut vm) = place.vm.take() {
            for stream in vm.state().contexts.streams() {
                stream.wake();
            }
        }
    }

    /// Has the clock of a root context tick as it has asked for.
    fn arm(self: &Arc<Slot>, vm: &mut Vm, id: u32) {
        let background = vm.state().services.background().clone();
        let Some(root) = vm.state().contexts.root_mut(id) else { return };
        root.tick.task = None;
        let (period, generation) = (root.tick.period, self.generation());
        if period == 0 {
            return;
        }
        let slot = Arc::downgrade(self);
        let ticking = background.spawn(async move {
            let period = Duration::from_millis(period.into());
            loop {
                tokio::time::sleep(period).await;
                let Some(slot) = slot.upgrade() else { return };
                // It may compute for long: others tick meanwhile.
                let tick = move || slot.with(generation, |vm| vm.on_tick(id));
                if !matches!(tokio::task::spawn_blocking(tick).await, Ok(Ok(()))) {
                    return;
                }
            }
        });
        root.tick.task = Some(Task(ticking.abort_handle()));
    }
}

/// Tells a root context of messages in the queues that it has registered, as long as it is there.
pub struct Listener(Arc<Notices>);

struct Notices {
    root: u32,
    slot: Weak<Slot>,
    generation: u64,
    services: Arc<Services>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// One entry for each message.
    queues: VecDeque<u32>,
    /// Whether somebody is about to tell of them.
    is_told: bool,
}

impl Listener {
    pub fn new(root: u32, slot: Weak<Slot>, services: Arc<Services>) -> Listener {
        let generation = Slot::generation_of(&slot);
        Listener(Arc::new(Notices { root, slot, generation, services, waiting: Mutex::default() }))
    }
}

impl QueueListener for Listener {
    fn queue_ready(&self, queue: u32) {
        let mut waiting = self.0.waiting.lock();
        waiting.queues.push_back(queue);
        if !std::mem::replace(&mut waiting.is_told, true) {
            // Never within the callback that has put the message there: it may be this very VM. One after another: there may be
            // many.
            let notices = self.0.clone();
            self.0.services.background().spawn_blocking(move || notices.tell_all());
        }
    }
}

impl Notices {
    fn tell_all(&self) {
        loop {
            let queue = {
                let mut waiting = self.waiting.lock();
                let Some(queue) = waiting.queues.pop_front() else {
                    waiting.is_told = false;
                    return;
                };
                queue
            };
            let mut is_there = false;
            if let Some(slot) = self.slot.upgrade() {
                let tell = || {
                    slot.with(self.generation, |vm| {
                        is_there = vm.state().contexts.root_mut(self.root).is_some();
                        vm.on_queue_ready(self.root, queue)
                    })
                };
                // A failure is logged, and so is a panic of the host: the next is to be told all the same.
                let _ = panic::catch_unwind(AssertUnwindSafe(tell));
            }
            if !is_there {
                // It has gone meanwhile, and with it this listener; there may be another.
                self.services.capabilities.shared.tell_of_message(queue);
            }
        }
    }
}

impl Link {
    /// Whether its VM has not failed.
    pub fn is_alive(&self) -> bool {
        self.slot.generation() == self.generation
    }

    /// # Errors
    /// When the VM has failed, or fails now.
    pub fn on_headers(&self, direction: Direction, count: u32, end: bool) -> Result<u32, Lost> {
        self.slot.with(self.generation, |vm| vm.on_headers(direction, self.id, count, end))
    }

    /// # Errors
    /// As [`Link::on_headers`].
    pub fn on_body(&self, direction: Direction, size: u32, end: bool) -> Result<u32, Lost> {
        self.slot.with(self.generation, |vm| vm.on_body(direction, self.id, size, end))
    }

    /// # Errors
    /// As [`Link::on_headers`].
    pub fn on_trailers(&self, direction: Direction, count: u32) -> Result<u32, Lost> {
        self.slot.with(self.generation, |vm| vm.on_trailers(direction, self.id, count))
    }

    /// The stream has ended: done and log. Once; then [`Link::delete`].
    pub fn on_end(&self) {
        // A failure is logged, and there is nobody left whom it could hurt.
        let _ = self.slot.with(self.generation, |vm| vm.on_end(self.id));
    }

    pub fn delete(self) {
        let _ = self.slot.with(self.generation, |vm| {
            vm.delete(self.id)?;
            self.slot.leave(vm)
        });
    }
}
