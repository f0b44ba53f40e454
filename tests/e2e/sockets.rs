//! `wasm-socket` to other machines: over TCP, TLS and QUIC.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::support::*;

/// A server that sends everything back. On `bye!` it says `later`, and ends the stream.
struct Echo {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    async fn tcp() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo(stream));
            }
        });
        Echo { addr, task }
    }

    async fn tls(files: &CertFiles) -> Echo {
        let acceptor = TlsAcceptor::from(Arc::new(files.server(&[])));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        echo(stream).await;
                    }
                });
            }
        });
        Echo { addr, task }
    }

    fn quic(files: &CertFiles) -> Echo {
        let endpoint = files.quic_endpoint("phasegate");
        let addr = endpoint.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    if let Ok((send, receive)) = connection.accept_bi().await {
                        echo(tokio::io::join(receive, send)).await;
                        connection.closed().await;
                    }
                });
            }
        });
        Echo { addr, task }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let bye = &buffer[..length] == b"bye!";
        if stream.write_all(if bye { b"later" } else { &buffer[..length] }).await.is_err() || bye {
            break;
        }
        let _ = stream.flush().await;
    }
    let _ = stream.shutdown().await;
}

/// The results of calls in this phase, by a script that may connect to whatever this machine is.
async fn calls_in(phase: &str, main: &str, calls: &[Value]) -> (Vec<Value>, Proxy) {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with(main);
    let script = probe("probe", "calls", calls).key("allow = { net = ['127.0.0.0/8', 'localhost'] }");
    site.proxied("/", origin.addr()).script(phase, script);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    (results(&proxy, "calls"), proxy)
}

async fn calls(main: &str, calls: &[Value]) -> (Vec<Value>, Proxy) {
    calls_in("wasm_access", main, calls).await
}

fn error(result: &Value) -> &str {
    result["err"].as_str().unwrap_or_else(|| panic!("no error: {result}"))
}

fn assert_released(proxy: &Proxy) {
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_sockets", 0.0);
    for transport in ["tcp", "ssl", "quic"] {
        proxy.wait_for_metric(&format!("phasegate_connections{{transport=\"{transport}\"}}"), 0.0);
    }
}

const LONG: u64 = 60_000;

/// Every function, with the results that it must have on a server that echoes. An error is the end of its text.
fn conversation(kind: &str, addr: &str, name: Option<&str>) -> Vec<(Value, Value)> {
    let large = "x".repeat(300_000);
    vec![
        (json!(["socket-connect", kind, addr, name, LONG]), json!({})),
        (json!(["socket-write-all", "$0", "hello", LONG]), json!({ "ok": 5 })),
        (json!(["socket-read-exact", "$0", 5, LONG]), json!({ "ok": "hello" })),
        (json!(["socket-write", "$0", "x", LONG]), json!({ "ok": 1 })),
        (json!(["socket-flush", "$0", LONG]), json!({ "ok": null })),
        (json!(["socket-read", "$0", u64::MAX, LONG]), json!({ "ok": "x" })),
        (json!(["socket-read", "$0", 100, 20]), json!({ "err": ": not done within 20 ms" })),
        (json!(["socket-read-exact", "$0", 100, 0]), json!({ "err": ": not done within 0 ms" })),
        (json!(["socket-write", "$0", "", 0]), json!({ "ok": 0 })),
        (json!(["socket-write-all", "$0", large, LONG]), json!({ "ok": large.len() })),
        (json!(["socket-read-exact", "$0", large.len(), LONG]), json!({ "ok": large })),
        (
            json!(["socket-read", "$0", 0, LONG]),
            json!({ "err": ": a read of 0 bytes could not be told from the end of the stream" }),
        ),
        (json!(["socket-read-exact", "$0", u64::MAX, LONG]), json!({ "err": format!(", not {}", u64::MAX) })),
        (json!(["socket-read-exact", "$0", (16 << 20) + 1, LONG]), json!({ "err": ", not 16777217" })),
        (
            json!(["websocket/socket-read", "$0", 10]),
            json!({ "err": " is a plain stream: use the functions of wasm-socket" }),
        ),
        (
            json!(["websocket/socket-close-code", "$0"]),
            json!({ "err": " is a plain stream: use the functions of wasm-socket" }),
        ),
        (json!(["socket-write-all", "$0", "bye!", LONG]), json!({ "ok": 4 })),
        (json!(["socket-read-exact", "$0", 6, LONG]), json!({ "err": ": the stream ended after 5 of 6 bytes" })),
        (json!(["socket-read", "$0", 2, LONG]), json!({ "ok": "la" })),
        (json!(["socket-read", "$0", 100, LONG]), json!({ "ok": "ter" })),
        (json!(["socket-read", "$0", 100, LONG]), json!({ "ok": "" })),
        (json!(["socket-read", "$0", 100, LONG]), json!({ "ok": "" })),
        (json!(["socket-close", "$0", LONG]), json!({ "ok": null })),
        (json!(["socket-close", "$0", LONG]), json!({ "err": "there is no open socket 1" })),
        (json!(["socket-write", "$0", "x", LONG]), json!({ "err": "there is no open socket 1" })),
        (json!(["socket-connect", kind, addr, name, LONG]), json!({})),
    ]
}

#[track_caller]
fn assert_conversed(what: &str, conversation: &[(Value, Value)], given: &[Value]) {
    for ((call, expected), result) in conversation.iter().zip(given) {
        let call = call.to_string().chars().take(60).collect::<String>();
        match expected["err"].as_str() {
            Some(end) => assert!(error(result).ends_with(end), "{what} {call}: {result}"),
            None if *expected == json!({}) => assert!(result["ok"].as_u64().unwrap() > 0, "{what} {call}"),
            None => assert!(result == expected, "{what} {call}: {result:.300}"),
        }
    }
    assert_eq!(conversation.len(), given.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_function_over_every_transport() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let (tcp, tls, quic) = (Echo::tcp().await, Echo::tls(&files).await, Echo::quic(&files));
    for (kind, echo) in [("tcp", &tcp), ("ssl", &tls), ("quic", &quic)] {
        let port = echo.addr.port();
        for (addr, name) in [(format!("127.0.0.1:{port}"), Some("localhost")), (format!("localhost:{port}"), None)] {
            let conversation = conversation(kind, &addr, name);
            let steps: Vec<_> = conversation.iter().map(|(call, _)| call.clone()).collect();
            let (given, proxy) = calls(&authority.network(), &steps).await;
            assert_conversed(&format!("{kind} {addr}"), &conversation, &given);
            assert_released(&proxy);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_work_in_every_phase() {
    let echo = Echo::tcp().await;
    for phase in PHASES {
        let (given, proxy) = calls_in(
            phase,
            "",
            &[
                json!(["socket-connect", "tcp", echo.addr.to_string(), null, LONG]),
                json!(["socket-write-all", "$0", "hello", LONG]),
                json!(["socket-read-exact", "$0", 5, LONG]),
            ],
        )
        .await;
        assert_eq!(given[2], json!({ "ok": "hello" }), "{phase}");
        assert_released(&proxy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_connected_is_explained() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let (tls, quic) = (Echo::tls(&files).await, Echo::quic(&files));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = DownOrigin::new();
    let connect = |kind: &str, addr: &str, name: Value| json!(["socket-connect", kind, addr, name, 300]);
    let (tls, quic) = (tls.addr.to_string(), quic.addr.to_string());
    let silent = silent.local_addr().unwrap().to_string();
    let (given, proxy) = calls(
        &authority.network(),
        &[
            connect("ssl", &tls, json!(null)),
            connect("ssl", &tls, json!("elsewhere.example")),
            connect("ssl", &tls, json!("no name")),
            connect("quic", &quic, json!("elsewhere.example")),
            connect("ssl", &silent, json!(null)),
            connect("quic", &silent, json!(null)),
            connect("tcp", &down.addr().to_string(), json!(null)),
            connect("tcp", "10.0.0.1:80", json!(null)),
            connect("tcp", "nonsense", json!(null)),
        ],
    )
    .await;
    for (result, start) in given.iter().zip([
        format!("TLS with {tls} failed: "),
        format!("TLS with {tls} failed: "),
        "`no name` is not a name that a certificate can have".into(),
        format!("{quic} cannot be connected: "),
        format!("{silent}: not connected within 300 ms"),
        format!("{silent}: not connected within 300 ms"),
        format!("{} cannot be connected: ", down.addr()),
        "allow.net does not permit 10.0.0.1:80: add net = [\"10.0.0.1:80\"]".into(),
        "`nonsense` is not a host and a port".into(),
    ]) {
        assert!(error(result).starts_with(&start), "{result} {start}");
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_so_many_sockets_and_no_more() {
    let echo = Echo::tcp().await;
    let connect = json!(["socket-connect", "tcp", echo.addr.to_string(), null, LONG]);
    let mut steps = vec![connect.clone(); 65];
    steps.extend([json!(["socket-close", "$7", LONG]), connect.clone()]);
    let (given, proxy) = calls("", &steps).await;
    assert!(given[..64].iter().all(|result| result["ok"].is_u64()));
    assert!(error(&given[64]).starts_with("64 sockets are open in this run"), "{}", given[64]);
    assert!(given[66]["ok"].as_u64() > given[63]["ok"].as_u64(), "a number is used once: {}", given[66]);
    assert_released(&proxy);
    // The client's is beside them.
    let mut site = Site::new();
    let mut steps = vec![connect.clone(); 64];
    steps.push(json!(["socket-write-all", 0, "hi", LONG]));
    let script = probe("probe", "calls", &steps).key("allow = { net = ['127.0.0.1'] }");
    site.route("/", "").script("wasm_serverless", script);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hi");
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_cut_off_is_the_last() {
    // It accepts, and never reads.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = silent.local_addr().unwrap();
    let mut site = Site::new();
    let script = Script::guest("streams", "streams").main(format!("flood 100000000 100 {addr}"));
    site.answered("/").script("wasm_access", script.key(format!("allow = {{ net = ['{addr}'] }}")));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let line = proxy.wait_for_log("flood: socket 1: not done within 100 ms");
    assert!(line.contains("socket 1: an earlier write was cut off in the middle; only socket-close is left"), "{line}");
    assert_released(&proxy);
}

/// Two entry points on one socket: the first of a process is 1.
async fn two_entry_points(main: Value, ext1: Value) -> (Value, Proxy) {
    let echo = Echo::tcp().await;
    let connect = json!({ "call": "socket-connect", "args": ["tcp", echo.addr.to_string(), null, LONG] });
    let steps = json!([connect, main, { "deliver": "log" }]);
    let script = Script::guest("probe", "calls").main(steps).key("allow = { net = ['127.0.0.0/8'] }");
    let other = json!([{ "call": "sleep", "args": [200] }, ext1, { "call": "sleep", "args": [600_000] }]);
    let mut site = Site::new();
    site.answered("/").script("wasm_access", script.key(format!("wasm_main_ext1_config = '''{other}'''")));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    (results(&proxy, "calls").pop().unwrap(), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_entry_point_reads_while_another_writes_or_closes() {
    let read = json!({ "call": "socket-read", "args": [1, 100, LONG] });
    let write = json!({ "call": "socket-write-all", "args": [1, "hello", LONG] });
    let (result, proxy) = two_entry_points(read.clone(), write).await;
    assert_eq!(result, json!({ "ok": "hello" }));
    assert_released(&proxy);

    let close = json!({ "call": "socket-close", "args": [1, LONG] });
    let (result, proxy) = two_entry_points(read, close).await;
    assert_eq!(error(&result), "socket 1 was closed");
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_releases_its_sockets() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let (tcp, tls, quic) = (Echo::tcp().await, Echo::tls(&files).await, Echo::quic(&files));
    let mut steps = Vec::new();
    for (kind, echo) in [("tcp", &tcp), ("ssl", &tls), ("quic", &quic)] {
        let addr = echo.addr.to_string();
        steps.push(json!({ "call": "socket-connect", "args": [kind, addr, "localhost", LONG] }));
    }
    steps.push(json!({ "call": "log-info", "args": ["connected"] }));
    steps.push(json!({ "call": "socket-read", "args": ["$0", 100, LONG] }));
    let mut site = Site::with(&authority.network());
    for (path, end) in [
        ("/timeout", "wasm_main_timeout_config = '[{\"call\": \"sleep\", \"args\": [1000]}]'"),
        ("/wall", "limits = { wall_ms = 1000 }"),
    ] {
        let script = Script::guest("probe", "calls").main(Value::from(steps.clone()));
        site.answered(path).script("wasm_access", script.key("allow = { net = ['127.0.0.0/8'] }").key(end));
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, status) in [("/timeout", 200), ("/wall", 500)] {
        let answer = tokio::spawn(send(http1().get(proxy.url(path))));
        proxy.wait_for_metric("phasegate_sockets", 3.0);
        assert_eq!(answer.await.unwrap().status, status, "{path}");
        assert_released(&proxy);
    }
}
