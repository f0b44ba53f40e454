//! Does what its configuration says, in all five entry points:
//!
//! - `VERDICT`: `ok`, `break`, `finish`, `error`, `return`, `ext1`, `ext2` or `ext3`;
//! - `err TEXT`: fails with this text;
//! - `sleep MS then …`: waits, then one of the others.
//!
//! No configuration is `ok`.

mod names;

use phasegate_plugin::{Verdict, export, host};

export!(main: obey, timeout: obey, ext1: obey, ext2: obey, ext3: obey);

fn obey(config: Option<String>) -> Result<Verdict, String> {
    let mut order = config.as_deref().unwrap_or("ok").trim();
    if let Some((time, then)) = order.strip_prefix("sleep ").and_then(|rest| rest.split_once(" then ")) {
        host::sleep(time.parse().map_err(|error| format!("`{time}` is no number of milliseconds: {error}"))?);
        order = then;
    }
    let failure = || order.strip_prefix("err ").unwrap_or(&format!("`{order}` is no order")).to_owned();
    names::verdict(order).ok_or_else(failure)
}
