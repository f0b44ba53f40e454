//! Lines on their way out, written by a thread of their own: whoever pushes a line never waits for a disk or a terminal.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

/// Bytes that may wait to be written. What comes on top is dropped.
const MAX_PENDING: usize = 8 << 20;

/// Buffers that a burst made larger than this are given back.
const KEEP_CAPACITY: usize = 256 << 10;

/// How long the writer waits for more lines after the first: under load it wakes, and writes, only so often.
const GATHER: Duration = Duration::from_millis(10);

/// How long the guard waits for the last lines to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where to push lines. Clones share one queue and one thread.
#[derive(Clone)]
pub(super) struct Sink(Arc<Shared>);

/// Writes what is pending when it is dropped, for at most two seconds. Lines pushed later are dropped.
#[must_use = "lines pushed after the guard is gone are lost"]
pub(super) struct SinkGuard(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nothing more will come.
    wake: Condvar,
    /// The writer has ended.
    ended: Condvar,
    /// Lines lost: the queue was full, they could not be written, or the guard was gone.
    dropped: Counter,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines for which there was no room since that was last said.
    lost: u64,
    closed: bool,
    ended: bool,
}

impl Sink {
    /// Starts the thread, under this name.
    pub fn start(name: &str, out: impl Write + Send + 'static, dropped: Counter) -> io::Result<(Sink, SinkGuard)> {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { state, wake: Condvar::new(), ended: Condvar::new(), dropped });
        let (writer, thread) = (shared.clone(), thread::Builder::new().name(name.to_owned()));
        let name = name.to_owned();
        thread.spawn(move || writer.write_all_to(out, &name))?;
        Ok((Sink(shared.clone()), SinkGuard(shared)))
    }

    /// Queues a line; its newline is added if it has none.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.state.lock();
        if state.closed || state.pending.len() + line.len() >= MAX_PENDING {
            state.lost += 1;
            drop(state);
            self.0.dropped.inc();
            return;
        }
        // The writer sleeps only while nothing is pending: most lines wake nobody.
        let first = state.pending.is_empty();
        state.pending.extend_from_slice(line);
        if line.last() != Some(&b'\n') {
            state.pending.push(b'\n');
        }
        drop(state);
        if first {
            self.0.wake.notify_one();
        }
    }
}

impl Drop for SinkGuard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        self.0.wake.notify_one();
        self.0.ended.wait_while_for(&mut state, |state| !state.ended, FLUSH_LIMIT);
    }
}

impl Shared {
    fn write_all_to(&self, mut out: impl Write, name: &str) {
        let mut batch = Vec::new();
        let mut failing = false;
        // Whether the last line that was written has no end.
        let mut torn = false;
        loop {
            let closed = self.take(&mut batch);
            if torn {
                batch.insert(0, b'\n');
            }
            let (count, written) = write_all(&mut out, &batch);
            if let Err(error) = &written {
                // That which ends the torn line is none of its own.
                let lines = &batch[count.max(torn.into())..];
                self.dropped.inc_by(lines.iter().filter(|&&byte| byte == b'\n').count() as u64);
                if !failing {
                    log::error!("{name}: cannot write, lines are lost: {error}");
                }
            }
            torn = batch[..count].last().map_or(torn, |&last| last != b'\n');
            failing = written.is_err();
            if closed {
                break;
            }
            let lost = mem::take(&mut self.state.lock().lost);
            if lost > 0 {
                log::warn!("{name}: {lost} lines are lost, for what was written was not taken in time");
            }
        }
        self.state.lock().ended = true;
        self.ended.notify_all();
    }

    /// Waits for lines and swaps them with the batch before. True: these are the last.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        batch.clear();
        batch.shrink_to(KEEP_CAPACITY);
        let mut state = self.state.lock();
        self.wake.wait_while(&mut state, |state| state.pending.is_empty() && !state.closed);
        self.wake.wait_while_for(&mut state, |state| !state.closed, GATHER);
        mem::swap(&mut state.pending, batch);
        state.closed
    }
}

/// How much of it was written, and whether that is all.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut count = 0;
    while count < bytes.len() {
        match out.write(&bytes[count..]) {
            Ok(0) => return (count, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (count, Err(error)),
        }
    }
    (count, out.flush())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// Hands on what is written; each write waits for a permit.
    struct Gate {
        permits: mpsc::Receiver<io::Result<()>>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().unwrap_or(Ok(()))?;
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Gated {
        sink: Sink,
        guard: SinkGuard,
        permits: mpsc::Sender<io::Result<()>>,
        written: mpsc::Receiver<Vec<u8>>,
        dropped: Counter,
    }

    fn gated() -> Gated {
        let (permits, permits_end) = mpsc::channel();
        let (written_end, written) = mpsc::channel();
        let dropped = Counter::default();
        let gate = Gate { permits: permits_end, written: written_end };
        let (sink, guard) = Sink::start("test", gate, dropped.clone()).unwrap();
        Gated { sink, guard, permits, written, dropped }
    }

    #[test]
    fn a_full_queue_drops_lines_and_never_blocks() {
        let Gated { sink, guard, permits, written, dropped } = gated();
        let line = vec![b'x'; 64 << 10];
        let fits = MAX_PENDING / (line.len() + 1);
        // One batch may be with the writer, which hangs, and one in the queue.
        for _ in 0..3 * fits {
            sink.push(&line);
        }
        assert!(dropped.get() >= fits as u64, "{}", dropped.get());
        drop(permits);
        drop(guard);
        let lines: usize = written.iter().map(|batch| batch.iter().filter(|&&byte| byte == b'\n').count()).sum();
        assert_eq!(lines as u64 + dropped.get(), 3 * fits as u64);
    }

    #[test]
    fn a_failed_write_costs_its_lines_only() {
        let Gated { sink, guard, permits, written, dropped } = gated();
        permits.send(Err(io::Error::other("disk full"))).unwrap();
        sink.push(b"one");
        let deadline = Instant::now() + Duration::from_secs(20);
        while dropped.get() == 0 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        drop(permits);
        sink.push(b"two\n");
        assert_eq!(written.recv().unwrap(), b"two\n");
        drop(guard);
        assert_eq!(dropped.get(), 1);
    }

    #[test]
    fn a_torn_line_is_ended_and_counted_once() {
        /// Takes three bytes, then nothing twice, then everything.
        struct Full(Arc<Mutex<Vec<u8>>>, usize);

        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 += 1;
                let taken = match self.1 {
                    1 => 3,
                    2 | 3 => return Err(io::Error::other("disk full")),
                    _ => bytes.len(),
                };
                self.0.lock().extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let (written, dropped) = (Arc::new(Mutex::new(Vec::new())), Counter::default());
        let (sink, guard) = Sink::start("test", Full(written.clone(), 0), dropped.clone()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        for (line, lost) in [("torn", 1), ("lost", 2)] {
            sink.push(line.as_bytes());
            while dropped.get() < lost {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_millis(1));
            }
        }
        sink.push(b"whole");
        drop(guard);
        assert_eq!(String::from_utf8(written.lock().clone()).unwrap(), "tor\nwhole\n");
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn the_guard_waits_for_the_lines_but_not_forever() {
        let Gated { sink, guard, permits: _held, dropped, .. } = gated();
        sink.push(b"stuck");
        let start = Instant::now();
        drop(guard);
        assert!(start.elapsed() >= FLUSH_LIMIT);
        sink.push(b"late");
        assert_eq!(dropped.get(), 1);
    }
}
