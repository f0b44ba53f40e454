//! The proxy as users have it: the binary, a file, signals, two streams of lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{PATIENCE, eventually};

/// A proxy that runs. It is killed when this is dropped.
pub struct Proxy {
    child: Mutex<Child>,
    /// With whether they speak TLS; in the order of their addresses, plaintext first.
    listeners: Vec<(bool, SocketAddr)>,
    admin: SocketAddr,
    stderr: Lines,
    stdout: Lines,
    folder: TempDir,
}

pub enum Signal {
    Terminate,
    Interrupt,
    Quit,
    HangUp,
    User1,
}

/// What a run of the binary that has ended said.
#[derive(Debug)]
pub struct Output {
    /// None: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Proxy {
    /// Starts the proxy and waits until it listens. The configuration is written to a folder of its own, where its relative
    /// paths lead; it gets an admin endpoint, so it must not have one.
    #[track_caller]
    pub fn start(config: &str) -> Proxy {
        let proxy = Proxy::start_with(config, Stdio::piped());
        proxy.read_stdout();
        proxy
    }

    /// From now on its standard output is read.
    pub fn read_stdout(&self) {
        self.stdout.follow(self.child.lock().unwrap().stdout.take().unwrap());
    }

    /// Nobody reads its standard output: the pipe fills up, and stays full until [`Proxy::read_stdout`].
    #[track_caller]
    pub fn start_with_blocked_stdout(config: &str) -> Proxy {
        Proxy::start_with(config, Stdio::piped())
    }

    #[track_caller]
    fn start_with(config: &str, stdout: Stdio) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        let file = write(folder.path(), &with_admin(config));
        let mut command = phasegate();
        command.args(["run", "-c"]).arg(file).stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = Lines::default();
        stderr.follow(child.stderr.take().unwrap());

        // The last thing it says before it serves.
        let admin = "admin on http://";
        let deadline = Instant::now() + PATIENCE;
        while !stderr.text().contains(admin) {
            if let Some(status) = child.try_wait().unwrap() {
                stderr.wait_for_end();
                panic!("the proxy does not start: {status}\n{}\n{config}", stderr.text());
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the proxy does not start:\n{}", stderr.text());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let log = stderr.text();
        let listeners = addresses(&log, "listening on http").map(|rest| match rest.strip_prefix("s://") {
            Some(addr) => (true, addr.parse().unwrap()),
            None => (false, rest.trim_start_matches("://").parse().unwrap()),
        });
        let listeners = listeners.collect();
        let admin = addresses(&log, admin).next().unwrap().parse().unwrap();
        Proxy { child: Mutex::new(child), listeners, admin, stderr, stdout: Lines::default(), folder }
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// How many files and sockets the process has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }

    /// A line of `/proc/PID/status` in bytes, such as `VmRSS`.
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).expect("such a line");
        value.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Of the first listener without TLS.
    pub fn addr(&self) -> SocketAddr {
        self.plaintext(0)
    }

    /// Of the listeners without TLS, in the order of their configured addresses.
    pub fn plaintext(&self, index: usize) -> SocketAddr {
        self.listeners.iter().filter(|(tls, _)| !tls).nth(index).expect("there is such a listener").1
    }

    /// Of the first listener with TLS.
    pub fn tls_addr(&self) -> SocketAddr {
        self.listeners.iter().find(|(tls, _)| *tls).expect("there is a listener with TLS").1
    }

    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// A path on the first listener without TLS.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// Where its configuration is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes another configuration over that of the start, in place.
    pub fn configure(&self, config: &str) {
        write(self.folder(), &with_admin(config));
    }

    /// The lines of its log, which is its standard error, so far.
    pub fn log(&self) -> String {
        self.stderr.text()
    }

    /// The first line of the log with this text, once it is there.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        self.stderr.wait_for(text)
    }

    /// Its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// The first line of standard output with this text, once it is there.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) -> String {
        self.stdout.wait_for(text)
    }

    /// Status and body of a request to the admin endpoint.
    pub fn admin(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// A value of `/metrics`, by its name with its labels as they are written there; 0 when there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.admin("GET", "/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    #[track_caller]
    pub fn wait_for_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} = {value}"), || self.metric(name) == value);
    }

    /// Waits until every request has ended, with all that is done at its end.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        self.wait_for_metric("phasegate_requests_in_flight", 0.0);
    }

    /// Sends a signal, and leaves it at that.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Interrupt => "INT",
            Signal::Quit => "QUIT",
            Signal::HangUp => "HUP",
            Signal::User1 => "USR1",
        };
        let pid = self.child.lock().unwrap().id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end, and all it had to say.
    #[track_caller]
    pub fn wait_for_exit(&self) -> ExitStatus {
        let mut status = None;
        eventually("the proxy ends", || {
            status = self.child.lock().unwrap().try_wait().unwrap();
            status.is_some()
        });
        self.stderr.wait_for_end();
        self.stdout.wait_for_end();
        status.expect("it has ended")
    }

    /// Asks it to end and waits for that.
    #[track_caller]
    pub fn terminate(&self) -> ExitStatus {
        self.signal(Signal::Terminate);
        self.wait_for_exit()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = child.kill();
        let _ = child.wait();
        if thread::panicking() {
            eprintln!("--- log of the proxy\n{}---", self.stderr.text());
        }
    }
}

/// The binary, for arguments of one's own. All tests share what was compiled once, from run to run: a module takes as long
/// to compile as most tests take for the rest.
pub fn phasegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phasegate"));
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Runs `check` on a configuration.
pub fn check(config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    finish(phasegate().args(["check", "-c"]).arg(write(folder.path(), config)))
}

/// Starts the proxy with a configuration that must not start.
pub fn refused(config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let output = finish(phasegate().args(["run", "-c"]).arg(write(folder.path(), config)));
    assert_ne!(output.code, Some(0), "{output:?}");
    output
}

impl Output {
    /// Runs a command to its end, which must come.
    pub fn of(command: &mut Command) -> Output {
        finish(command)
    }
}

fn finish(command: &mut Command) -> Output {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (Lines::default(), Lines::default());
    stdout.follow(child.stdout.take().unwrap());
    stderr.follow(child.stderr.take().unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("it does not end:\n{}", stderr.text());
        }
        thread::sleep(Duration::from_millis(5));
    };
    stdout.wait_for_end();
    stderr.wait_for_end();
    Output { code: status.code(), stdout: stdout.text(), stderr: stderr.text() }
}

fn with_admin(config: &str) -> String {
    format!("{config}\n[admin]\nlisten = \"127.0.0.1:0\"\n")
}

fn write(folder: &Path, config: &str) -> PathBuf {
    let file = folder.join("phasegate.toml");
    std::fs::write(&file, config).unwrap();
    file
}

fn addresses<'a>(log: &'a str, after: &'a str) -> impl Iterator<Item = &'a str> {
    log.lines().filter_map(move |line| line.split_once(after)).map(|(_, rest)| rest.trim())
}

/// The lines that a process writes, as they come.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<(String, Reading)>>);

#[derive(Clone, Copy, Default, PartialEq)]
enum Reading {
    #[default]
    NotStarted,
    Goes,
    Ended,
}

impl Lines {
    fn follow(&self, from: impl Read + Send + 'static) {
        self.0.lock().unwrap().1 = Reading::Goes;
        let lines = self.clone();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                lines.0.lock().unwrap().0.push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
            lines.0.lock().unwrap().1 = Reading::Ended;
        });
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().0.clone()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.text();
            // A line that is not complete yet is not looked at.
            let complete = all.rfind('\n').map_or("", |end| &all[..end]);
            if let Some(line) = complete.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {text:?} in:\n{all}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn wait_for_end(&self) {
        eventually("the end of the output", || self.0.lock().unwrap().1 != Reading::Goes);
    }
}
