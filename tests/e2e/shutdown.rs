//! The end of the process: what is in flight ends well, and nothing new begins.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Version;
use serde_json::json;
use tokio::sync::Notify;

use super::filters::{pw_probe, through};
use super::support::*;

/// An origin that answers when it is told to.
async fn held() -> (Origin, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let gate = release.clone();
    let origin = Origin::start_async(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            reply(200, "late")
        }
    })
    .await;
    (origin, release)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_ends_well() {
    let signals = [Signal::Terminate, Signal::Interrupt, Signal::Quit].map(|signal| (signal, http1()));
    for (signal, client) in signals.into_iter().chain([(Signal::Terminate, http2())]) {
        let (origin, release) = held().await;
        let log = "access_log = { path = 'access.log', format = '${http_request_path} ${status}' }\n";
        let proxy = Proxy::start(&format!("{log}{}", proxy_to(origin.addr())));

        let answer = tokio::spawn(send(client.get(proxy.url("/slow"))));
        eventually("the request is with the origin", || origin.received().len() == 1);
        proxy.signal(signal);
        proxy.wait_for_log("shutting down");
        eventually("new connections are refused", || TcpStream::connect(proxy.addr()).is_err());
        // For longer than latecomers are waited for.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(proxy.admin("GET", "/readyz").0, 503, "the admin endpoint says so to the end");
        release.notify_one();

        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.text()), (200, "late".into()));
        if answer.version == Version::HTTP_11 {
            assert_eq!(answer.header("connection"), Some("close"), "the next request is for another process");
        }
        assert_eq!(proxy.wait_for_exit().code(), Some(0));
        let lines = std::fs::read_to_string(proxy.folder().join("access.log")).unwrap();
        assert_eq!(lines, "/slow 200\n");
    }
}

/// Not by the signal itself, which the first process of a container does not feel.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_still_starts_ends_at_once() {
    let (store, _release) = held().await;
    let remote = format!("remote = {{ url = 'http://{}/', sha256 = '{}' }}", store.addr(), "0".repeat(64));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phasegate.toml");
    std::fs::write(&file, format!("cache = ''\n[[wasm_service]]\n{remote}\n")).unwrap();
    for (number, (signal, code)) in [("TERM", 143), ("INT", 130), ("QUIT", 131)].into_iter().enumerate() {
        let mut child = phasegate().args(["run", "-c"]).arg(&file).spawn().unwrap();
        eventually("it fetches", || store.received().len() == number + 1);
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        eventually("it ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_ends_at_once() {
    let proxy = Proxy::start(&server("path = '/'\nrespond = { status = 200, body = 'ok' }"));
    // Connections that are kept are no reason to wait.
    let mut kept = Raw::connect(proxy.addr()).await;
    kept.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(kept.read_response().await.status(), 200);
    let http2 = http2();
    assert_eq!(send(http2.get(proxy.url("/"))).await.status, 200);
    // One that has not said yet what it speaks.
    let mut silent = Raw::connect(proxy.addr()).await;

    let start = Instant::now();
    assert_eq!(proxy.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(kept.is_closed().await);
    assert!(silent.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_cut_off_after_the_grace_period() {
    let (origin, _release) = held().await;
    let proxy = Proxy::start(&format!("grace_period_ms = 300\n{}", proxy_to(origin.addr())));

    let answer = tokio::spawn(http1().get(proxy.url("/")).send());
    eventually("the request is with the origin", || origin.received().len() == 1);
    let start = Instant::now();
    assert_eq!(proxy.terminate().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(proxy.log().contains("the grace period is over: 1 requests are cut off"));
    assert!(soon("the end of the request", answer).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_waits_no_longer() {
    let (origin, _release) = held().await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    let answer = tokio::spawn(http1().get(proxy.url("/")).send());
    eventually("the request is with the origin", || origin.received().len() == 1);
    let start = Instant::now();
    for signal in [Signal::Interrupt, Signal::Terminate] {
        proxy.signal(signal);
        proxy.wait_for_log("shutting down");
    }
    // SIGTERM was no reason: what supervises processes may send it more than once.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!answer.is_finished());
    proxy.signal(Signal::Interrupt);
    assert_eq!(proxy.wait_for_exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(proxy.log().contains("SIGINT came during the shutdown: 1 requests are cut off"), "{}", proxy.log());
    assert!(soon("the end of the request", answer).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_starts_is_not_waited_for() {
    let origin = Origin::saying("hello").await;
    let runs = pw_probe(&json!({ "on_done": [["log", 2, "told"]] }));
    let main = "grace_period_ms = 300\n";
    let proxy = Proxy::start(&through(origin.addr(), main, &runs));
    let starts = pw_probe(&json!({ "on_configure": [["log", 2, "starts"], ["loop"]] }));
    proxy.configure(&through(origin.addr(), main, &format!("{runs}{starts}")));
    proxy.signal(Signal::HangUp);
    proxy.wait_for_log("starts");
    let start = Instant::now();
    assert_eq!(proxy.terminate().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(proxy.log().contains("told"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_waits_is_in_flight_too() {
    let config = server("path = '/'\nrespond = { status = 200, body = 'ok' }")
        + &script("wasm_access", &guests::path("verdict"), "sleep 600 then ok");
    let proxy = Proxy::start(&config);

    let answer = tokio::spawn(send(http1().get(proxy.url("/"))));
    proxy.wait_for_metric("phasegate_requests_in_flight", 1.0);
    assert_eq!(proxy.terminate().code(), Some(0));
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_access_log_phase_holds_no_connection_but_is_in_flight() {
    let mut site = Site::with("grace_period_ms = 300");
    let waits = Script::guest("hostile", "waits").main("sleep-forever").key("limits = { wall_ms = 86400000 }");
    site.answered("/").script("wasm_access_log", waits);
    let proxy = Proxy::start(&site.to_string());

    let mut connection = Raw::connect(proxy.addr()).await;
    for _ in 0..3 {
        connection.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(connection.read_response().await.status(), 200);
    }
    proxy.wait_for_metric("phasegate_requests_in_flight", 3.0);
    assert_eq!(proxy.terminate().code(), Some(0));
    assert!(proxy.log().contains("the grace period is over: 3 requests are cut off"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_client_of_http_2_has_not_taken_still_goes_out() {
    const LENGTH: usize = 4 << 20;
    let origin = Origin::start(|request| reply(200, bytes(if request.uri == "/" { LENGTH } else { 0 }))).await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let stream = socket.connect(proxy.addr()).await.unwrap();
    let window = 16 << 20;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(window).initial_connection_window_size(window);
    let (mut requests, connection) = client.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let mut connection = std::pin::pin!(connection);
    let mut last = None;
    // The first has the proxy know how much it may send.
    for path in ["/first", "/"] {
        let request = http::Request::get(proxy.url(path)).body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        last = Some(tokio::select! {
            response = response => response.unwrap(),
            _ = &mut connection => unreachable!("the connection goes on"),
        });
    }
    let response = last.unwrap();
    // Taken little by little, until it has ended for the proxy: the rest is in its buffers.
    while proxy.metric("phasegate_requests_total{status=\"2xx\"}") < 2.0 {
        let _ = tokio::time::timeout(Duration::from_millis(1), &mut connection).await;
    }
    proxy.signal(Signal::Terminate);
    proxy.wait_for_log("shutting down");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut body = response.into_body();
    let read = async {
        let mut length = 0;
        while let Some(Ok(piece)) = body.data().await {
            length += piece.len();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        length
    };
    drop(requests);
    let (length, _) = soon("the body", async { tokio::join!(read, connection) }).await;
    assert_eq!(length, LENGTH);
    assert_eq!(proxy.wait_for_exit().code(), Some(0));
}
