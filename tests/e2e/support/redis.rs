//! A real Redis, on a socket of its own.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;

/// A `redis-server`. It is killed when this is dropped.
pub struct RedisServer {
    child: Option<Child>,
    folder: TempDir,
}

impl RedisServer {
    /// None, with a line that the test harness does not swallow, where there is no `redis-server` to start.
    pub fn start() -> Option<RedisServer> {
        let mut server = RedisServer::stopped();
        if server.go() {
            return Some(server);
        }
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED in {test}: there is no redis-server (`make test` installs it)");
        None
    }

    /// With an address, but nobody there yet.
    pub fn stopped() -> RedisServer {
        RedisServer { child: None, folder: tempfile::tempdir().unwrap() }
    }

    /// Whether there is a `redis-server` to start.
    pub fn go(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(self.socket());
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == ErrorKind::NotFound => return false,
            Err(error) => panic!("redis-server: {error}"),
        }
        eventually("Redis listens", || UnixStream::connect(self.socket()).is_ok());
        true
    }

    /// Kills it; its address stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The answer to a command, as Redis writes it.
    pub fn ask(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        writeln!(stream, "{command}\r").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
