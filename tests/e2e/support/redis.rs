//! A real Redis, on a socket of its own.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{CertFiles, eventually};

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

/// A port to a [`RedisServer`]. Its connections end when this is dropped.
pub struct RedisPort {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl RedisPort {
    /// On a free port, over TLS with a certificate.
    pub async fn open(redis: &RedisServer, tls: Option<&CertFiles>) -> RedisPort {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = tls.map(|files| TlsAcceptor::from(Arc::new(files.server(&[]))));
        let (connections, socket) = (Arc::new(AtomicUsize::new(0)), redis.socket());
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let (socket, acceptor) = (socket.clone(), acceptor.clone());
                open.spawn(async move {
                    let Ok(mut server) = tokio::net::UnixStream::connect(socket).await else { return };
                    let _ = match acceptor {
                        None => copy_bidirectional(&mut client, &mut server).await,
                        Some(acceptor) => {
                            let Ok(mut client) = acceptor.accept(client).await else { return };
                            copy_bidirectional(&mut client, &mut server).await
                        }
                    };
                });
            }
        });
        RedisPort { addr, connections, task }
    }

    /// How many have been made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for RedisPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}
