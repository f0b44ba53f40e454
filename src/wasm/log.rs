//! What plugins write: lines in the proxy's log that say which script, in which phase, for which request.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::exchange::Shared;
use crate::phase::Place;

/// Lines of plugins, and about them.
const TARGET: &str = "phasegate::plugin";

/// A line of output that grows longer than this is cut, in bytes.
const LONGEST_LINE: usize = 8 << 10;

/// The log of one instance.
pub struct RunLog {
    script: Arc<str>,
    place: Place,
    /// The request that it works for now.
    request: Mutex<Option<Request>>,
    /// Output of the guest without a line end yet.
    open: Mutex<Vec<u8>>,
}

/// A request, as lines name it.
#[derive(Clone)]
pub enum Request {
    /// Lent to the run as long as that lasts.
    Lent(Shared),
    /// The id of one that comes and goes while the run lasts.
    Id(Arc<str>),
}

impl RunLog {
    pub fn new(script: Arc<str>, place: Place) -> RunLog {
        RunLog { script, place, request: Mutex::default(), open: Mutex::default() }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// The id of the request; none when there is none, or no more.
    pub fn request_id(&self) -> Option<Arc<str>> {
        match self.request.lock().as_ref()? {
            Request::Lent(exchange) => Some(exchange.lock().facts.request_id().into()),
            Request::Id(id) => Some(id.clone()),
        }
    }

    pub fn begin(&self, request: Request) {
        *self.request.lock() = Some(request);
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
            let id = self.request_id();
            let (script, place, id) = (&self.script, self.place, id.as_deref().unwrap_or("-"));
            // Each line by itself: none can look like a line of the proxy.
            for line in text.lines() {
                log::log!(target: TARGET, level, "script={script} phase={place} request={id} {line}");
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
