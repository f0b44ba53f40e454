//! Greets when its VM starts, then tells time and a random byte on every tick: each 5 s, or as many ms as the VM
//! configuration says.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use log::info;
use proxy_wasm::traits::{Context, RootContext};
use proxy_wasm::types::LogLevel;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(HelloWorld));
}}

struct HelloWorld;

impl Context for HelloWorld {}

impl RootContext for HelloWorld {
    fn on_vm_start(&mut self, _: usize) -> bool {
        info!("Hello, World!");
        let configured = self.get_vm_configuration().and_then(|text| String::from_utf8(text).ok()?.parse().ok());
        self.set_tick_period(Duration::from_millis(configured.unwrap_or(5000)));
        true
    }

    fn on_tick(&mut self) {
        // The standard library's clock and random numbers are WASI's; the other is the ABI's own.
        let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let (wasi, abi) = (since(SystemTime::now()), since(self.get_current_time()));
        info!("It's {wasi} (for the host {abi}), your lucky number is {}.", RandomState::new().hash_one(0) as u8);
    }
}
