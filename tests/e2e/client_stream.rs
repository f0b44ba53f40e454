//! `curr-fd` in `wasm_serverless`: the request body as it comes, and the response as it is made.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::{Body, Client};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::support::*;

/// The next piece of a body: over HTTP/2 an empty one comes at the end.
async fn piece(
    body: &mut (impl futures::Stream<Item = reqwest::Result<Bytes>> + Unpin),
) -> Option<reqwest::Result<Bytes>> {
    loop {
        match soon("a piece of the body", body.next()).await {
            Some(Ok(bytes)) if bytes.is_empty() => {}
            next => return next,
        }
    }
}

type Parts = mpsc::Sender<Bytes>;

/// A body whose pieces are sent one by one.
fn body_in_parts() -> (Parts, Body) {
    let (parts, received) = mpsc::channel::<Bytes>(1);
    let stream = futures::stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
    (parts, Body::wrap_stream(stream.map(Ok::<_, std::io::Error>)))
}

/// Every kind of connection that a client may have, with an address to use it on.
struct Clients {
    proxy: Proxy,
    clients: Vec<(&'static str, Client, String)>,
    _authority: Authority,
}

fn every_client(script: &Script) -> Clients {
    let authority = Authority::new();
    let tls = authority.issue("a.example").tls();
    let mut site = serverless(script.clone());
    site.listen(format!(
        "listen = [{{ addr = '127.0.0.1:0', h2 = true }}, {{ addr = '127.0.0.2:0', h2 = true, tls = {tls} }}]"
    ));
    let proxy = Proxy::start(&site.to_string());
    let tls = |client: reqwest::ClientBuilder| client.build().unwrap();
    let plain = proxy.url("/");
    let secure = format!("https://a.example:{}/", proxy.tls_addr().port());
    let builder = || https(&authority, &["a.example"], proxy.tls_addr());
    let clients = vec![
        ("HTTP/1.1", http1(), plain.clone()),
        ("HTTP/2", http2(), plain),
        ("HTTP/1.1 over TLS", tls(builder().http1_only()), secure.clone()),
        ("HTTP/2 over TLS", tls(builder()), secure),
    ];
    Clients { proxy, clients, _authority: authority }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    // The origin of the events writes the next one when the client has the last one.
    let events = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = events.local_addr().unwrap();
    let script = streaming(&format!("relay {addr}")).key(format!("allow = {{ net = ['{addr}'] }}"));
    let Clients { proxy, clients, .. } = every_client(&script);
    for (kind, client, url) in &clients {
        let response = tokio::spawn(client.get(url).send());
        let (mut source, _) = soon("the plugin connects", events.accept()).await.unwrap();
        source.write_all(b"data: 0\n\n").await.unwrap();
        let response = soon("the head", response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{kind}");
        let mut body = response.bytes_stream();
        for event in 0..20 {
            let got = piece(&mut body).await.unwrap().unwrap();
            assert_eq!(got, format!("data: {event}\n\n"), "{kind}");
            source.write_all(format!("data: {}\n\n", event + 1).as_bytes()).await.unwrap();
        }
        drop(source);
        piece(&mut body).await.unwrap().unwrap();
        assert!(piece(&mut body).await.is_none(), "{kind}");
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_any_size_is_echoed_while_it_comes() {
    let Clients { proxy, clients, .. } = every_client(&streaming("echo 16384").key("limits = { memory = '4MiB' }"));
    let sent = Bytes::from(bytes(10 << 20));
    for (kind, client, url) in &clients {
        let (parts, body) = body_in_parts();
        let pieces = sent.clone();
        let upload = tokio::spawn(async move {
            for start in (0..pieces.len()).step_by(16 << 10) {
                parts.send(pieces.slice(start..pieces.len().min(start + (16 << 10)))).await.unwrap();
            }
        });
        let response = soon("a response", client.post(url).body(body).send()).await.unwrap();
        let got = soon("the echo", response.bytes()).await.unwrap();
        assert_eq!((got.len(), fnv(&got)), (sent.len(), fnv(&sent)), "{kind}");
        upload.await.unwrap();
        // A piece is answered before the next one is sent.
        let (parts, body) = body_in_parts();
        parts.send("0".into()).await.unwrap();
        let mut echo = soon("a response", client.post(url).body(body).send()).await.unwrap().bytes_stream();
        for number in 0..10 {
            assert_eq!(piece(&mut echo).await.unwrap().unwrap(), number.to_string(), "{kind}");
            parts.send((number + 1).to_string().into()).await.unwrap();
        }
        drop(parts);
        assert_eq!(piece(&mut echo).await.unwrap().unwrap(), "10", "{kind}");
        assert!(piece(&mut echo).await.is_none(), "{kind}");
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_can_be_read_and_answered_as_a_whole() {
    // Without a write, it is the response that the plugin has set.
    let proxy = start_streaming("count");
    for client in [http1(), http2()] {
        for size in [0, 1, 70_000, 5_000_000] {
            let answer = send(client.post(proxy.url("/")).body(bytes(size))).await;
            assert_eq!((answer.status, answer.text()), (200, size.to_string()));
        }
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_framing_fits_the_client() {
    let proxy = start_streaming("write one;write two");
    let mut client = Raw::connect(proxy.addr()).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.read_response().await;
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!((response.header("content-length"), response.text()), (None, "onetwo".into()));
    }
    client.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.read_head().await.unwrap().status(), 200);
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "onetwo", "nothing followed the head");

    for header in ["host: a.example", "connection: keep-alive"] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("GET / HTTP/1.0\r\n{header}\r\n\r\n")).await;
        let response = client.read_head().await.unwrap();
        assert_eq!((response.header("transfer-encoding"), response.header("connection")), (None, Some("close")));
        assert_eq!(client.read_to_end().await, b"onetwo");
    }

    let http2 = http2();
    let answer = send(http2.head(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (200, String::new()));
    assert_eq!(send(http2.get(proxy.url("/"))).await.text(), "onetwo");
    assert_released(&proxy);
}

/// The results of calls in `wasm_serverless`, and the response.
async fn in_serverless(steps: Vec<Value>, request: &str) -> (Vec<Value>, Proxy, RawMessage) {
    let mut site = Site::new();
    site.route("/", "")
        .script("wasm_serverless", probe("probe", "calls", &steps))
        .script("wasm_http_filter_headers", probe("probe", "filter", &[json!(["out-add-header", "x-filtered", "1"])]));
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(request).await;
    let response = client.read_response().await;
    (results(&proxy, "calls"), proxy, response)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn error(result: &Value) -> &str {
    result["err"].as_str().unwrap_or_else(|| panic!("no error: {result}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_the_response_that_was_set() {
    let set = json!({ "status": 203, "headers": [["content-type", "text/event-stream"], ["x-a", "1"]], "body": "0" });
    let (given, _, response) = in_serverless(
        vec![
            json!(["out-set-response", set]),
            json!(["socket-write-all", 0, "1", 1000]),
            json!(["out-set-response", set]),
            json!(["out-response", set]),
            json!(["socket-write", 0, "2", 1000]),
            json!(["socket-flush", 0, 1000]),
            json!(["in-body-read-exact"]),
        ],
        GET,
    )
    .await;
    assert_eq!((response.status(), response.text()), (203, "012".into()));
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!((response.header("x-a"), response.header("x-filtered")), (Some("1"), Some("1")));
    assert_eq!([&given[1], &given[4]], [&json!({ "ok": 1 }); 2]);
    assert_eq!([error(&given[2]), error(&given[3])], ["a response was already sent"; 2]);
    assert_eq!(error(&given[6]), "the request body is read from curr-fd");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_spawned_begins_with_the_head_that_was_set_for_it() {
    let writes: Value = [
        json!(["main-session-id"]),
        json!(["socket-write-all", 0, "from beside", 1000]),
        json!(["session-send", "$0", "done"]),
    ]
    .iter()
    .map(step)
    .collect();
    let (_, _, response) = in_serverless(
        vec![
            json!(["out-set-response", { "status": 203, "headers": [["x-a", "1"]] }]),
            json!(["spawn", "wasm-main-ext1", writes.to_string()]),
            json!(["session-recv"]),
        ],
        GET,
    )
    .await;
    assert_eq!((response.status(), response.text(), response.header("x-a")), (203, "from beside".into(), Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_sends_the_head_alone() {
    let proxy = start_streaming("flush;echo 10");
    for client in [http1(), http2()] {
        let (parts, body) = body_in_parts();
        let response = soon("the head", client.post(proxy.url("/")).body(body).send()).await.unwrap();
        assert_eq!(response.status(), 200);
        parts.send("x".into()).await.unwrap();
        drop(parts);
        assert_eq!(soon("the body", response.bytes()).await.unwrap(), "x");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_was_given_must_be_kept() {
    let set = |length: &str| json!(["out-set-response", { "status": 200, "headers": [["content-length", length]] }]);
    let write = |text: &str| json!(["socket-write-all", 0, text, 1000]);
    let (given, proxy, response) = in_serverless(vec![set("4"), write("12"), write("345"), write("34")], GET).await;
    assert_eq!((response.header("content-length"), response.text()), (Some("4"), "1234".into()));
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(error(&given[2]), "socket 0: content-length leaves room for 2 bytes, not for 3");
    assert_released(&proxy);

    let (_, proxy, response) = in_serverless(vec![set("4"), write("12")], GET).await;
    assert_eq!((response.header("content-length"), response.text()), (Some("4"), "12".into()));
    proxy.wait_for_log("the response is cut off: it wrote less than the content-length that it gave");

    let (given, _, response) = in_serverless(vec![set("x"), set("-1"), set("4")], GET).await;
    assert!(given[..2].iter().all(|result| error(result).starts_with("content-length is ")));
    assert_eq!(response.header("content-length"), Some("0"), "nothing was written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_read_before_is_read_again() {
    let calls = vec![
        json!(["in-body-read-exact"]),
        json!(["socket-read-exact", 0, 3, 1000]),
        json!(["socket-read", 0, 100, 1000]),
        json!(["socket-read", 0, 100, 1000]),
        json!(["in-body-read-exact"]),
    ];
    let (given, ..) = in_serverless(calls, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello").await;
    assert_eq!(given[1..4], [json!({ "ok": "hel" }), json!({ "ok": "lo" }), json!({ "ok": "" })]);
    assert_eq!(given[0], given[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_times_out_loses_nothing() {
    let mut site = Site::new();
    let calls = [
        json!(["socket-read", 0, 100, 20]),
        json!(["socket-read", 0, 100, 0]),
        json!(["socket-write-all", 0, "go", 1000]),
        json!(["socket-read-exact", 0, 6, 60000]),
        json!(["socket-read-exact", 0, 1, 60000]),
        json!(["socket-read-exact", 0, 4, 20]),
        json!(["socket-read", 0, 0, 20]),
        json!(["socket-read-exact", 0, 0, 20]),
        json!(["socket-read-exact", 0, u64::MAX, 20]),
        json!(["socket-write-all", 0, "on", 1000]),
        json!(["socket-read-exact", 0, 4, 60000]),
        json!(["socket-read-exact", 0, 4, 60000]),
        json!(["socket-read", 0, u64::MAX, 60000]),
    ];
    site.route("/", "").script("wasm_serverless", probe("probe", "calls", &calls));
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.read_head().await.unwrap();
    assert_eq!(client.read_exact(7).await, b"2\r\ngo\r\n");
    client.send("4\r\n0123\r\n").await;
    client.send("5\r\n45678\r\n").await;
    assert_eq!(client.read_exact(7).await, b"2\r\non\r\n");
    client.send("4\r\n9abc\r\n0\r\n\r\n").await;
    let given = results(&proxy, "calls");
    let timed_out = |ms| json!({ "err": format!("socket 0: not done within {ms} ms") });
    assert_eq!([&given[0], &given[1]], [&timed_out(20), &timed_out(0)]);
    assert_eq!([&given[3], &given[4]], [&json!({ "ok": "012345" }), &json!({ "ok": "6" })]);
    assert_eq!(given[5], timed_out(20));
    assert_eq!(error(&given[6]), "socket 0: a read of 0 bytes could not be told from the end of the stream");
    assert_eq!(given[7], json!({ "ok": "" }));
    assert!(error(&given[8]).starts_with("socket 0: at most 16777216 bytes can be read at once"), "{}", given[8]);
    assert_eq!(given[10], json!({ "ok": "789a" }));
    assert_eq!(error(&given[11]), "socket 0: the stream ended after 2 of 4 bytes");
    assert_eq!(given[12], json!({ "ok": "bc" }), "what came of them stays");
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn curr_fd_is_refused_where_it_makes_no_sense() {
    let origin = Origin::saying("hello").await;
    let phases = [
        "wasm_access",
        "wasm_http_in_headers",
        "wasm_http_filter_headers_pre",
        "wasm_http_filter_headers",
        "wasm_access_log",
    ];
    let calls = [
        json!(["socket-read", 0, 1, 10]),
        json!(["socket-write", 0, "x", 10]),
        json!(["socket-flush", 0, 10]),
        json!(["websocket/socket-read", 0, 10]),
        json!(["socket-read", 99, 1, 10]),
        json!(["websocket/socket-read", 99, 10]),
        json!(["websocket/socket-close-code", 99]),
    ];
    let mut site = Site::new();
    site.proxied("/", origin.addr());
    for phase in phases {
        site.script(phase, probe("probe", phase, &calls));
    }
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello");
    for phase in phases {
        let given = results(&proxy, phase);
        for (call, result) in calls[..4].iter().zip(&given) {
            let function = call[0].as_str().unwrap().trim_start_matches("websocket/");
            let expected = format!("{function}: not possible in the phase {phase}: curr-fd is a stream");
            assert!(error(result).starts_with(&expected), "{result}");
        }
        assert!(given[4..].iter().all(|result| error(result) == "there is no open socket 99"), "{given:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_stalls_the_plugin_until_its_timeout() {
    // More than all buffers on the way hold.
    let proxy = start_streaming("flood 50000000 100");
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(GET).await;
    proxy.wait_for_log("flood: socket 0: not done within 100 ms");
    // What was written before arrives, with its end.
    let response = client.read_response().await;
    assert!(response.body.len() > 100_000 && response.body.len() < 50_000_000, "{}", response.body.len());
    assert_released(&proxy);

    let proxy = start_streaming("flood 50000000 20000");
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(GET).await;
    let response = client.read_response().await;
    assert_eq!(response.body.len(), 50_000_000);
    proxy.wait_for_log("flood: done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_releases_everything() {
    let proxy = start_streaming("write x;wait");
    for _ in 0..3 {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
        client.read_head().await.unwrap();
        assert_eq!(client.read_exact(6).await, b"1\r\nx\r\n");
        proxy.wait_for_metric("phasegate_sockets", 1.0);
        client.reset();
        assert_released(&proxy);
    }
    eventually("each has learned of it", || proxy.log().matches("wait: socket 0: the client has gone").count() == 3);

    // And one whose plugin only writes now and then: it learns of it by its next write.
    let proxy = start_streaming("write x;sleep 300;write y;sleep 60000");
    let http2 = http2();
    let response = soon("the head", http2.get(proxy.url("/")).send()).await.unwrap();
    drop(response);
    proxy.wait_for_log("failed: err: socket 0: the client has gone");
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_does_not_see_that_its_client_has_gone_ends_all_the_same() {
    let proxy = start_streaming("write x;sleep 600000");
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(GET).await;
    client.read_head().await.unwrap();
    drop(client);
    proxy.wait_until_idle();
    assert_released(&proxy);
    assert!(!proxy.log().contains("failed"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_the_middle_cuts_the_response_off() {
    for end in ["trap", "fail"] {
        for more in ["", "on_failure = 'open'"] {
            let script = streaming(&format!("write begun;{end}")).key(more);
            let Clients { proxy, clients, .. } = every_client(&script);
            for (kind, client, url) in &clients {
                let response = soon("the head", client.get(url).send()).await.unwrap();
                assert_eq!(response.status(), 200, "{kind}");
                // What came before a reset HTTP/2 may lose.
                let mut body = response.bytes_stream();
                let end = match piece(&mut body).await.unwrap() {
                    Ok(begun) => {
                        assert_eq!(begun, "begun", "{kind}");
                        piece(&mut body).await.unwrap()
                    }
                    end => end,
                };
                assert!(end.is_err(), "{kind} {end:?}");
            }
            proxy.wait_for_log("the response is cut off: the plugin failed while it streamed");
            assert_released(&proxy);
        }
    }
    // Before the first byte it is an error like any other.
    let proxy = start_streaming("sleep 1;trap");
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_takes_too_long_is_cut_off_too() {
    let proxy =
        Proxy::start(&serverless(streaming("write x;sleep 60000").key("limits = { wall_ms = 200 }")).to_string());
    let response = soon("the head", http1().get(proxy.url("/")).send()).await.unwrap();
    assert!(soon("the body", response.bytes()).await.is_err());
    assert_released(&proxy);

    // Also while a client that does not read holds it up.
    let script = streaming("flood 50000000 600000").key("limits = { wall_ms = 300 }");
    let proxy = Proxy::start(&serverless(script).to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(GET).await;
    proxy.wait_for_log("failed: wall");
    assert_released(&proxy);
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_points_read_and_write_at_the_same_time() {
    let mut site = Site::new();
    let script = streaming("wait").key("wasm_main_ext1_config = 'write 0;sleep 50;write 1;sleep 600000'");
    site.route("/", "").script("wasm_serverless", script);
    let proxy = Proxy::start(&site.to_string());
    for client in [http1(), http2()] {
        let (parts, body) = body_in_parts();
        let response = soon("the head", client.post(proxy.url("/")).body(body).send()).await.unwrap();
        let mut stream = response.bytes_stream();
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "0");
        assert_eq!(piece(&mut stream).await.unwrap().unwrap(), "1");
        drop(parts);
        assert!(piece(&mut stream).await.is_none(), "the reader ends the run");
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_the_response_while_the_plugin_goes_on() {
    let proxy = start_streaming("write done;close;sleep 300;write more");
    for client in [http1(), http2()] {
        assert_eq!(send(client.get(proxy.url("/"))).await.text(), "done");
        proxy.wait_for_log("failed: err: there is no open socket 0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_script_has_the_stream() {
    let mut site = Site::new();
    site.route("/", "").plugin(
        "wasm_serverless",
        "two",
        [
            streaming("write first"),
            Script::guest("probe", "second")
                .main(json!([{ "call": "socket-write", "args": [0, "second", 1000] }, { "deliver": "log" }])),
        ],
    );
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "first");
    let given = results(&proxy, "second");
    assert_eq!(error(&given[0]), "curr-fd: another script has had the stream to the client");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_is_told() {
    let proxy = start_streaming("echo 100");
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 100);
    client.send("hi").await;
    assert_eq!(client.read_response().await.text(), "hi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_answers_instead() {
    let mut site = Site::new();
    site.route("/", "")
        .script("wasm_serverless", streaming("write x"))
        .script("wasm_http_filter_headers", Script::guest("hostile", "hostile").main("trap"));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (500, "500 Internal Server Error\n".into()));
    proxy.wait_for_log("wasm_http_filter_headers failed, and the client has got an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_flight_ends_well_at_the_shutdown() {
    let proxy = start_streaming("flush;echo 10");
    let (parts, body) = body_in_parts();
    let response = soon("the head", http1().post(proxy.url("/")).body(body).send()).await.unwrap();
    proxy.signal(Signal::Terminate);
    proxy.wait_for_log("shutting down");
    tokio::time::sleep(Duration::from_millis(200)).await;
    parts.send("late".into()).await.unwrap();
    drop(parts);
    assert_eq!(soon("the body", response.bytes()).await.unwrap(), "late");
    assert_eq!(proxy.wait_for_exit().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_request_is_kept_while_a_plugin_goes_on() {
    // The response is whole before its run ends.
    let proxy = start_streaming("write hi;close;sleep 200");
    let mut client = Raw::connect(proxy.addr()).await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.read_response().await.text(), "hi");
    }
    // The next request comes before the response is whole.
    let proxy = start_streaming("write a;sleep 200;write b");
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(GET).await;
    assert_eq!(client.read_head().await.unwrap().header("transfer-encoding"), Some("chunked"));
    client.send(GET).await;
    client.send(GET).await;
    let body = b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n";
    assert_eq!(client.read_exact(body.len()).await, body);
    for _ in 0..2 {
        assert_eq!(client.read_response().await.text(), "ab");
    }
    drop(client);
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off() {
    let origin = Origin::start(|_| reply(200, bytes(20 << 20))).await;
    let mut site = Site::with("client_timeout_ms = 300");
    site.listen("listen = [{ addr = '127.0.0.1:0', h2 = true }]".to_owned());
    let flood = |ms: u64| streaming(&format!("flood 50000000 {ms}"));
    // It is the plugin that waits, or a plugin that has ended.
    site.route("/waits", "").script("wasm_serverless", flood(600_000));
    site.route("/ended", "").script("wasm_serverless", flood(50));
    site.proxied("/proxied", origin.addr());
    let proxy = Proxy::start(&site.to_string());
    for path in ["/waits", "/ended", "/proxied"] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(client.read_head().await.unwrap().status(), 200);
        proxy.wait_until_idle();
        let response = soon("the head", http2().get(proxy.url(path)).send()).await.unwrap();
        proxy.wait_until_idle();
        drop(response);
    }
    assert_released(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_larger_than_one_write_is_whole() {
    let mut site = Site::new();
    let steps = [json!(["out-set-response", { "status": 200, "body": "x".repeat(1 << 20) }])];
    site.route("/", "").script("wasm_serverless", probe("probe", "calls", &steps));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.body.len()), (200, 1 << 20));
}
