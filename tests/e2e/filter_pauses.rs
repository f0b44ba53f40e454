//! What filters hold up, and for whom: nothing gets past a pause, no decision is lost in one, and what others wait for
//! goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::filters::{pw_probe, through, upstream};
use super::support::*;

/// A callout to the upstream `callee`, and what follows it.
fn call(path: &str, then: &Value) -> Value {
    let headers = json!([[":method", "GET"], [":path", path], [":authority", "callee"]]);
    json!(["http_call", { "cluster": "callee", "headers": headers, "timeout": 60000, "then": then }])
}

fn deny() -> Value {
    json!(["local_response", { "status": 403, "body": "denied" }])
}

/// An origin that answers requests for `/slow` later than others.
async fn callee() -> Origin {
    Origin::start_async(|request| async move {
        tokio::time::sleep(Duration::from_millis(if request.uri == "/slow" { 400 } else { 100 })).await;
        reply(200, "")
    })
    .await
}

/// Ten bytes in two pieces, with a pause between them.
async fn in_two_pieces() -> RawOrigin {
    RawOrigin::start(|mut client, _| async move {
        while client.read_request().await.is_some() {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello").await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            client.send("world").await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_held_for_too_long_is_still_that_of_its_request() {
    let plan = json!({ "on_response_headers": [["if", "/held", [["pause"]], []]] });
    let holds = format!("{}failure_policy = 'open'\nlimits = {{ wall_ms = 50 }}\n", pw_probe(&plan));
    let sees = pw_probe(&json!({ "on_log": [["get", "request_headers", ":path"]] })) + "name = 'sees'\n";
    let mut site = Site::new();
    site.route("/", &format!("respond = {{ status = 200, body = 'no head' }}\n{holds}{sees}"));
    let proxy = Proxy::start(&site.to_string());
    let mut raw = Raw::connect(proxy.addr()).await;
    raw.send("HEAD /held HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(raw.read_head().await.unwrap().status(), 200);
    raw.send("GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let next = raw.read_response().await;
    assert_eq!((next.status(), next.text()), (200, "no head".into()), "what follows is not a body for HEAD");
    proxy.wait_for_log("get(\"request_headers\",\":path\") -> \"/held\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_as_the_response_comes_is_denied() {
    let origin = Origin::saying("secret").await;
    let plan = json!({
        "on_request_headers": [["let", "s", ["self"]], ["tick", 50]],
        "on_tick": [["tick", 0], ["effective", "$s"], deny()],
    });
    // Meanwhile the response is here, and has not come to the filter.
    let waits = script("wasm_http_filter_headers_pre", &guests::path("verdict"), "sleep 400 then ok");
    let proxy = Proxy::start(&through(origin.addr(), "", &(pw_probe(&plan) + &waits)));
    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/"))).await;
        assert_eq!((answer.status, answer.text()), (403, "denied".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_body_waits_as_well() {
    let callee = callee().await;
    let origin = RawOrigin::start(|mut client, _| async move {
        while let Some(request) = client.read_request().await {
            let status = if request.line.contains("/204") { "204 No Content" } else { "200 OK\r\ncontent-length: 0" };
            client.send(format!("HTTP/1.1 {status}\r\n\r\n")).await;
        }
    })
    .await;
    let plan = json!({ "on_response_headers": [call("/", &json!([deny()])), ["pause"]] });
    for alone in ["", "allow_on_headers_stop_iteration = true\n"] {
        let main = upstream("callee", callee.addr());
        let proxy = Proxy::start(&through(origin.addr(), &main, &(pw_probe(&plan) + alone)));
        for request in [http1().get(proxy.url("/")), http1().get(proxy.url("/204")), http1().head(proxy.url("/"))] {
            assert_eq!(send(request).await.status, 403, "{alone}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_resumed_while_its_response_waits_goes_on() {
    let callee = callee().await;
    let origin = RawOrigin::start(|mut client, _| async move {
        let head = client.read_head().await.expect("a request");
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        let length = head.header("content-length").unwrap().parse().unwrap();
        let body = client.read_exact(length).await;
        client.send(format!("{:x}\r\n", body.len())).await;
        client.send([body, b"\r\n0\r\n\r\n".to_vec()].concat()).await;
    })
    .await;
    let main = upstream("callee", callee.addr());
    let resumes = |path, direction| call(path, &json!([["continue", direction]]));
    for part in ["on_response_headers", "on_response_body"] {
        let plan = json!({
            "on_request_body": [["if", "end", [resumes("/", "request"), ["pause"]], [["pause"]]]],
            part: [["if", "end", [], [resumes("/slow", "response"), ["pause"]]]],
        });
        let proxy = Proxy::start(&through(origin.addr(), &main, &pw_probe(&plan)));
        let answer = send(http1().post(proxy.url("/")).body("world")).await;
        assert_eq!((answer.status, answer.text()), (200, "helloworld".into()), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_does_not_wait_for_callouts_of_others() {
    let silent = RawOrigin::start(|mut client, _| async move { drop(client.read_to_end().await) }).await;
    let origin = in_two_pieces().await;
    let plan = json!({
        "on_request_headers": [call("/", &json!([]))],
        "on_response_body": [["if", "end", [], [["pause"]]]],
    });
    let main = upstream("callee", silent.addr());
    let proxy = Proxy::start(&through(origin.addr(), &main, &pw_probe(&plan)));
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (200, "helloworld".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_is_not_a_pause_of_the_filter_that_collects_its_body() {
    let origin = in_two_pieces().await;
    for collects in [
        json!({ "on_response_body": [["if", "end", [], [["pause"]]]] }),
        json!({ "on_response_headers": [["pause"]], "on_response_body": [["if", "end", [["continue", "response"]], []]] }),
    ] {
        let keys = "allow_on_headers_stop_iteration = true\nlimits = { wall_ms = 100 }\n";
        let proxy = Proxy::start(&through(origin.addr(), "", &(pw_probe(&collects) + keys)));
        let answer = send(http1().get(proxy.url("/"))).await;
        assert_eq!((answer.status, answer.text()), (200, "helloworld".into()), "{collects}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_holds_no_more_of_a_response_than_it_may() {
    const PIECE: usize = 1 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let origin = RawOrigin::start(move |mut client, _| {
        let sent = counter.clone();
        async move {
            client.read_request().await;
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 256 * PIECE)).await;
            while sent.load(Ordering::Relaxed) < 256 * PIECE && client.send(vec![b'x'; PIECE]).await {
                sent.fetch_add(PIECE, Ordering::Relaxed);
            }
        }
    })
    .await;
    // Held, and not to be shown again.
    let plan = json!({ "on_response_body": [["return", 2]] });
    let keys = "limits = { wall_ms = 300, buffer = '1MiB' }\n";
    let proxy = Proxy::start(&through(origin.addr(), "", &(pw_probe(&plan) + keys)));
    let mut raw = Raw::connect(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(raw.read_head().await.unwrap().status(), 200);
    assert!(raw.read_to_end().await.is_empty(), "cut off");
    proxy.wait_for_log("paused the stream for more than limits.wall_ms");
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 64 * PIECE, "{sent} bytes were taken from the upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_filter_has_emptied_ends_also_in_another_attempt() {
    // A connection is kept, and closed under the second request on it.
    let origin = RawOrigin::start(|mut client, connection| async move {
        for request in 0.. {
            let Some(request) = (match (connection, request) {
                (0, 1) => client.read_head().await.and(None),
                _ => client.read_request().await,
            }) else {
                return;
            };
            client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{}", request.body.len())).await;
        }
    })
    .await;
    let swallows = json!({ "on_request_body": [["set_buffer", "request_body", 0, 100, ""]] });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&swallows)));
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "0");
    let body = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>("0123456789")]));
    let answer = send(http1().put(proxy.url("/")).body(body)).await;
    assert_eq!((answer.status, answer.text()), (200, "0".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_that_is_refused_is_as_it_was() {
    let origin = Origin::start(|request| reply(201, format!("{} {}", request.method, request.uri))).await;
    let plan = json!({
        "on_request_headers": [["if", "/request", [
            ["set_pairs", "request_headers", [[":path", "/b"], [":method", "PUT"], ["no name", "x"]]],
            ["get", "request_headers", ":path"], ["get", "request_headers", ":method"],
        ]]],
        "on_response_headers": [["if", "/response", [
            ["set_pairs", "response_headers", [[":status", "404"], ["no name", "x"]]], ["get", "response_headers", ":status"],
        ]]],
    });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
    for (path, status) in [("/request", 503), ("/response", 502)] {
        let answer = send(http1().get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.text()), (status, "invalid header name: no name".into()));
    }
    for line in [r#"":path") -> "/request""#, r#"":method") -> "GET""#, r#"":status") -> "201""#] {
        proxy.wait_for_log(line);
    }
    assert_eq!(origin.last().uri, "/response");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_with_its_response_says_so() {
    let broken = RawOrigin::saying("garbage\r\n\r\n").await;
    let shortened = RawOrigin::saying("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
    let plan = json!({ "on_response_headers": [["remove", "response_headers", "content-length"]] });
    for (origin, request, status) in [
        (broken.addr(), "GET / HTTP/1.1\r\nhost: a\r\n\r\n", 502),
        (shortened.addr(), "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n", 200),
    ] {
        let proxy = Proxy::start(&through(origin, "", &pw_probe(&plan)));
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(request).await;
        let head = raw.read_head().await.unwrap();
        assert_eq!((head.status(), head.header("connection")), (status, Some("close")));
        raw.read_to_end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_whole_does_not_wait_for_what_a_filter_holds_of_the_request() {
    let origin = RawOrigin::start(|mut client, _| async move {
        let early = match client.read_head().await.is_some_and(|head| head.line.contains("/empty")) {
            true => "HTTP/1.1 204 No Content\r\n\r\n",
            false => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly",
        };
        client.send(early).await;
        client.read_to_end().await;
    })
    .await;
    let plan = json!({ "on_request_body": [["pause"]] });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
    let start = Instant::now();
    let mut raw = Raw::connect(proxy.addr()).await;
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nheld").await;
    let response = raw.read_response().await;
    assert_eq!((response.status(), response.text()), (200, "early".into()));
    assert!(raw.is_closed().await, "the upstream has not got the request as a whole");
    for (path, status, text) in [("/", 200, "early"), ("/empty", 204, "")] {
        let answer = send(http2().post(proxy.url(path)).body("held")).await;
        assert_eq!((answer.status, answer.text()), (status, text.into()));
    }
    proxy.wait_until_idle();
    assert!(start.elapsed() < Duration::from_secs(8), "before the filter is given up: {:?}", start.elapsed());
    assert!(!proxy.log().contains("ERROR"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_body_a_filter_holds_is_not_the_one_who_is_silent() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_to_end().await;
    })
    .await;
    let main = upstream("silent", origin.addr()) + "silence_timeout_ms = 300\n";
    let mut site = Site::with(&main);
    site.route("/", &format!("proxy_pass = 'silent'\n{}", pw_probe(&json!({ "on_request_body": [["pause"]] }))));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().post(proxy.url("/")).body("all of it")).await.status, 504);
}
