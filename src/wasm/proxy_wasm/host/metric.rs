//! Metrics that filters define.

use super::call::{Answer, Call};
use crate::observe::defined_metrics::{MetricError, MetricKind};
use crate::wasm::proxy_wasm::abi::Status;

/// The id, but for its kind, where there can be no more metrics, or none of this name. What is done with it has no effect: SDKs
/// panic over any status, and with the VM all of its streams would go.
const NONE: u32 = !3;

pub fn define(call: &mut Call<'_>, kind: u32, name: u32, size: u32, to: u32) -> Answer {
    let kind = *MetricKind::ALL.get(kind as usize).ok_or(Status::BadArgument)?;
    let name = call.text(name, size)?;
    let state = call.state();
    let defined = state.services.capabilities.metrics.define(kind, &name);
    let id = defined.unwrap_or_else(|error| {
        state.at_limit("proxy_define_metric", &error);
        NONE | kind as u32
    });
    Ok(call.write_u32(to, id)?)
}

pub fn increment(call: &mut Call<'_>, id: u32, delta: i64) -> Answer {
    if is_none(id) {
        return Ok(());
    }
    Ok(call.state().services.capabilities.metrics.increment(id, delta).map_err(status)?)
}

pub fn record(call: &mut Call<'_>, id: u32, value: u64) -> Answer {
    if is_none(id) {
        return Ok(());
    }
    Ok(call.state().services.capabilities.metrics.record(id, value).map_err(status)?)
}

pub fn get(call: &mut Call<'_>, id: u32, to: u32) -> Answer {
    let value = match is_none(id) {
        true => 0,
        false => call.state().services.capabilities.metrics.get(id).map_err(status)?,
    };
    Ok(call.write_u64(to, value)?)
}

fn is_none(id: u32) -> bool {
    id & NONE == NONE
}

fn status(error: MetricError) -> Status {
    match error {
        MetricError::NotFound => Status::NotFound,
        MetricError::Unsuitable | MetricError::TooMany | MetricError::LongName(_) => Status::BadArgument,
    }
}
