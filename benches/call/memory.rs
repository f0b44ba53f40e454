//! What an idle instance in a pool keeps resident.

use std::sync::Arc;

use phasegate::wasm::{Host, Module, Script};

use super::plugin::{exchange, ok, script};

const INSTANCES: usize = 256;

/// Makes many scripts, each with one instance in its pool that has served requests, and divides what the process grew by.
pub fn report(host: &Host, module: &Arc<Module>) {
    // What the first one brings along for all.
    run(&script(host, module, false));
    let before = resident_kib();
    let scripts: Vec<_> = (0..INSTANCES).map(|_| script(host, module, false)).collect();
    scripts.iter().for_each(|script| run(script));
    let each = (resident_kib() - before) / INSTANCES as f64;
    println!("an idle instance keeps {each:.0} KiB resident (its script included, mean of {INSTANCES})\n");
}

fn run(script: &Script) {
    for _ in 0..3 {
        ok(script.run_now(&exchange()));
    }
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}
