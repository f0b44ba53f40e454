//! A named session that does what messages tell it, and says in the log when it starts and ends. It answers:
//!
//! - `count`: how many messages it has received; `config`: its configuration;
//! - `request`: what it gets when it asks for a header; `spawn ext1`: spawns `wasm-main-ext1`, which rests;
//! - `timer MS`: the values of its timers, after that many milliseconds;
//! - `err`, `trap`, `return`: ends that way; `hang`: does not listen any more; `quit`: quits itself.

use phasegate_plugin::host::EntryPoint;
use phasegate_plugin::{Verdict, export, host, log, session};

export!(main: serve, ext1: rest);

fn serve(config: Option<String>) -> Result<Verdict, String> {
    log::log_info("the session starts");
    let mut count = 0;
    let ended = loop {
        let message = match host::session_recv() {
            Ok(message) => message,
            Err(error) => break error,
        };
        count += 1;
        let (order, argument) = message.split_once(' ').unwrap_or((&message, ""));
        let answer = match order {
            "count" => count.to_string(),
            "config" => config.clone().unwrap_or_default(),
            "request" => host::in_get_header("host").unwrap_err(),
            "spawn" => {
                let entry = if argument == "ext1" { EntryPoint::WasmMainExt1 } else { EntryPoint::WasmMainExt2 };
                host::spawn(entry, None).map_or_else(|error| error, |_| "spawned".to_owned())
            }
            "timer" => {
                let ms = argument.parse().map_err(|_| "not a number")?;
                host::add_timer(ms, 1, "expired");
                host::get_timer_timeout(10_000).join(",")
            }
            "err" => return Err("as it was told".to_owned()),
            "trap" => panic!("as it was told"),
            "return" => return Ok(Verdict::Ok),
            "hang" => session::rest(),
            "quit" => {
                host::session_quit(host::curr_session_id())?;
                continue;
            }
            _ => continue,
        };
        let _ = host::session_response(&answer);
    };
    log::log_info(&format!("the session ends: {ended}"));
    Ok(Verdict::Ok)
}

fn rest(_config: Option<String>) -> Result<Verdict, String> {
    session::rest()
}
