//! Which server, which local, which chains, which upstream a request gets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::support::*;

/// A server with names that answers with its own.
fn named(server: &str, names: &str) -> String {
    format!(
        "[[server]]\nname = [{names}]\n{LISTEN}\n[[server.local]]\npath = '/'\n\
         respond = {{ status = 200, body = '{server}' }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_chooses_the_server() {
    let config = named("first", "'first.cn'")
        + &named("exact", "'www.example.cn', 'example.cn'")
        + &named("wild", "'*.example.cn'")
        + &named("wilder", "'*.img.example.cn', 'img.example.cn'");
    let proxy = Proxy::start(&config);

    let mut client = Raw::connect(proxy.addr()).await;
    for (host, server) in [
        ("www.example.cn", "exact"),
        ("WWW.Example.CN", "exact"),
        ("www.example.cn:8080", "exact"),
        ("example.cn", "exact"),
        ("other.example.cn", "wild"),
        ("a.b.example.cn:1", "wild"),
        ("img.example.cn", "wilder"),
        ("x.IMG.example.cn", "wilder"),
        ("notexample.cn", "first"),
        ("first.cn", "first"),
        ("elsewhere", "first"),
        ("[::1]:80", "first"),
        ("", "first"),
    ] {
        client.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(client.read_response().await.text(), server, "{host:?}");
    }
    client.send("GET http://www.example.cn/ HTTP/1.1\r\nhost: www.example.cn\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "exact");
    // HTTP/1.0 needs no host. A target may name it.
    client.send("GET http://www.example.cn/ HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "exact");
    client.send("GET / HTTP/1.0\r\naccept: */*\r\n\r\n").await;
    assert_eq!(client.read_response().await.text(), "first");

    // Two hosts are one too many: who checks one of them is fooled by the other.
    let mut client = Raw::connect(proxy.addr()).await;
    client.send("GET http://www.example.cn/ HTTP/1.1\r\nhost: first.cn\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 400);
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_http_2_chooses_the_server() {
    let proxy = Proxy::start(&(named("first", "'first.cn'") + &named("wild", "'*.example.cn'")));
    let addr = proxy.addr();
    let client = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("first.cn", addr)
        .resolve("a.example.cn", addr)
        .build()
        .unwrap();

    for (host, server) in [("a.example.cn", "wild"), ("first.cn", "first")] {
        let answer = send(client.get(format!("http://{host}:{}/", addr.port()))).await;
        assert_eq!((answer.version, answer.text()), (http::Version::HTTP_2, server.into()));
    }
}

fn local(matcher: &str, body: &str) -> String {
    format!("[[server.local]]\n{matcher}\nrespond = {{ status = 200, body = '{body}' }}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_prefix_chooses_the_local_then_the_first_regex() {
    let locals = [
        local("regex = '^/v[0-9]+/'", "versioned"),
        local("path = '/api/'", "api"),
        local("path = '/api/v1/'", "api v1"),
        local("regex = '[.]png$'", "picture"),
        local("regex = '^/v1/.*[.]png$'", "never"),
    ];
    let proxy = Proxy::start(&format!("[[server]]\n{LISTEN}\n{}", locals.concat()));

    let mut client = Raw::connect(proxy.addr()).await;
    for (path, local) in [
        ("/api/", "api"),
        ("/api/v1/x", "api v1"),
        ("/api/v1", "api"),
        ("/api/v2/x.png?/api/v1/", "api"),
        ("/v2/api/v1/", "versioned"),
        ("/v1/x.png", "versioned"),
        ("/x.png", "picture"),
        ("/x.png?a=b", "picture"),
        ("//api//v1/x", "api v1"),
        ("/x/../%61pi/", "api"),
        ("/x.gif", "404 Not Found\n"),
        ("/api", "404 Not Found\n"),
        ("/", "404 Not Found\n"),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(client.read_response().await.text(), local, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_inherited_whole_until_a_level_sets_its_own() {
    let guest = guests::path("probe_sync");
    let mark = |table: &str, mark: &str| {
        script(table, &guest, &format!(r#"[{{"call": "out-add-header", "args": ["x-chain", "{mark}"]}}]"#))
            + &format!("name = '{mark}'\n")
    };
    let fixed = "respond = { status = 200 }";
    let config = [
        mark("main.wasm_http_filter_headers", "main"),
        format!("[[server]]\n{LISTEN}\n[[server.local]]\npath = '/inherits'\n{fixed}\n"),
        format!("[[server.local]]\npath = '/cleared'\n{fixed}\nwasm_http_filter_headers = []\n"),
        format!("[[server.local]]\npath = '/own'\n{fixed}\n"),
        mark("wasm_http_filter_headers", "local 1"),
        mark("wasm_http_filter_headers", "local 2"),
        format!("[[server]]\nname = ['own.cn']\n{LISTEN}\n"),
        mark("server.wasm_http_filter_headers", "server"),
        format!("[[server.local]]\npath = '/inherits'\n{fixed}\n"),
        format!("[[server.local]]\npath = '/own'\n{fixed}\n"),
        mark("wasm_http_filter_headers", "local"),
        format!("[[server]]\nname = ['clear.cn']\n{LISTEN}\nwasm_http_filter_headers = []\n"),
        format!("[[server.local]]\npath = '/inherits'\n{fixed}\n"),
    ];
    let proxy = Proxy::start(&config.concat());

    let mut client = Raw::connect(proxy.addr()).await;
    for (host, path, marks) in [
        ("a", "/inherits", vec!["main"]),
        ("a", "/cleared", vec![]),
        ("a", "/own", vec!["local 1", "local 2"]),
        ("a", "/nowhere", vec!["main"]),
        ("own.cn", "/inherits", vec!["server"]),
        ("own.cn", "/own", vec!["local"]),
        ("own.cn", "/nowhere", vec!["server"]),
        ("clear.cn", "/inherits", vec![]),
    ] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let response = client.read_response().await;
        let chain: Vec<_> = response.headers.get_all("x-chain").iter().collect();
        assert_eq!(chain, marks, "{host} {path}");
    }
}

/// An upstream of this name over these origins, and everything sent there.
fn balanced(name: &str, servers: &[(SocketAddr, u32)], more: &str) -> String {
    let servers: Vec<_> =
        servers.iter().map(|(addr, weight)| format!("{{ addr = '{addr}', weight = {weight} }}")).collect();
    format!("[upstream.{name}]\nservers = [{}]\n{more}\n", servers.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_an_upstream_take_turns_by_their_weights() {
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let upstream = balanced("web", &[(one.addr(), 1), (two.addr(), 3)], "balance = 'round_robin'");
    let proxy = Proxy::start(&(upstream + &server("path = '/'\nproxy_pass = 'web'")));

    let client = http1();
    for _ in 0..40 {
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
    }
    assert_eq!((one.received().len(), two.received().len()), (10, 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_connected_is_passed_over() {
    let (one, down, also_down) = (Origin::saying("one").await, DownOrigin::new(), DownOrigin::new());
    for balance in ["round_robin", "random", "least_conn", "hash"] {
        let keys = match balance {
            "hash" => "balance = 'hash'\nhash_key = '${http_header_x_user}'".to_owned(),
            _ => format!("balance = '{balance}'"),
        };
        let none = balanced("none", &[(down.addr(), 1), (also_down.addr(), 1)], &keys);
        let web = balanced("web", &[(down.addr(), 1), (one.addr(), 1), (also_down.addr(), 1)], &keys);
        let local = "[[server.local]]\npath = '/none'\nproxy_pass = 'none'\n";
        let proxy = Proxy::start(&[none, web, server("path = '/'\nproxy_pass = 'web'"), local.to_owned()].concat());
        let client = http1();
        for user in 0..20 {
            let post = |path| send(client.post(proxy.url(path)).header("x-user", user.to_string()).body("whole"));
            assert_eq!(post("/").await.status, 200, "{balance}");
            assert_eq!(post("/none").await.status, 502, "{balance}");
        }
        assert!(one.received().iter().all(|request| request.body == b"whole"[..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_sends_the_same_key_to_the_same_server() {
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let hash = "balance = 'hash'\nhash_key = '${http_header_x_user}'";
    let upstream = balanced("web", &[(one.addr(), 1), (two.addr(), 1)], hash);
    let proxy = Proxy::start(&(upstream + &server("path = '/'\nproxy_pass = 'web'")));

    let client = http1();
    let ask = |user: u32| send(client.get(proxy.url("/")).header("x-user", user.to_string()));
    let mut first = Vec::new();
    for user in 0..20 {
        first.push(ask(user).await.text());
    }
    assert!(first.contains(&"one".into()) && first.contains(&"two".into()), "{first:?}");
    for (user, server) in (0..20).zip(first) {
        assert_eq!(ask(user).await.text(), server);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_takes_a_server_out_and_back_in() {
    let sick = Arc::new(AtomicBool::new(true));
    let is_sick = sick.clone();
    let one = Origin::start(move |request| match request.uri.as_str() {
        "/healthz" if is_sick.load(SeqCst) => reply(500, ""),
        _ => reply(200, "one"),
    })
    .await;
    let (two, down) = (Origin::saying("two").await, DownOrigin::new());
    let servers = [(one.addr(), 1), (two.addr(), 1), (down.addr(), 1)];
    let upstream = balanced("web", &servers, "health_check = { path = '/healthz', interval_ms = 20 }");
    let proxy = Proxy::start(&(upstream + &server("path = '/'\nproxy_pass = 'web'")));

    let client = http1();
    let answers = || async {
        let mut answers = Vec::new();
        for _ in 0..12 {
            let answer = send(client.get(proxy.url("/"))).await;
            answers.push(if answer.status == 200 { answer.text() } else { answer.status.to_string() });
        }
        answers.sort();
        answers.dedup();
        answers
    };
    let wait_for = |expected: &'static [&'static str]| {
        let answers = &answers;
        async move {
            soon(&format!("answers are {expected:?}"), async {
                while answers().await != expected {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
            .await;
        }
    };
    wait_for(&["two"]).await;
    sick.store(false, SeqCst);
    wait_for(&["one", "two"]).await;
    drop(two);
    wait_for(&["one"]).await;
    sick.store(true, SeqCst);
    wait_for(&["503"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_chooses_the_upstream() {
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let config = [
        balanced("one", &[(one.addr(), 1)], ""),
        balanced("two", &[(two.addr(), 1)], ""),
        server("path = '/'\nproxy_pass = 'one'"),
        "[[server.local]]\npath = '/chosen'\nproxy_pass = 'one'\n".to_owned(),
        script("wasm_access", &guests::path("verdict"), "ext2"),
        "on_ext1 = 'status:418'\non_ext2 = 'upstream:two'\n".to_owned(),
        "[[server.local]]\npath = '/address'\nproxy_pass = 'one'\n".to_owned(),
        script("wasm_access", &guests::path("verdict"), "ext2"),
        format!("on_ext2 = 'upstream:{}'\n", two.addr()),
        "[[server.local]]\npath = '/status'\nproxy_pass = 'one'\n".to_owned(),
        script("wasm_access", &guests::path("verdict"), "ext1"),
        "on_ext1 = 'status:418'\n".to_owned(),
    ];
    let proxy = Proxy::start(&config.concat());

    let client = http1();
    for (path, status, body) in
        [("/", 200, "one"), ("/chosen", 200, "two"), ("/address", 200, "two"), ("/status", 418, "418 I'm a teapot\n")]
    {
        let answer = send(client.get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.text()), (status, body.into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_address_has_its_own_servers() {
    let server = |addr: &str, body: &str| {
        format!(
            "[[server]]\nlisten = [{{ addr = '{addr}:0' }}]\n[[server.local]]\npath = '/'\n\
             respond = {{ status = 200, body = '{body}' }}\n"
        )
    };
    let proxy = Proxy::start(&(server("127.0.0.3", "three") + &server("127.0.0.2", "two")));

    let client = http1();
    for (index, body) in ["two", "three"].into_iter().enumerate() {
        assert_eq!(send(client.get(format!("http://{}/", proxy.plaintext(index)))).await.text(), body);
    }
}
