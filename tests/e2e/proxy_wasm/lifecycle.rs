//! Each stream of a filter begins and ends once, whatever ends it, and nothing of it is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Keeps a ledger of its streams: a byte for each context says how far it has come. A callback out of order is counted as
/// wrong. It pauses what asks for it.
fn ledger() -> Guest {
    let mut guest = Guest::new()
        .with(
            "(func $place (param i32) (result i32)
               (i32.add (i32.const 0x20000) (i32.and (local.get 0) (i32.const 0xffff))))
             (func $step (param $context i32) (param $from i32) (param $to i32)
               (if (i32.ne (i32.load8_u (call $place (local.get $context))) (local.get $from))
                 (then (call $count 'wrong')))
               (i32.store8 (call $place (local.get $context)) (local.get $to)))",
        )
        .on(
            "proxy_on_context_create",
            "(if (local.get $a) (then
               (call $step (local.get $context) (i32.const 0) (i32.const 1)) (call $count 'created')))",
        );
    for part in ["request_headers", "request_body", "response_headers", "response_body"] {
        guest = guest.on(
            &format!("proxy_on_{part}"),
            &format!(
                "(call $step (local.get $context) (i32.const 1) (i32.const 1))
                 (if (call $header 'x-wait-{part}') (then (return (i32.const 1))))"
            ),
        );
    }
    for (callback, from, to) in [("done", 1, 2), ("log", 2, 3), ("delete", 3, 0)] {
        guest = guest.on(
            &format!("proxy_on_{callback}"),
            &format!(
                "(call $step (local.get $context) (i32.const {from}) (i32.const {to})) (call $count '{callback}')"
            ),
        );
    }
    guest.on("proxy_on_request_headers", "(if (call $header 'x-answer') (then (call $answer (i32.const 403))))")
}

/// Two filters of the same VMs, so that each request is two streams.
fn ledgers(path: &Path) -> String {
    filter("first", path) + &filter("second", path)
}

#[track_caller]
fn assert_balanced(proxy: &Proxy, requests: usize) {
    proxy.wait_until_idle();
    for metric in ["created", "done", "log", "delete"] {
        assert_eq!(counter(proxy, metric), (2 * requests) as f64, "{metric}");
    }
    assert_eq!(counter(proxy, "wrong"), 0.0);
    for filter in ["first", "second"] {
        assert_eq!(proxy.metric(&of(filter, "filter_streams_total")), requests as f64);
        for gauge in ["filter_streams_in_flight", "filter_streams_paused"] {
            assert_eq!(proxy.metric(&of(filter, gauge)), 0.0, "{gauge}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_begin_and_end_once_whatever_ends_them() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let down = DownOrigin::new();
    let endless = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while client.send("4\r\nmore\r\n").await {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    })
    .await;
    let cut = RawOrigin::start(|mut client, _| async move {
        client.read_request().await;
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    })
    .await;
    let module = ledger().path();
    let chain = ledgers(&module);
    let mut site = Site::with("threads = 2");
    for (path, addr) in
        [("/", origin.addr()), ("/down", down.addr()), ("/endless", endless.addr()), ("/cut", cut.addr())]
    {
        site.route(path, &format!("proxy_pass = '{addr}'\n{chain}"));
    }
    site.route("/local", &format!("respond = {{ status = 200, body = 'hello' }}\n{chain}"));
    let trap = Guest::new().on("proxy_on_request_headers", "unreachable").path();
    site.route("/trap", &format!("proxy_pass = '{}'\n{chain}{}", origin.addr(), filter("trap", &trap)));
    let proxy = Proxy::start(&site.to_string());
    let mut requests = 0;

    for client in [http1(), http2()] {
        let url = |path: &str| proxy.url(path);
        for (path, header, status) in [
            ("/", "x-none", 200),
            ("/", "x-none", 200),
            ("/", "x-answer", 403),
            ("/down", "x-none", 502),
            ("/down", "x-answer", 403),
            ("/local", "x-none", 200),
            ("/local", "x-answer", 403),
            ("/trap", "x-none", 503),
        ] {
            let request = client.post(url(path)).header(header, "1").body("hello");
            assert_eq!(send(request).await.status, status, "{path} {header}");
            requests += 1;
            // Filters after the one that answers have seen nothing of the request, but learn that it was there.
            assert_balanced(&proxy, requests);
        }
        let answer = client.get(url("/cut")).send().await.unwrap();
        assert!(answer.bytes().await.is_err());
        requests += 1;
        assert_balanced(&proxy, requests);

        for wait in ["request_headers", "request_body", "response_headers", "response_body"] {
            let request = client.post(url("/")).header(format!("x-wait-{wait}"), "1").body("hello");
            let waiting = tokio::spawn(request.send());
            proxy.wait_for_metric(
                &of(if wait.starts_with("request") { "first" } else { "second" }, "filter_streams_paused"),
                1.0,
            );
            waiting.abort();
            // With the response, if its head has come.
            drop(waiting);
            requests += 1;
            assert_balanced(&proxy, requests);
            let given_up = failures(&proxy, "first", "wall") + failures(&proxy, "second", "wall");
            assert_eq!(given_up, 0.0, "{wait}: that the client has gone shows at once");
        }
        let mut answer = client.get(url("/endless")).send().await.unwrap();
        assert!(answer.chunk().await.unwrap().is_some());
        drop(answer);
        requests += 1;
        assert_balanced(&proxy, requests);
    }

    // In the middle of the request body, which the filters let pass, and which one of them holds.
    for header in ["x-none", "x-wait-request_body"] {
        let mut client = Raw::connect(proxy.addr()).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\n{header}: 1\r\ncontent-length: 100\r\n\r\nhalf")).await;
        proxy.wait_for_metric(&of("first", "filter_streams_in_flight"), 1.0);
        client.reset();
        requests += 1;
        assert_balanced(&proxy, requests);
    }
}

const RUNS: usize = 10_000;
const CLIENTS: usize = 16;
/// One in so many clients leaves while its request waits.
const IMPATIENT: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_streams_that_were_cancelled() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with("threads = 2");
    site.route("/", &format!("proxy_pass = '{}'\n{}", origin.addr(), ledgers(&ledger().path())));
    let proxy = Arc::new(Proxy::start(&site.to_string()));
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (proxy, next) = (proxy.clone(), next.clone());
            tokio::spawn(async move {
                let mut connection = Raw::connect(proxy.addr()).await;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= RUNS {
                        return;
                    }
                    if number.is_multiple_of(IMPATIENT) {
                        connection.send("GET / HTTP/1.1\r\nhost: a\r\nx-wait-request_headers: 1\r\n\r\n").await;
                        connection = Raw::connect(proxy.addr()).await;
                    } else {
                        connection.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
                        assert_eq!(connection.read_response().await.status(), 200);
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    proxy.wait_until_idle();
    let seen = proxy.metric(&of("first", "filter_streams_total"));
    assert!(seen > RUNS as f64 * 0.99, "{seen}");
    for metric in ["created", "done", "log", "delete"] {
        let second = proxy.metric(&of("second", "filter_streams_total"));
        assert_eq!(counter(&proxy, metric), seen + second, "{metric}");
    }
    assert_eq!(counter(&proxy, "wrong"), 0.0);
    for filter in ["first", "second"] {
        for gauge in ["filter_streams_in_flight", "filter_streams_paused"] {
            assert_eq!(proxy.metric(&of(filter, gauge)), 0.0);
        }
    }
    assert_eq!(proxy.metric("phasegate_filter_vms"), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_paused_for_too_long_is_given_up() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let keys = |policy: &str| format!("limits = {{ wall_ms = 100 }}\nfailure_policy = '{policy}'\n");
    let log = "access_log = { path = 'access.log', format = '${is_timeout_exit}' }";
    let mut site = Site::with(&format!("threads = 2\n{log}"));
    for policy in ["closed", "open"] {
        let chain = ["first", "second"].map(|name| filter(name, &ledger().path()) + &keys(policy)).concat();
        site.route(&format!("/{policy}"), &format!("proxy_pass = '{}'\n{chain}", origin.addr()));
    }
    let proxy = Proxy::start(&site.to_string());
    let mut requests = 0.0;
    for wait in ["request_headers", "request_body", "response_headers", "response_body"] {
        for (policy, status) in [("closed", 503), ("open", 200)] {
            let request = http1().post(proxy.url(&format!("/{policy}"))).header(format!("x-wait-{wait}"), "1");
            let answer = soon("the end", request.body("hello").send()).await.unwrap();
            // The head of the response may be on its way already.
            let status = if wait == "response_body" { 200 } else { status };
            assert_eq!(answer.status(), status, "{wait} {policy}");
            let body = answer.text().await;
            assert!(body.is_err() || policy == "closed" || body.unwrap() == "hello", "{wait} {policy}");
            requests += 1.0;
            proxy.wait_until_idle();
            let created = counter(&proxy, "created");
            for metric in ["done", "log", "delete"] {
                assert_eq!(counter(&proxy, metric), created, "{metric} {wait} {policy}");
            }
            assert_eq!(counter(&proxy, "wrong"), 0.0);
        }
    }
    assert_eq!(proxy.metric(&of("first", "filter_streams_total")), requests);
    assert!(failures(&proxy, "first", "wall") + failures(&proxy, "second", "wall") >= requests);
    assert_eq!(proxy.metric("phasegate_filter_vms"), 2.0, "their VM has done nothing wrong");
    assert!(proxy.terminate().success());
    let lines = std::fs::read_to_string(proxy.folder().join("access.log")).unwrap();
    assert_eq!(lines, "true\nfalse\n".repeat(requests as usize / 2), "those of `open` have gone on");
}
