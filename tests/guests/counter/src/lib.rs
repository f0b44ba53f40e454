//! Counts its runs, so that a test sees whether an instance is used again.
//!
//! ```toml
//! on = "request"  # sets the header x-count of the request; "response": of the response; "body": `return` with the count
//! leak = 65536    # bytes that every run keeps
//! ```

use std::cell::RefCell;

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

export!(main: count);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    on: Place,
    #[serde(default)]
    leak: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Request,
    Response,
    Body,
}

thread_local! {
    static RUNS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn count(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let count = RUNS.with_borrow_mut(|runs| {
        runs.push(vec![1; config.leak]);
        runs.len().to_string()
    });
    match config.on {
        Place::Request => host::in_set_header("x-count", &count)?,
        Place::Response => host::out_set_header("x-count", &count)?,
        Place::Body => {
            host::out_set_response(&Response::new(200).text(&count))?;
            return Ok(Verdict::Return);
        }
    }
    Ok(Verdict::Ok)
}
