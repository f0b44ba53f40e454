//! What goes wrong between clients, proxy and origins, and that the proxy is as before when it is over.

use std::sync::Arc;

use tokio::sync::Notify;

use super::support::*;

/// Everything to this origin, `/fixed` to nobody; the access log on standard output.
fn logged(origin: std::net::SocketAddr) -> String {
    let log = "access_log = { path = 'stdout', format = '${http_request_uri} ${status} end' }\n";
    let fixed = "\n[[server.local]]\npath = '/fixed'\nrespond = { status = 200, body = 'fixed' }";
    let status = r#"[{"call": "variable", "args": ["status"]}, {"deliver": "log"}]"#;
    format!("{log}{}{}{fixed}", proxy_to(origin), script("wasm_access_log", &guests::path("probe_sync"), status))
}

/// Serves as before, and has nothing left to do.
async fn assert_healthy(proxy: &Proxy) {
    let answer = send(http1().get(proxy.url("/fixed"))).await;
    assert_eq!((answer.status, answer.text()), (200, "fixed".into()));
    proxy.wait_until_idle();
    assert_eq!(proxy.metric("phasegate_requests_total{status=\"2xx\"}").min(1.0), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_down_is_a_502() {
    let origin = DownOrigin::new();
    let proxy = Proxy::start(&logged(origin.addr()));

    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/down"))).await;
        assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n".into()));
        let answer = send(client.post(proxy.url("/down")).body(bytes(100_000))).await;
        assert_eq!(answer.status, 502);
    }
    proxy.wait_for_stdout("/down 502 end");
    proxy.wait_for_log("probe: [{\"ok\":\"502\"}]");
    assert_healthy(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_silent_is_a_504() {
    let silent = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let log = "access_log = { path = 'stdout', format = '${status} ${is_timeout_exit} end' }\n";
    let upstream = format!("[upstream.slow]\nservers = [{{ addr = '{}' }}]\nsilence_timeout_ms = 100\n", silent.addr());
    let proxy = Proxy::start(&format!("{log}{upstream}{}", server("path = '/'\nproxy_pass = 'slow'")));

    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text()), (504, "504 Gateway Timeout\n".into()));
    proxy.wait_for_stdout("504 true end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_gives_no_response_is_a_502() {
    let closing = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
    })
    .await;
    let resetting = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.reset();
    })
    .await;
    let babbling = RawOrigin::saying("220 smtp.example ESMTP\r\n\r\n").await;

    for origin in [&closing, &resetting, &babbling] {
        let proxy = Proxy::start(&logged(origin.addr()));
        for client in [http1(), http2()] {
            let answer = send(client.get(proxy.url("/"))).await;
            assert_eq!((answer.status, answer.text()), (502, "502 Bad Gateway\n".into()));
        }
        proxy.wait_for_stdout("/ 502 end");
        assert_healthy(&proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_breaks_off_is_not_taken_for_whole() {
    for response in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ] {
        let origin = RawOrigin::start(move |mut client, _| async move {
            client.read_request().await;
            client.send(response).await;
        })
        .await;
        let proxy = Proxy::start(&logged(origin.addr()));

        for client in [http1(), http2()] {
            let answer = client.get(proxy.url("/")).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(soon("the end", answer.bytes()).await.is_err());
        }
        proxy.wait_for_stdout("/ 200 end");
        proxy.wait_for_log("probe: [{\"ok\":\"200\"}]");
        assert_healthy(&proxy).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_answers_before_the_body_has_come_is_heard() {
    let origin = RawOrigin::start(|mut client, _| async move {
        client.read_head().await;
        client.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
        client.read_to_end().await;
    })
    .await;
    let proxy = Proxy::start(&logged(origin.addr()));

    let mut client = Raw::connect(proxy.addr()).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\npart").await;
    let response = client.read_response().await;
    assert_eq!((response.status(), response.text()), (413, "big".into()));
    drop(client);
    proxy.wait_for_stdout("/ 413 end");
    assert_healthy(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_go_while_it_sends_its_body() {
    let origin = Origin::saying("never").await;
    let read = script("wasm_access", &guests::path("probe"), r#"[{"call": "in-body-read-exact"}]"#);
    let locals = format!(
        "[[server.local]]\npath = '/read'\nproxy_pass = '{}'\n{read}\
         [[server.local]]\npath = '/echo'\necho = true\n",
        origin.addr()
    );
    let log = script(
        "main.wasm_access_log",
        &guests::path("probe_sync"),
        r#"[{"call": "variable", "args": ["http_request_path"]}, {"deliver": "log"}]"#,
    );
    let access_log = "access_log = { path = 'stdout', format = '${http_request_uri} ${status} end' }\n";
    let fixed = "[[server.local]]\npath = '/fixed'\nrespond = { status = 200, body = 'fixed' }\n";
    let proxy = Proxy::start(&format!("{access_log}{log}{}{locals}{fixed}", proxy_to(origin.addr())));

    for path in ["/proxied", "/read", "/echo"] {
        for framing in ["content-length: 100000", "transfer-encoding: chunked"] {
            for rude in [true, false] {
                let mut client = Raw::connect(proxy.addr()).await;
                let path = format!("{path}/{}/{rude}", framing.len());
                client.send(format!("POST {path} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n5\r\npart")).await;
                proxy.wait_for_metric("phasegate_requests_in_flight", 1.0);
                if rude {
                    client.reset();
                } else {
                    drop(client);
                }
                proxy.wait_for_stdout(&format!("{path} "));
                proxy.wait_for_log(&format!("probe: [{{\"ok\":\"{path}\"}}]"));
                proxy.wait_until_idle();
            }
        }
    }
    assert!(origin.received().iter().all(|request| !request.whole), "{:?}", origin.received());
    assert_healthy(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_go_before_it_has_the_whole_response() {
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let origin = RawOrigin::start(move |mut client, _| {
        let gate = gate.clone();
        async move {
            client.read_request().await;
            client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nstart\r\n").await;
            gate.notified().await;
            // More than the buffers on the way hold.
            while client.send("400\r\n").await && client.send([b'x'; 1024]).await && client.send("\r\n").await {}
        }
    })
    .await;
    let proxy = Proxy::start(&logged(origin.addr()));

    let mut client = Raw::connect(proxy.addr()).await;
    client.send("GET /gone HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.read_head().await.unwrap().status(), 200);
    client.reset();
    go_on.notify_one();
    proxy.wait_for_stdout("/gone 200 end");
    proxy.wait_for_log("probe: [{\"ok\":\"200\"}]");
    assert_healthy(&proxy).await;

    // HTTP/2: the stream is cancelled, the connection stays.
    let client = http2();
    let response = client.get(proxy.url("/cancelled")).send().await.unwrap();
    drop(response);
    go_on.notify_one();
    proxy.wait_for_stdout("/cancelled 200 end");
    assert_eq!(send(client.get(proxy.url("/fixed"))).await.status, 200);
    proxy.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_gets_a_400_or_nothing() {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&logged(origin.addr()));

    for request in [
        "nonsense that is longer than the HTTP/2 preface\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    ] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(request).await;
        let said = String::from_utf8(client.read_to_end().await).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400 "), "{request:?}: {said}");
    }
    assert!(origin.received().is_empty(), "{:?}", origin.received());
    assert_healthy(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_waits_does_not_outlive_its_client_for_long() {
    let mut site = Site::new();
    site.route("/", &script("wasm_serverless", &guests::path("verdict"), "sleep 3600000 then ok"));
    site.listen("listen = [{ addr = \"127.0.0.1:0\", h2 = true }]".into());
    let proxy = Proxy::start(&site.to_string());
    let bodies = ["", "content-length: 100000\r\n", "transfer-encoding: chunked\r\n"];
    let mut clients = Vec::new();
    for body in bodies {
        let mut raw = Raw::connect(proxy.addr()).await;
        raw.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}\r\n")).await;
        clients.push(raw);
    }
    let http2 = tokio::spawn(send(http2().get(proxy.url("/"))));
    proxy.wait_for_metric("phasegate_requests_in_flight", 4.0);
    drop(clients);
    http2.abort();
    // Ten seconds to come to an end by itself.
    proxy.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_a_bad_response_is_not_in_the_log() {
    let fields: String = (0..300).map(|number| format!("x-{number}: 1\r\n")).collect();
    let head = format!("HTTP/1.1 200 OK\r\nset-cookie: secret=1\r\n{fields}\r\n");
    let origin = RawOrigin::start(move |mut client, _| {
        let head = head.clone();
        async move {
            while client.read_request().await.is_some() {
                client.send(&head).await;
            }
        }
    })
    .await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 502);
    let log = proxy.wait_for_log("Fail to proxy: ");
    assert!(!log.contains("secret"), "{log}");
}
