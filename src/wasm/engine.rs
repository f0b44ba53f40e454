//! The Wasmtime engine, and the thread that keeps its clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::{Cache, Config, Engine};

/// Length of one epoch: how exactly CPU limits are kept, and how long a computation holds a worker before it yields.
pub const TICK: Duration = Duration::from_millis(5);

/// The engine of one process. While it lives, a thread of its own moves the epoch: a task on a busy runtime would stop
/// the clock just when it is needed.
pub struct EngineClock {
    engine: Engine,
    stop: Arc<AtomicBool>,
}

impl EngineClock {
    /// Builds the engine and starts its ticker thread. With a cache, what was compiled before is taken from there.
    ///
    /// # Errors
    /// When the machine cannot run compiled WebAssembly, or no thread can be started.
    pub fn start(cache: Option<Cache>) -> wasmtime::Result<EngineClock> {
        let mut config = Config::new();
        config.cache(cache);
        config.epoch_interruption(true);
        // As much as V8 gives a filter in Envoy. A plugin that recurses without end traps here, before the end of the worker's
        // own stack of 2 MiB.
        config.max_wasm_stack(1 << 20);
        config.async_stack_size(3 << 19);
        let engine = Engine::new(&config)?;

        let stop = Arc::new(AtomicBool::new(false));
        let (ticking, stopped) = (engine.clone(), stop.clone());
        thread::Builder::new().name("epoch".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                ticking.increment_epoch();
            }
        })?;
        Ok(EngineClock { engine, stop })
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for EngineClock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
