//! The access log: one line a request, to a file or to standard output.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use prometheus_client::metrics::counter::Counter;

use super::sink::{Sink, SinkGuard};
use crate::config::LogTarget;

/// Why an access log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("cannot make the folder `{}` of the access log: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot open the access log `{}`: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot start the thread of the access log: {0}")]
    Thread(io::Error),
}

/// An open access log. Clones write to the same one.
#[derive(Clone)]
pub struct AccessLog(Sink);

/// Writes the lines still pending when it is dropped, for at most two seconds.
#[must_use = "lines written after the guard is gone are lost"]
pub struct AccessLogGuard(#[expect(dead_code, reason = "its drop is what it is for")] SinkGuard);

impl AccessLog {
    /// Opens the target (a file is appended to, or made with the folders above it) and starts the writer: a thread, so call
    /// it after any fork. Lines that cannot be kept or written are counted in `dropped`.
    pub fn open(target: &LogTarget, dropped: Counter) -> Result<(AccessLog, AccessLogGuard), AccessLogError> {
        const THREAD: &str = "access log";
        let started = match target {
            LogTarget::Stdout => Sink::start(THREAD, io::stdout(), dropped),
            LogTarget::File(path) => Sink::start(THREAD, LogFile::open(path)?, dropped),
        };
        let (sink, guard) = started.map_err(AccessLogError::Thread)?;
        Ok((AccessLog(sink), AccessLogGuard(guard)))
    }

    /// Queues a line, given without its newline. Never waits for the target: a line for which there is no room is dropped
    /// and counted.
    pub fn write(&self, line: impl AsRef<[u8]>) {
        self.0.push(line.as_ref());
    }
}

/// A file that is opened anew, under its name, when it has been renamed or removed: so logs are rotated.
struct LogFile {
    path: PathBuf,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
}

impl LogFile {
    fn open(path: &Path) -> Result<LogFile, AccessLogError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| AccessLogError::Folder { path: folder.to_owned(), source })?;
        }
        let failed = |source| AccessLogError::File { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let identity = identity(&file.metadata().map_err(failed)?);
        Ok(LogFile { path: path.to_owned(), file, identity })
    }

    fn has_moved(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |metadata| identity(&metadata) != self.identity)
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_moved()
            && let Ok(anew) = LogFile::open(&self.path)
        {
            *self = anew;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn every_line_is_in_the_file_when_the_guard_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/deep/access.log");
        let dropped = Counter::default();
        for run in 0..2 {
            let (log, guard) = AccessLog::open(&LogTarget::File(path.clone()), dropped.clone()).unwrap();
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let log = log.clone();
                    scope.spawn(move || (0..1000).for_each(|n| log.write(format!("{run} {thread} {n}"))));
                }
            });
            drop(guard);
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        let wanted = |run, thread| (0..1000).map(move |n| format!("{run} {thread} {n}"));
        let mut all: Vec<_> = (0..2).flat_map(|run| (0..4).flat_map(move |thread| wanted(run, thread))).collect();
        all.sort();
        assert_eq!(lines, all);
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_line_is_written_while_the_log_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let (log, _guard) = AccessLog::open(&LogTarget::File(path.clone()), Counter::default()).unwrap();
        log.write("one");
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::read_to_string(&path).unwrap() != "one\n" {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn errors_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| {
            AccessLog::open(&LogTarget::File(path.to_owned()), Counter::default()).err().unwrap().to_string()
        };
        let message = open(dir.path());
        assert!(message.starts_with(&format!("cannot open the access log `{}`: ", dir.path().display())), "{message}");

        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let message = open(&file.join("access.log"));
        assert!(message.starts_with(&format!("cannot make the folder `{}` of ", file.display())), "{message}");
    }
}
