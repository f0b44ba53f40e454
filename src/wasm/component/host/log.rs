use super::bindings::phasegate::plugin::wasm_log::{Host, Level};
use crate::wasm::component::state::State;

impl Host for State {
    fn log_enabled(&mut self, level: Level) -> bool {
        self.logs(level.into())
    }

    fn log_error(&mut self, value: String) {
        self.log(log::Level::Error, &value);
    }

    fn log_warn(&mut self, value: String) {
        self.log(log::Level::Warn, &value);
    }

    fn log_info(&mut self, value: String) {
        self.log(log::Level::Info, &value);
    }

    fn log_debug(&mut self, value: String) {
        self.log(log::Level::Debug, &value);
    }

    fn log_trace(&mut self, value: String) {
        self.log(log::Level::Trace, &value);
    }
}

impl From<Level> for log::Level {
    fn from(level: Level) -> log::Level {
        match level {
            Level::Error => log::Level::Error,
            Level::Warn => log::Level::Warn,
            Level::Info => log::Level::Info,
            Level::Debug => log::Level::Debug,
            Level::Trace => log::Level::Trace,
        }
    }
}
