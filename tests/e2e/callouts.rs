//! `handle-http`: requests of plugins to other machines, over HTTP/1.1, HTTP/2 and HTTP/3.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Version};
use http_body_util::Full;
use serde_json::{Value, json};

use super::support::*;

/// Permits every test server.
const ALLOW: &str = r#"allow = { net = ["127.0.0.0/8"] }"#;

fn get(typ: &str, uri: impl Into<String>) -> Value {
    request(typ, json!({ "method": "get", "uri": uri.into() }))
}

fn request(typ: &str, request: Value) -> Value {
    json!(["handle-http", typ, request, 10_000])
}

/// A proxy with a route for each list of calls: `/0`, `/1`, …
fn routes(main: &str, lists: &[&[Value]]) -> Proxy {
    let mut site = Site::with(main);
    for (index, calls) in lists.iter().enumerate() {
        site.route(&format!("/{index}"), "").script("wasm_serverless", serve("caller", calls).key(ALLOW));
    }
    Proxy::start(&site.to_string())
}

async fn results_of(proxy: &Proxy, path: &str) -> Vec<Value> {
    let answer = send(http1().get(proxy.url(path))).await;
    assert_eq!(answer.status, 200, "{}", proxy.log());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The results of these calls.
async fn results_with(main: &str, calls: &[Value]) -> Vec<Value> {
    results_of(&routes(main, &[calls]), "/0").await
}

#[track_caller]
fn err(result: &Value) -> &str {
    result["err"].as_str().unwrap_or_else(|| panic!("{result} is no error"))
}

/// What the peer says when it has the whole request: the checksum of its body.
fn checksum(request: Received) -> Reply {
    reply(200, request.fnv())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_and_its_response_are_whole() {
    let answer = |request: Received| {
        let mut response = reply(if request.method == "HEAD" { 200 } else { 201 }, "created");
        response.headers_mut().append("x-two", HeaderValue::from_static("1"));
        response.headers_mut().append("x-two", HeaderValue::from_static("2"));
        response.headers_mut().insert("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        response
    };
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let plain = Origin::start(answer).await;
    let http1 = SecureOrigin::tls(&files, &["http/1.1"], answer).await;
    let http2 = SecureOrigin::tls(&files, &["h2", "http/1.1"], answer).await;
    let http3 = SecureOrigin::quic(&files, answer).await;
    let peers = [
        ("tcp", format!("http://localhost:{}", plain.addr().port())),
        ("ssl", http1.url("localhost", "")),
        ("ssl", http2.url("localhost", "")),
        ("quic", http3.url("localhost", "")),
    ];
    let calls = peers.iter().map(|(typ, url)| {
        request(
            typ,
            json!({
                "method": "post",
                "uri": format!("{url}/a%20b?c=d"),
                "params": [["q", "1 & 2"]],
                "headers": [["X-Own", "1"], ["x-own", "2"], ["host", "other.cn"], ["content-length", "4"]],
                "body": "body",
            }),
        )
    });
    let results = results_with(&authority.network(), &calls.collect::<Vec<_>>()).await;

    let received = [plain.received(), http1.received(), http2.received(), http3.received()].concat();
    let versions = [Version::HTTP_11, Version::HTTP_11, Version::HTTP_2, Version::HTTP_3];
    for ((result, received), version) in results.iter().zip(&received).zip(versions) {
        assert_eq!((&received.method, received.version), (&http::Method::POST, version));
        assert_eq!(received.uri, "/a%20b?c=d&q=1+%26+2");
        let host = received.header("host").or(received.authority.as_deref());
        assert_eq!(host, Some("other.cn"));
        let own: Vec<_> = received.headers.get_all("x-own").iter().collect();
        assert_eq!(own, ["1", "2"], "{version:?}");
        assert_eq!((&received.body[..], received.whole), (&b"body"[..], true));

        let response = &result["ok"];
        assert_eq!((&response["status"], &response["body"]), (&json!(201), &json!("created")), "{result}");
        let headers: Vec<_> = response["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|pair| pair[0].as_str().unwrap().starts_with("x-"))
            .collect();
        assert_eq!(headers, [&json!(["x-two", "1"]), &json!(["x-two", "2"]), &json!(["x-latin", "caf\u{fffd}"])]);
    }
    assert_eq!(received.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_whoever_calls() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let plain = Origin::start(checksum).await;
    let http1 = SecureOrigin::tls(&files, &["http/1.1"], checksum).await;
    let http2 = SecureOrigin::tls(&files, &["h2"], checksum).await;
    let http3 = SecureOrigin::quic(&files, checksum).await;
    let calls: Vec<_> = (0..3)
        .flat_map(|_| {
            [
                get("tcp", format!("http://{}/", plain.addr())),
                get("ssl", http1.url("localhost", "/")),
                get("ssl", http2.url("localhost", "/")),
                get("quic", http3.url("localhost", "/")),
            ]
        })
        .collect();
    // With several workers, each with a runtime of its own, and two scripts.
    let proxy = routes(&format!("threads = 3\n{}", authority.network()), &[&calls, &calls]);
    for run in 0..6 {
        for result in results_of(&proxy, &format!("/{}", run % 2)).await {
            assert_eq!(result["ok"]["status"], 200, "{result}");
        }
    }
    let origins = [plain.received(), http1.received(), http2.received(), http3.received()];
    for received in origins {
        assert_eq!(received.len(), 18);
        let connections: Vec<_> = received.iter().map(|request| request.connection).collect();
        assert!(connections.iter().all(|connection| *connection == 0), "{connections:?}");
    }
    for (transport, open) in [("tcp", 1.0), ("ssl", 2.0), ("quic", 1.0)] {
        assert_eq!(proxy.metric(&format!("phasegate_connections{{transport=\"{transport}\"}}")), open);
    }
    assert_eq!(proxy.metric("phasegate_callouts_total"), 72.0);
    assert_eq!(proxy.metric("phasegate_callout_failures_total"), 0.0);
    assert_eq!(proxy.metric("phasegate_callouts_in_flight"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_phase_can_call() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for phase in PHASES {
        let script = probe("probe", phase, &[get("tcp", format!("http://{}/from/{phase}", origin.addr()))]).key(ALLOW);
        site.proxied(&format!("/{phase}"), origin.addr()).script(phase, script);
    }
    let proxy = Proxy::start(&site.to_string());
    for phase in PHASES {
        assert_eq!(send(http1().get(proxy.url(&format!("/{phase}")))).await.status, 200, "{phase}");
        assert_eq!(results(&proxy, phase)[0]["ok"]["body"], "hello", "{phase}");
        assert!(origin.received().iter().any(|request| request.uri == format!("/from/{phase}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_in_the_background_call_over_the_same_connections() {
    let origin = Origin::saying("hello").await;
    let call = get("tcp", format!("http://{}/", origin.addr()));
    let deliver = json!({ "deliver": "log" });
    let session = format!(
        "[[wasm_session]]\nname = \"caller\"\nwasm_path = '{}'\nwasm_main_config = '''{}'''\n{ALLOW}\n",
        guests::path("probe").display(),
        json!([step(&call), deliver]),
    );
    let done = [json!(["main-session-id"]), json!(["session-send", "$1", "done"])].map(|call| step(&call));
    let spawned = json!([step(&call), done[0], deliver, done[1]]).to_string();
    let mut site = Site::with(&session);
    site.route("/named", "").script("wasm_serverless", serve("named", &[json!(["uniq-session-send", "caller", "go"])]));
    let spawner = serve("spawner", &[json!(["spawn", "wasm-main-ext1", spawned]), json!(["session-recv"])]);
    site.route("/spawn", "").script("wasm_serverless", spawner.key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    for (path, script) in [("/named", "caller"), ("/spawn", "spawner")] {
        results_of(&proxy, path).await;
        let given = results(&proxy, script);
        assert_eq!(given[0]["ok"]["body"], "hello", "{path} {given:?}");
    }
    let connections: Vec<_> = origin.received().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0], "the session, which has a runtime of its own, has opened it");
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_responses_without_a_body() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let answer = |request: Received| match request.uri.as_str() {
        "/204" => reply(204, ""),
        "/304" => reply(304, ""),
        "/302" => http::Response::builder().status(302).header("location", "/").body(Full::default()).unwrap(),
        // Hyper would send it over HTTP/2.
        _ if request.method == "HEAD" => reply(200, ""),
        _ => reply(200, request.method.to_string()),
    };
    let plain = Origin::start(answer).await;
    let http2 = SecureOrigin::tls(&files, &["h2"], answer).await;
    let http3 = SecureOrigin::quic(&files, answer).await;
    let peers = [
        ("tcp", format!("http://{}", plain.addr())),
        ("ssl", http2.url("localhost", "")),
        ("quic", http3.url("localhost", "")),
    ];
    let methods = ["get", "post", "put", "delete", "patch", "head", "options"];
    for (typ, url) in peers {
        let with = |method: &str, path: &str| request(typ, json!({ "method": method, "uri": format!("{url}{path}") }));
        let mut calls: Vec<_> = methods.iter().map(|method| with(method, "/")).collect();
        calls.extend(["/204", "/304", "/302"].map(|path| with("get", path)));
        let results = results_with(&authority.network(), &calls).await;
        for (method, result) in methods.iter().zip(&results) {
            let body = if *method == "head" { Value::Null } else { json!(method.to_uppercase()) };
            assert_eq!(
                (&result["ok"]["status"], &result["ok"]["body"]),
                (&json!(200), &body),
                "{typ} {method} {result}"
            );
        }
        let rest: Vec<_> = results[methods.len()..].iter().map(|r| (&r["ok"]["status"], &r["ok"]["body"])).collect();
        let (empty, none) = (json!(""), Value::Null);
        assert_eq!(rest, [(&json!(204), &none), (&json!(304), &none), (&json!(302), &empty)], "{typ}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_are_passed_over() {
    let origin = RawOrigin::saying(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let switching =
        RawOrigin::saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    let calls = [origin.addr(), switching.addr()].map(|addr| get("tcp", format!("http://{addr}/")));
    let results = results_with("", &calls).await;
    assert_eq!(results[0]["ok"]["body"], "ok");
    assert!(err(&results[1]).contains("101 Switching Protocols"), "{}", results[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_both_ways_up_to_the_limit() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let answer = |request: Received| match request.uri.strip_prefix("/give/") {
        Some(length) => reply(200, vec![b'y'; length.parse().unwrap()]),
        None => checksum(request),
    };
    let plain = Origin::start(answer).await;
    let http2 = SecureOrigin::tls(&files, &["h2"], answer).await;
    let http3 = SecureOrigin::quic(&files, answer).await;
    let endless = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        // Until the proxy has enough of it.
        while client.send("10000\r\n".to_owned() + &"z".repeat(0x10000) + "\r\n").await {}
    })
    .await;
    let limit = 300_000;
    let main = format!("{}body_limit = {limit}\n", authority.network());
    let peers = [
        ("tcp", format!("http://{}", plain.addr())),
        ("ssl", http2.url("localhost", "")),
        ("quic", http3.url("localhost", "")),
    ];
    let mut calls = Vec::new();
    for (typ, url) in peers {
        let post = |length| request(typ, json!({ "method": "post", "uri": format!("{url}/"), "body_length": length }));
        let give = |length| get(typ, format!("{url}/give/{length}"));
        calls.extend([post(limit), post(limit + 1), give(limit), give(limit + 1), give(2)]);
    }
    calls.push(get("tcp", format!("http://{}/", endless.addr())));
    let results = results_with(&main, &calls).await;
    for results in results[..15].chunks(5) {
        assert_eq!(results[0]["ok"]["body"], fnv(&vec![b'x'; limit]), "{}", results[0]);
        let too_large =
            |of| format!("the body of the {of} is larger than {limit} bytes: body_limit of [network] can permit more");
        assert_eq!(err(&results[1]), too_large("request"));
        assert_eq!(results[2]["ok"]["body"].as_str().map(str::len), Some(limit));
        assert_eq!(err(&results[3]), too_large("response"));
        assert_eq!(results[4]["ok"]["body"], "yy");
    }
    assert!(err(&results[15]).contains("is larger than"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_holds_at_every_stage() {
    let authority = Authority::new();
    let full = FullOrigin::start().await;
    let silent = RawOrigin::start(|mut client, _| async move { drop(client.read_to_end().await) }).await;
    let slow = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        client.read_to_end().await;
    })
    .await;
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let quick = Origin::saying("hello").await;
    let calls = [
        ("tcp", format!("http://{}/", full.addr())),
        ("tcp", format!("http://{}/", silent.addr())),
        ("ssl", format!("https://{}/", silent.addr())),
        ("tcp", format!("http://{}/", slow.addr())),
        ("quic", format!("https://{}/", udp.local_addr().unwrap())),
    ];
    let call = |typ: &str, uri: &str, ms| json!(["handle-http", typ, { "method": "get", "uri": uri }, ms]);
    let mut calls: Vec<_> = calls.iter().map(|(typ, uri)| call(typ, uri, 100)).collect();
    // No time at all.
    calls.extend(vec![call("tcp", &format!("http://{}/", quick.addr()), 0); 8]);
    let proxy = routes(&authority.network(), &[&calls]);
    let started = Instant::now();
    for (result, call) in results_of(&proxy, "/0").await.iter().zip(&calls) {
        let uri: http::Uri = call[2]["uri"].as_str().unwrap().parse().unwrap();
        let target = uri.authority().unwrap();
        assert_eq!(err(result), format!("no whole response from {target} within {} ms", call[3]));
    }
    assert!(started.elapsed() >= Duration::from_millis(500));
    assert!(quick.received().is_empty());
    assert_eq!(proxy.metric("phasegate_callout_failures_total"), 13.0);
    for transport in ["tcp", "ssl", "quic"] {
        proxy.wait_for_metric(&format!("phasegate_connections{{transport=\"{transport}\"}}"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_an_error() {
    let down = DownOrigin::new();
    let half = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    })
    .await;
    let garbage = RawOrigin::start(|mut client, _| async move {
        client.send("220 smtp.example.cn ESMTP\r\n\r\n").await;
        client.read_to_end().await;
    })
    .await;
    let closing = RawOrigin::start(|_, _| async {}).await;
    let calls = [
        ("tcp", "http", down.addr(), "cannot be connected: Connection refused"),
        ("tcp", "http", half.addr(), "no whole response"),
        ("tcp", "http", garbage.addr(), "no whole response"),
        ("tcp", "http", closing.addr(), "no whole response"),
        ("ssl", "https", garbage.addr(), "TLS with"),
        ("quic", "https", down.addr(), "cannot be connected"),
    ];
    let requests: Vec<_> =
        calls.iter().map(|(typ, scheme, addr, _)| json!(["handle-http", typ, { "method": "post", "uri": format!("{scheme}://{addr}/") }, 2000])).collect();
    let proxy = routes("", &[&requests]);
    for (result, (typ, _, addr, text)) in results_of(&proxy, "/0").await.iter().zip(&calls) {
        // Nobody says so where no UDP is listened on, or says it too late.
        if *typ == "quic" {
            err(result);
        } else {
            assert!(err(result).contains(text) && err(result).contains(&addr.to_string()), "{result}");
        }
    }
    assert_eq!(proxy.metric("phasegate_callout_failures_total"), 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_is_checked() {
    let uri = "http://127.0.0.1:1/";
    let long = "x".repeat(70_000);
    let bad = [
        (get("tcp", "/relative"), "is not an absolute URI"),
        (get("tcp", "ftp://127.0.0.1/"), "is not an absolute URI"),
        (get("tcp", "http://a b/"), "is not an absolute URI"),
        (get("tcp", format!("http://127.0.0.1/{long}")), "is not an absolute URI"),
        (get("tcp", "http://ä.cn/"), "is not an absolute URI"),
        (get("tcp", format!("{uri}ä")), "is not an absolute URI"),
        (
            request("tcp", json!({ "method": "get", "uri": uri, "headers": vec![["x-a", ""]; 5000] })),
            "there are too many headers",
        ),
        (get("tcp", "http://user:word@127.0.0.1/"), "is not an absolute URI"),
        (get("tcp", "http://127.0.0.1:99999/"), "is not"),
        (get("tcp", "https://127.0.0.1/"), "https does not go over tcp"),
        (get("ssl", uri), "http does not go over ssl"),
        (get("quic", uri), "http does not go over quic"),
        (request("tcp", json!({ "method": "get", "uri": uri, "headers": [["a b", "c"]] })), "not a valid header name"),
        (
            request("tcp", json!({ "method": "get", "uri": uri, "headers": [["a", "b\nc"]] })),
            "not a valid header value",
        ),
        (
            request("tcp", json!({ "method": "get", "uri": uri, "headers": [["connection", "close"]] })),
            "`connection` is about the connection",
        ),
        (
            request("tcp", json!({ "method": "get", "uri": uri, "headers": [["transfer-encoding", "chunked"]] })),
            "`transfer-encoding` belongs to the proxy",
        ),
        (
            request(
                "tcp",
                json!({ "method": "get", "uri": uri, "headers": [["content-length", "5"]], "body": "four" }),
            ),
            "content-length is \"5\" for a body of 4 bytes",
        ),
        (
            request("tcp", json!({ "method": "get", "uri": uri, "headers": [["host", "a b"]] })),
            "`a b` is not a valid host",
        ),
    ];
    let calls: Vec<_> = bad.iter().map(|(call, _)| call.clone()).collect();
    for (result, (call, text)) in results_with("", &calls).await.iter().zip(&bad) {
        assert!(err(result).contains(text), "{call} {result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified() {
    let (trusted, other) = (Authority::new(), Authority::new());
    let (files, elsewhere, unknown) =
        (trusted.issue("localhost"), trusted.issue("elsewhere.cn"), other.issue("localhost"));
    let ok = |_: Received| reply(200, "");
    let mut calls = Vec::new();
    let mut origins = Vec::new();
    for files in [&files, &elsewhere, &unknown] {
        let tls = SecureOrigin::tls(files, &["h2"], ok).await;
        let quic = SecureOrigin::quic(files, ok).await;
        calls.extend([get("ssl", tls.url("localhost", "/")), get("quic", quic.url("localhost", "/"))]);
        origins.extend([tls, quic]);
    }
    // The name in `host` is no name of the server.
    let uri = origins[2].url("localhost", "/");
    calls.push(request("ssl", json!({ "method": "get", "uri": uri, "headers": [["host", "elsewhere.cn"]] })));
    let results = results_with(&trusted.network(), &calls).await;
    for result in &results[..2] {
        assert_eq!(result["ok"]["status"], 200, "{result}");
    }
    for (results, text) in
        [(&results[2..4], "localhost"), (&results[4..6], "certificate"), (&results[6..], "localhost")]
    {
        for result in results {
            assert!(err(result).contains("certificate") && err(result).contains(text), "{result}");
        }
    }
    assert!(origins[2..].iter().all(|origin| origin.received().is_empty()));
    // Without `ca` it is the system that knows whom to trust.
    let results = results_with("", &calls[..1]).await;
    assert!(err(&results[0]).contains("certificate"), "{results:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_connection_costs_nothing_but_another_try() {
    // Every connection is good for one response: the next request is read, and not answered.
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        client.read_request().await;
    })
    .await;
    // Closed at once, which the proxy may see or not.
    let closing = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let with = |method: &str, addr| request("tcp", json!({ "method": method, "uri": format!("http://{addr}/") }));
    let stale = ["get", "get", "put", "delete", "post", "get"].map(|method| with(method, origin.addr()));
    let closed: Vec<_> = (0..10).map(|_| with("get", closing.addr())).collect();
    let proxy = routes("", &[&stale, &closed]);
    let results = results_of(&proxy, "/0").await;
    let ok = results.iter().map(|result| result["ok"]["body"] == "ok").collect::<Vec<_>>();
    // What may have been done must not be done again unasked.
    assert_eq!(ok, [true, true, true, true, false, true], "{results:?}");
    assert!(err(&results[4]).contains("no whole response"));
    for result in results_of(&proxy, "/1").await {
        assert_eq!(result["ok"]["body"], "ok", "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_kept_one_call_waiting_gets_no_other() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let http1 = SecureOrigin::tls(&files, &["http/1.1"], checksum).await;
    let http2 = SecureOrigin::tls(&files, &["h2"], checksum).await;
    let http3 = SecureOrigin::quic(&files, checksum).await;
    for (typ, origin) in [("ssl", &http1), ("ssl", &http2), ("quic", &http3)] {
        let ok = get(typ, origin.url("localhost", "/"));
        let hang = json!(["handle-http", typ, { "method": "get", "uri": origin.url("localhost", "/hang") }, 300]);
        let proxy = routes(&authority.network(), &[&[ok.clone(), hang, ok]]);
        let results = results_of(&proxy, "/0").await;
        assert!(err(&results[1]).contains("within 300 ms"), "{results:?}");
        assert_eq!(results[2]["ok"]["status"], 200, "{results:?}");
        let connections: Vec<_> = origin.received().iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1]);
        proxy.wait_for_metric(&format!("phasegate_connections{{transport=\"{typ}\"}}"), 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_no_more_than_permitted() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let held = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let permits = held.clone();
    let origin = Origin::start_async(move |_| {
        let permits = permits.clone();
        async move {
            permits.acquire().await.unwrap().forget();
            reply(200, Bytes::from_static(b"ok"))
        }
    })
    .await;
    let http2 = SecureOrigin::tls(&files, &["h2"], checksum).await;
    let http3 = SecureOrigin::quic(&files, checksum).await;
    let main = format!("threads = 3\n{}max_callouts = 20\n", authority.network());
    let secure = [get("ssl", http2.url("localhost", "/")), get("quic", http3.url("localhost", "/"))];
    let proxy = routes(&main, &[&[get("tcp", format!("http://{}/", origin.addr()))], &secure]);

    let client = http1();
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(send(client.get(proxy.url("/0"))))).collect();
    proxy.wait_for_metric("phasegate_callouts_in_flight", 20.0);
    let refused = results_of(&proxy, "/0").await;
    assert_eq!(err(&refused[0]), "20 callouts are in flight already, as many as max_callouts of [network] permits");
    held.add_permits(20);
    for call in calls {
        assert_eq!(call.await.unwrap().json()[0]["ok"]["body"], "ok");
    }
    proxy.wait_for_metric("phasegate_callouts_in_flight", 0.0);
    assert_eq!(origin.received().len(), 20);

    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(send(client.get(proxy.url("/1"))))).collect();
    for call in calls {
        let results = call.await.unwrap().json();
        assert_eq!((&results[0]["ok"]["status"], &results[1]["ok"]["status"]), (&json!(200), &json!(200)), "{results}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_gives_its_calls_up() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let gone = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = gone.clone();
    let silent = RawOrigin::start(move |mut client, _| {
        let count = count.clone();
        async move {
            client.read_to_end().await;
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    })
    .await;
    let endpoint = files.quic_endpoint("h3");
    let quic = endpoint.local_addr().unwrap();
    let mut site = Site::with(&authority.network());
    let uris = [("tcp", format!("http://{}/", silent.addr())), ("quic", format!("https://localhost:{}/", quic.port()))];
    for (typ, uri) in &uris {
        let late = json!([{ "call": "sleep", "args": [200] }, { "verdict": "return" }]);
        let script =
            serve("caller", &[get(typ, uri)]).key(ALLOW).key(format!("wasm_main_timeout_config = '''{late}'''"));
        site.route(&format!("/{typ}"), "").script("wasm_serverless", script);
    }
    let proxy = Proxy::start(&site.to_string());
    let accepted = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        connection.closed().await
    });
    for (typ, _) in &uris {
        let answer = send(http1().get(proxy.url(&format!("/{typ}")))).await;
        assert_eq!((answer.status, answer.text()), (200, String::new()), "the timeout wins");
    }
    eventually("the peer sees its connection end", || gone.load(std::sync::atomic::Ordering::Relaxed) == 1);
    soon("the end of the QUIC connection", accepted).await.unwrap();
    proxy.wait_for_metric("phasegate_callouts_in_flight", 0.0);
    for transport in ["tcp", "quic"] {
        proxy.wait_for_metric(&format!("phasegate_connections{{transport=\"{transport}\"}}"), 0.0);
    }
}

#[test]
fn authorities_that_are_no_good_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    for (text, why) in [
        ("", "there is no certificate in"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is of no use"),
        ("-----BEGIN CERTIFICATE-----\n", "cannot be used: it is cut off"),
    ] {
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, text).unwrap();
        let site = format!("[network]\nca = '{}'\n{}", ca.display(), server("path = '/'\necho = true"));
        let output = check(&site);
        assert_eq!(output.code, Some(1));
        assert!(output.stderr.contains(why) && output.stderr.contains("`ca` is a PEM file"), "{}", output.stderr);
    }
}
