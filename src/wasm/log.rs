//! What plugins write: lines in the proxy's log that say which script, in which phase, for which request.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::exchange::Shared;
use crate::phase::Phase;

/// Lines of plugins, and about them.
const TARGET: &str = "phasegate::plugin";

/// A line of output that grows longer than this is cut, in bytes.
const LONGEST_LINE: usize = 8 << 10;

/// The log of one instance.
pub struct RunLog {
    script: Arc<str>,
    phase: Phase,
    /// The request that it works for now.
    request: Mutex<Option<Shared>>,
    /// Output of the guest without a line end yet.
    open: Mutex<Vec<u8>>,
}

impl RunLog {
    pub fn new(script: Arc<str>, phase: Phase) -> RunLog {
        RunLog { script, phase, request: Mutex::default(), open: Mutex::default() }
    }

    pub fn begin(&self, request: &Shared) {
        *self.request.lock() = Some(request.clone());
    }

    /// Ends the run, and the line that it left open.
    pub fn end(&self) {
        let rest = std::mem::take(&mut *self.open.lock());
        if !rest.is_empty() {
            self.line(log::Level::Info, &rest);
        }
        *self.request.lock() = None;
    }

    pub fn enabled(&self, level: log::Level) -> bool {
        log::log_enabled!(target: TARGET, level)
    }

    pub fn write(&self, level: log::Level, text: &str) {
        if self.enabled(level) {
            let request = self.request.lock().clone();
            let exchange = request.as_ref().map(|request| request.lock());
            let id = exchange.as_ref().map_or("-", |exchange| exchange.facts.request_id());
            let (script, phase) = (&self.script, self.phase);
            // Each line by itself: none can look like a line of the proxy.
            for line in text.lines() {
                log::log!(target: TARGET, level, "script={script} phase={phase} request={id} {line}");
            }
        }
    }

    /// Standard output and error of the guest, line by line.
    pub fn output(&self, level: log::Level, bytes: &[u8]) {
        let mut open = std::mem::take(&mut *self.open.lock());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || open.len() > LONGEST_LINE {
                self.line(level, &open);
                open.clear();
            }
        }
        *self.open.lock() = open;
    }

    fn line(&self, level: log::Level, bytes: &[u8]) {
        let line = String::from_utf8_lossy(bytes);
        let line = line.trim_end();
        if !line.is_empty() {
            self.write(level, line);
        }
    }
}
