//! Live instances, kept for the next request: a new one costs more than all of its calls.

use parking_lot::Mutex;
use wasmtime::Store;
use wasmtime::component::TypedFunc;

use std::sync::Arc;

use super::host::WitVerdict;
use super::state::State;
use crate::observe::metrics::Counted;

/// Idle instances that a script keeps at the most. More are made when more requests wait at once.
const MOST_IDLE: usize = 256;

/// An entry point, ready to be called.
pub type EntryFn = TypedFunc<(Option<Arc<str>>,), (Result<WitVerdict, String>,)>;

/// A live instance of a module. One run at a time.
pub struct Instance {
    pub store: Store<State>,
    /// Indexed by entry point.
    pub entries: [Option<EntryFn>; 5],
    pub runs: u64,
    /// Among all, and among those of its script.
    pub _alive: (Counted, Counted),
}

/// Idle instances of one script.
pub struct Pool<T = Instance> {
    idle: Mutex<Idle<T>>,
}

struct Idle<T> {
    /// The last was used last. Boxed: they come and go at every run, and a pointer is less to move.
    instances: Vec<Box<T>>,
    /// So many, the first, were not used since the pool was trimmed.
    unused: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool { idle: Mutex::new(Idle { instances: Vec::new(), unused: 0 }) }
    }
}

impl<T> Pool<T> {
    /// The instance used last: its memory is the warmest.
    pub fn take(&self) -> Option<Box<T>> {
        let mut idle = self.idle.lock();
        let instance = idle.instances.pop();
        idle.unused = idle.unused.min(idle.instances.len());
        instance
    }

    pub fn put(&self, instance: Box<T>) {
        let mut idle = self.idle.lock();
        if idle.instances.len() < MOST_IDLE {
            idle.instances.push(instance);
        }
    }

    /// Drops those that were not used since the last time, but for one.
    pub fn trim(&self) {
        let mut idle = self.idle.lock();
        let unused = idle.unused.min(idle.instances.len().saturating_sub(1));
        let dropped: Vec<_> = idle.instances.drain(..unused).collect();
        idle.unused = idle.instances.len();
        // Nobody waits while their memory is unmapped.
        drop(idle);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u8) -> Pool<u8> {
        let pool = Pool::default();
        (0..count).for_each(|instance| pool.put(Box::new(instance)));
        pool.trim();
        pool
    }

    fn left(pool: &Pool<u8>) -> Vec<u8> {
        std::iter::from_fn(|| pool.take()).map(|instance| *instance).collect()
    }

    #[test]
    fn what_is_not_used_is_dropped_but_for_one() {
        let untouched = pool(4);
        untouched.trim();
        assert_eq!(left(&untouched), [3]);
    }

    #[test]
    fn what_has_been_used_stays() {
        let pool = pool(4);
        let used = [pool.take(), pool.take()];
        used.into_iter().flatten().for_each(|instance| pool.put(instance));
        pool.trim();
        assert_eq!(left(&pool), [2, 3]);
    }

    #[test]
    fn what_is_in_use_comes_back() {
        let pool = pool(2);
        let used = [pool.take(), pool.take()];
        pool.trim();
        used.into_iter().flatten().for_each(|instance| pool.put(instance));
        pool.trim();
        assert_eq!(left(&pool).len(), 2);
    }
}
