//! What plugins write: lines in the proxy's log that say which script, in which phase, for which request.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::exchange::Shared;
use crate::phase::Place;

/// Lines of plugins, and about them.
const TARGET: &str = "phasegate::plugin";

/// A line of output that grows longer than this is cut, in bytes.
const LONGEST_LINE: usize = 8 << 10;

/// The last line of every panic in Rust, which has no sense here: the log has the backtrace.
const BACKTRACE_NOTE: &str = "note: run with `RUST_BACKTRACE=1`";

/// Whether lines of this level are written.
pub fn enabled(level: log::Level) -> bool {
    log::log_enabled!(target: TARGET, level)
}

/// A line in which what moves the cursor, or ends a line for some reader, is shown as a number.
pub fn printable(line: &str) -> Cow<'_, str> {
    let hidden =
        |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !line.contains(hidden) {
        return Cow::Borrowed(line);
    }
    let shown = |c: char| if hidden(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(line.chars().map(shown).collect())
}

/// A text of one entry of the log. Lines that follow are indented: what a plugin says must not look like a line of the proxy.
pub fn indented(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n    ")
}

/// A line of a Proxy-Wasm filter.
pub fn write_filter(level: log::Level, filter: &str, request: Option<&str>, text: &str) {
    let request = request.unwrap_or("-");
    for line in text.lines().map(printable) {
        log::log!(target: TARGET, level, "filter={filter} request={request} {line}");
    }
}

/// The log of one instance.
pub struct RunLog {
    script: Arc<str>,
    place: Place,
    /// The id of the request, where the run does not have it at hand all the time.
    beside: Option<Arc<str>>,
    output: Arc<Output>,
    /// Whether anything was put out in this run: asking the output itself would cost every run a lock.
    touched: bool,
}

/// Standard output and error of a guest, until they are lines of the log.
#[derive(Default)]
pub struct Output(Mutex<Vec<(log::Level, Vec<u8>)>>);

impl Output {
    pub fn write(&self, level: log::Level, bytes: &[u8]) {
        let mut open = self.0.lock();
        match open.last_mut() {
            Some((last, line)) if *last == level => line.extend_from_slice(bytes),
            _ => open.push((level, bytes.to_vec())),
        }
    }

    /// Takes the lines out that are complete, and what is too long for one.
    pub fn take_lines(&self) -> Vec<(log::Level, Vec<u8>)> {
        let mut open = self.0.lock();
        let mut taken = std::mem::take(&mut *open);
        if let Some((level, last)) = taken.last_mut() {
            let complete = if last.len() > LONGEST_LINE { Some(last.len()) } else { end_of_line(last) };
            let rest = last.split_off(complete.unwrap_or_default());
            if !rest.is_empty() {
                open.push((*level, rest));
            }
        }
        taken
    }

    /// Takes all of it out.
    pub fn take(&self) -> Vec<(log::Level, Vec<u8>)> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl RunLog {
    pub fn new(script: Arc<str>, place: Place) -> RunLog {
        RunLog { script, place, beside: None, output: Arc::default(), touched: false }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Begins a run beside the request with this id: its lines name that.
    pub fn begin_beside(&mut self, id: Arc<str>) {
        self.beside = Some(id);
    }

    /// The id of the request; none when there is none.
    pub fn request_id(&self, request: Option<&Shared>) -> Option<Arc<str>> {
        self.beside.clone().or_else(|| Some(request?.lock().facts.request_id().into()))
    }

    /// Where the guest writes to.
    pub fn output(&self) -> &Arc<Output> {
        &self.output
    }

    pub fn write(&self, level: log::Level, text: &str, request: Option<&Shared>) {
        if enabled(level) {
            let id = self.request_id(request);
            let (script, place, id) = (&self.script, self.place, id.as_deref().unwrap_or("-"));
            // Each line by itself: none can look like a line of the proxy.
            for line in text.lines().map(printable) {
                log::log!(target: TARGET, level, "script={script} phase={place} request={id} {line}");
            }
        }
    }

    /// Writes the lines that the guest has completed.
    pub fn flush(&mut self, request: Option<&Shared>) {
        self.touched = true;
        for (level, bytes) in self.output.take_lines() {
            self.lines(level, &bytes, request);
        }
    }

    /// Ends the run, and the line that it left open.
    pub fn end(&mut self, request: Option<&Shared>) {
        if std::mem::take(&mut self.touched) {
            for (level, bytes) in self.output.take() {
                self.lines(level, &bytes, request);
            }
        }
        self.beside = None;
    }

    fn lines(&self, level: log::Level, bytes: &[u8], request: Option<&Shared>) {
        let text = String::from_utf8_lossy(bytes);
        let says = |line: &&str| !line.is_empty() && !line.starts_with(BACKTRACE_NOTE);
        for line in text.lines().map(str::trim_end).filter(says) {
            self.write(level, line, request);
        }
    }
}

/// The length of all complete lines.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use log::Level::{Error, Info};

    use super::*;

    #[test]
    fn output_becomes_lines_and_each_keeps_its_level() {
        let output = Output::default();
        let write = |level, text: &str| {
            output.write(level, text.as_bytes());
            let lines = output.take_lines().into_iter().filter(|(_, bytes)| !bytes.is_empty());
            lines.map(|(level, bytes)| (level, String::from_utf8(bytes).unwrap())).collect::<Vec<_>>()
        };
        let line = |level, text: &str| (level, text.to_owned());
        assert_eq!(write(Info, "no end"), []);
        assert_eq!(write(Error, "an error\nand"), [line(Info, "no end"), line(Error, "an error\n")]);
        assert_eq!(write(Error, " more\n\n"), [line(Error, "and more\n\n")]);
        let long = "x".repeat(LONGEST_LINE);
        assert_eq!(write(Info, &long), []);
        assert_eq!(write(Info, "x"), [line(Info, &(long + "x"))]);
    }
}
