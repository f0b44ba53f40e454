//! Logs, time, configuration, and contexts.

use std::time::{SystemTime, UNIX_EPOCH};

use super::call::{Answer, Call};
use crate::wasm::proxy_wasm::abi::{self, Status};
use crate::wasm::proxy_wasm::state::Effect;

pub fn log(call: &mut Call<'_>, level: u32, text: u32, size: u32) -> Answer {
    let level = abi::log_level(level)?;
    let (text, state) = call.read(text, size)?;
    if crate::wasm::log::enabled(level) {
        let text = String::from_utf8_lossy(text);
        state.log(level, &text);
    }
    Ok(())
}

pub fn get_log_level(call: &mut Call<'_>, to: u32) -> Answer {
    Ok(call.write_u32(to, log_level())?)
}

/// The lowest level that is written, as `proxy_log_level_t`.
pub fn log_level() -> u32 {
    let levels = [log::Level::Trace, log::Level::Debug, log::Level::Info, log::Level::Warn];
    levels.iter().position(|level| crate::wasm::log::enabled(*level)).unwrap_or(levels.len()) as u32
}

pub fn get_current_time(call: &mut Call<'_>, to: u32) -> Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(call.write_u64(to, u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?)
}

/// Of the root context, also when a stream asks for it.
pub fn set_tick_period(call: &mut Call<'_>, period: u32) -> Answer {
    let state = call.state();
    let (id, _) = state.contexts.root()?;
    if let Some(root) = state.contexts.root_mut(id) {
        root.tick.period = period;
    }
    state.effects.push(Effect::Tick(id));
    Ok(())
}

/// ABI 0.1.0: that of the plugin while it starts, else that of the VM.
pub fn get_configuration(call: &mut Call<'_>, to: u32, size: u32) -> Answer {
    let state = call.state();
    let configuration = state.shown.plugin_configuration.as_ref().unwrap_or(&state.vm.configuration).clone();
    call.give(configuration.as_bytes(), to, size)
}

/// 0: back to the context of the callback.
pub fn set_effective_context(call: &mut Call<'_>, context: u32) -> Answer {
    let contexts = &mut call.state().contexts;
    if context != 0 && !contexts.contains(context) {
        return Err(Status::BadArgument.into());
    }
    contexts.current = if context == 0 { contexts.called } else { context };
    Ok(())
}

/// A root context that has answered false to `proxy_on_done` can be deleted.
pub fn done(call: &mut Call<'_>) -> Answer {
    let state = call.state();
    let (id, _) = state.contexts.root()?;
    let parked = state.contexts.root_mut(id).and_then(|root| root.parked.take()).ok_or(Status::NotFound)?;
    state.effects.push(Effect::Done(id, parked));
    Ok(())
}

/// How the callout ended that the callback is about.
pub fn get_status(call: &mut Call<'_>, code: u32, to: u32, size: u32) -> Answer {
    let (status, message) = call.state().shown.status.clone().unwrap_or_default();
    call.write_u32(code, status)?;
    call.give(message.as_bytes(), to, size)
}
