//! How much may wait in the whole process: the bytes of messages in mailboxes, and of the values of timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that wait in all mailboxes and timers of the process at the most.
pub const MOST_WAITING: usize = 256 << 20;

/// Bytes that are left. Clones share them.
#[derive(Clone)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    pub fn new(bytes: usize) -> Budget {
        Budget(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes so many bytes, if so many are left.
    pub fn take(&self, bytes: usize) -> Option<Taken> {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).ok()?;
        Some(Taken { bytes, from: self.clone() })
    }
}

/// Bytes of a budget, which go back when this is dropped.
pub struct Taken {
    bytes: usize,
    from: Budget,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}
