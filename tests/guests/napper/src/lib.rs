//! Waits, or computes, as the standard library does it. The configuration: `nap` for twenty sleeps of 20 ms, `busy` for 15 ms of
//! computing. Verdict: `ok`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use phasegate_plugin::{Verdict, export};

export!(main: spend);

fn spend(config: Option<String>) -> Result<Verdict, String> {
    match config.as_deref() {
        Some("nap") => (0..20).for_each(|_| sleep(Duration::from_millis(20))),
        Some("busy") => {
            let started = Instant::now();
            while started.elapsed() < Duration::from_millis(15) {}
        }
        _ => return Err("the configuration is `nap` or `busy`".into()),
    }
    Ok(Verdict::Ok)
}
