//! Server-sent events, for `wasm_serverless`: a clock that ticks in the browser.
//!
//! ```toml
//! every_ms = 1000  # between two events
//! count = 10       # how many there are; without it, as long as the client stays
//! retry_ms = 3000  # after which a client that lost the connection comes back
//! ```
//!
//! Events are numbered from 1. A client that comes back says in `last-event-id` which it had last, and gets the next one;
//! after the last it gets 204, which tells it not to come back. Another method than GET gets 405.
//!
//! Each event is `event: tick` with JSON: `{"tick":1,"unix_ms":1767225600000}`. Verdict: `return`.

use std::num::NonZeroU64;
use std::time::{SystemTime, UNIX_EPOCH};

use phasegate_plugin::http::Response;
use phasegate_plugin::socket::socket_write_all;
use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;
use serde_json::json;

export!(main: serve);

/// Milliseconds that a client may take for an event.
const PATIENCE: u64 = 30_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "a_second")]
    every_ms: NonZeroU64,
    count: Option<NonZeroU64>,
    #[serde(default = "three_seconds")]
    retry_ms: u64,
}

fn a_second() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(999)
}

fn three_seconds() -> u64 {
    3000
}

fn serve(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let last = config.count.map_or(u64::MAX, NonZeroU64::get);
    let seen = host::in_get_header("last-event-id")?.and_then(|id| id.trim().parse().ok()).unwrap_or(0);
    let method = host::variable("http_request_method")?;
    let response = match method.as_deref() {
        Some("GET") if seen >= last => Response::new(204),
        Some("GET") => {
            stream(&config, seen + 1..=last)?;
            return Ok(Verdict::Return);
        }
        _ => Response::new(405).header("allow", "GET"),
    };
    host::out_set_response(&response)?;
    Ok(Verdict::Return)
}

fn stream(config: &Config, ticks: impl IntoIterator<Item = u64>) -> Result<(), String> {
    let head = Response::new(200).header("content-type", "text/event-stream").header("cache-control", "no-store");
    host::out_set_response(&head)?;
    let mut before = format!("retry: {}\n", config.retry_ms);
    for tick in ticks {
        if before.is_empty() {
            host::sleep(config.every_ms.get());
        }
        let event = format!("{before}{}", event(tick));
        // Clients come and go: that is no failure.
        if socket_write_all(host::curr_fd(), event.as_bytes(), PATIENCE).is_err() {
            break;
        }
        before.clear();
    }
    Ok(())
}

fn event(tick: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    format!("id: {tick}\nevent: tick\ndata: {}\n\n", json!({ "tick": tick, "unix_ms": now }))
}
