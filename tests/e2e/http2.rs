//! Peers of HTTP/2 that end things where others do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::filters::{pw_probe, through, upstream};
use super::support::*;

/// A server of HTTP/2 without TLS, and how many requests it has had.
async fn peer(answer: impl Fn(SendResponse<Bytes>) + Clone + Send + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, counted) = (answer.clone(), counted.clone());
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, respond))) = connection.accept().await {
                    counted.fetch_add(1, Ordering::Relaxed);
                    answer(respond);
                }
            });
        }
    });
    (addr, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn blanks_around_a_value_are_refused() {
    let origin = Origin::saying("hello").await;
    let (addr, _) = peer(|mut respond| {
        let response = Response::builder().header("x-role", "admin ").body(()).unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    let mut site = Site::with(&format!("[upstream.padded]\nservers = [{{ addr = '{addr}' }}]\nh2 = true"));
    site.proxied("/", origin.addr()).route("/padded", "proxy_pass = 'padded'");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http2().get(proxy.url("/padded"))).await.status, 502);

    let stream = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (value, expected) in [(" admin", 400), ("admin", 200)] {
        let request = Request::builder().uri(proxy.url("/")).header("x-role", value).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(soon("a response", response).await.unwrap().status(), expected, "{value:?}");
    }
    assert_eq!(origin.only().header("x-role"), Some("admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_is_not_asked_for_ever() {
    let (addr, count) = peer(|mut respond| respond.send_reset(Reason::REFUSED_STREAM)).await;
    let config = format!(
        "[upstream.busy]\nservers = [{{ addr = '{addr}' }}]\nh2 = true\n{}",
        server("path = '/'\nproxy_pass = 'busy'")
    );
    let proxy = Proxy::start(&config);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 502);
    assert!((2..=4).contains(&count.load(Ordering::Relaxed)), "{count:?}");
    let before = count.load(Ordering::Relaxed);
    assert_eq!(send(http1().post(proxy.url("/")).body("once")).await.status, 502);
    assert_eq!(count.load(Ordering::Relaxed), before + 1, "not idempotent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callout_whose_response_is_cut_has_none() {
    let (addr, _) = peer(|mut respond| {
        tokio::spawn(async move {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data("part".into(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            body.send_reset(Reason::NO_ERROR);
        });
    })
    .await;
    let origin = Origin::saying("hello").await;
    let then = json!([["get", "call_headers", ":status"], ["continue", "request"]]);
    let headers = json!([[":method", "GET"], [":path", "/"], [":authority", "callee"]]);
    let call = json!(["http_call", { "cluster": "callee", "headers": headers, "timeout": 5000, "then": then }]);
    let plan = json!({ "on_request_headers": [call, ["pause"]] });
    let main = upstream("callee", addr) + "h2 = true\n";
    let proxy = Proxy::start(&through(origin.addr(), &main, &pw_probe(&plan)));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let line = "get(\"call_headers\",\":status\") -> ";
    let log = proxy.wait_for_log(line);
    assert!(!log.contains(&format!("{line}\"200\"")), "{log}");
}

/// A connection to the proxy.
async fn client(addr: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let (client, connection) = h2::client::handshake(TcpStream::connect(addr).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_body_ends_also_when_a_filter_takes_its_length_away() {
    let origin = Origin::saying("hello").await;
    let plan = json!({ "on_request_headers": [["remove", "request_headers", "content-length"]] });
    let proxy = Proxy::start(&through(origin.addr(), "", &pw_probe(&plan)));
    let mut client = client(proxy.addr()).await;
    let request = Request::post(proxy.url("/")).header("content-length", "0").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    // The end comes by itself.
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The response may be here, and the stream with it gone.
    let _ = body.send_data(Bytes::new(), true);
    assert_eq!(soon("the response", response).await.unwrap().status(), 200);
    assert!(origin.only().body.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_end_their_streams_are_no_errors_of_the_proxy() {
    let proxy =
        Proxy::start(&server(&format!("path = '/'\nrespond = {{ status = 200, body = '{}' }}", "x".repeat(100_000))));
    let mut client = client(proxy.addr()).await;
    for _ in 0..10 {
        drop(client.send_request(Request::get(proxy.url("/")).body(()).unwrap(), true).unwrap());
    }
    let (response, _) = client.send_request(Request::get(proxy.url("/")).body(()).unwrap(), true).unwrap();
    assert_eq!(soon("the response", response).await.unwrap().status(), 200);
    drop(client);
    proxy.wait_until_idle();
    assert!(!proxy.log().contains(" ERROR "), "{}", proxy.log());
}
