//! Threads: the workers, which serve requests, and those of what belongs to no request.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};

/// A number for the thread, so that each worker can have something to itself.
pub fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed));
    NUMBER.with(|number| *number)
}

/// A thread with a runtime, for tasks that belong to no request. Dropped, it ends with all that runs there.
pub struct Home(Option<Runtime>);

impl Home {
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(name: &str) -> io::Result<Home> {
        Ok(Home(Some(Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?)))
    }

    pub fn handle(&self) -> &Handle {
        self.0.as_ref().expect("until it is dropped").handle()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Waiting for a runtime to end is not allowed in another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
