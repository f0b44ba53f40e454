//! The error log: what the `log` macros say, to standard error.

use std::io::{self, IsTerminal, Write};

use log::LevelFilter;
use prometheus_client::metrics::counter::Counter;
use tracing_log::AsTrace;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::sink::{Sink, SinkGuard};

/// Why the error log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ErrorLogError {
    #[error("cannot start the thread of the error log: {0}")]
    Thread(#[from] io::Error),
    #[error("the process has a logger already: {0}")]
    Installed(#[from] TryInitError),
}

/// Writes the lines still pending when it is dropped, for at most two seconds.
#[must_use = "lines logged after the guard is gone are lost"]
pub struct ErrorLogGuard(#[expect(dead_code, reason = "its drop is what it is for")] SinkGuard);

/// Takes over the `log` macros of the whole process: time, level, target and message go to standard error, written by a
/// thread, so call it once and after any fork. Lines that standard error does not take are counted in `dropped`.
pub fn init(level: LevelFilter, dropped: Counter) -> Result<ErrorLogGuard, ErrorLogError> {
    let (sink, guard) = Sink::start("error log", io::stderr(), dropped)?;
    // This sets the maximum level of `log` too: a line below it costs one comparison.
    subscriber(level, sink, io::stderr().is_terminal()).try_init()?;
    Ok(ErrorLogGuard(guard))
}

fn subscriber<W>(level: LevelFilter, writer: W, colors: bool) -> impl SubscriberInitExt
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_ansi(colors).with_writer(writer);
    tracing_subscriber::registry().with(lines).with(levels(level))
}

/// The level is for what Phasegate and its plugins say. What other crates say below `info` is no help to who runs a proxy: the
/// compiler describes every function, and pingora prints the headers of requests. It is there at `trace` alone.
///
/// What pingora says at `info` is noise unless somebody looks for something. Its crates share the prefix. So is, as an error, that
/// an idle connection could not be used again and a new one is made.
fn levels(level: LevelFilter) -> Targets {
    let others = if level == LevelFilter::Trace { level } else { level.min(LevelFilter::Info) };
    let (pingora, connectors) = match level >= LevelFilter::Debug {
        true => (others, others),
        false => (level.min(LevelFilter::Warn), LevelFilter::Off),
    };
    Targets::new()
        .with_default(others.as_trace())
        .with_target("phasegate", level.as_trace())
        .with_target("pingora", pingora.as_trace())
        .with_target("pingora_core::connectors", connectors.as_trace())
}

impl<'s> MakeWriter<'s> for Sink {
    type Writer = Line<'s>;

    fn make_writer(&'s self) -> Line<'s> {
        Line(self)
    }
}

/// Takes one event in one write, which is how `tracing_subscriber` hands it over.
pub(super) struct Line<'s>(&'s Sink);

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use log::Level;
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written of these records when the error log has this level.
    fn written(level: LevelFilter, records: &[(Level, &str, &str)]) -> Vec<String> {
        let lines = Lines::default();
        let (sink, guard) = Sink::start("test", lines.clone(), Counter::default()).unwrap();
        let default = subscriber(level, sink, false).set_default();
        for (level, target, message) in records {
            let args = format_args!("{message}");
            let record = log::Record::builder().level(*level).target(target).args(args).build();
            tracing_log::format_trace(&record).unwrap();
        }
        drop((default, guard));
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_has_time_level_target_and_message() {
        let lines = written(LevelFilter::Info, &[(Level::Warn, "phasegate::server", "it is late")]);
        let (time, rest) = lines[0].split_once(' ').unwrap();
        assert_eq!(rest.trim_start(), "WARN phasegate::server: it is late");
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }

    #[test]
    fn others_are_quieter() {
        let all = [
            (Level::Error, "pingora_core::server", "e"),
            (Level::Error, "pingora_core::connectors", "connectors"),
            (Level::Warn, "pingora_core::server", "w"),
            (Level::Info, "pingora_proxy", "i"),
            (Level::Debug, "pingora_proxy", "d"),
            (Level::Info, "wasmtime", "other i"),
            (Level::Debug, "cranelift_codegen::isa", "other d"),
            (Level::Info, "phasegate", "own i"),
            (Level::Debug, "phasegate::plugin", "own d"),
            (Level::Trace, "phasegate", "own t"),
        ];
        let messages = |level| {
            let lines = written(level, &all);
            lines.iter().map(|line| line.rsplit_once(": ").unwrap().1.to_owned()).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(messages(LevelFilter::Off), "");
        assert_eq!(messages(LevelFilter::Error), "e");
        assert_eq!(messages(LevelFilter::Warn), "e, w");
        assert_eq!(messages(LevelFilter::Info), "e, w, other i, own i");
        assert_eq!(messages(LevelFilter::Debug), "e, connectors, w, i, other i, own i, own d");
        assert_eq!(messages(LevelFilter::Trace), "e, connectors, w, i, d, other i, other d, own i, own d, own t");
    }

    /// A process has one logger: the test starts itself again for one of its own.
    #[test]
    fn it_takes_the_log_of_the_process() {
        const CHILD: &str = "PHASEGATE_TEST_ERROR_LOG";
        if std::env::var_os(CHILD).is_some() {
            let _guard = init(LevelFilter::Warn, Counter::default()).unwrap();
            assert!(matches!(init(LevelFilter::Warn, Counter::default()), Err(ErrorLogError::Installed(_))));
            assert_eq!(log::max_level(), LevelFilter::Warn);
            assert!(log::log_enabled!(Level::Warn) && !log::log_enabled!(Level::Info));
            log::warn!(target: "phasegate", "seen");
            log::info!(target: "phasegate", "unseen");
            return;
        }
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "observe::error_log::tests::it_takes_the_log_of_the_process", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8(child.stderr).unwrap();
        assert!(child.status.success(), "{stderr}");
        assert!(stderr.ends_with("WARN phasegate: seen\n") && !stderr.contains("unseen"), "{stderr}");
    }
}
