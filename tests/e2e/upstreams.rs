//! Upstreams: certificates, protocols, gRPC, servers that fail.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use serde_json::json;
use tokio::sync::Barrier;

use super::support::{self, *};

/// A site that proxies `/` to an upstream of one server, with more keys.
fn to_upstream(main: &str, server: &str, keys: &str) -> String {
    let upstream = format!("[upstream.origin]\nservers = [{{ addr = '{server}' }}]\n{keys}\n");
    let mut site = Site::with(&format!(
        "access_log = {{ path = 'stdout', format = '${{upstream_protocol}} ${{status}} end' }}\n{main}{upstream}"
    ));
    site.route("/", "proxy_pass = 'origin'");
    site.to_string()
}

async fn over_tls(files: &CertFiles, alpn: &[&str]) -> SecureOrigin {
    SecureOrigin::tls(files, alpn, |request| reply(200, request.body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_verified() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (localhost, other) = (authority.issue("localhost"), authority.issue("other.cn"));
    let (address, foreign) = (authority.issue("127.0.0.1"), stranger.issue("localhost"));
    for (files, host, keys, status) in [
        (&localhost, "localhost", "tls = {}", 200),
        (&address, "127.0.0.1", "tls = {}", 200),
        (&other, "localhost", "tls = { sni = 'other.cn' }", 200),
        (&other, "127.0.0.1", "tls = { sni = 'other.cn' }", 200),
        (&other, "localhost", "tls = {}", 502),
        (&other, "127.0.0.1", "tls = {}", 502),
        (&localhost, "127.0.0.1", "tls = {}", 502),
        (&foreign, "localhost", "tls = {}", 502),
        (&foreign, "localhost", "tls = { verify = false }", 200),
        (&foreign, "127.0.0.1", "tls = { verify = false }", 200),
    ] {
        let origin = over_tls(files, &[]).await;
        let server = format!("{host}:{}", origin.addr().port());
        let proxy = Proxy::start(&to_upstream(&authority.network(), &server, keys));
        let answer = send(http1().post(proxy.url("/")).body("hello")).await;
        assert_eq!(answer.status, status, "{files:?} {server} {keys}");
        if status == 200 {
            assert_eq!(answer.text(), "hello");
            proxy.wait_for_stdout("https HTTP/1.1 200 end");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_where_the_server_chooses_it() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    for (alpn, keys, version) in [
        (&["h2", "http/1.1"][..], "tls = {}\nh2 = true", Version::HTTP_2),
        (&["h2", "http/1.1"], "tls = {}", Version::HTTP_11),
        (&["http/1.1"], "tls = {}\nh2 = true", Version::HTTP_11),
        (&[], "tls = {}\nh2 = true", Version::HTTP_11),
    ] {
        let origin = over_tls(&files, alpn).await;
        let server = format!("localhost:{}", origin.addr().port());
        let proxy = Proxy::start(&to_upstream(&authority.network(), &server, keys));
        for client in [http1(), http2()] {
            let big = bytes(300_000);
            let answer = send(client.post(proxy.url("/echo?a=b")).body(big.clone())).await;
            assert_eq!((answer.status, fnv(&answer.body)), (200, fnv(&big)), "{alpn:?} {keys}");
            assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
        }
        let received = origin.received();
        assert!(received.iter().all(|request| request.version == version), "{alpn:?} {keys} {received:?}");
        assert_eq!(received[0].uri, "/echo?a=b");
        proxy.wait_for_stdout(&format!("https {version:?} 200 end"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_to_an_upstream_that_also_speaks_http_2() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(files.server(&["h2", "http/1.1"])));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("localhost:{}", listener.local_addr().unwrap().port());
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve_websocket(acceptor.accept(stream).await.unwrap()).await;
    });
    let proxy = Proxy::start(&to_upstream(&authority.network(), &server, "tls = {}\nh2 = true"));
    let mut client = WebSocket::connect(proxy.addr(), "/", &[]).await;
    client.echo("hello".into()).await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_speaks_as_requests_do() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let tls = over_tls(&files, &["h2", "http/1.1"]).await;
    let grpc = GrpcOrigin::start().await;
    for (server, keys, healthy) in [
        (format!("localhost:{}", tls.addr().port()), "tls = {}\nh2 = true", true),
        (format!("localhost:{}", tls.addr().port()), "tls = {}", true),
        (format!("127.0.0.1:{}", tls.addr().port()), "tls = {}", false),
        (format!("127.0.0.1:{}", tls.addr().port()), "tls = { verify = false }", true),
        (grpc.addr().to_string(), "h2 = true", true),
        (grpc.addr().to_string(), "", false),
    ] {
        for check in ["{ path = '/healthz', interval_ms = 20 }", "{ interval_ms = 20 }"] {
            let keys = format!("{keys}\nhealth_check = {check}");
            let proxy = Proxy::start(&to_upstream(&authority.network(), &server, &keys));
            let down = || proxy.log().contains(") is down: ");
            // Without TLS a connection says nothing about the protocol.
            if healthy || (!check.contains("path") && !keys.contains("tls")) {
                let client = http2();
                let status = if healthy { 200 } else { 502 };
                assert_eq!(send(client.get(proxy.url("/"))).await.status, status, "{server} {keys}");
                assert!(!down(), "{server} {keys}: {}", proxy.log());
            } else {
                eventually("the server is down", down);
            }
        }
    }
    let checks: Vec<_> = tls.received().into_iter().filter(|request| request.uri == "/healthz").collect();
    let h2 = checks.iter().find(|check| check.version == Version::HTTP_2).unwrap();
    assert_eq!(h2.authority, Some(format!("localhost:{}", tls.addr().port())));
    assert!(checks.iter().any(|check| check.version == Version::HTTP_11));
}

async fn grpc() -> (GrpcOrigin, Proxy, SocketAddr) {
    let origin = GrpcOrigin::start().await;
    let proxy = Proxy::start(&to_upstream("", &origin.addr().to_string(), "h2 = true"));
    let addr = proxy.addr();
    (origin, proxy, addr)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_with_trailers() {
    let (_origin, proxy, addr) = grpc().await;
    let mut call = GrpcCall::start(addr, "Chat", b"\0\0\0\0\x03one").await;
    call.end();
    assert_eq!((call.response.status().as_u16(), call.response.version()), (200, Version::HTTP_2));
    assert_eq!(call.response.headers()["content-type"], "application/grpc");
    assert!(!call.response.headers().contains_key("grpc-status"));
    let mut body = Vec::new();
    let trailers = loop {
        match call.next().await.expect("trailers") {
            Ok(piece) => body.extend_from_slice(&piece),
            Err(trailers) => break trailers,
        }
    };
    assert_eq!(body, b"\0\0\0\0\x03one");
    assert_eq!((&trailers["grpc-status"], &trailers["x-te"]), (&"0".parse().unwrap(), &"trailers".parse().unwrap()));
    proxy.wait_for_stdout("HTTP/2.0 200 end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_that_is_answered_with_trailers_only() {
    let (_origin, _proxy, addr) = grpc().await;
    let mut call = GrpcCall::start(addr, "None", b"\0\0\0\0\x03one").await;
    call.end();
    let headers = call.response.headers();
    assert_eq!(
        (headers["grpc-status"].as_bytes(), headers["grpc-message"].as_bytes()),
        (&b"5"[..], &b"no%20such%20method"[..])
    );
    assert!(hyper::body::Body::is_end_stream(call.response.body()), "the headers are the end");
    assert_eq!(call.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_goes_both_ways_at_once() {
    let (_origin, _proxy, addr) = grpc().await;
    let mut call = GrpcCall::start(addr, "Chat", b"one").await;
    assert_eq!(call.next().await, Some(Ok(Bytes::from("one"))));
    for piece in ["two", "three"] {
        call.send(piece.as_bytes());
        assert_eq!(call.next().await, Some(Ok(Bytes::from(piece))));
    }
    call.end();
    let trailers = loop {
        match call.next().await.expect("trailers") {
            Ok(piece) => assert!(piece.is_empty()),
            Err(trailers) => break trailers,
        }
    };
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_in_http_2_has_the_usual_status() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let tls = over_tls(&files, &["h2"]).await;
    let secure = format!("localhost:{}", tls.addr().port());
    let http1 = Origin::saying("HTTP/1.1").await;
    let rude = RawOrigin::start(|_, _| async {}).await;
    let down = DownOrigin::new();
    for (server, keys, path, status) in [
        (secure.clone(), "tls = {}\nh2 = true\nsilence_timeout_ms = 200", "/hang", 504),
        // Only HTTP/2 is served there.
        (secure, "tls = {}", "/", 502),
        (http1.addr().to_string(), "h2 = true", "/", 502),
        (http1.addr().to_string(), "tls = {}", "/", 502),
        (rude.addr().to_string(), "h2 = true", "/", 502),
        (down.addr().to_string(), "tls = {}\nh2 = true", "/", 502),
    ] {
        let proxy = Proxy::start(&to_upstream(&authority.network(), &server, keys));
        for client in [support::http1(), http2()] {
            assert_eq!(send(client.get(proxy.url(path))).await.status, status, "{server} {keys}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lives_is_found_behind_any_number_of_dead_ones() {
    let origin = Origin::saying("hello").await;
    let dead: Vec<_> = (0..20).map(|_| DownOrigin::new()).collect();
    let servers: Vec<_> = dead.iter().map(DownOrigin::addr).chain([origin.addr()]).collect();
    let servers: Vec<_> = servers.iter().map(|addr| format!("{{ addr = '{addr}' }}")).collect();
    for balance in ["round_robin", "random", "least_conn"] {
        let upstream = format!("[upstream.many]\nservers = [{}]\nbalance = '{balance}'\n", servers.join(", "));
        let proxy = Proxy::start(&format!("{upstream}{}", server("path = '/'\nproxy_pass = 'many'")));
        let client = http1();
        for _ in 0..3 {
            assert_eq!(send(client.post(proxy.url("/")).body("once")).await.status, 200, "{balance}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hinders_a_health_check_here_says_nothing_about_the_server() {
    let origin = Origin::saying("hello").await;
    let keys = "health_check = { path = '/', interval_ms = 20 }";
    let proxy = Proxy::start(&to_upstream("", &origin.addr().to_string(), keys));
    let may_open = |files: usize| {
        let files = format!("--nofile={files}:4096");
        assert!(Command::new("prlimit").args([format!("--pid={}", proxy.pid()), files]).status().unwrap().success());
    };
    origin.wait_for_requests(1);
    may_open(3);
    proxy.wait_for_log("cannot be checked: ");
    // For a few more.
    tokio::time::sleep(Duration::from_millis(200)).await;
    may_open(4096);
    let checks = origin.received().len();
    origin.wait_for_requests(checks + 1);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    assert_eq!(proxy.log().matches("cannot be checked: ").count(), 1, "{}", proxy.log());
    assert!(!proxy.log().contains(") is down: "), "{}", proxy.log());
}

/// Kept connections break after requests have taken them and before they are written: some find out in writing the body, some in
/// reading the response.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_again_where_a_kept_connection_breaks_if_it_may() {
    const MANY: usize = 20;
    let (kept, broken) = (Arc::new(Barrier::new(MANY)), Arc::new(Barrier::new(2 * MANY)));
    let (breaks, repeated) = (broken.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = repeated.clone();
    let origin = RawOrigin::start(move |mut client, connection| {
        let (kept, breaks, seen) = (kept.clone(), breaks.clone(), seen.clone());
        async move {
            while let Some(request) = client.read_request().await {
                if connection < MANY {
                    kept.wait().await;
                } else {
                    seen.lock().unwrap().push((request.line.clone(), request.text()));
                }
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                if connection < MANY {
                    breaks.wait().await;
                    drop(client);
                    breaks.wait().await;
                    return;
                }
            }
        }
    })
    .await;
    let asked = AtomicUsize::new(0);
    let gate = Origin::start_async(move |_| {
        let broken = (asked.fetch_add(1, Ordering::Relaxed) < MANY).then(|| broken.clone());
        async move {
            if let Some(broken) = broken {
                broken.wait().await;
                broken.wait().await;
            }
            reply(200, "")
        }
    })
    .await;
    let mut site = Site::with("threads = 1");
    site.proxied("/keep", origin.addr()).proxied("/", origin.addr());
    let ask = json!(["handle-http", "tcp", { "method": "get", "uri": format!("http://{}/", gate.addr()) }, 20_000]);
    let script = Script::guest("probe", "waits").main(json!([step(&ask)])).key("allow = { net = ['127.0.0.0/8'] }");
    site.script("wasm_http_in_headers", script);
    let proxy = Proxy::start(&site.to_string());
    let all = async |request: &dyn Fn(usize) -> reqwest::RequestBuilder| {
        let sent: Vec<_> = (0..MANY).map(|number| tokio::spawn(send(request(number)))).collect();
        futures::future::join_all(sent).await.into_iter().map(|answer| answer.unwrap().status).collect::<Vec<_>>()
    };
    assert_eq!(all(&|_| http1().get(proxy.url("/keep"))).await, [200; MANY]);
    proxy.wait_until_idle();
    let put = |number: usize| number.is_multiple_of(2);
    let request = |number| if put(number) { http1().put(proxy.url("/")) } else { http1().post(proxy.url("/")) };
    let statuses = all(&|number| request(number).body("hello")).await;
    for (number, status) in statuses.iter().enumerate() {
        assert_eq!(*status, if put(number) { 200 } else { 502 }, "{statuses:?}");
    }
    let put = ("PUT / HTTP/1.1".to_owned(), "hello".to_owned());
    assert_eq!(*repeated.lock().unwrap(), vec![put; MANY / 2], "a POST is sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_silent_is_told_from_who_waits() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        std::future::pending().await
    })
    .await;
    let proxy = Proxy::start(&to_upstream("", &origin.addr().to_string(), "silence_timeout_ms = 300"));
    for (body, status) in [("half", 408), ("all of it.", 504)] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n{body}")).await;
        assert_eq!(client.read_response().await.status(), status, "{body}");
        assert!(client.is_closed().await);
    }
}
