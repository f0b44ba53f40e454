//! Requests that mean one thing to the proxy and another to an upstream, to get around a check.

use serde_json::{Value, json};

use super::filters::pw_probe;
use super::support::*;

/// A script that lets nobody through.
fn refuses() -> String {
    script("wasm_access", &guests::path("verdict"), "return")
}

/// Of the answer to a request with this target and host, on a connection of its own.
async fn status(proxy: &Proxy, target: &str, host: &str) -> u16 {
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    client.read_response().await.status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_does_not_dodge_the_checks_of_a_local_that_servers_may_take_it_for() {
    let origin = Origin::saying("secret").await;
    let addr = origin.addr();
    let refuses = refuses();
    let local = |path: &str, more: &str| format!("[[server.local]]\npath = '{path}'\n{more}\n");
    let pass = format!("proxy_pass = '{addr}'\n");
    let config = [
        format!("[[server]]\n{LISTEN}\n"),
        local("/", &pass),
        local("/private/", &(pass.clone() + &refuses)),
        local("/blocked/", "respond = { status = 403 }"),
        local("/same/", &pass),
    ]
    .concat();
    let proxy = Proxy::start(&config);
    for target in ["/private/a", "//private/a", "/x/../private/a", "/private%2fa"] {
        assert_eq!(status(&proxy, target, "a").await, 403, "{target}");
    }
    for target in [
        "/private//../a",
        "/private\\a",
        "/x\\..\\private/a",
        "/x/%2e%2e\\private\\a",
        "/x/..%5cprivate/a",
        "/private/../pub",
        "/private/%2e%2e/pub",
        "/private/..%2fpub",
        "/x/..;/private/a",
        "/private;x/a",
        "/a/..//private/x//../../secret",
        "/a/../private;/;/../a",
        "/same/../private//a",
        "/a/../private/%2e%2e/pub",
        "/blocked/..%2fpub",
        "/blocked\\a",
    ] {
        assert_eq!(status(&proxy, target, "a").await, 400, "{target}");
    }
    assert!(origin.received().is_empty(), "{:?}", origin.received());
    // Where all readings are equally free, nothing is refused; what goes upstream is the path as it came.
    let free = ["/a%20b", "//a//b", "/a%2fb", "/a;b=c/d", "/a/./b", "/.well-known/x", "/same//x", "/same/../x"];
    for target in free {
        assert_eq!(status(&proxy, target, "a").await, 200, "{target}");
    }
    assert_eq!(origin.received().iter().map(|request| request.uri.as_str()).collect::<Vec<_>>(), free);
}

/// What is refused before it has a route is filtered and logged as what no route matches.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_passes_the_chains_of_its_server() {
    let origin = Origin::saying("secret").await;
    let adds = |header: &str| json!([step(&json!(["out-add-header", header, "1"]))]).to_string();
    let status_logged = json!([step(&json!(["variable", "status"])), { "deliver": "log" }]).to_string();
    let probe = guests::path("probe_sync");
    let local = |path: &str, more: &str| format!("[[server.local]]\npath = '{path}'\n{more}\n");
    let pass = format!("proxy_pass = '{}'\n", origin.addr());
    let config = [
        script("main.wasm_http_filter_headers", &probe, &adds("x-main")),
        format!("[[server]]\n{LISTEN}\n"),
        format!("[[server]]\n{LISTEN}\nname = ['named']\n"),
        script("server.wasm_http_filter_headers", &probe, &adds("x-server")),
        script("server.wasm_access_log", &probe, &status_logged),
        local("/", &pass),
        local("/private/", &(pass.clone() + &refuses())),
    ]
    .concat();
    let proxy = Proxy::start(&config);
    let of_server = [
        "GET /private/..%2fpub HTTP/1.1\r\nhost: named\r\n",
        "GET a HTTP/1.1\r\nhost: named\r\n",
        "GET / HTTP/1.1\r\nhost: named\r\nconnection: host\r\n",
    ];
    let of_none = ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: a b\r\n"];
    for (request, server) in
        of_server.map(|request| (request, true)).into_iter().chain(of_none.map(|request| (request, false)))
    {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("{request}\r\n")).await;
        let response = client.read_response().await;
        assert_eq!(response.status(), 400, "{request}");
        let has = |name: &str| response.headers.contains_key(name);
        assert_eq!((has("x-main"), has("x-server")), (!server, server), "{request}");
    }
    assert!(proxy.terminate().success());
    let log = proxy.log();
    assert_eq!(log.matches("probe: [{\"ok\":\"400\"}]").count(), of_server.len(), "{log}");
    assert!(origin.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_escaped_slash_does_not_dodge_a_regex() {
    let origin = Origin::saying("secret").await;
    let local = |regex: &str, more: &str| {
        format!("[[server.local]]\nregex = '{regex}'\nproxy_pass = '{}'\n{more}\n", origin.addr())
    };
    let config = format!("[[server]]\n{LISTEN}\n") + &local("^/u/[^/]+/admin", &refuses()) + &local(".", "");
    let proxy = Proxy::start(&config);
    for (target, expected) in
        [("/u/a/admin", 403), ("/u/a%2fb/admin", 400), ("//u/a/admin", 403), ("/u//admin/admin", 403), ("/u/a/b", 200)]
    {
        assert_eq!(status(&proxy, target, "a").await, expected, "{target}");
    }
}

/// PCRE's `$` also matches before a newline at the end, a NUL may end a path, and `urlsplit` leaves newlines out.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_character_does_not_dodge_the_end_of_a_regex() {
    let origin = Origin::saying("secret").await;
    let local = |regex: &str, more: &str| {
        format!("[[server.local]]\nregex = '{regex}'\nproxy_pass = '{}'\n{more}\n", origin.addr())
    };
    let config = format!("[[server]]\n{LISTEN}\n") + &local(r"\.php$", &refuses()) + &local(".", "");
    let proxy = Proxy::start(&config);
    for (target, expected) in [
        ("/x.php", 403),
        ("/x.php%0a", 400),
        ("/x.php%00.jpg", 400),
        ("/x.p%0ahp", 400),
        ("/x.jpg%20", 200),
        ("/x%0a.php", 400),
    ] {
        assert_eq!(status(&proxy, target, "a").await, expected, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_too_many_is_no_matter_of_other_upstreams() {
    let (all, api) = (Origin::saying("all").await, Origin::saying("api").await);
    let mut site = Site::new();
    site.proxied("/", all.addr());
    site.proxied("/api/", api.addr());
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    for target in ["/api//x", "/./api/x", "/api///./x"] {
        client.send(format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(client.read_response().await.text(), "api", "{target}");
    }
}

/// As `urlsplit` of Python and `new URL(target, base)` of WHATWG do.
#[tokio::test(flavor = "multi_thread")]
async fn what_some_servers_take_for_a_host_does_not_dodge_the_path_behind_it() {
    let origin = Origin::start(|request| reply(200, request.uri)).await;
    let local =
        |path: &str, more: &str| format!("[[server.local]]\n{path}\nproxy_pass = '{}'\n{more}\n", origin.addr());
    let refuses = refuses();
    let open_root = [local("path = '/'", ""), local("path = '/images/'", &refuses)].concat();
    let open_folder = [local("path = '/public'", ""), local("path = '/'", &refuses)].concat();
    let regexes = [local("regex = '^/u/[^/]+/admin'", &refuses), local("regex = '.'", "")].concat();
    for (locals, targets) in [
        (
            &open_root,
            &[
                ("/images/a.png", 403),
                ("//images/a.png", 403),
                ("//x/images/a.png", 400),
                ("///x/images/a.png", 400),
                ("//x//images/a.png", 400),
                ("/.//x/images/a.png", 400),
                ("/\\x/images/a.png", 400),
                ("\\/x/images/a.png", 400),
                ("//x/%69mages/a.png", 400),
                ("//x/a.png", 200),
                ("///x//a.png", 200),
                ("//x", 200),
                ("//", 200),
                ("/x//images/a.png", 200),
            ][..],
        ),
        (&open_folder, &[("//public/admin", 400), ("//public/public", 200), ("/public//admin", 200)]),
        (&regexes, &[("//x/u/a/admin", 400), ("/x//u/a/admin", 200), ("//x/u", 200)]),
    ] {
        let proxy = Proxy::start(&(format!("[[server]]\n{LISTEN}\n") + locals));
        for (target, expected) in targets {
            assert_eq!(status(&proxy, target, "a").await, *expected, "{target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_does_not_dodge_the_server_of_its_name() {
    let origin = Origin::saying("secret").await;
    let server = |names: &str, more: &str| {
        format!("[[server]]\n{LISTEN}\n{names}\n[[server.local]]\npath = '/'\nproxy_pass = '{}'\n{more}", origin.addr())
    };
    let config = server("", "") + &server("name = ['secure.example.cn']", &refuses());
    let proxy = Proxy::start(&config);
    for (host, expected) in [
        ("secure.example.cn", 403),
        ("SECURE.example.cn:80", 403),
        ("secure.example.cn.", 403),
        ("secure.example.cn.:80", 403),
        ("secure.example.cn:", 403),
        ("secure.example.cn:x", 400),
        ("secure.example.cn:80:80", 400),
        ("x@secure.example.cn", 400),
        ("%73ecure.example.cn", 400),
        ("secure.example.cn..", 400),
        ("secure.example.cn,x", 400),
    ] {
        assert_eq!(status(&proxy, "/", host).await, expected, "{host}");
    }
    assert!(origin.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_nobodys_and_ends_the_connection() {
    let origin = Origin::saying("origin").await;
    let reads = [json!(["in-body-read-exact"]), json!(["in-body-read-exact"])];
    let mut site = Site::new();
    site.proxied("/ok", origin.addr());
    site.proxied("/reads", origin.addr()).script("wasm_access", probe("probe", "reads", &reads));
    site.proxied("/later", origin.addr()).script("wasm_http_in_headers", probe("probe", "later", &reads));
    site.proxied("/waits", origin.addr())
        .script("wasm_access", Script::guest("verdict", "waits").main("sleep 300 then ok"));
    site.proxied("/refuses", origin.addr())
        .script("wasm_access", Script::guest("verdict", "no").main("sleep 300 then return"));
    site.route("/echo", "echo = true");
    let proxy = Proxy::start(&site.to_string());
    for (path, status) in [("/reads", 400), ("/later", 400), ("/waits", 400), ("/refuses", 403), ("/echo", 400)] {
        let mut client = Raw::connect(proxy.addr()).await;
        client
            .send(format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"))
            .await;
        let response = client.read_response().await;
        assert_eq!(response.status(), status, "{path}");
        client.send("GET /ok/smuggled HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.read_to_end().await, b"", "{path}");
    }
    assert!(origin.received().is_empty(), "{:?}", origin.received());
    for name in ["reads", "later"] {
        let given = results(&proxy, name);
        assert!(given.iter().all(|result| result.get("err").is_some()), "{name}: {given:?}");
    }
    // Nor what a client has sent of a body before it left.
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("POST /reads HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhello").await;
    client.shut_down_writing().await;
    client.read_to_end().await;
    proxy.wait_until_idle();
    assert!(origin.received().is_empty(), "{:?}", origin.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_way_to_frame_a_request() {
    let origin = Origin::saying("origin").await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    for framing in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "content-length: 3, 3",
        "content-length: 3\r\ncontent-length: 3",
        "content-length: 3\r\ncontent-length: 03",
        "content-length: 03",
        "content-length: +3",
    ] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")).await;
        assert_eq!(client.read_response().await.status(), 400, "{framing}");
        assert!(client.is_closed().await, "{framing}");
    }
    assert!(origin.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookies_of_http_2_are_one() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    let calls = [json!(["in-get-header", "cookie"]), json!(["variable", "http_header_cookie"])];
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe", "cookies", &calls));
    let proxy = Proxy::start(&site.to_string());
    let request = http2().get(proxy.url("/")).header("cookie", "theme=dark").header("cookie", "session=abc");
    assert_eq!(send(request).await.status, 200);
    let whole = "theme=dark; session=abc";
    assert_eq!(results(&proxy, "cookies"), [json!({ "ok": whole }), json!({ "ok": whole })]);
    assert_eq!(origin.only().headers.get_all("cookie").iter().collect::<Vec<_>>(), [whole]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_one_by_ipv4_too_and_what_it_says_is_read_or_nobody() {
    let calls =
        [json!(["variable", "client_ip"]), json!(["variable", "client_addr"]), json!(["variable", "remote_ip"])];
    let mut site = Site::with("trusted_proxies = ['127.0.0.0/8']");
    // As `[::]` would, this sees addresses of IPv4 as IPv6.
    site.listen("listen = [{ addr = '[::ffff:127.0.0.1]:0' }]".to_owned());
    site.route("/", "").script("wasm_serverless", serve("client", &calls));
    let proxy = Proxy::start(&site.to_string());
    let port = proxy.addr().port();
    for (forwarded, client) in [
        (&b"203.0.113.9"[..], json!("203.0.113.9")),
        (b"\xff, 203.0.113.9", json!("203.0.113.9")),
        (b"[2001:db8::1]", json!("2001:db8::1")),
        (b"unknown", json!(null)),
        (b"203.0.113.9,", json!(null)),
    ] {
        let value = http::HeaderValue::from_bytes(forwarded).unwrap();
        let answer = send(http1().get(format!("http://127.0.0.1:{port}/")).header("x-forwarded-for", value)).await;
        let expected = json!([{ "ok": client }, { "ok": client }, { "ok": "127.0.0.1" }]);
        assert_eq!(answer.json(), expected, "{}", String::from_utf8_lossy(forwarded));
    }
}

/// A check of the first `authorization` would let the second pass.
#[tokio::test(flavor = "multi_thread")]
async fn plugins_see_all_lines_of_a_header_that_has_one() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    let calls = [json!(["in-get-header", "authorization"])];
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe", "lines", &calls));
    let proxy = Proxy::start(&site.to_string());
    for client in [http1(), http2()] {
        let lines = [("authorization", "Basic good"), ("x-a", "1"), ("x-a", "2"), ("authorization", "Bearer admin")];
        let request =
            lines.into_iter().fold(client.get(proxy.url("/")), |request, (name, value)| request.header(name, value));
        assert_eq!(send(request).await.status, 200);
        let received = origin.received().pop().unwrap();
        let all = |name| received.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((all("authorization"), all("x-a")), (vec!["Basic good,Bearer admin"], vec!["1", "2"]));
        assert_eq!(results(&proxy, "lines").pop(), Some(json!({ "ok": "Basic good,Bearer admin" })));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_take_back_what_plugins_have_set() {
    let origin = Origin::saying("hello").await;
    let set = [json!(["in-set-header", "x-role", "guest"]), json!(["in-get-header", "connection"])];
    let filter = pw_probe(&json!({ "on_request_headers": [["replace", "request_headers", "x-filter", "1"]] }));
    let cases = [
        ("X-Role, x-filter", None),
        ("keep-alive, x-role", Some("keep-alive")),
        ("x-role,, Keep-Alive , x-filter", Some("Keep-Alive")),
        ("keep-alive\r\nconnection: x-role", Some("keep-alive")),
        ("content-length, x-role", None),
    ];
    let mut site = Site::new();
    site.proxied("/", origin.addr());
    for case in 0..cases.len() {
        site.route(&format!("/{case}"), &format!("proxy_pass = '{}'\n{filter}", origin.addr()))
            .script("wasm_access", probe("probe", &format!("set-{case}"), &set));
    }
    let proxy = Proxy::start(&site.to_string());
    for (case, (connection, kept)) in cases.into_iter().enumerate() {
        let mut client = Raw::connect(proxy.addr()).await;
        let head = format!("POST /{case} HTTP/1.1\r\nhost: a\r\nx-role: admin\r\nconnection: {connection}\r\n");
        client.send(head + "content-length: 5\r\n\r\nhello").await;
        assert_eq!(client.read_response().await.status(), 200, "{connection}");
        let received = origin.received().pop().unwrap();
        let values: Vec<_> = received.headers.get_all("x-role").iter().collect();
        assert_eq!(values, ["guest"], "{connection}");
        assert_eq!((&received.headers["x-filter"], &*received.body), (&"1".parse().unwrap(), &b"hello"[..]));
        assert_eq!(results(&proxy, &format!("set-{case}"))[1]["ok"].as_str(), kept, "{connection}");
    }
    let before = origin.received().len();
    for connection in ["host", "x-forwarded-for", "keep-alive, X-Forwarded-Proto", "a b", "\"x-role\"", ":path"] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: {connection}\r\n\r\n")).await;
        assert_eq!(client.read_response().await.status(), 400, "{connection}");
    }
    assert_eq!(origin.received().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_the_same_to_plugins_in_every_version() {
    let origin = Origin::saying("hello").await;
    let calls = [
        json!(["in-get-header", "host"]),
        json!(["in-is-header", "Host"]),
        json!(["variable", "http_header_host"]),
        json!(["in-set-header", "host", "other.cn"]),
        json!(["in-get-header", "host"]),
        json!(["in-set-uri", "/b?c"]),
    ];
    let mut site = Site::new();
    for path in ["/1", "/2"] {
        site.proxied(path, origin.addr()).script("wasm_access", probe("probe", &path[1..], &calls));
    }
    let proxy = Proxy::start(&site.to_string());
    let host = proxy.addr().to_string();
    let expected = [json!(host), json!(true), json!(host), Value::Null, json!("other.cn"), Value::Null];
    for (name, client) in [("1", http1()), ("2", http2())] {
        assert_eq!(send(client.get(proxy.url(&format!("/{name}")))).await.status, 200);
        let given: Vec<_> = results(&proxy, name).iter().map(|result| result["ok"].clone()).collect();
        assert_eq!(given, expected, "HTTP/{name}");
        let received = origin.received().pop().unwrap();
        assert_eq!((received.headers["host"].as_bytes(), received.uri.as_str()), (&b"other.cn"[..], "/b?c"));
    }
}
