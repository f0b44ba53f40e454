//! Callouts that a VM waits for, by the ids that the guest knows them by.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::AbortHandle;

use super::stream::Stream;

/// The kinds of callout, which the low two bits of an id tell (proxy-wasm-cpp-host, `wasm.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Http = 0,
    GrpcCall = 1,
    GrpcStream = 2,
}

/// Dropped, all are given up.
#[derive(Default)]
pub struct Calls {
    in_flight: HashMap<u32, InFlight>,
    /// The last number that was given.
    last: u32,
}

/// A callout. Dropped, it is given up.
struct InFlight {
    task: Option<AbortHandle>,
    /// The stream for which it was made, which may be paused until it ends.
    stream: Option<Arc<Stream>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(stream) = &self.stream {
            stream.lock().callouts -= 1;
            stream.wake();
        }
    }
}

impl Calls {
    pub fn len(&self) -> usize {
        self.in_flight.len()
    }

    /// An id that no callout in flight has.
    pub fn next(&mut self, kind: Kind) -> u32 {
        loop {
            self.last = (self.last + 1) % (u32::MAX >> 2);
            let id = self.last << 2 | kind as u32;
            if self.last != 0 && !self.in_flight.contains_key(&id) {
                return id;
            }
        }
    }

    pub fn insert(&mut self, id: u32, task: AbortHandle, stream: Option<Arc<Stream>>) {
        if let Some(stream) = &stream {
            stream.lock().callouts += 1;
        }
        self.in_flight.insert(id, InFlight { task: Some(task), stream });
    }

    /// The callout has ended; false when it was given up before.
    pub fn remove(&mut self, id: u32) -> bool {
        self.in_flight.remove(&id).is_some()
    }
}
