//! Plugins read request bodies, and the origin still gets them whole.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::Body;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify, mpsc};

use super::support::*;

const KIB: usize = 1024;
const SIZES: [usize; 5] = [0, 1, 64 * KIB, 64 * KIB + 1, KIB * KIB];

/// Reads the body and tells the origin what it saw.
fn read_in(phase: &str) -> String {
    let header = format!("in-header:x-{}", phase.replace('_', "-"));
    let steps = json!([{ "call": "in-body-read-exact" }, { "deliver": header }]);
    script(phase, &guests::path("probe"), &steps.to_string())
}

/// `/none`, `/access`, `/in`, `/both`: by the phases in which the body is read.
fn reading(origin: SocketAddr) -> String {
    let local = |path: &str, phases: &[&str]| {
        let scripts: String = phases.iter().map(|phase| read_in(phase)).collect();
        format!("[[server.local]]\npath = '{path}'\nproxy_pass = '{origin}'\n{scripts}")
    };
    let locals = [
        local("/none", &[]),
        local("/access", &["wasm_access"]),
        local("/in", &["wasm_http_in_headers"]),
        local("/both", &["wasm_access", "wasm_http_in_headers"]),
    ];
    format!("[[server]]\n{LISTEN}\n{}", locals.concat())
}

/// What the plugins of a path saw, by the headers that the origin received.
fn seen(received: &Received) -> Vec<Value> {
    let headers = ["x-wasm-access", "x-wasm-http-in-headers"];
    headers.iter().filter_map(|name| received.header(name)).map(|json| serde_json::from_str(json).unwrap()).collect()
}

fn readers(path: &str) -> usize {
    match path {
        "/none" => 0,
        "/both" => 2,
        _ => 1,
    }
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
}

use Framing::{Chunked, Length};

fn head(method: &str, path: &str, framing: Framing, length: usize) -> String {
    let framing = match framing {
        Length => format!("content-length: {length}"),
        Chunked => "transfer-encoding: chunked".to_owned(),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n")
}

/// A part of a body, as it goes over the wire.
fn part(framing: Framing, bytes: &[u8]) -> Vec<u8> {
    match framing {
        Length => bytes.to_vec(),
        Chunked => bytes
            .chunks(10_000)
            .flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
            .collect(),
    }
}

fn end(framing: Framing) -> &'static str {
    match framing {
        Length => "",
        Chunked => "0\r\n\r\n",
    }
}

/// The same for HTTP/2, where a body without a length is cut into frames.
fn body(framing: Framing, bytes: Vec<u8>) -> Body {
    match framing {
        Length => bytes.into(),
        Chunked => {
            let chunks: Vec<_> =
                bytes.chunks(10_000).map(Bytes::copy_from_slice).map(Ok::<_, std::io::Error>).collect();
            Body::wrap_stream(futures::stream::iter(chunks))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_and_origin_see_all_bytes_over_http_1() {
    let origin = Origin::saying("done").await;
    let proxy = Proxy::start(&reading(origin.addr()));

    let mut client = Raw::connect(proxy.addr()).await;
    for path in ["/none", "/access", "/in", "/both"] {
        for framing in [Length, Chunked] {
            for size in SIZES {
                let sent = bytes(size);
                client.send(head("POST", path, framing, size)).await;
                client.send(part(framing, &sent)).await;
                client.send(end(framing)).await;
                let response = client.read_response().await;
                let case = format!("{path} {framing:?} {size}");
                assert_eq!((response.status(), response.text()), (200, "done".into()), "{case}");
                assert_whole(&origin.last(), path, &sent, &case);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_and_origin_see_all_bytes_over_http_2() {
    let origin = Origin::saying("done").await;
    let proxy = Proxy::start(&reading(origin.addr()));

    let client = http2();
    for path in ["/none", "/access", "/in", "/both"] {
        for framing in [Length, Chunked] {
            for size in SIZES {
                let sent = bytes(size);
                let answer = send(client.post(proxy.url(path)).body(body(framing, sent.clone()))).await;
                let case = format!("{path} {framing:?} {size}");
                assert_eq!((answer.status, answer.text()), (200, "done".into()), "{case}");
                assert_whole(&origin.last(), path, &sent, &case);
            }
        }
    }
}

/// What comes after the end would be taken for the next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_ends_once() {
    let all = Arc::new(Notify::new());
    let (sender, mut after) = mpsc::channel(1);
    let arrived = all.clone();
    let origin = RawOrigin::start(move |mut proxy, _| {
        let (arrived, sender) = (arrived.clone(), sender.clone());
        async move {
            proxy.read_head().await.unwrap();
            assert_eq!(proxy.read_exact(10).await, b"5\r\nhello\r\n");
            arrived.notify_one();
            assert_eq!(proxy.read_exact(5).await, b"0\r\n\r\n");
            proxy.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ndone").await;
            sender.send(proxy.read_to_end().await).await.unwrap();
        }
    })
    .await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    // The end comes by itself, in a frame without bytes.
    let first = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"hello")) });
    let end = futures::stream::once(async move {
        all.notified().await;
        Ok(Bytes::new())
    });
    let answer = send(http2().post(proxy.url("/")).body(Body::wrap_stream(first.chain(end)))).await;
    assert_eq!((answer.status, answer.text()), (200, "done".into()));
    assert_eq!(String::from_utf8_lossy(&after.recv().await.unwrap()), "");
}

#[track_caller]
fn assert_whole(received: &Received, path: &str, sent: &[u8], case: &str) {
    assert!(received.whole, "{case}");
    assert_eq!((received.body.len(), received.fnv()), (sent.len(), fnv(sent)), "{case}");
    let expected = json!([{ "ok": { "len": sent.len(), "fnv": fnv(sent) } }]);
    assert_eq!(seen(received), vec![expected; readers(path)], "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_an_error_for_the_plugin_and_whole_for_the_origin() {
    let origin = Origin::saying("done").await;
    let proxy = Proxy::start(&format!("body_limit = 1024\n{}", reading(origin.addr())));
    let over = json!([{ "err": "the request body is larger than body_limit, 1024 bytes" }]);

    let mut client = Raw::connect(proxy.addr()).await;
    let http2 = http2();
    for path in ["/access", "/in", "/both"] {
        for framing in [Length, Chunked] {
            for size in [1024, 1025, 70_000, 1_000_000] {
                let sent = bytes(size);
                let case = format!("{path} {framing:?} {size}");
                let check = || {
                    if size <= 1024 {
                        return assert_whole(&origin.last(), path, &sent, &case);
                    }
                    let received = origin.last();
                    assert_eq!((received.body.len(), received.fnv()), (size, fnv(&sent)), "{case}");
                    assert_eq!(seen(&received), vec![over.clone(); readers(path)], "{case}");
                };

                client.send(head("POST", path, framing, size)).await;
                client.send(part(framing, &sent)).await;
                client.send(end(framing)).await;
                assert_eq!(client.read_response().await.text(), "done", "{case}");
                check();

                let answer = send(http2.post(proxy.url(path)).body(body(framing, sent.clone()))).await;
                assert_eq!(answer.text(), "done", "{case}");
                check();
            }
        }
    }
}

/// Reads the body, until another entry point says that it takes too long.
fn impatient(phase: &str) -> String {
    let timeout = json!([{ "call": "sleep", "args": [50] }, { "call": "log-info", "args": ["too long"] }]);
    format!("{}wasm_main_timeout_config = '''{timeout}'''\n", read_in(phase))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_cancelled_takes_nothing_from_the_origin() {
    let origin = Origin::saying("done").await;
    for phase in ["wasm_access", "wasm_http_in_headers"] {
        let proxy = Proxy::start(&(proxy_to(origin.addr()) + &impatient(phase)));
        let mut client = Raw::connect(proxy.addr()).await;
        let http2 = http2();
        let mut cancelled = 0;
        for framing in [Length, Chunked] {
            for (first, rest) in [(0, 10), (5, 5), (100_000, 200_000)] {
                let case = format!("{phase} {framing:?} {first} {rest}");
                let sent = bytes(first + rest);
                let check = || {
                    let received = origin.last();
                    assert_eq!((received.body.len(), received.fnv()), (sent.len(), fnv(&sent)), "{case}");
                    assert_eq!(seen(&received), Vec::<Value>::new(), "{case}");
                };

                client.send(head("POST", "/", framing, sent.len())).await;
                client.send(part(framing, &sent[..first])).await;
                cancelled += 1;
                eventually("the reader is cancelled", || proxy.log().matches("too long").count() == cancelled);
                client.send(part(framing, &sent[first..])).await;
                client.send(end(framing)).await;
                assert_eq!(client.read_response().await.text(), "done", "{case}");
                check();

                let (parts, body) = body_in_parts();
                let mut request = http2.post(proxy.url("/")).body(body);
                if let Length = framing {
                    request = request.header("content-length", sent.len());
                }
                let answer = tokio::spawn(send(request));
                parts.send(sent[..first].to_vec()).unwrap();
                cancelled += 1;
                eventually("the reader is cancelled", || proxy.log().matches("too long").count() == cancelled);
                parts.send(sent[first..].to_vec()).unwrap();
                drop(parts);
                assert_eq!(answer.await.unwrap().text(), "done", "{case}");
                check();
            }
        }
    }
}

type Parts = tokio::sync::mpsc::UnboundedSender<Vec<u8>>;

fn body_in_parts() -> (Parts, Body) {
    let (parts, received) = tokio::sync::mpsc::unbounded_channel::<Vec<u8>>();
    let stream = futures::stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
    (parts, Body::wrap_stream(stream.map(Ok::<_, std::io::Error>)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_read_goes_to_the_origin_again_when_its_connection_turns_out_dead() {
    // Each connection serves one request, and hears out a second one that it does not answer.
    let served = Arc::new(Mutex::new(Vec::new()));
    let log = served.clone();
    let origin = RawOrigin::start(move |mut client, _| {
        let log = log.clone();
        async move {
            let request = client.read_request().await.unwrap();
            log.lock().await.push((request.headers.clone(), request.body));
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            client.read_request().await;
        }
    })
    .await;
    let proxy = Proxy::start(&format!("threads = 1\n{}", reading(origin.addr())));

    let mut client = Raw::connect(proxy.addr()).await;
    for path in ["/none", "/access", "/in", "/both"] {
        for framing in [Length, Chunked] {
            for size in [10, 50_000, 100_000] {
                // What nobody reads in advance Pingora keeps for another try up to 64 KiB.
                if size > 64 * KIB && path == "/none" {
                    continue;
                }
                let sent = bytes(size);
                client.send(head("PUT", path, framing, size)).await;
                client.send(part(framing, &sent)).await;
                client.send(end(framing)).await;
                let case = format!("{path} {framing:?} {size}");
                assert_eq!(client.read_response().await.text(), "done", "{case}");
                let (headers, body) = served.lock().await.pop().unwrap();
                assert_eq!((body.len(), fnv(&body)), (size, fnv(&sent)), "{case}");
                let seen = ["x-wasm-access", "x-wasm-http-in-headers"].into_iter().filter_map(|name| headers.get(name));
                assert_eq!(seen.count(), readers(path), "{case}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_origin_reads_bodies_up_to_the_limit() {
    let proxy = Proxy::start(&format!("body_limit = 1024\n{}", server("path = '/'\necho = true")));

    for client in [http1(), http2()] {
        for framing in [Length, Chunked] {
            for size in [0, 1, 1024] {
                let text = "x".repeat(size);
                let answer = send(client.post(proxy.url("/")).body(body(framing, text.clone().into()))).await;
                assert_eq!((answer.status, &answer.json()["body"]), (200, &json!(text)));
            }
            let answer = send(client.post(proxy.url("/")).body(body(framing, bytes(1025)))).await;
            assert_eq!(answer.status, 413);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_a_large_body_is_not_lost_with_the_connection() {
    let locals = "[[server.local]]\npath = '/limited'\necho = true\n\
                  [[server.local]]\npath = '/no'\nrespond = { status = 403, body = 'no' }";
    let proxy = Proxy::start(&format!("[[server]]\n{LISTEN}\n{locals}"));
    let body = "x".repeat(8 << 20);
    for (path, status) in [("/limited", 413), ("/no", 403)] {
        for _ in 0..20 {
            let request = http1().post(proxy.url(path)).header("connection", "close").body(body.clone());
            assert_eq!(send(request).await.status, status, "{path}");
        }
    }
}
