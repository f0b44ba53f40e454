//! Proxy-Wasm filters on the way of a message: bodies of every size, pauses in the middle of them, other protocols, and
//! where filters stand among the phases.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use super::support::*;

/// The keys of a filter.
fn filter(guest: &str, configuration: &str) -> String {
    let path = guests::path(guest);
    format!("[[server.local.proxy_wasm]]\nwasm_path = '{}'\nconfiguration = '''{configuration}'''\n", path.display())
}

/// A filter that makes the calls that it is configured with.
pub fn pw_probe(plan: &Value) -> String {
    filter("pw_probe", &plan.to_string())
}

/// A site with one route to an origin, through these filters.
pub fn through(origin: SocketAddr, main: &str, filters: &str) -> String {
    let mut site = Site::with(main);
    site.listen("listen = [{ addr = \"127.0.0.1:0\", h2 = true }]".into());
    site.route("/", &format!("proxy_pass = '{origin}'\n{filters}"));
    site.to_string()
}

pub fn upstream(name: &str, addr: SocketAddr) -> String {
    format!("[upstream.{name}]\nservers = [{{ addr = '{addr}' }}]\n")
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_any_size_pass_whole_in_both_directions() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let filters = [filter("pw_http_headers", ""), pw_probe(&json!({}))].concat();
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    for length in [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, 5 << 20] {
        let body = pattern(length);
        for client in [http1(), http2()] {
            let answer = send(client.post(proxy.url("/x")).body(body.clone())).await;
            assert_eq!((answer.status, answer.body == body), (200, true), "{length}");
            let received = origin.last();
            assert!(received.whole && received.body == body, "{length}");
        }
        let pieces = body.chunks(10_000).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
        let stream = reqwest::Body::wrap_stream(futures::stream::iter(pieces.collect::<Vec<_>>()));
        let answer = send(http1().post(proxy.url("/x")).body(stream)).await;
        assert!(answer.body == body && origin.last().body == body, "{length} in chunks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_a_callout_in_front_of_it() {
    let granted = Arc::new(AtomicBool::new(false));
    let grants = granted.clone();
    let judge = Origin::start(move |_| {
        grants.store(true, Ordering::SeqCst);
        reply(200, vec![2])
    })
    .await;
    let origin = Origin::start(move |request| {
        assert!(granted.load(Ordering::SeqCst), "the upstream has the request before it was granted");
        reply(200, request.body.len().to_string())
    })
    .await;
    let main = upstream("httpbin", judge.addr());
    let proxy = Proxy::start(&through(origin.addr(), &main, &filter("pw_http_auth_random", "")));
    let body = pattern(5 << 20);
    for client in [http1(), http2()] {
        let answer = send(client.post(proxy.url("/")).body(body.clone())).await;
        assert_eq!((answer.status, answer.text()), (200, body.len().to_string()));
        assert_eq!(answer.header("powered-by"), Some("proxy-wasm"));
        assert!(origin.last().body == body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_a_callout_in_the_middle_of_it() {
    let callee = Origin::saying("go on").await;
    let origin = Origin::start(|request| reply(200, request.body)).await;
    for side in ["request", "response"] {
        let plan = json!({ format!("on_{side}_body"): [
            ["if", 1, [["http_call", { "cluster": "callee", "then": [["continue", side]] }], ["pause"]]],
        ]});
        let main = upstream("callee", callee.addr());
        let proxy = Proxy::start(&through(origin.addr(), &main, &pw_probe(&plan)));
        let body = pattern(3 << 20);
        for client in [http1(), http2()] {
            let before = callee.received().len();
            let answer = send(client.post(proxy.url("/")).body(body.clone())).await;
            assert!(answer.status == 200 && answer.body == body, "{side}");
            assert!(callee.received().len() > before, "{side}: the filter has called out");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edited_body_has_its_own_length() {
    let origin = Origin::start(|_| reply(200, vec![b's'; 44].into_iter().chain(*b"secret").collect::<Vec<_>>())).await;
    let proxy = Proxy::start(&through(origin.addr(), "", &filter("pw_http_body", "")));
    let mut raw = Raw::connect(proxy.addr()).await;
    // The connection lives on after each.
    for _ in 0..3 {
        raw.send("GET /secret HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = raw.read_response().await;
        assert_eq!((answer.status(), answer.header("content-length")), (200, None));
        assert_eq!(answer.text(), "Original message body (50 bytes) redacted.\n");
    }
    let answer = send(http2().get(proxy.url("/secret"))).await;
    assert_eq!(answer.text(), "Original message body (50 bytes) redacted.\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_holds_is_bounded() {
    let origin = Origin::start(|_| reply(200, vec![b'x'; 100_000])).await;
    let limited = |plan: Value| format!("{}limits = {{ buffer = '64KiB' }}\n", pw_probe(&plan));
    let hold = |side: &str| json!({ format!("on_{side}_body"): [["pause"]] });

    let proxy = Proxy::start(&through(origin.addr(), "", &limited(hold("request"))));
    for client in [http1(), http2()] {
        let answer = send(client.post(proxy.url("/")).body(pattern(100_000))).await;
        assert_eq!((answer.status, answer.text()), (413, "Payload Too Large".into()));
    }

    // When the header is with the client already, it must be seen that the response is not whole.
    let proxy = Proxy::start(&through(origin.addr(), "", &limited(hold("response"))));
    for client in [http1(), http2()] {
        let answer = client.get(proxy.url("/")).send().await.unwrap();
        let status = answer.status();
        assert!(status == 500 || (status == 200 && answer.bytes().await.is_err()), "{status}");
    }

    // Here the filter holds the header too.
    let plan = json!({ "on_response_headers": [["pause"]], "on_response_body": [["pause"]] });
    let filters = format!("{}allow_on_headers_stop_iteration = true\n", limited(plan));
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (500, "Internal Server Error".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_keeps_its_messages_and_trailers() {
    let origin = GrpcOrigin::start().await;
    let mut site = Site::with(&format!("[upstream.o]\nservers = [{{ addr = '{}' }}]\nh2 = true\n", origin.addr()));
    site.listen("listen = [{ addr = \"127.0.0.1:0\", h2 = true }]".into());
    let trailers = json!({ "on_response_trailers": [["add", "response_trailers", "x-filter", "seen"]] });
    let filters = [filter("pw_http_headers", ""), pw_probe(&trailers)].concat();
    site.route("/", &format!("proxy_pass = 'o'\n{filters}"));
    let proxy = Proxy::start(&site.to_string());

    let mut call = GrpcCall::start(proxy.addr(), "Chat", b"one").await;
    assert_eq!(call.response.status(), 200);
    assert_eq!(call.next().await.unwrap().unwrap(), "one", "while the request goes on");
    call.send(b"two");
    assert_eq!(call.next().await.unwrap().unwrap(), "two");
    call.end();
    let trailers = call.next().await.unwrap().unwrap_err();
    assert!(trailers["grpc-status"] == "0" && trailers["x-filter"] == "seen", "{trailers:?}");
    assert_eq!(trailers["x-te"], "trailers", "without it, servers of gRPC refuse the call");

    let call = GrpcCall::start(proxy.addr(), "None", b"one").await;
    assert_eq!(call.response.headers()["grpc-status"], "5", "a response of trailers only");
}

#[tokio::test(flavor = "multi_thread")]
async fn web_sockets_pass() {
    let origin = WebSocketOrigin::start().await;
    let filters = [filter("pw_http_headers", ""), pw_probe(&json!({}))].concat();
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    let mut socket = WebSocket::connect(proxy.addr(), "/", &[]).await;
    assert_eq!(socket.answer.status(), 101);
    for size in [1, 1000, 100_000] {
        socket.echo(tokio_tungstenite::tungstenite::Message::binary(pattern(size))).await;
    }
    proxy.wait_for_log(":status: 101");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_piece_of_a_stream_passes_when_it_comes() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
        // The next only when the client has asked for it, on its other connection.
        client.read_request().await;
        client.send("1\r\nb\r\n0\r\n\r\n").await;
    })
    .await;
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&json!({}))));
    let mut answer = http1().get(proxy.url("/")).send().await.unwrap().bytes_stream();
    assert_eq!(soon("the first piece", answer.next()).await.unwrap().unwrap(), "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_pass_in_order_and_responses_in_reverse() {
    let origin = Origin::start(|request| reply(200, request.headers["x-order"].as_bytes().to_vec())).await;
    let named = |name: &str| {
        let (ask, answer) = (["add", "request_headers", "x-order", name], ["add", "response_headers", "x-order", name]);
        pw_probe(&json!({ "on_request_headers": [ask], "on_response_headers": [answer] }))
    };
    let filters = ["1", "2", "3"].map(named).concat();
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    let answer = send(http1().get(proxy.url("/"))).await;
    let order = |headers: &http::HeaderMap| -> Vec<String> {
        headers.get_all("x-order").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(order(&origin.only().headers), ["1", "2", "3"]);
    assert_eq!(order(&answer.headers), ["3", "2", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_response_passes_the_filters_of_responses() {
    let origin = Origin::saying("never").await;
    let plan = json!({ "on_request_headers": [["local_response", { "status": 418, "body": "short", "headers": [["x-a", "1"]] }]] });
    let marks = json!({ "on_response_headers": [["add", "response_headers", "x-marked", "yes"]] });
    let filters = [pw_probe(&marks), pw_probe(&plan), pw_probe(&marks)].concat();
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (418, "short".into()));
    let marked = answer.headers.get_all("x-marked").iter().count();
    assert_eq!(marked, 1, "not of the filter that the request never came to");
    assert_eq!((answer.header("x-a"), answer.header("content-type")), (Some("1"), Some("text/plain")));
    assert!(origin.received().is_empty());
}

/// A client of HTTP/2 takes a response with one of them for malformed (RFC 9113, section 8.2.2).
#[tokio::test(flavor = "multi_thread")]
async fn a_local_response_has_no_headers_of_a_connection() {
    let of_connection = ["te", "keep-alive", "proxy-connection", "trailer", "upgrade", "connection", "x-a"];
    let headers = of_connection.map(|name| [name, "x"]);
    let plan = json!({ "on_request_headers": [["local_response", { "status": 418, "headers": headers }]] });
    let proxy = Proxy::start(&through(Origin::saying("never").await.addr(), "", &pw_probe(&plan)));
    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/"))).await;
        let there = of_connection.into_iter().filter(|name| answer.header(name) == Some("x"));
        assert_eq!((answer.status, there.collect::<Vec<_>>()), (418, vec!["x-a"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_scripts_add_to_a_line_is_not_lost() {
    let origin = Origin::saying("hello").await;
    let plan = json!({ "on_request_headers": [["add", "request_headers", "accept", "filter"]] });
    let mut site = Site::new();
    site.route("/", &format!("proxy_pass = '{}'\n{}", origin.addr(), pw_probe(&plan)))
        .script("wasm_access", probe("probe", "adds", &[json!(["in-add-header", "accept", "script"])]));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/")).header("accept", "client")).await.status, 200);
    assert_eq!(origin.only().headers.get_all("accept").iter().collect::<Vec<_>>(), ["client,script,filter"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_uri_has_goes_on_encoded() {
    let origin = Origin::saying("hello").await;
    let plan = json!({ "on_request_headers": [["replace", "request_headers", ":path", "/a<b>?c=\"d\"#e"]] });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    assert_eq!(origin.only().uri, "/a%3Cb%3E?c=%22d%22%23e");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_path_is_another_route() {
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let mut site = Site::new();
    let plan =
        json!({ "on_request_headers": [["if", "/one", [["replace", "request_headers", ":path", "/two/x?y=z"]]]] });
    site.route("/one", &format!("proxy_pass = '{}'\n{}", one.addr(), pw_probe(&plan)));
    site.route("/two/", &format!("proxy_pass = '{}'", two.addr()));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/one"))).await.text(), "two");
    assert_eq!(two.only().uri, "/two/x?y=z");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_stand_between_the_phases() {
    let origin = Origin::start(|request| reply(200, request.headers["x-way"].as_bytes().to_vec())).await;
    let plan = json!({
        "on_request_headers": [["get", "request_headers", "x-way"]],
        "on_response_headers": [["pairs", "response_headers"]],
    });
    let rewrite = |phase: &str, guest: &str, config: &str| {
        let path = plugins::path(guest);
        format!("[[server.local.{phase}]]\nwasm_path = '{}'\nwasm_main_config = '''{config}'''\n", path.display())
    };
    let filters = [
        pw_probe(&plan),
        rewrite("wasm_http_filter_headers", "security_headers", "\n"),
        rewrite("wasm_http_filter_headers_pre", "cache_policy", "[[rule]]\ncache_control = 'no-store'\n"),
    ]
    .concat();
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    let answer = send(http1().get(proxy.url("/")).header("x-way", "here")).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("x-content-type-options").is_some());
    let log = proxy.wait_for_log("pairs(\"response_headers\")");
    let line = log.lines().find(|line| line.contains("pairs(\"response_headers\")")).unwrap();
    assert!(line.contains("no-store"), "after wasm_http_filter_headers_pre: {line}");
    assert!(!line.contains("x-content-type-options"), "before wasm_http_filter_headers: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_request_ends_with_its_client() {
    let silent = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.read_to_end().await;
    })
    .await;
    let origin = Origin::saying("never").await;
    let plan = json!({ "on_request_headers": [["http_call", { "cluster": "callee", "timeout": 60000 }], ["pause"]] });
    let main = upstream("callee", silent.addr());
    let proxy = Proxy::start(&through(origin.addr(), &main, &pw_probe(&plan)));
    for body in ["", "content-length: 100000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}\r\n")).await;
        proxy.wait_for_metric("phasegate_requests_in_flight", 1.0);
        raw.reset();
        proxy.wait_for_metric("phasegate_requests_in_flight", 0.0);
    }
    assert!(origin.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_has_a_limit() {
    let origin = Origin::saying("hello").await;
    for (policy, status) in [("closed", 503), ("open", 200)] {
        for plan in [json!({ "on_request_headers": [["pause"]] }), json!({ "on_response_headers": [["pause"]] })] {
            let filters = format!("{}failure_policy = '{policy}'\nlimits = {{ wall_ms = 50 }}\n", pw_probe(&plan));
            let proxy = Proxy::start(&through(origin.addr(), "", &filters));
            assert_eq!(send(http1().get(proxy.url("/"))).await.status, status, "{policy} {plan}");
            proxy.wait_for_log("paused the stream for more than limits.wall_ms, 50 ms");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_may_pause_for_so_long_and_not_all_of_them_together() {
    let origin = Origin::saying("hello").await;
    let pauses = json!({
        "on_request_headers": [["let", "s", ["self"]], ["tick", 700], ["pause"]],
        "on_tick": [["tick", 0], ["effective", "$s"], ["continue", "request"]],
    });
    let one = |name| format!("{}name = '{name}'\nlimits = {{ wall_ms = 1300 }}\n", pw_probe(&pauses));
    let proxy = Proxy::start(&through(origin.addr(), "", &(one("first") + &one("second"))));
    let begun = Instant::now();
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(1400), "both have paused: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_has_denied_before_it_fails_is_denied() {
    let origin = Origin::saying("never").await;
    let denies = json!(["local_response", { "status": 403, "body": "denied" }]);
    for plan in [
        json!({ "on_context_create": [denies], "on_request_headers": [["trap"]] }),
        json!({ "on_request_headers": [denies, ["trap"]] }),
    ] {
        let filters = format!("{}failure_policy = 'open'\n", pw_probe(&plan));
        let proxy = Proxy::start(&through(origin.addr(), "", &filters));
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 403, "{plan}");
        assert!(origin.received().is_empty(), "{plan}");
    }
}

/// What a filter does with its stream a moment after the request header has passed it.
fn later(step: Value) -> String {
    pw_probe(&json!({
        "on_request_headers": [["let", "s", ["self"]], ["tick", 50]],
        "on_tick": [["tick", 0], ["effective", "$s"], step],
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_while_the_upstream_is_silent_counts_at_once() {
    let silent = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.read_to_end().await;
    })
    .await;
    for client in [http1(), http2()] {
        let denies = later(json!(["local_response", { "status": 403, "body": "denied" }]));
        let proxy = Proxy::start(&through(silent.addr(), "", &denies));
        let answer = send(client.post(proxy.url("/")).body("hello")).await;
        assert_eq!((answer.status, answer.text()), (403, "denied".into()));

        let traps = format!("{}failure_policy = 'reload'\n", later(json!(["trap"])));
        let proxy = Proxy::start(&through(silent.addr(), "", &traps));
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_ends_when_a_filter_says_so() {
    let origin = WebSocketOrigin::start().await;
    let proxy = Proxy::start(&through(origin.addr(), "", &later(json!(["close", "request"]))));
    let mut socket = WebSocket::connect(proxy.addr(), "/", &[]).await;
    assert!(soon("the end", futures::StreamExt::next(&mut socket.stream)).await.is_none_or(|message| message.is_err()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_header_that_is_held_goes_on_before_there_is_a_body() {
    let callee = Origin::saying("go on").await;
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.read_to_end().await;
    })
    .await;
    let ask = json!(["http_call", { "cluster": "callee", "then": [["continue", "response"]] }]);
    let asks = pw_probe(&json!({ "on_response_headers": [ask, ["pause"]] }));
    let main = upstream("callee", callee.addr());
    let filters = format!("{asks}allow_on_headers_stop_iteration = true\n");
    let proxy = Proxy::start(&through(origin.addr(), &main, &filters));
    assert_eq!(soon("the header", http1().get(proxy.url("/")).send()).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_large_as_the_buffer() {
    let origin = Origin::saying("never").await;
    let deny = json!(["local_response", { "status": 403 }]);
    let plan = json!({ "on_request_body": [["if", "end", [deny, ["pause"]], [["pause"]]]] });
    let filters = format!("{}limits = {{ buffer = '64KiB' }}\n", pw_probe(&plan));
    let proxy = Proxy::start(&through(origin.addr(), "", &filters));
    for (size, status) in [(64 << 10, 403), ((64 << 10) + 1, 413), (2_000_000, 413)] {
        let pieces = pattern(size);
        let pieces = pieces.chunks(8 << 10).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece)));
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces.collect::<Vec<_>>()));
        assert_eq!(send(http1().post(proxy.url("/")).body(body)).await.status, status, "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_cannot_make_a_client_wait_for_a_body() {
    let origin = Origin::saying("hello").await;
    for (method, other) in [("HEAD", "GET"), ("GET", "HEAD")] {
        let plan = json!({ "on_request_headers": [["replace", "request_headers", ":method", other]] });
        let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let first = if method == "HEAD" { raw.read_head().await.unwrap() } else { raw.read_response().await };
        assert_eq!(first.status(), 503);
        // The connection goes on: in the first of the two cases, GET is replaced by GET.
        let second = raw.read_response().await;
        let wrong = (503, "invalid header value for: :method".into());
        assert_eq!((second.status(), second.text()), if method == "HEAD" { (200, "hello".into()) } else { wrong });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_too_many_headers_goes_nowhere_and_the_filter_lives() {
    let origin = Origin::saying("hello").await;
    let add = |n| json!(["replace", "request_headers", format!("h{n}"), ""]);
    let many: Vec<_> = (0..4200).map(add).collect();
    let plan = json!({ "on_request_headers": [["if", "/many", many, []]] });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
    for (path, status) in [("/many", 503), ("/", 200)] {
        assert_eq!(send(http1().get(proxy.url(path))).await.status, status, "{path}");
    }
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
}
