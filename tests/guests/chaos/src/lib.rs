//! Calls host functions at random, with nasty arguments, and does not mind what they answer.
//!
//! The configuration is a number of calls (default: 1); the header `x-seed` of the request is the seed, `x-server` the address of
//! a server that is there. The same seed makes the same calls. `wasm-main` and `wasm-main-ext1`, so that two can go at once.

mod calls;
mod random;

use phasegate_plugin::{Verdict, export, host};

use crate::random::Random;

export!(main: main, ext1: ext1);

fn main(config: Option<String>) -> Result<Verdict, String> {
    run(config, 0)
}

fn ext1(config: Option<String>) -> Result<Verdict, String> {
    run(config, 1)
}

fn run(config: Option<String>, salt: u64) -> Result<Verdict, String> {
    let calls = config.as_deref().unwrap_or("1").parse().map_err(|_| "the configuration is a number of calls")?;
    // A background run has no request any more.
    let seed = host::in_get_header("x-seed").ok().flatten().and_then(|seed| seed.parse().ok()).unwrap_or(calls);
    let server = host::in_get_header("x-server").ok().flatten().unwrap_or_default();
    let mut random = Random { state: seed ^ (salt << 63), server };
    for _ in 0..calls {
        calls::any(&mut random);
    }
    Ok(random.one_of(&[
        Verdict::Ok,
        Verdict::Ok,
        Verdict::Break,
        Verdict::Finish,
        Verdict::Error,
        Verdict::Return,
        Verdict::Ext1,
        Verdict::Ext2,
        Verdict::Ext3,
    ]))
}
