//! The workers: threads that serve requests.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number for the thread, so that each worker can have something to itself.
pub fn number() -> usize {
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
