//! Against a small server of HTTP/1.1.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest, Sha256};

use super::*;
use crate::config::{Config, Diagnostics};

const CODE: &[u8] = b"\0asm\x01\0\0\0";

/// Answers each connection with what the function makes of its number; none: with nothing, until the client has gone.
struct Server {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    fn start(answer: impl Fn(usize) -> Option<Vec<u8>> + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let answer = answer(counted.fetch_add(1, Ordering::SeqCst));
                thread::spawn(move || serve(stream.unwrap(), answer));
            }
        });
        Server { addr, connections }
    }

    fn remote(&self, code: &[u8]) -> Remote {
        let sha256 = Sha256::digest(code).into();
        Remote { url: format!("http://{}/f.wasm", self.addr), sha256, retries: 0, timeout: Duration::from_secs(10) }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, answer: Option<Vec<u8>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return;
        }
        request.push(byte[0]);
    }
    match answer {
        Some(answer) => drop(stream.write_all(&answer)),
        None => drop(stream.read_to_end(&mut request)),
    }
}

fn response(head: &str, body: &[u8]) -> Option<Vec<u8>> {
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    Some([head.as_bytes(), body].concat())
}

fn store(cache: Option<&Path>) -> CodeStore {
    let config = Config::empty(Path::new("test.toml"));
    let mut diagnostics = Diagnostics::new(&config.path, String::new());
    let metrics = Metrics::new();
    let capabilities = Capabilities::load(&config, &metrics, &mut diagnostics);
    let mut store = CodeStore::new(capabilities.into(), cache, &metrics);
    store.first_pause = Duration::from_millis(1);
    store
}

/// Hits, negative hits, misses, successes, failures.
fn counts(store: &CodeStore) -> [u64; 5] {
    let RemoteCodeMetrics { cache_hits, cache_negative_hits, cache_misses, fetch_successes, fetch_failures } =
        &store.metrics;
    [cache_hits, cache_negative_hits, cache_misses, fetch_successes, fetch_failures].map(|counter| counter.get())
}

fn error(store: &CodeStore, remote: &Remote) -> String {
    store.bytes(&Code::Remote(remote.clone())).unwrap_err().to_string()
}

#[test]
fn a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.wasm");
    assert!(matches!(store(None).bytes(&Code::Local(path.clone())), Err(CodeError::Read(_))));
    fs::write(&path, CODE).unwrap();
    assert_eq!(&*store(None).bytes(&Code::Local(path)).unwrap(), CODE);
}

#[test]
fn what_is_in_use_is_fetched_once() {
    let server = Server::start(|_| response("200 OK", CODE));
    let (store, code) = (store(None), Code::Remote(server.remote(CODE)));
    let first = store.bytes(&code).unwrap();
    assert_eq!(&*first, CODE);
    assert!(Arc::ptr_eq(&first, &store.bytes(&code).unwrap()));
    assert_eq!((server.connections(), counts(&store)), (1, [1, 0, 1, 1, 0]));
    drop(first);
    drop(store.bytes(&code).unwrap());
    assert_eq!(server.connections(), 2, "it was not in use, and is kept nowhere");
}

#[test]
fn whoever_asks_for_the_same_meanwhile_waits_for_it() {
    let (go, gone) = std::sync::mpsc::channel();
    let server = Server::start(move |_| {
        gone.recv().unwrap();
        response("200 OK", CODE)
    });
    let (store, code) = (store(None), Code::Remote(server.remote(CODE)));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.bytes(&code).unwrap())).collect();
        // All of them have asked: they hold the entry.
        let asked = || store.fetched.lock().values().map(Arc::strong_count).sum::<usize>() == 5;
        while !asked() {
            thread::yield_now();
        }
        go.send(()).unwrap();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(all.iter().all(|bytes| Arc::ptr_eq(bytes, &all[0])));
    });
    assert_eq!((server.connections(), counts(&store)), (1, [3, 0, 1, 1, 0]));
}

#[test]
fn what_is_on_disk_needs_no_server() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|connection| if connection == 0 { response("200 OK", CODE) } else { Some(Vec::new()) });
    let remote = server.remote(CODE);
    let code = Code::Remote(remote.clone());
    drop(store(Some(cache.path())).bytes(&code).unwrap());
    let later = store(Some(cache.path()));
    assert_eq!(&*later.bytes(&code).unwrap(), CODE);
    assert_eq!((server.connections(), counts(&later)), (1, [1, 0, 0, 0, 0]));

    // Alone in its folder: nothing is left of how it was written.
    let files: Vec<_> = fs::read_dir(cache.path().join("code")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(file.file_name().unwrap().to_str().unwrap(), format!("{}.wasm", Hex(&remote.sha256)));
}

#[test]
fn a_file_that_is_damaged_is_fetched_again() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(|_| response("200 OK", CODE));
    let remote = server.remote(CODE);
    let file = store(Some(cache.path())).file(&remote).unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "damaged").unwrap();
    let store = store(Some(cache.path()));
    assert_eq!(&*store.bytes(&Code::Remote(remote)).unwrap(), CODE);
    assert_eq!((server.connections(), counts(&store)), (1, [0, 0, 1, 1, 0]));
    assert_eq!(fs::read(file).unwrap(), CODE);
}

#[test]
fn a_cache_that_cannot_be_written_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let server = Server::start(|_| response("200 OK", CODE));
    assert_eq!(&*store(Some(&file)).bytes(&Code::Remote(server.remote(CODE))).unwrap(), CODE);
}

#[test]
fn what_may_pass_is_tried_again() {
    let server = Server::start(|connection| match connection {
        0 => Some(Vec::new()),
        1 => response("503 Service Unavailable", b""),
        _ => response("200 OK", CODE),
    });
    let store = store(None);
    let remote = Remote { retries: 2, ..server.remote(CODE) };
    assert_eq!(&*store.bytes(&Code::Remote(remote)).unwrap(), CODE);
    assert_eq!((server.connections(), counts(&store)), (3, [0, 0, 1, 1, 0]));
}

#[test]
fn the_retries_come_to_an_end() {
    let server = Server::start(|_| Some(Vec::new()));
    let remote = Remote { retries: 2, ..server.remote(CODE) };
    let text = error(&store(None), &remote);
    let expected = format!("cannot be fetched from {}: no whole response from {}: ", remote.url, server.addr);
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(server.connections(), 3);
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    let other = Hex(&Sha256::digest(b"other")).to_string();
    let expected = Hex(&Sha256::digest(CODE)).to_string();
    for (answer, reason) in [
        (response("404 Not Found", b""), "expected status 200, found 404 Not Found".to_owned()),
        (response("206 Partial Content", CODE), "expected status 200, found 206 Partial Content".to_owned()),
        (
            response("302 Found\r\nlocation: http://a.cn/f", b""),
            "expected status 200, found 302 Found to http://a.cn/f, which is not followed".to_owned(),
        ),
        (response("200 OK", b"other"), format!("expected the SHA-256 {expected}, found {other} of 5 bytes")),
        (
            Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", LARGEST + 1).into_bytes()),
            "expected at most 64 MiB, found more".to_owned(),
        ),
    ] {
        let server = Server::start(move |_| answer.clone());
        let remote = Remote { retries: 2, ..server.remote(CODE) };
        assert_eq!(error(&store(None), &remote), format!("cannot be fetched from {}: {reason}", remote.url));
        assert_eq!(server.connections(), 1, "{reason}");
    }
}

#[test]
fn a_server_that_hangs_is_given_up() {
    let server = Server::start(|_| None);
    let remote = Remote { retries: 1, timeout: Duration::from_millis(50), ..server.remote(CODE) };
    let text = error(&store(None), &remote);
    assert!(text.ends_with(": expected the whole of it within 50 ms, found less"), "{text}");
}

#[test]
fn half_of_the_code_is_none() {
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n\0asm".to_vec();
    let server =
        Server::start(move |connection| if connection == 0 { Some(half.clone()) } else { response("200 OK", CODE) });
    let remote = Remote { retries: 1, ..server.remote(CODE) };
    assert_eq!(&*store(None).bytes(&Code::Remote(remote)).unwrap(), CODE);
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_failure_is_remembered() {
    let server = Server::start(|_| response("404 Not Found", b""));
    let (store, remote) = (store(None), server.remote(CODE));
    error(&store, &remote);
    let text = error(&store, &remote);
    assert!(text.ends_with("404 Not Found (0 s ago; it is not tried again within 10 s)"), "{text}");
    assert_eq!((server.connections(), counts(&store)), (1, [0, 1, 1, 0, 1]));

    // Another address is worth an attempt, each is remembered, and time heals.
    let elsewhere = Remote { url: format!("{}?other", remote.url), ..remote.clone() };
    assert!(error(&store, &elsewhere).ends_with("404 Not Found"));
    for remote in [&remote, &elsewhere] {
        assert!(error(&store, remote).ends_with("within 10 s)"));
    }
    assert_eq!(server.connections(), 2);
    let entry = store.entry(&elsewhere);
    let long_ago = Instant::now().checked_sub(REMEMBERED);
    entry.lock().failed.get_mut(&elsewhere.url).unwrap().at = long_ago.expect("the machine runs for longer");
    assert!(error(&store, &elsewhere).ends_with("404 Not Found"));
    assert_eq!(server.connections(), 3);
}
