//! The plugins that call other services: `token_check` and `shadow`.

use super::support::*;

const ALLOW: &str = r#"allow = { net = ["127.0.0.0/8"] }"#;

/// Says who a token is; one that it has never heard of is refused.
async fn authentication() -> Origin {
    Origin::start(|request| {
        let mut response = match request.header("authorization").or(request.header("x-token")) {
            Some("Bearer good") => reply(204, ""),
            Some("Bearer poor") => reply(403, ""),
            Some("Bearer broken") => reply(500, ""),
            _ => reply(401, ""),
        };
        response.headers_mut().insert("x-user", "alice".parse().unwrap());
        response
    })
    .await
}

fn token_check(service: std::net::SocketAddr, more: &str) -> Script {
    let config = format!("service = 'http://{service}/verify'\nidentity = 'x-user'\n{more}");
    Script::plugin("token_check").main(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_checked_once() {
    let (origin, service) = (Origin::saying("hello").await, authentication().await);
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", token_check(service.addr(), "").key(ALLOW));
    let always = token_check(service.addr(), "keep_seconds = 0").key(ALLOW);
    site.proxied("/always", origin.addr()).script("wasm_access", always);
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let with = async |path: &str, tokens: &[&str]| {
        let request = client.get(proxy.url(path)).header("x-user", "root");
        send(tokens.iter().fold(request, |request, token| request.header("authorization", *token))).await
    };

    for _ in 0..3 {
        assert_eq!(with("/", &["Bearer good"]).await.status, 200);
        assert_eq!(origin.last().header("x-user"), Some("alice"), "not whom the client says");
        assert_eq!(with("/", &["Bearer poor"]).await.status, 403);
        let refused = with("/", &["Bearer bad"]).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    }
    let asked: Vec<_> =
        service.received().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
    let asked_about = |token: &str| asked.iter().filter(|asked| *asked == token).count();
    assert_eq!(["Bearer good", "Bearer poor", "Bearer bad"].map(asked_about), [1, 3, 3], "refusals are not kept");
    assert_eq!(service.last().uri, "/verify");

    for tokens in [&[][..], &[""]] {
        assert_eq!(with("/", tokens).await.status, 401, "{tokens:?}");
    }
    assert_eq!(service.received().len(), 7, "nothing to ask about");
    assert_eq!(with("/", &["", "Bearer good"]).await.status, 200);
    assert_eq!(service.received().len(), 7, "an empty line is none");
    assert_eq!(with("/", &["Bearer good", "Bearer bad"]).await.status, 401);
    assert_eq!(service.last().header("authorization"), Some("Bearer good,Bearer bad"), "what the upstream would get");
    for asked in [9, 10] {
        assert_eq!(with("/always", &["Bearer good"]).await.status, 200);
        assert_eq!(service.received().len(), asked);
    }
    assert_eq!(origin.received().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_tokens_the_one_that_was_checked_goes_on() {
    let (origin, service) = (Origin::saying("hello").await, authentication().await);
    let mut site = Site::new();
    site.proxied("/", origin.addr())
        .script("wasm_access", token_check(service.addr(), "header = 'x-token'").key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    let request = http1().get(proxy.url("/")).header("x-token", "Bearer good").header("x-token", "Bearer bad");
    assert_eq!(send(request).await.status, 200);
    assert_eq!(origin.only().headers.get_all("x-token").iter().collect::<Vec<_>>(), ["Bearer good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_keeps_nobody_out() {
    let service = authentication().await;
    let full = "store = { size = '64KiB' }";
    let down = "store = { kind = 'redis', url = 'redis+unix:///no/such.sock' }";
    for (store, lines) in [
        (full, &["an answer is not kept: the store is full"][..]),
        (down, &["no answer from the store: ", "an answer is not kept: "]),
    ] {
        let mut site = Site::with(store);
        // Large values, then small ones, until there is no room for anything.
        let fills: Vec<_> = (0..800)
            .map(|n| serde_json::json!(["set-string", format!("{n}"), "x".repeat(if n < 80 { 1000 } else { 1 })]))
            .collect();
        site.answered("/fill").script("wasm_access", probe("probe", "fills", &fills));
        site.answered("/").script("wasm_access", token_check(service.addr(), "").key(ALLOW));
        let proxy = Proxy::start(&site.to_string());
        let get =
            async |path: &str, token: &str| send(http1().get(proxy.url(path)).header("authorization", token)).await;
        get("/fill", "").await;
        for (token, status) in [("Bearer good", 200), ("Bearer poor", 403), ("Bearer good", 200)] {
            assert_eq!(get("/", token).await.status, status, "{store}: {token}");
        }
        for line in lines {
            let line = proxy.wait_for_log(line);
            assert!(line.contains(" WARN "), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_strangers_leave_nothing_in_the_store() {
    let service = authentication().await;
    let mut site = Site::with("store = { size = '64KiB' }");
    site.answered("/").script("wasm_access", token_check(service.addr(), "").key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for n in 0..800 {
        let answer = send(client.get(proxy.url("/")).header("authorization", format!("Bearer {n}"))).await;
        assert_eq!(answer.status, 401, "{n}");
    }
    let asked = service.received().len();
    for _ in 0..2 {
        assert_eq!(send(client.get(proxy.url("/")).header("authorization", "Bearer good")).await.status, 200);
    }
    assert_eq!(service.received().len(), asked + 1, "there is room for the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_header_fields_do_not_matter() {
    let (origin, service, shadow) = (Origin::saying("hello").await, authentication().await, Origin::saying("").await);
    let config = format!("to = 'http://{}'\nheaders = ['host', 'x-own']", shadow.addr());
    let mut site = Site::new();
    site.proxied("/", origin.addr())
        .script("wasm_access", token_check(service.addr(), "").key(ALLOW))
        .script("wasm_access_log", Script::plugin("shadow").main(config).key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    let latin = || reqwest::header::HeaderValue::from_bytes(b"caf\xe9").unwrap();
    for (name, token, status) in
        [("x-other", "Bearer good", 200), ("x-own", "Bearer good", 200), ("authorization", "", 401)]
    {
        let request = http1().get(proxy.url("/")).header(name, latin());
        let request = if token.is_empty() { request } else { request.header("authorization", token) };
        assert_eq!(send(request).await.status, status, "{name}");
    }
    shadow.wait_for_requests(3);
    assert!(shadow.received().iter().all(|copy| copy.header("host").is_some() && copy.headers.get("x-own").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_has_framing_of_its_own() {
    let (origin, shadow) = (Origin::saying("hello").await, Origin::saying("").await);
    let mut site = Site::new();
    let config = format!("to = 'http://{}'\nheaders = ['host', 'Content-Length']", shadow.addr());
    site.proxied("/", origin.addr()).script("wasm_access_log", Script::plugin("shadow").main(config).key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().post(proxy.url("/")).body("body")).await.text(), "hello");
    proxy.wait_for_log("`Content-Length` cannot be copied: it belongs to the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_does_not_hold_for_ever() {
    let service = authentication().await;
    let mut site = Site::new();
    site.answered("/").script("wasm_access", token_check(service.addr(), "keep_seconds = 1").key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for asked in [1, 2] {
        loop {
            let answer = send(client.get(proxy.url("/")).header("authorization", "Bearer good")).await;
            assert_eq!(answer.status, 200);
            if service.received().len() == asked {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_nobody_comes_in() {
    let (service, down) = (authentication().await, DownOrigin::new());
    let silent = RawOrigin::start(|mut client, _| async move { drop(client.read_to_end().await) }).await;
    let mut site = Site::new();
    site.answered("/broken").script("wasm_access", token_check(service.addr(), "").key(ALLOW));
    site.answered("/down").script("wasm_access", token_check(down.addr(), "").key(ALLOW));
    site.answered("/silent").script("wasm_access", token_check(silent.addr(), "timeout_ms = 100").key(ALLOW));
    site.answered("/denied").script("wasm_access", token_check(service.addr(), ""));
    let proxy = Proxy::start(&site.to_string());
    for (path, why) in [
        ("/broken", "/verify answered 500"),
        ("/down", "cannot be connected"),
        ("/silent", "within 100 ms"),
        ("/denied", "allow.net does not permit"),
    ] {
        let answer = send(http1().get(proxy.url(path)).header("authorization", "Bearer broken")).await;
        assert_eq!((answer.status, answer.text().as_str()), (500, "500 Internal Server Error\n"), "{path}");
        proxy.wait_for_log(why);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_gets_a_copy() {
    let (origin, shadow) = (Origin::saying("hello").await, Origin::start(|_| reply(500, "")).await);
    let config = format!("to = 'http://{}/copy/'\nheaders = ['Host', 'x-own']", shadow.addr());
    let mut site = Site::new();
    let script = Script::plugin("shadow").main(config).key(ALLOW);
    site.proxied("/", origin.addr()).script("wasm_access_log", script.clone());
    let reads = probe("probe", "reads", &[serde_json::json!(["in-body-read-exact"])]);
    site.proxied("/read", origin.addr()).script("wasm_access", reads).script("wasm_access_log", script);
    let proxy = Proxy::start(&site.to_string());

    let request = http1().put(proxy.url("/a%20b?c=d&e=%20")).header("host", "www.example.cn");
    let request = request.header("x-own", "1").header("x-own", "2").header("cookie", "a=b").body("body");
    assert_eq!(send(request).await.text(), "hello");
    shadow.wait_for_requests(1);
    let copy = shadow.only();
    assert_eq!((copy.method.as_str(), copy.uri.as_str()), ("PUT", "/copy/a%20b?c=d&e=%20"));
    assert_eq!((copy.header("host"), copy.header("cookie")), (Some("www.example.cn"), None));
    assert_eq!(copy.headers.get_all("x-own").iter().collect::<Vec<_>>(), ["1"]);
    assert!(copy.body.is_empty());

    send(http1().post(proxy.url("/read")).body("body")).await;
    shadow.wait_for_requests(2);
    assert_eq!(&shadow.last().body[..], b"body");
    assert_eq!(origin.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_that_fails_is_a_line_in_the_log() {
    let (origin, down) = (Origin::saying("hello").await, DownOrigin::new());
    let mut site = Site::new();
    for (path, allow) in [("/down", ALLOW), ("/denied", "allow = {}")] {
        let script = Script::plugin("shadow").main(format!("to = 'http://{}'", down.addr())).key(allow);
        site.proxied(path, origin.addr()).script("wasm_access_log", script);
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, why) in [("/down", "cannot be connected"), ("/denied", "allow.net does not permit")] {
        assert_eq!(send(http1().get(proxy.url(path))).await.text(), "hello");
        let line = proxy.wait_for_log(why);
        assert!(line.contains("WARN") && line.contains("script=shadow") && line.contains("no copy: "), "{line}");
    }
    assert_eq!(
        proxy.metric("phasegate_plugin_failures_total{script=\"shadow\",phase=\"wasm_access_log\",kind=\"err\"}"),
        0.0
    );
}
