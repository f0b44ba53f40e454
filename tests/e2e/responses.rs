//! Responses that the proxy makes itself, and what `wasm_http_filter_headers` does to them.

use serde_json::json;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_response_is_as_configured() {
    let local = "path = '/'\n\
        respond = { status = 201, body = \"made\\n\", headers = { x-a = '1', content-type = 'text/css' } }\n\
        [[server.local]]\npath = '/empty'\nrespond = { status = 204 }\n\
        [[server.local]]\npath = '/error'\nrespond = { status = 503 }";
    let proxy = Proxy::start(&server(local));

    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/any"))).await;
        assert_eq!((answer.status, answer.text()), (201, "made\n".into()));
        assert_eq!((answer.header("x-a"), answer.header("content-type")), (Some("1"), Some("text/css")));
        assert_eq!(answer.header("content-length"), Some("5"));

        let answer = send(client.get(proxy.url("/empty"))).await;
        assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (204, None, 0));

        let answer = send(client.get(proxy.url("/error"))).await;
        assert_eq!((answer.status, answer.text()), (503, "503 Service Unavailable\n".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_resets_the_content_leaves_the_connection_open() {
    let mut site = Site::new();
    site.route("/fixed", "respond = { status = 205 }");
    site.route("/streamed", "").script(
        "wasm_serverless",
        probe(
            "probe",
            "calls",
            &[json!(["out-set-response", { "status": 205 }]), json!(["socket-write", 0, "x", 1000])],
        ),
    );
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    for path in ["/fixed", "/streamed", "/fixed"] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let response = client.read_response().await;
        assert_eq!((response.status(), response.header("content-length")), (205, Some("0")), "{path}");
        assert_eq!(response.header("connection"), Some("keep-alive"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_whose_status_is_made_one_without_a_body_has_none() {
    let origin = Origin::saying("not for this response").await;
    let mut site = Site::new();
    for status in [204, 205, 304] {
        for phase in ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"] {
            let sets = probe("probe_sync", "sets", &[json!(["out-set-status", status])]);
            site.proxied(&format!("/{status}/{phase}"), origin.addr()).script(phase, sets);
        }
    }
    site.proxied("/", origin.addr());
    let proxy = Proxy::start(&site.to_string());
    for status in [204, 205, 304] {
        for phase in ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"] {
            let path = format!("/{status}/{phase}");
            let answer = send(http2().get(proxy.url(&path))).await;
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{path}");
            let mut client = Raw::connect(proxy.addr()).await;
            client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            let head = client.read_head().await.unwrap();
            let length = (status == 205).then_some("0");
            assert_eq!((head.status(), head.header("content-length")), (status, length), "{path}");
            assert_eq!(head.header("transfer-encoding"), None, "{path}");
            client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!(client.read_response().await.text(), "not for this response", "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_without_a_body_can_be_made_one_that_may_have_it() {
    let origin = RawOrigin::start(|mut client, _| async move {
        while let Some(request) = client.read_request().await {
            let status = match &request.line {
                line if line.contains("/304") => "304 Not Modified\r\ncontent-length: 5",
                line if line.contains("/0") => "200 OK\r\ncontent-length: 0",
                _ => "204 No Content",
            };
            client.send(format!("HTTP/1.1 {status}\r\netag: \"a\"\r\n\r\n")).await;
        }
    })
    .await;
    let mut site = Site::new();
    let sets = || probe("probe_sync", "sets", &[json!(["out-set-status", 200])]);
    for phase in ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"] {
        site.proxied(&format!("/{phase}"), origin.addr()).script(phase, sets());
    }
    let proxy = Proxy::start(&site.to_string());
    for phase in ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"] {
        let mut raw = Raw::connect(proxy.addr()).await;
        for path in [format!("/{phase}/204"), format!("/{phase}/304"), format!("/{phase}/0")] {
            let answer = soon(&path, send(http2().get(proxy.url(&path)))).await;
            assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
            raw.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            let response = raw.read_response().await;
            assert_eq!((response.status(), response.header("content-length")), (200, Some("0")), "{path}");
            assert_eq!(response.header("connection"), Some("keep-alive"), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_of_http_1_0_is_no_matter_of_the_client() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.0 200 OK\r\n\r\nhello").await;
    })
    .await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    let mut client = Raw::connect(proxy.addr()).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.read_response().await;
        assert_eq!((response.line.as_str(), response.text()), ("HTTP/1.1 200 OK", "hello".into()));
    }
    assert_eq!(send(http2().get(proxy.url("/"))).await.text(), "hello");
    let mut old = Raw::connect(proxy.addr()).await;
    old.send("GET / HTTP/1.0\r\naccept: */*\r\n\r\n").await;
    let answer = String::from_utf8(old.read_to_end().await).unwrap();
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_way_to_frame_a_response() {
    for (framing, body, status) in [
        ("content-length: 5\r\ncontent-length: 5", "hello", 200),
        ("content-length: 5, 5", "hello", 200),
        ("content-length: 05", "hello", 200),
        ("content-length: 5\r\ncontent-length: 4", "hello", 502),
        ("transfer-encoding: gzip, chunked", "5\r\nhello\r\n0\r\n\r\n", 502),
    ] {
        let whole = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{body}");
        let origin = RawOrigin::saying(whole.leak()).await;
        let proxy = Proxy::start(&proxy_to(origin.addr()));
        let mut client = Raw::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let response = client.read_response().await;
        assert_eq!(response.status(), status, "{framing}");
        let answer = send(http2().get(proxy.url("/"))).await;
        assert_eq!(answer.status, status, "{framing}");
        if status == 200 {
            assert_eq!((response.text().as_str(), answer.text().as_str()), ("hello", "hello"), "{framing}");
            let lengths: Vec<_> = response.headers.get_all("content-length").iter().collect();
            assert!(lengths.is_empty() || lengths == ["5"], "{framing}: {lengths:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_the_connection_to_the_origin_stays_there() {
    let origin = RawOrigin::saying(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x-hop, content-length, upgrade\r\nx-hop: 1\r\n\
         keep-alive: timeout=5\r\nupgrade: h2c\r\nte: x\r\nx-end: 1\r\n\r\nhello",
    )
    .await;
    // Nor do they pass where `connection` does not name them.
    let silent = RawOrigin::saying(
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nkeep-alive: timeout=5\r\nupgrade: h2c\r\nte: x\r\nx-end: 1\r\n\r\nhello",
    )
    .await;
    let mut site = Site::new();
    site.proxied("/", origin.addr());
    site.proxied("/silent", silent.addr());
    site.proxied("/adds", origin.addr())
        .script("wasm_http_filter_headers", probe("probe_sync", "adds", &[json!(["out-add-header", "x-hop", "own"])]));
    let proxy = Proxy::start(&site.to_string());
    for (client, path) in [(http1(), "/"), (http2(), "/"), (http1(), "/silent"), (http2(), "/silent")] {
        let answer = send(client.get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.text()), (200, "hello".into()));
        assert_eq!((answer.header("x-end"), answer.header("content-length")), (Some("1"), Some("5")));
        for name in ["x-hop", "keep-alive", "upgrade", "te"] {
            assert_eq!(answer.header(name), None, "{name}");
        }
    }
    assert_eq!(send(http1().get(proxy.url("/adds"))).await.header("x-hop"), Some("own"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_origin_says_what_it_received() {
    let proxy = Proxy::start(&server("path = '/'\necho = true"));

    let answer = send(http1().patch(proxy.url("/a?b")).header("x-a", "1").body("hello")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let seen = answer.json();
    assert_eq!(seen["method"], "PATCH");
    assert_eq!((&seen["uri"], &seen["version"]), (&json!("/a?b"), &json!("HTTP/1.1")));
    assert_eq!((&seen["body"], &seen["body_bytes"]), (&json!("hello"), &json!(5)));
    assert!(seen["headers"].as_array().unwrap().contains(&json!(["x-a", "1"])), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_see_every_response() {
    let origin = Origin::saying("origin").await;
    let down = DownOrigin::new();
    let steps = json!([
        { "call": "out-get-status" },
        { "deliver": "out-header:x-filter" },
        { "call": "out-del-header", "args": ["x-secret"] },
    ]);
    let filter = script("main.wasm_http_filter_headers", &guests::path("probe_sync"), &steps.to_string());
    let plugin_reply = json!([
        { "call": "out-set-response", "args": [{ "status": 418, "headers": [["x-secret", "1"]], "body": "tea" }] },
        { "verdict": "return" },
    ]);
    let config = format!(
        "{filter}[[server]]\n{LISTEN}\n\
         [[server.local]]\npath = '/fixed'\nrespond = {{ status = 200, body = 'fixed', headers = {{ x-secret = '1' }} }}\n\
         [[server.local]]\npath = '/echo'\necho = true\n\
         [[server.local]]\npath = '/proxied'\nproxy_pass = '{}'\n\
         [[server.local]]\npath = '/down'\nproxy_pass = '{}'\n\
         [[server.local]]\npath = '/replied'\necho = true\n{}\
         [[server.local]]\npath = '/refused'\necho = true\n{}\
         [[server.local]]\npath = '/failed'\necho = true\n{}\
         [[server.local]]\npath = '/serverless'\n{}",
        origin.addr(),
        down.addr(),
        script("wasm_access", &guests::path("probe"), &plugin_reply.to_string()),
        script("wasm_access", &guests::path("verdict"), "return"),
        script("wasm_access", &guests::path("verdict"), "err no"),
        script("wasm_serverless", &guests::path("probe"), &plugin_reply.to_string()),
    );
    let proxy = Proxy::start(&config);

    for client in [http1(), http2()] {
        for (path, status) in [
            ("/fixed", 200),
            ("/echo", 200),
            ("/proxied", 200),
            ("/down", 502),
            ("/replied", 418),
            ("/refused", 403),
            ("/failed", 500),
            ("/serverless", 418),
            ("/nowhere", 404),
        ] {
            let answer = send(client.get(proxy.url(path))).await;
            assert_eq!((answer.status, answer.header("x-secret")), (status, None), "{path}");
            let seen: serde_json::Value = serde_json::from_str(answer.header("x-filter").expect(path)).unwrap();
            assert_eq!(seen, json!([{ "ok": status }]), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_fails_is_a_500_without_what_it_should_have_filtered() {
    let origin = Origin::start(|_| {
        let mut answer = reply(200, "origin");
        answer.headers_mut().insert("x-secret", "1".parse().unwrap());
        answer
    })
    .await;
    for phase in ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"] {
        let config = proxy_to(origin.addr()) + &script(phase, &guests::path("verdict"), "err no backtrace here");
        let proxy = Proxy::start(&config);
        for client in [http1(), http2()] {
            let answer = send(client.get(proxy.url("/"))).await;
            assert_eq!((answer.status, answer.text()), (500, "500 Internal Server Error\n".into()), "{phase}");
            assert_eq!(answer.header("x-secret"), None);
        }
        let line = proxy.wait_for_log("no backtrace here");
        assert!(line.contains(&format!("script=verdict phase={phase} request=")), "{line}");
    }
}
