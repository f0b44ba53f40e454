//! Misbehaves as its configuration says; `BEHAVIOUR if-header` only for requests with `x-hostile: 1`.
//!
//! | behaviour | |
//! |---|---|
//! | `loop` | never ends |
//! | `host-loop` | never ends, and calls the host all the time |
//! | `sleep-forever` | waits for a day (not in `hostile_sync`) |
//! | `rest` | computes for a moment, waits for 100 ms, computes again, then `ok` (not in `hostile_sync`) |
//! | `memory` | takes memory until there is none |
//! | `recursion` | calls itself without end |
//! | `trap`, `panic`, `err` | |
//! | `log-flood N` | N lines in the log, then `ok` |
//!
//! No configuration is `ok`.

use std::hint::black_box;

use phasegate_plugin::{Verdict, export, host, log};

export!(main: misbehave);

fn misbehave(config: Option<String>) -> Result<Verdict, String> {
    let config = config.unwrap_or_default();
    let behaviour = match config.trim().strip_suffix(" if-header") {
        Some(_) if host::in_get_header("x-hostile")?.as_deref() != Some("1") => return Ok(Verdict::Ok),
        Some(behaviour) => behaviour,
        None => config.trim(),
    };
    match behaviour {
        "" => {}
        "loop" => compute(),
        "host-loop" => call(),
        #[cfg(feature = "waits")]
        "sleep-forever" => host::sleep(24 * 60 * 60 * 1000),
        #[cfg(feature = "waits")]
        "rest" => {
            compute_for(4_000_000);
            host::sleep(100);
            compute_for(20_000_000);
        }
        "memory" => hoard(),
        "recursion" => drop(recurse(0)),
        "trap" => trap(),
        "panic" => panic!("the guest panics"),
        "err" => return Err("the guest fails".to_owned()),
        _ => flood(behaviour)?,
    }
    Ok(Verdict::Ok)
}

fn compute() {
    let mut rounds = 0u64;
    loop {
        rounds = black_box(rounds.wrapping_add(1));
    }
}

/// A million rounds are about a millisecond; the clock that CPU time is counted by ticks every five.
#[cfg(feature = "waits")]
fn compute_for(rounds: u64) {
    for round in 0..rounds {
        black_box(round);
    }
}

fn call() {
    loop {
        black_box(host::curr_session_id());
    }
}

fn hoard() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1u8; 1 << 20]));
    }
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(depth: u64) -> u64 {
    // Little on the guest's own stack in memory, so that it is the host's stack that runs out.
    recurse(black_box(depth + 1)) + 1
}

#[cfg(target_arch = "wasm32")]
fn trap() {
    std::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() {
    std::process::abort()
}

fn flood(behaviour: &str) -> Result<(), String> {
    let count = behaviour.strip_prefix("log-flood ").and_then(|count| count.parse::<u64>().ok());
    for line in 0..count.ok_or_else(|| format!("`{behaviour}` is no behaviour"))? {
        log::log_info(&format!("flood {line}"));
    }
    Ok(())
}
