//! What one instance may use: memory, and CPU time between two host calls.

use std::sync::LazyLock;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::engine::TICK;

/// A run on the synchronous path cannot be interrupted but by a trap. It ends after this many times its CPU limit even
/// when every stretch between two host calls is short, and a script that comes near it moves to the asynchronous path.
const SYNC_RUN: u32 = 5;

/// From this CPU time on a script is too slow for the synchronous path.
const SLOW: Duration = Duration::from_millis(10);

/// Mappings of memory that an instance takes at the most, and those that the kernel gives to a process by default.
const MAPPINGS: usize = 8;
const DEFAULT_MAPPINGS: usize = 65_530;

/// Instances of scripts and filters that the process may have: beyond its mappings of memory there could be no other.
static MOST_INSTANCES: LazyLock<usize> = LazyLock::new(|| {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    most.and_then(|most| most.trim().parse().ok()).unwrap_or(DEFAULT_MAPPINGS) / MAPPINGS
});

/// Whether a script or filter may have another instance. Each may have as many as are left, so that one alone has no more than
/// half, and there is always room for others.
///
/// # Errors
/// When it may not.
pub fn may_instantiate(own: usize, all: usize) -> Result<(), TooMany> {
    let most = *MOST_INSTANCES;
    if own < most.saturating_sub(all) { Ok(()) } else { Err(TooMany { own, all, most }) }
}

/// A script or filter has too many instances at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{own} instances of it are in use, of {all} in all; the process may have {most} (vm.max_map_count / {MAPPINGS})"
)]
pub struct TooMany {
    own: usize,
    all: usize,
    most: usize,
}

/// A limit that a guest exceeded: the error of its trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    #[error("used more memory than limits.memory permits, {} KiB", .0 >> 10)]
    Memory(usize),
    #[error("computed for more than limits.cpu_ms, {} ms, without calling the host", .0.as_millis())]
    Cpu(Duration),
    #[error("computed for more than the limit of {} ms in all", .0.as_millis())]
    CpuInAll(Duration),
    #[error("ran for more than limits.wall_ms, {} ms", .0.as_millis())]
    Wall(Duration),
}

/// Bounds the linear memories and tables of one instance.
pub struct Memory {
    limit: usize,
    /// Bytes of all linear memories now. They never shrink.
    used: usize,
}

impl Memory {
    pub fn new(limit: usize) -> Memory {
        Memory { limit, used: 0 }
    }

    /// Bytes of linear memory.
    pub fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> wasmtime::Result<bool> {
        // Wasmtime asks first: what the memory itself does not allow is only -1 to the guest, and not used.
        if max.is_some_and(|max| desired > max) {
            return Ok(false);
        }
        let used = self.used.saturating_add(desired.saturating_sub(current));
        if used > self.limit {
            // A trap of our own says more than the guest's "out of memory".
            return Err(Exceeded::Memory(self.limit).into());
        }
        self.used = used;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(size_of::<usize>());
        self.memory_growing(bytes(current), bytes(desired), max.map(bytes))
    }
}

/// Counts the CPU time of a run at every tick of the epoch, so that a run that ends within a tick pays nothing for it.
#[derive(Clone)]
pub struct Cpu {
    /// Of a stretch.
    limit: Duration,
    /// Of the run, if it cannot yield.
    in_all: Duration,
    wall: Option<Duration>,
    /// Whether the run may yield; else there is only the trap.
    can_yield: bool,
    /// Moved by every host call.
    host_calls: u64,
    started: Option<Instant>,
    last: Option<Sample>,
    /// Since the last host call.
    stretch: Duration,
    total: Duration,
}

#[derive(Clone, Copy)]
struct Sample {
    thread: ThreadId,
    /// CPU time of the thread so far.
    cpu: Duration,
    host_calls: u64,
    /// Whether the run let others go on after it, who have used the thread since.
    yielded: bool,
}

impl Cpu {
    pub fn new(limit: Duration) -> Cpu {
        Cpu::bounded(limit, limit * SYNC_RUN)
    }

    /// A run that cannot yield may compute for so long, whether it calls the host or not.
    pub fn in_all(limit: Duration) -> Cpu {
        Cpu::bounded(limit, limit)
    }

    fn bounded(limit: Duration, in_all: Duration) -> Cpu {
        Cpu {
            limit,
            in_all,
            wall: None,
            can_yield: false,
            host_calls: 0,
            started: None,
            last: None,
            stretch: Duration::ZERO,
            total: Duration::ZERO,
        }
    }

    /// Begins a run, which may last for so long.
    pub fn reset(&mut self, can_yield: bool, wall: Option<Duration>) {
        self.can_yield = can_yield;
        self.wall = wall;
        self.started = None;
        self.last = None;
        self.stretch = Duration::ZERO;
        self.total = Duration::ZERO;
    }

    /// A host function was called: the stretch that counts begins anew.
    pub fn host_call(&mut self) {
        self.host_calls += 1;
    }

    /// Whether this run was too slow to hold a worker.
    pub fn was_slow(&self) -> bool {
        self.total >= SLOW
    }

    /// What to do at the end of an epoch.
    pub fn tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        self.count();
        if !self.can_yield && self.total > self.in_all {
            return Err(Exceeded::CpuInAll(self.in_all).into());
        }
        if self.stretch > self.limit {
            return Err(Exceeded::Cpu(self.limit).into());
        }
        if let Some(wall) = self.wall.filter(|wall| now - started > *wall) {
            return Err(Exceeded::Wall(wall).into());
        }
        // Not at the first tick, which may come at once: a run that is shorter than an epoch finishes when it is polled,
        // so that it is the order of the entry points which decides a tie, and not the clock.
        let yields = self.can_yield && self.total >= TICK;
        if let Some(last) = &mut self.last {
            last.yielded = yields;
        }
        Ok(match yields {
            // Tokio's way of yielding, for it looks after its connections in between.
            true => UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())),
            false => UpdateDeadline::Continue(1),
        })
    }

    /// Adds the CPU time since the last tick; up to the first, none: nobody knows when in an epoch the run has begun. After a
    /// move to another thread, that is taken to be one tick.
    fn count(&mut self) {
        let cpu = ThreadTime::now().as_duration();
        let sample = Sample { thread: thread::current().id(), cpu, host_calls: self.host_calls, yielded: false };
        let used = match self.last {
            Some(last) if last.thread == sample.thread => {
                let used = sample.cpu.saturating_sub(last.cpu);
                // What it has used itself since then is an epoch at the most.
                if last.yielded { used.min(TICK) } else { used }
            }
            Some(_) => TICK,
            None => Duration::ZERO,
        };
        self.total += used;
        self.stretch = match self.last {
            Some(last) if last.host_calls == sample.host_calls => self.stretch + used,
            _ => used.min(TICK),
        };
        self.last = Some(sample);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burn(time: Duration) {
        let start = ThreadTime::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn memory_is_refused_over_the_limit_and_counted_below() {
        let mut memory = Memory::new(1 << 20);
        assert!(memory.memory_growing(0, 512 << 10, None).is_ok());
        assert!(memory.memory_growing(0, 512 << 10, None).is_ok(), "a second memory");
        assert_eq!(memory.used(), 1 << 20);
        let error = memory.memory_growing(512 << 10, 576 << 10, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Exceeded::Memory(1 << 20)));
    }

    #[test]
    fn what_a_memory_does_not_allow_itself_is_not_counted() {
        let mut memory = Memory::new(1 << 20);
        assert!(memory.memory_growing(0, 64 << 10, Some(128 << 10)).unwrap());
        assert!(!memory.memory_growing(64 << 10, 512 << 10, Some(128 << 10)).unwrap());
        assert!(!memory.table_growing(0, 20, Some(10)).unwrap());
        assert_eq!(memory.used(), 64 << 10);
        // A 64-bit memory.
        assert!(memory.memory_growing(64 << 10, usize::MAX, None).is_err());
        assert!(memory.table_growing(0, usize::MAX, None).is_err());
    }

    #[test]
    fn a_script_has_as_many_instances_as_are_left_for_others() {
        let most = *MOST_INSTANCES;
        for (own, all, may) in [
            (0, 0, true),
            (most / 2 - 1, most / 2 - 1, true),
            (most.div_ceil(2), most.div_ceil(2), false),
            (0, most / 2, true),
            (most / 4, most - most / 4, false),
            (0, most - 1, true),
            (0, most, false),
        ] {
            assert_eq!(may_instantiate(own, all).is_ok(), may, "{own} of {all}");
        }
    }

    #[test]
    fn a_stretch_without_host_calls_ends_at_the_limit() {
        let mut cpu = Cpu::new(Duration::from_millis(20));
        cpu.reset(true, None);
        let error = (0..100)
            .find_map(|_| {
                burn(TICK);
                cpu.tick().err()
            })
            .expect("the limit is reached");
        assert_eq!(error.downcast_ref(), Some(&Exceeded::Cpu(Duration::from_millis(20))));
    }

    #[test]
    fn what_others_compute_after_a_yield_does_not_count() {
        let mut cpu = Cpu::new(Duration::from_millis(20));
        cpu.reset(true, None);
        for _ in 0..3 {
            burn(TICK / 2);
            let _ = cpu.tick().expect("little was computed");
        }
        burn(Duration::from_millis(30));
        assert!(cpu.tick().is_ok(), "others did that");
    }

    #[test]
    fn a_run_yields_from_its_second_tick_on() {
        let mut cpu = Cpu::new(Duration::from_millis(50));
        for can_yield in [true, false] {
            cpu.reset(can_yield, None);
            let mut yields = || {
                burn(TICK);
                matches!(cpu.tick(), Ok(UpdateDeadline::YieldCustom(..)))
            };
            assert_eq!([yields(), yields(), yields()], [false, can_yield, can_yield]);
        }
    }

    #[test]
    fn host_calls_begin_a_new_stretch_but_not_without_end_on_the_synchronous_path() {
        let limit = Duration::from_millis(20);
        for (mut cpu, can_yield, ends) in [
            (Cpu::new(limit), true, None),
            (Cpu::new(limit), false, Some(limit * SYNC_RUN)),
            (Cpu::in_all(limit), false, Some(limit)),
        ] {
            cpu.reset(can_yield, None);
            let error = (0..60).find_map(|_| {
                burn(TICK);
                cpu.host_call();
                cpu.tick().err()
            });
            let error = error.map(|error| *error.downcast_ref().unwrap());
            assert_eq!(error, ends.map(Exceeded::CpuInAll), "can_yield: {can_yield}");
            assert!(cpu.was_slow());
        }
    }
}
