//! The processes of a measurement: start, wait, read their CPU time, end.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long a process may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends when this is dropped.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// This binary in another role.
    pub fn this(role: &str, args: &[&str], core: Option<usize>) -> Result<Process> {
        let mut command = command(&std::env::current_exe()?, core);
        command.arg(role).args(args);
        Process::spawn(role, command)
    }

    /// The proxy, built with the same profile.
    pub fn phasegate(config: &Path, core: Option<usize>) -> Result<Process> {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_phasegate")), core);
        command.arg("run").arg("-c").arg(config);
        Process::spawn("phasegate", command)
    }

    /// Envoy with one worker. What it starts with is replaced by it, so that this is its process.
    pub fn envoy(binary: &Path, config: &Path, core: Option<usize>) -> Result<Process> {
        let mut command = command(binary, core);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(config);
        Process::spawn("envoy", command)
    }

    fn spawn(name: &str, mut command: Command) -> Result<Process> {
        let child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        Ok(Process { name: name.into(), child })
    }

    /// Waits until it accepts connections.
    pub fn listens_on(&mut self, addr: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(addr).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended before it listened: {status}", self.name).into());
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not listen on {addr}", self.name).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// CPU time so far, user and system. From the scheduler, to the nanosecond: the times in `stat` are ticks of 10 ms.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            let on_cpu = schedstat.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
            nanos += on_cpu.ok_or_else(|| io::Error::other("schedstat has no CPU time"))?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// What it keeps in memory now.
    pub fn memory(&self) -> io::Result<Memory> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let kib = |key: &str| {
            let value =
                rollup.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix(" kB")?.trim().parse().ok());
            value.ok_or_else(|| io::Error::other(format!("smaps_rollup has no {key}")))
        };
        Ok(Memory { rss: kib("Rss:")?, pss: kib("Pss:")? })
    }
}

/// In KiB.
pub struct Memory {
    /// Pages that are mapped several times count as often.
    pub rss: f64,
    /// Each page counts once.
    pub pss: f64,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends by itself: one that is built for it writes then which code has run.
        let _ = Command::new("sh").args(["-c", &format!("kill -INT {}", self.child.id())]).status();
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An address that nothing listens on.
pub fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Which cores do what: the proxy has one for itself, the load and the origin share another. None where there is only
/// one core, or no `taskset`.
pub struct Cores(Option<(usize, usize)>);

impl Cores {
    /// Also moves this process, which makes the load, to its core.
    pub fn split() -> Cores {
        let several = thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        let pid = std::process::id().to_string();
        let moved =
            || Command::new("taskset").args(["-cp", "1", &pid]).output().is_ok_and(|done| done.status.success());
        Cores((several && moved()).then_some((0, 1)))
    }

    pub fn proxy(&self) -> Option<usize> {
        self.0.map(|(proxy, _)| proxy)
    }

    pub fn load(&self) -> Option<usize> {
        self.0.map(|(_, load)| load)
    }
}

fn command(program: &Path, core: Option<usize>) -> Command {
    let Some(core) = core else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}
