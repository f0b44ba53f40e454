//! The plugins that come with the proxy, each as its documentation says.

use serde_json::{Value, json};

use super::support::*;

/// A configuration that is wrong closes the route, and the log says what is wrong with it.
async fn refuses(plugin: &str, phase: &str, config: &str, why: &str) {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script(phase, Script::plugin(plugin).main(config));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    if phase == "wasm_access_log" {
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{plugin}: {config}");
    } else {
        assert_eq!((answer.status, answer.text().as_str()), (500, "500 Internal Server Error\n"), "{plugin}: {config}");
    }
    let line = proxy.wait_for_log(&format!("script={plugin} phase={phase} request="));
    assert!(line.contains(" failed: err: configuration (TOML), line ") && line.contains(why), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configurations_are_explained() {
    for (plugin, phase, config, why) in [
        ("hotlink", "wasm_access", "allow = ['https://example.cn']", "line 1: `https://example.cn` is no host"),
        ("hotlink", "wasm_access", "", "missing field `allow`"),
        ("ip_filter", "wasm_access", "deny = []\nallow = ['10.0.0.0/33']", "line 2: `10.0.0.0/33` is no network"),
        ("json_app", "wasm_serverless", "base = 'app'", "line 1: `app` is no path"),
        ("events", "wasm_serverless", "every_ms = 0", "line 1:"),
        ("header_rewrite", "wasm_http_in_headers", "[set]\nx-a = '${client_ip'", "line 2: `${client_ip` has no `}`"),
        ("cache_policy", "wasm_http_filter_headers_pre", "[[rule]]", "missing field `cache_control`"),
        ("security_headers", "wasm_http_filter_headers", "hide_server = 1", "invalid type: integer `1`"),
        ("rate_limit", "wasm_access", "requests = 0\nseconds = 1", "line 1:"),
        ("rate_limit", "wasm_access", "requests = 1\nseconds = 1\nname = 'a b'", "line 3: `a b` is no name"),
        ("shadow", "wasm_access_log", "to = 'a.cn'", "line 1: `a.cn` is no service"),
        ("token_check", "wasm_access", "", "missing field `service`"),
        ("traffic_stats", "wasm_access_log", "every = 0", "line 1:"),
    ] {
        refuses(plugin, phase, config, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hotlink() {
    let mut site = Site::new();
    let script = |config: &str| Script::plugin("hotlink").main(config);
    site.answered("/default").script("wasm_access", script("allow = ['example.cn', '*.example.com']"));
    let strict = "allow = ['Example.cn']\nallow_empty = false\nstatus = 404";
    site.answered("/strict").script("wasm_access", script(strict));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for (path, referer, status) in [
        ("/default", None, 200),
        ("/default", Some(""), 200),
        ("/default", Some("https://example.cn/page"), 200),
        ("/default", Some("HTTP://EXAMPLE.CN.:8080/page"), 200),
        ("/default", Some("https://a.b.example.com/"), 200),
        ("/default", Some("https://example.com/"), 403),
        ("/default", Some("https://a.example.cn/"), 403),
        ("/default", Some("https://example.cn.evil.com/"), 403),
        ("/default", Some("https://notexample.cn/"), 403),
        ("/default", Some("https://evilexample.com/"), 403),
        ("/default", Some("https://evil.com/https://example.cn/"), 403),
        ("/default", Some("https://evil.com?example.cn"), 403),
        ("/default", Some("https://example.cn@evil.com/"), 403),
        ("/default", Some("https://evil.com#@example.cn/"), 403),
        ("/default", Some(r"https://evil.com\@example.cn/"), 403),
        ("/default", Some("example.cn"), 403),
        ("/default", Some("ftp://example.cn/"), 403),
        ("/strict", Some("https://example.cn/"), 200),
        ("/strict", None, 404),
        ("/strict", Some("https://www.example.cn/"), 404),
    ] {
        let request = client.get(proxy.url(path));
        let request = referer.iter().fold(request, |request, referer| request.header("referer", *referer));
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{path} {referer:?}");
        if status != 200 {
            assert_eq!(answer.text(), "This may not be embedded in pages of other sites.\n");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ip_filter() {
    let mut site = Site::with("trusted_proxies = ['127.0.0.0/8']");
    let lists = [
        ("allow", "allow = ['10.0.0.0/8', '192.168.1.1']\ndeny = ['10.1.0.0/16']"),
        ("deny", "deny = ['203.0.113.128/25', '2001:db8::/32', '::ffff:198.51.100.0/120']"),
        ("nobody", "allow = []"),
        ("everybody", "allow = ['0.0.0.0/0', '::/0']"),
        ("neither", ""),
    ];
    for (path, lists) in lists {
        site.answered(&format!("/{path}")).script("wasm_access", Script::plugin("ip_filter").main(lists));
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for (path, from, status) in [
        ("/allow", "10.0.0.1", 200),
        ("/allow", "10.255.255.255", 200),
        ("/allow", "11.0.0.0", 403),
        ("/allow", "9.255.255.255", 403),
        ("/allow", "10.0.255.255", 200),
        ("/allow", "10.1.0.0", 403),
        ("/allow", "10.1.255.255", 403),
        ("/allow", "10.2.0.0", 200),
        ("/allow", "192.168.1.1", 200),
        ("/allow", "192.168.1.2", 403),
        ("/allow", "::ffff:10.0.0.1", 200),
        ("/allow", "2001:db8::1", 403),
        ("/deny", "203.0.113.127", 200),
        ("/deny", "203.0.113.128", 403),
        ("/deny", "2001:db8:ffff::1", 403),
        ("/deny", "2001:db9::1", 200),
        ("/deny", "198.51.100.7", 403),
        ("/deny", "198.51.101.7", 200),
        ("/nobody", "10.0.0.1", 403),
        ("/everybody", "10.0.0.1", 200),
        ("/everybody", "2001:db8::1", 200),
        ("/neither", "10.0.0.1", 500),
    ] {
        let answer = send(client.get(proxy.url(path)).header("x-forwarded-for", from)).await;
        assert_eq!(answer.status, status, "{path} from {from}");
        if status == 403 {
            assert_eq!(answer.text(), "Your address has no access.\n");
        }
    }
    // Without a header it is the connection that counts.
    assert_eq!(send(client.get(proxy.url("/allow"))).await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_app() {
    let mut site = Site::with("body_limit = '1KiB'");
    site.route("/app", "").script("wasm_serverless", Script::plugin("json_app").main("base = '/app/'"));
    site.route("/", "").script("wasm_serverless", Script::plugin("json_app"));
    let proxy = Proxy::start(&site.to_string());
    let large = format!("\"{}\"", "x".repeat(2000));
    for client in [http1(), http2()] {
        for (method, path, body, status, expected) in [
            ("GET", "/app/hello", "", 200, json!({ "hello": "world" })),
            ("GET", "/app/hello?name=%E4%BD%A0+%22", "", 200, json!({ "hello": "你 \"" })),
            ("GET", "/hello?a=b&name=x&name=y", "", 200, json!({ "hello": "x" })),
            ("POST", "/app/echo", r#"{"a":[1]}"#, 200, json!({ "bytes": 9, "json": { "a": [1] } })),
            ("POST", "/echo", "1", 200, json!({ "bytes": 1, "json": 1 })),
            ("POST", "/echo", "{", 400, json!(null)),
            ("POST", "/echo", "", 400, json!(null)),
            ("POST", "/echo", &large, 413, json!(null)),
            ("POST", "/app/hello", "", 405, json!(null)),
            ("GET", "/app/echo", "", 405, json!(null)),
            ("GET", "/app/none", "", 404, json!(null)),
            ("GET", "/app", "", 404, json!(null)),
        ] {
            let request = client.request(method.parse().unwrap(), proxy.url(path)).body(body.to_owned());
            let answer = send(request).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
            assert_eq!(answer.header("content-type"), Some("application/json"), "{method} {path}");
            if expected == Value::Null {
                assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.text());
            } else {
                assert_eq!(answer.json(), expected, "{method} {path}");
            }
        }
    }
    let not_allowed = send(http1().put(proxy.url("/app/echo"))).await;
    assert_eq!((not_allowed.status, not_allowed.header("allow")), (405, Some("POST")));
    let head = send(http1().head(proxy.url("/app/hello"))).await;
    assert_eq!((head.status, head.text().as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn header_rewrite() {
    let origin = Origin::saying("hello").await;
    let config = r#"
        uri_prefix_strip = "/api"
        remove = ["cookie", "X-Secret"]
        [set]
        x-forwarded-for = "${client_ip}"
        x-from = "<${http_header_x_secret}|${no_such_variable}>"
        [add]
        via = "1.1 ${domain}"
    "#;
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_http_in_headers", Script::plugin("header_rewrite").main(config));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let request = client.get(proxy.url("/api/users?page=2")).header("cookie", "a=b").header("x-secret", "s");
    let request = request.header("x-forwarded-for", "6.6.6.6").header("via", "1.0 before").header("host", "example.cn");
    assert_eq!(send(request).await.status, 200);
    let received = origin.last();
    assert_eq!(received.uri, "/users?page=2");
    assert_eq!((received.header("cookie"), received.header("x-secret")), (None, None));
    assert_eq!(received.headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["127.0.0.1"]);
    assert_eq!(received.header("x-from"), Some("<s|>"), "values see the request as it came");
    assert_eq!(received.headers.get_all("via").iter().collect::<Vec<_>>(), ["1.0 before", "1.1 example.cn"]);
    for (path, upstream) in [("/api", "/"), ("/api?q", "/?q"), ("/apis", "/apis"), ("/x/api", "/x/api"), ("/api/", "/")]
    {
        send(client.get(proxy.url(path))).await;
        assert_eq!(origin.last().uri, upstream, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_policy() {
    let origin = Origin::start(|request| {
        let mut parts = request.uri[1..].split('|');
        let mut response = reply(parts.next().unwrap().parse().unwrap(), "hello");
        let headers = response.headers_mut();
        if let Some(content_type) = parts.next() {
            headers.insert("content-type", content_type.parse().unwrap());
        }
        for (name, value) in
            [("cache-control", "private"), ("expires", "0"), ("pragma", "no-cache"), ("set-cookie", "a=b")]
        {
            headers.insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let config = r#"
        [[rule]]
        content_type = "image/*"
        status = [200, 404]
        cache_control = "public, max-age=86400"
        strip_cookies = true
        [[rule]]
        content_type = "text/html"
        cache_control = "no-cache"
        [[rule]]
        status = [500]
        cache_control = "no-store"
    "#;
    let mut site = Site::new();
    let script = Script::plugin("cache_policy").main(config);
    site.proxied("/", origin.addr()).script("wasm_http_filter_headers_pre", script);
    let proxy = Proxy::start(&site.to_string());
    for (path, cache_control, cookie) in [
        ("/200|image/png", "public, max-age=86400", false),
        ("/404|IMAGE/webp;q=1", "public, max-age=86400", false),
        ("/500|image/png", "no-store", true),
        ("/200|text/html;charset=utf-8", "no-cache", true),
        ("/500", "no-store", true),
        ("/200|text/plain", "private", true),
        ("/200", "private", true),
    ] {
        let answer = send(http1().get(proxy.url(path))).await;
        assert_eq!(answer.text(), "hello", "{path}");
        assert_eq!(answer.header("cache-control"), Some(cache_control), "{path}");
        assert_eq!(answer.header("set-cookie").is_some(), cookie, "{path}");
        let old = answer.header("expires").is_some() || answer.header("pragma").is_some();
        assert_eq!(old, cache_control == "private", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn security_headers() {
    const HSTS: &str = "strict-transport-security";
    let origin = Origin::start(|_| {
        let mut response = reply(200, "hello");
        for (name, value) in [("server", "origin/1"), ("x-powered-by", "x"), ("x-frame-options", "DENY")] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let authority = Authority::new();
    let files = authority.issue("www.example.cn");
    let config = "hide_server = false\n[headers]\nX-Frame-Options = 'SAMEORIGIN'\nreferrer-policy = ''\nx-own = '1'";
    let mut site = Site::new();
    let tls = files.tls();
    site.listen(format!("listen = [{{ addr = \"127.0.0.1:0\" }}, {{ addr = \"127.0.0.1:0\", tls = {tls} }}]"));
    let script = Script::plugin("security_headers");
    site.proxied("/", origin.addr()).script("wasm_http_filter_headers", script.clone());
    site.proxied("/configured", origin.addr()).script("wasm_http_filter_headers", script.clone().main(config));
    site.answered("/own").script("wasm_http_filter_headers", script.clone());
    site.route("/down", "proxy_pass = \"127.0.0.1:1\"").script("wasm_http_filter_headers", script);
    let proxy = Proxy::start(&site.to_string());

    let plain = http1();
    let https = https(&authority, &["www.example.cn"], proxy.tls_addr()).build().unwrap();
    let tls_url = |path: &str| format!("https://www.example.cn:{}{path}", proxy.tls_addr().port());
    for (path, status) in [("/", 200), ("/own", 200), ("/down", 502)] {
        for (tls, request) in [(false, plain.get(proxy.url(path))), (true, https.get(tls_url(path)))] {
            let answer = send(request).await;
            assert_eq!(answer.status, status, "{path}");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(answer.header("referrer-policy"), Some("strict-origin-when-cross-origin"), "{path}");
            // What the response has already stays.
            let frame = if path == "/" { "DENY" } else { "SAMEORIGIN" };
            assert_eq!(answer.header("x-frame-options"), Some(frame), "{path}");
            assert_eq!((answer.header("server"), answer.header("x-powered-by")), (None, None), "{path}");
            assert_eq!(answer.header(HSTS), tls.then_some("max-age=31536000"), "{path}, TLS: {tls}");
        }
    }
    let configured = send(plain.get(proxy.url("/configured"))).await;
    assert_eq!(configured.header("server"), Some("origin/1"));
    assert_eq!(configured.header("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!((configured.header("referrer-policy"), configured.header("x-own")), (None, Some("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_stats() {
    let origin = Origin::start(|request| reply(request.uri[1..4].parse().unwrap_or(200), "hello")).await;
    let mut site = Site::new();
    let script = || Script::plugin("traffic_stats");
    site.proxied("/", origin.addr()).script("wasm_access_log", script().key("name = 'each'"));
    site.proxied("/404/", origin.addr()).script("wasm_access_log", script().key("name = 'many'").main("every = 4"));
    site.route("/down", "proxy_pass = \"127.0.0.1:1\"").script("wasm_access_log", script().key("name = 'down'"));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let line = |name: &str| -> Value {
        let line = proxy.wait_for_log(&format!("script={name} phase=wasm_access_log request="));
        assert!(line.contains(" INFO "), "{line}");
        serde_json::from_str(&line[line.find('{').unwrap()..]).unwrap()
    };

    assert_eq!(send(client.post(proxy.url("/abc?d=e")).header("host", "Example.cn").body("1234")).await.status, 200);
    let mut each = line("each");
    let time = each.as_object_mut().unwrap().remove("session_time").unwrap();
    assert!(time.as_str().unwrap().parse::<f64>().unwrap() > 0.0);
    let expected = json!({
        "domain": "example.cn", "method": "POST", "path": "/abc", "status": 200, "bytes_sent": 5, "bytes_received": 4
    });
    assert_eq!(each, expected);

    for _ in 0..4 {
        assert_eq!(send(client.post(proxy.url("/404/")).body("12")).await.status, 404);
    }
    assert_eq!(line("many"), json!({ "requests": 4, "bytes_sent": 20, "bytes_received": 8, "4xx": 4 }));

    // A request that failed is counted, too.
    assert_eq!(send(client.get(proxy.url("/down"))).await.status, 502);
    assert_eq!(line("down")["status"], 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn events() {
    use futures::StreamExt;

    let script = |config: &str| Script::plugin("events").main(config);
    let mut site = Site::new();
    site.route("/few", "").script("wasm_serverless", script("every_ms = 20\ncount = 3"));
    site.route("/rare", "").script("wasm_serverless", script("every_ms = 600000"));
    let proxy = Proxy::start(&site.to_string());
    for client in [http1(), http2()] {
        let get = |path: &str, last: Option<&str>| {
            let request = client.get(proxy.url(path));
            last.map_or(request.try_clone().unwrap(), |id| request.header("last-event-id", id))
        };
        let ids = |text: &str| -> Vec<u64> {
            text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
        };
        for (last, expected) in [(None, vec![1, 2, 3]), (Some("1"), vec![2, 3]), (Some("nonsense"), vec![1, 2, 3])] {
            let answer = send(get("/few", last)).await;
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "{last:?}");
            let text = answer.text();
            assert_eq!(ids(&text), expected, "{last:?}");
            assert!(text.starts_with("retry: 3000\nid: "), "{text}");
            assert_eq!(text.matches("\nevent: tick\ndata: {\"tick\":").count(), expected.len(), "{text}");
        }
        assert_eq!(send(get("/few", Some("3"))).await.status, 204, "there are no more");
        assert_eq!(send(client.post(proxy.url("/few"))).await.status, 405);

        // The first event is there long before the second is made.
        let response = soon("the head", get("/rare", Some("41")).send()).await.unwrap();
        let event = soon("an event", response.bytes_stream().next()).await.unwrap().unwrap();
        assert_eq!(ids(&String::from_utf8_lossy(&event)), [42]);
    }
    assert!(!proxy.log().contains("failed"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_for_message() {
    let origin = Origin::saying("hello").await;
    let ext1 = "delay_header = 'x-delay-ms'\ndelay_ms = 20";
    let script = |timeout_ms: u32| {
        Script::plugin("wait_for_message")
            .main("header = 'x-message'")
            .key(format!("wasm_main_ext1_config = '''{ext1}'''"))
            .key(format!("wasm_main_timeout_config = 'ms = {timeout_ms}'"))
    };
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", script(15_000));
    site.proxied("/short", origin.addr()).script("wasm_access", script(50));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();

    for (delay, message) in [(None, "after 20 ms"), (Some("0"), "after 0 ms"), (Some("5"), "after 5 ms")] {
        let request = delay.iter().fold(client.get(proxy.url("/")), |request, ms| request.header("x-delay-ms", *ms));
        assert_eq!(send(request).await.status, 200);
        assert_eq!(origin.last().header("x-message"), Some(message));
    }

    let late = send(client.get(proxy.url("/short")).header("x-delay-ms", "60000")).await;
    assert_eq!((late.status, late.text().as_str()), (503, "Nobody sent a message in time.\n"));
    assert_eq!(late.header("retry-after"), Some("1"));

    let quit = send(client.get(proxy.url("/")).header("x-delay-ms", "quit")).await;
    assert_eq!(quit.status, 500);
    proxy.wait_for_log("failed: err: this session has quit: no more messages come");

    assert_eq!(origin.received().len(), 3);
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_mailboxes", 0.0);
    proxy.wait_for_metric("phasegate_timers", 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn visits() {
    let module = plugins::path("visits");
    let session = |name: &str, config: &str| {
        let module = module.display();
        format!("[[wasm_session]]\nname = '{name}'\nwasm_path = '{module}'\nwasm_main_config = '''{config}'''\n")
    };
    let mut site = Site::with(&format!(
        "{}{}",
        session("visits", "role = 'keep'\nmost_paths = 2"),
        session("private", "role = 'keep'")
    ));
    let script = |config: &str| Script::plugin("visits").main(config);
    site.answered("/").script("wasm_access_log", script("role = 'count'"));
    site.answered("/private/").script("wasm_access_log", script("role = 'count'\nsession = 'private'"));
    site.answered("/lost").script("wasm_access_log", script("role = 'count'\nsession = 'none'").key("name = 'lost'"));
    site.route("/visits", "").script("wasm_serverless", script("role = 'show'"));
    site.route("/visits/private", "").script("wasm_serverless", script("role = 'show'\nsession = 'private'"));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for path in ["/a", "/b", "/a?x", "/c", "/a", "/private/", "/lost"] {
        assert_eq!(send(client.get(proxy.url(path))).await.status, 200);
        proxy.wait_until_idle();
    }
    let show = |path: &'static str| send(client.get(proxy.url(path)));
    assert_eq!(show("/visits").await.json(), json!({ "/a": 3, "/b": 1, "others": 1 }));
    assert_eq!(show("/visits/private").await.json(), json!({ "/private/": 1 }));
    proxy.wait_for_log("script=lost phase=wasm_access_log request=");
    proxy.wait_for_log("there is no session named `none`: add `[[wasm_session]]` with `name = \"none\"`");
}
