//! HTTP as it is spoken between clients, proxy and origins, as long as all goes well.

use std::sync::Arc;

use tokio::sync::Notify;

use super::filters::pw_probe;
use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_origin_and_its_response_comes_back() {
    let origin = Origin::start(|_| {
        let mut answer = reply(200, "hello");
        answer.headers_mut().insert("x-origin", "1".parse().unwrap());
        answer
    })
    .await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/a%20b?c=d%2F&c")).header("x-client", "2")).await;
        assert_eq!((answer.status, answer.text(), answer.header("x-origin")), (200, "hello".into(), Some("1")));
        let received = origin.last();
        assert_eq!((received.uri.as_str(), received.header("x-client")), ("/a%20b?c=d%2F&c", Some("2")));
        assert_eq!(received.header("host"), Some(proxy.addr().to_string().as_str()));
    }
    proxy.wait_for_metric("phasegate_requests_total{status=\"2xx\"}", 2.0);
    proxy.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_many_requests_of_all_kinds() {
    let origin = Origin::start(|request| match request.uri.as_str() {
        "/204" => reply(204, ""),
        "/304" => reply(304, ""),
        _ => reply(200, format!("{} {}", request.uri, String::from_utf8_lossy(&request.body))),
    })
    .await;
    let local = "\n[[server.local]]\npath = '/fixed'\nrespond = { status = 200, body = 'fixed' }";
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + local));
    let mut client = Raw::connect(proxy.addr()).await;

    for _ in 0..3 {
        client.send("GET /a HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.read_response().await.text(), "/a ");

        client.send("POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
        assert_eq!(client.read_response().await.text(), "/b abc");

        client.send("POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.send("2\r\nab\r\n1;ext=1\r\nc\r\n0\r\n\r\n").await;
        assert_eq!(client.read_response().await.text(), "/c abc");

        client.send("HEAD /d HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = client.read_head().await.unwrap();
        assert_eq!((head.status(), head.header("content-length")), (200, Some("3")));

        for status in [204, 304] {
            client.send(format!("GET /{status} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            let response = client.read_response().await;
            assert_eq!((response.status(), response.header("transfer-encoding")), (status, None));
        }
        for (method, body) in [("GET", "fixed"), ("HEAD", "")] {
            client.send(format!("{method} /fixed HTTP/1.1\r\nhost: a\r\n\r\n")).await;
            let response = client.read_head().await.unwrap();
            assert_eq!((response.status(), response.header("content-length")), (200, Some("5")));
            assert_eq!(client.read_exact(body.len()).await, body.as_bytes());
        }
    }
    client.send("GET /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "/a ");
    assert!(client.is_closed().await);
    // One connection to the origin; Pingora opens another where it is just looking at one that is idle.
    let connections = origin.received().iter().map(|request| request.connection).max().unwrap() + 1;
    assert!(connections <= 4, "{connections} connections for {} requests", origin.received().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_clients_get_what_they_understand() {
    let origin = RawOrigin::saying(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    )
    .await;
    let local = "\n[[server.local]]\npath = '/fixed'\nrespond = { status = 200, body = 'hello world' }";
    // With `h2`: no request is too short to be told from HTTP/2.
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + local));

    for (path, ask) in [("/", ""), ("/fixed", ""), ("/", "connection: keep-alive\r\n")] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("GET {path} HTTP/1.0\r\n{ask}\r\n")).await;
        let head = client.read_head().await.unwrap();
        assert_eq!((head.status(), head.header("transfer-encoding")), (200, None), "{path}");
        assert_eq!(head.header("connection"), Some("close"), "{path} {ask}");
        assert_eq!(client.read_to_end().await, b"hello world", "{path}");
    }

    // A body of known length needs no end of the connection.
    let mut client = Raw::connect(proxy.addr()).await;
    for _ in 0..2 {
        client.send("GET /fixed HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        let response = client.read_response().await;
        assert_eq!((response.header("connection"), response.text()), (Some("keep-alive"), "hello world".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_response_arrives_as_it_is_made() {
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let origin = RawOrigin::start(move |mut client, _| {
        let gate = gate.clone();
        async move {
            client.read_request().await;
            client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            gate.notified().await;
            client.send("4\r\nlast\r\n0\r\n\r\n").await;
            client.read_request().await;
        }
    })
    .await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    for client in [http1(), http2()] {
        let mut response = client.get(proxy.url("/")).send().await.unwrap();
        assert_eq!(soon("the first chunk", response.chunk()).await.unwrap().unwrap(), "first");
        go_on.notify_one();
        assert_eq!(soon("the last chunk", response.text()).await.unwrap(), "last");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn big_bodies_go_through_whole() {
    const SIZE: usize = 8 << 20;
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    for client in [http1(), http2()] {
        let answer = send(client.post(proxy.url("/")).body(bytes(SIZE))).await;
        assert_eq!((answer.body.len(), fnv(&answer.body)), (SIZE, fnv(&bytes(SIZE))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_share_an_http_2_connection() {
    let all_here = Arc::new(tokio::sync::Barrier::new(20));
    let origin = Origin::start_async(move |request| {
        let all_here = all_here.clone();
        async move {
            all_here.wait().await;
            reply(200, request.body)
        }
    })
    .await;
    let steps = r#"[{"call": "in-body-read-exact"}]"#;
    let config = proxy_to(origin.addr()) + &script("wasm_access", &guests::path("probe"), steps);
    let proxy = Proxy::start(&config);

    let client = http2();
    let requests = (0..20).map(|n| send(client.put(proxy.url("/")).body(format!("body {n}"))));
    let answers = futures::future::join_all(requests).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!((answer.status, answer.text()), (200, format!("body {n}")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_may_go_on_once() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let echo = Proxy::start(&server("path = '/'\necho = true"));
    let read = script("wasm_access", &guests::path("probe"), r#"[{"call": "in-body-read-exact"}]"#);
    let refuse = script("wasm_access", &guests::path("verdict"), "return");
    let locals = format!(
        "[[server.local]]\npath = '/read'\nproxy_pass = '{}'\n{read}\
         [[server.local]]\npath = '/echo'\necho = true\n\
         [[server.local]]\npath = '/refused'\necho = true\n{refuse}\n\
         [[server.local]]\npath = '/h2'\nproxy_pass = 'h2'\n\
         [[server.local]]\npath = '/h2-filtered'\nproxy_pass = 'h2'\n{}\n\
         [upstream.h2]\nservers = [{{ addr = '{}' }}]\nh2 = true\n",
        origin.addr(),
        pw_probe(&serde_json::json!({})),
        echo.addr()
    );
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &locals));
    let expecting =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");

    for path in ["/", "/read", "/echo", "/h2", "/h2-filtered"] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(expecting(path)).await;
        assert_eq!(client.read_response().await.status(), 100, "{path}");
        client.send("hello").await;
        // Not a second time, now by the origin.
        let response = client.read_response().await;
        assert_eq!(response.status(), 200, "{path}");
        assert!(response.text().contains("hello"), "{path}");
        // Where the proxy has said it itself, the upstream is not asked.
        assert_eq!(response.text().contains("expect"), path == "/echo", "{path}");
    }

    let mut client = Raw::connect(proxy.addr()).await;
    client.send(expecting("/refused")).await;
    assert_eq!(client.read_response().await.status(), 403);

    // A client of HTTP/1.0 cannot ask.
    for path in ["/read", "/echo"] {
        let mut old = Raw::connect(proxy.addr()).await;
        old.send(expecting(path).replace("HTTP/1.1", "HTTP/1.0") + "hello").await;
        assert_eq!(old.read_response().await.status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_go_by_and_chains_run_on_the_final_one() {
    let origin = RawOrigin::saying(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\ncontent-length: 5\r\nconnection: close\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nlink: </b.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    )
    .await;
    let mark = |phase| {
        let steps = format!(r#"[{{"call": "out-add-header", "args": ["x-{}", "1"]}}]"#, phase_name(phase));
        script(phase, &guests::path("probe_sync"), &steps)
    };
    let phases = ["wasm_http_filter_headers_pre", "wasm_http_filter_headers"];
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &phases.map(mark).concat()));

    let mut client = Raw::connect(proxy.addr()).await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    for link in ["</a.css>; rel=preload", "</b.css>; rel=preload"] {
        let hints = client.read_response().await;
        assert_eq!((hints.status(), hints.header("link")), (103, Some(link)));
        // What would have the client wait for a body, or close the connection.
        assert_eq!((hints.header("content-length"), hints.header("connection")), (None, None));
        assert!(phases.iter().all(|phase| hints.header(&format!("x-{}", phase_name(phase))).is_none()));
    }
    let response = client.read_response().await;
    assert_eq!((response.status(), response.text()), (200, "hello".into()));
    for phase in phases {
        assert_eq!(response.headers.get_all(format!("x-{}", phase_name(phase))).iter().count(), 1);
        let runs = format!("phasegate_plugin_runs_total{{script=\"probe_sync\",phase=\"{phase}\"}}");
        assert_eq!(proxy.metric(&runs), 1.0);
    }
    // Clients of HTTP/1.0 do not know them (RFC 9110, section 15.2).
    let mut old = Raw::connect(proxy.addr()).await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.read_response().await.status(), 200);
}

fn phase_name(directive: &str) -> String {
    directive.replace('_', "-")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_is_never_taken_for_a_request() {
    let origin = Origin::saying("origin").await;
    let refuse = script("wasm_access", &guests::path("verdict"), "return");
    let locals = format!(
        "[[server.local]]\npath = '/fixed'\nrespond = {{ status = 200, body = 'fixed' }}\n\
         [[server.local]]\npath = '/refused'\necho = true\n{refuse}"
    );
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &locals));
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let length = smuggled.len();
    let framings = [
        (format!("content-length: {length}"), smuggled.to_owned()),
        ("transfer-encoding: chunked".to_owned(), format!("{length:x}\r\n{smuggled}\r\n0\r\n\r\n")),
    ];

    for (path, status) in [("/fixed", 200), ("/refused", 403)] {
        for (framing, body) in &framings {
            let mut client = Raw::connect(proxy.addr()).await;
            client.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n{body}")).await;
            assert_eq!(client.read_response().await.status(), status);
            client.send("GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            client.read_to_end().await;
        }
    }
    assert!(origin.received().iter().all(|request| request.uri == "/next"), "{:?}", origin.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_no_path_does_not_get_around_a_route() {
    let origin = Origin::saying("secret").await;
    let mut site = Site::new();
    site.proxied("/", origin.addr());
    site.route("/private", "respond = { status = 403, body = 'private' }");
    let proxy = Proxy::start(&site.to_string());
    for target in ["private", "x/../private", "?/private", " /private", "\t/private", "*", "", "http:private"] {
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(raw.read_response().await.status(), 400, "{target:?}");
        assert!(raw.is_closed().await, "{target:?}");
    }
    assert!(origin.received().is_empty());
    for target in ["/private", "//private", "/x/../private", "/%70rivate", "http://a/private"] {
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(raw.read_response().await.status(), 403, "{target:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    for (hosts, status) in [
        ("", 400),
        ("host: a\r\nhost: b\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: a/private\r\n", 400),
        ("host:\r\n", 200),
        ("host: a_b.c:80\r\n", 200),
        ("host: [::1]:80\r\n", 200),
    ] {
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("GET / HTTP/1.1\r\naccept: */*\r\n{hosts}\r\n")).await;
        assert_eq!(raw.read_response().await.status(), status, "{hosts:?}");
    }
    // HTTP/1.0 needs none; the upstream, which is asked in HTTP/1.1, does.
    let mut raw = Raw::connect(proxy.addr()).await;
    raw.send("GET / HTTP/1.0\r\naccept: */*\r\n\r\n").await;
    assert_eq!(raw.read_response().await.status(), 200);
    assert_eq!(origin.last().header("host"), Some("127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_early_wait_for_their_turn() {
    let origin = Origin::start(|request| reply(200, request.uri)).await;
    let mut site = Site::new();
    site.proxied("/", origin.addr()).answered("/fixed");
    let proxy = Proxy::start(&site.to_string());
    let mut raw = Raw::connect(proxy.addr()).await;
    let request = |path| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let paths = ["/a", "/fixed", "/b", "/c"];
    raw.send(paths.map(request).concat()).await;
    for path in paths {
        let text = raw.read_response().await.text();
        assert_eq!(text, if path == "/fixed" { "hello" } else { path });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_no_other() {
    let slow = script("wasm_serverless", &guests::path("verdict"), "sleep 2500 then ok");
    for h2 in [false, true] {
        let mut site = Site::with("keepalive_timeout_ms = 1000");
        site.listen(format!("listen = [{{ addr = '127.0.0.1:0', h2 = {h2} }}]"));
        site.answered("/").route("/slow", &slow);
        let proxy = Proxy::start(&site.to_string());

        let mut served = Raw::connect(proxy.addr()).await;
        served.send("GET / HTTP/1.1\r\nhost: a\r\nkeep-alive: timeout=1000\r\n\r\n").await;
        assert_eq!(served.read_response().await.status(), 200);
        let silent = Raw::connect(proxy.addr()).await;
        let mut begun = Raw::connect(proxy.addr()).await;
        begun.send("GET / HTTP/1.1\r\nhost: a\r\nx-endless").await;
        // With which HTTP/2 begins, too.
        let mut short = Raw::connect(proxy.addr()).await;
        short.send("PRI").await;
        let mut other = Raw::connect(proxy.addr()).await;
        other.send("PRI / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(other.read_response().await.status(), 200);
        for mut idle in [served, silent, begun, short, other] {
            assert!(soon("the end of the connection", idle.is_closed()).await);
        }

        let mut busy = Raw::connect(proxy.addr()).await;
        busy.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(busy.read_response().await.status(), 200);
        let client = if h2 { http2() } else { http1() };
        assert_eq!(send(client.get(proxy.url("/slow"))).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_switches_protocols_unasked() {
    let origin =
        RawOrigin::saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 502);
    // Nor to another protocol.
    let asking = http1().get(proxy.url("/")).header("connection", "upgrade").header("upgrade", "websocket");
    assert_eq!(send(asking).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn close_ends_the_connection_in_whichever_line_it_stands() {
    let mut site = Site::new();
    site.answered("/");
    let proxy = Proxy::start(&site.to_string());
    for (lines, closes) in [
        ("connection: close\r\n", true),
        ("connection: keep-alive\r\nconnection: close\r\n", true),
        ("connection: keep-alive\r\nconnection: x-a, Close\r\n", true),
        ("connection: keep-alive\r\nconnection: x-a\r\n", false),
        ("", false),
    ] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n")).await;
        let response = client.read_response().await;
        assert_eq!(response.header("connection"), Some(if closes { "close" } else { "keep-alive" }), "{lines}");
        if closes {
            assert!(client.is_closed().await, "{lines}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_connection_does_not_name_is_none() {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    for (connection, upgrade) in [("keep-alive", None), ("keep-alive, upgrade", Some("websocket"))] {
        let asking = http1().get(proxy.url("/")).header("connection", connection).header("upgrade", "websocket");
        assert_eq!(send(asking).await.status, 200, "{connection}");
        assert_eq!(origin.last().header("upgrade"), upgrade, "{connection}");
    }
}
