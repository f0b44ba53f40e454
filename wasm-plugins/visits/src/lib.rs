//! Counts visits in one place for the whole process: a named session keeps the counts, a script in `wasm_access_log` tells
//! it of every request, and one in `wasm_serverless` shows them. All three are this module, each with its `role`.
//!
//! ```toml
//! [[wasm_session]]
//! name = "visits"
//! wasm_path = "visits.wasm"
//! wasm_main_config = 'role = "keep"'
//!
//! [[wasm_access_log]]
//! wasm_path = "visits.wasm"
//! wasm_main_config = 'role = "count"'    # in `wasm_serverless`: 'role = "show"'
//! ```
//!
//! `session` is the name of the session, when it is not `visits`. Only the first `most_paths` paths (default: 10000) are
//! counted by themselves, and no more of them than fit into one message together. `GET /visits` gives `{"/": 3, "/other": 1}`.
//!
//! Verdict: `ok` where it counts, `return` where it shows.

use std::collections::BTreeMap;

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host, session};
use serde::Deserialize;

export!(main: visits);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    role: Role,
    #[serde(default = "default_session")]
    session: String,
    #[serde(default = "default_most_paths")]
    most_paths: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Keep,
    Count,
    Show,
}

fn default_session() -> String {
    "visits".to_owned()
}

fn default_most_paths() -> usize {
    10_000
}

/// What is asked of the session. Everything else that it is sent is a path, which begins with a slash.
const SHOW: &str = "show";

/// Bytes of all paths together, as JSON with its counts: the answer is one message, which has at most 1 MiB.
const MOST_BYTES: usize = 512 << 10;

/// What the paths are counted under for which there is no room.
const OTHERS: &str = "others";

fn visits(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    match config.role {
        Role::Keep => keep(config.most_paths),
        Role::Count => {
            let path = host::variable("http_request_path")?.unwrap_or_default();
            host::uniq_session_send(&config.session, &path)?;
            Ok(Verdict::Ok)
        }
        Role::Show => {
            let counts = host::uniq_session_request(&config.session, SHOW, 1000)?;
            host::out_set_response(&Response::new(200).body("application/json", counts))?;
            Ok(Verdict::Return)
        }
    }
}

fn keep(most_paths: usize) -> Result<Verdict, String> {
    let mut counts = BTreeMap::<String, u64>::new();
    let mut bytes = 0;
    session::serve(|message| {
        if message == SHOW {
            return serde_json::to_string(&counts).map(Some).map_err(|error| error.to_string());
        }
        if let Some(count) = counts.get_mut(message) {
            *count += 1;
            return Ok(None);
        }
        // A count has up to twenty digits.
        let more = serde_json::to_string(message).map_or(MOST_BYTES, |path| path.len() + 22);
        let room = counts.len() < most_paths && bytes + more <= MOST_BYTES;
        if room {
            bytes += more;
        }
        *counts.entry(if room { message } else { OTHERS }.to_owned()).or_default() += 1;
        Ok(None)
    })
}
