//! Makes the calls that its configuration lists, in any entry point and phase, and delivers what came back.
//!
//! The configuration is a JSON list of steps:
//!
//! - `{"call": "in-get-header", "args": ["host"]}`: a function of the WIT files, with its arguments (none when absent).
//!   Those of `wasm-websocket` are written `websocket/socket-read`. Bodies and bytes are text. The name of an enum's
//!   case stands for it. An argument `"$0"` is what the first call gave, as `"$1"` is for the second.
//! - `{"deliver": "response"}`: puts the results so far into the response, for `return`; or `"log"`: a line at level
//!   info that begins with `probe: `; or `"in-header:NAME"`, `"out-header:NAME"`: sets a header of the request, the
//!   response.
//! - `{"verdict": "return"}`: ends. Without it the verdict is `ok`.
//!
//! The results are a list, one for each call: `{"ok": …}` or `{"err": "…"}`. A body of `in-body-read-exact` is
//! `{"len": 5, "fnv": "…"}`, with its FNV-1a hash of 64 bits in hexadecimal. A step that makes no sense fails the run.
//!
//! `probe_sync` is the same without the functions that wait, and so without their imports.

#![expect(clippy::unit_arg, reason = "a function that returns nothing has a result like the others")]

mod args;
mod calls;
mod store;
mod values;
#[cfg(feature = "waits")]
mod waits;

#[path = "../../verdict/src/names.rs"]
mod names;

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, export, host, log};
use serde::Deserialize;
use serde_json::Value;

export!(main: probe, timeout: probe, ext1: probe, ext2: probe, ext3: probe);

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Step {
    Call {
        call: String,
        #[serde(default)]
        args: Value,
    },
    Deliver {
        deliver: String,
    },
    Verdict {
        verdict: String,
    },
}

fn probe(config: Option<String>) -> Result<Verdict, String> {
    let steps: Vec<Step> = serde_json::from_str(&config.unwrap_or_default()).map_err(|error| error.to_string())?;
    let mut results = Vec::new();
    for step in steps {
        match step {
            Step::Call { call, args } => results.push(make(&call, &filled_in(args, &results))?),
            Step::Deliver { deliver } => hand_over(&results, &deliver)?,
            Step::Verdict { verdict } => {
                return names::verdict(&verdict).ok_or_else(|| format!("`{verdict}` is no verdict"));
            }
        }
    }
    Ok(Verdict::Ok)
}

/// The arguments with what earlier calls gave.
fn filled_in(args: Value, results: &[Value]) -> Value {
    let given = |arg: &str| Some(results.get(arg.strip_prefix('$')?.parse::<usize>().ok()?)?["ok"].clone());
    match args {
        Value::Array(args) => args.into_iter().map(|arg| arg.as_str().and_then(given).unwrap_or(arg)).collect(),
        args => args,
    }
}

fn make(call: &str, args: &Value) -> Result<Value, String> {
    let groups = [
        calls::request,
        calls::response,
        calls::run,
        calls::log,
        store::store,
        #[cfg(feature = "waits")]
        waits::std,
        #[cfg(feature = "waits")]
        waits::network,
    ];
    for group in groups {
        if let Some(result) = group(call, args).map_err(|error| format!("{call}: {error}"))? {
            return Ok(result);
        }
    }
    Err(format!("`{call}` is no function that this guest calls"))
}

fn hand_over(results: &[Value], to: &str) -> Result<(), String> {
    let results = Value::from(results).to_string();
    match to.split_once(':') {
        None if to == "response" => host::out_set_response(&Response::new(200).body("application/json", results)),
        None if to == "log" => {
            log::log_info(&format!("probe: {results}"));
            Ok(())
        }
        Some(("in-header", name)) => host::in_set_header(name, &results),
        Some(("out-header", name)) => host::out_set_header(name, &results),
        _ => Err(format!("`{to}` is nowhere to deliver to")),
    }
}
