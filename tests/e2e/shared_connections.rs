//! Callouts over connections that calls share: HTTP/2 to servers that permit few streams, refuse some or do not answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::support::*;

/// Permits every test server.
const ALLOW: &str = r#"allow = { net = ["127.0.0.0/8"] }"#;

/// A server of HTTP/2 behind TLS that permits so many streams on a connection. It answers after so many milliseconds as its
/// path says, with the number of the connection; `/refuse-once` refuses the first request, `/hang` is not answered.
struct Http2Origin {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Http2Origin {
    async fn start(files: &CertFiles, most: u32) -> Http2Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(files.server(&["h2"])));
        let (connections, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let count = connections.clone();
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = count.fetch_add(1, Ordering::Relaxed);
                let (acceptor, refused) = (acceptor.clone(), refused.clone());
                tasks.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let mut builder = h2::server::Builder::new();
                    let Ok(mut server) = builder.max_concurrent_streams(most).handshake(stream).await else { return };
                    let mut answers = JoinSet::new();
                    while let Some(Ok((request, respond))) = server.accept().await {
                        answers.spawn(answer(request.uri().path().to_owned(), connection, respond, refused.clone()));
                    }
                });
            }
        });
        Http2Origin { addr, connections, task }
    }

    fn post(&self, path: &str, ms: u32) -> Value {
        let uri = format!("https://localhost:{}{path}", self.addr.port());
        json!(["handle-http", "ssl", { "method": "post", "uri": uri, "body": "body" }, ms])
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Http2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    path: String,
    connection: usize,
    mut respond: h2::server::SendResponse<Bytes>,
    refused: Arc<AtomicUsize>,
) {
    match path.strip_prefix('/').unwrap() {
        "refuse-once" if refused.fetch_add(1, Ordering::Relaxed) == 0 => {
            return respond.send_reset(Reason::REFUSED_STREAM);
        }
        "hang" => return std::future::pending().await,
        ms => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(0))).await,
    }
    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
    body.send_data(connection.to_string().into(), true).unwrap();
}

/// With a route for each list of calls: `/0`, `/1`, …
fn proxy(authority: &Authority, lists: &[&[Value]]) -> Proxy {
    let mut site = Site::with(&format!("threads = 2\n{}", authority.network()));
    for (index, calls) in lists.iter().enumerate() {
        site.route(&format!("/{index}"), "").script("wasm_serverless", serve("caller", calls).key(ALLOW));
    }
    Proxy::start(&site.to_string())
}

/// The results of the calls of a route.
async fn run(proxy: &Proxy, path: &str) -> Vec<Value> {
    let answer = send(http1().get(proxy.url(path))).await;
    assert_eq!(answer.status, 200, "{}", proxy.log());
    serde_json::from_slice(&answer.body).unwrap()
}

/// The results of so many requests at once.
async fn burst(proxy: &Proxy, path: &str, requests: usize) -> Vec<Value> {
    let client = http1();
    let requests: Vec<_> = (0..requests).map(|_| tokio::spawn(send(client.get(proxy.url(path))))).collect();
    let mut results = Vec::new();
    for request in requests {
        results.push(request.await.unwrap().json()[0].clone());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_has_as_many_connections_as_the_server_wants() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    for (limit, calls, most) in [(5, 60, 12), (1, 10, 10), (1000, 60, 1)] {
        let origin = Http2Origin::start(&files, limit).await;
        let proxy = proxy(&authority, &[&[origin.post("/50", 10_000)]]);
        for _ in 0..3 {
            for result in burst(&proxy, "/0", calls).await {
                assert_eq!(result["ok"]["status"], 200, "limit {limit}: {result}");
            }
        }
        let connections = origin.connections();
        assert!((most.min(2)..=most).contains(&connections), "limit {limit}: {connections} connections");
        assert_eq!(proxy.metric("phasegate_callout_failures_total"), 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_is_sent_again() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let origin = Http2Origin::start(&files, 100).await;
    let proxy = proxy(&authority, &[&[origin.post("/refuse-once", 10_000), origin.post("/0", 10_000)]]);
    for result in run(&proxy, "/0").await {
        assert_eq!(result["ok"]["body"], "0", "{result}");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_late_does_not_cost_others_their_connection() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let origin = Http2Origin::start(&files, 100).await;
    let others = vec![origin.post("/150", 10_000); 6];
    let late = [origin.post("/hang", 400), origin.post("/0", 10_000)];
    let proxy = proxy(&authority, &[&others, &late]);
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        run(&proxy, "/1").await
    };
    let (others, late) = tokio::join!(run(&proxy, "/0"), late);
    assert!(late[0]["err"].as_str().unwrap().contains("within 400 ms"), "{late:?}");
    for result in others.iter().chain(&late[1..]) {
        assert_eq!(result["ok"]["body"], "0", "{result}");
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_replaced() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let origin = Http2Origin::start(&files, 100).await;
    let list = [origin.post("/0", 10_000), origin.post("/hang", 200), origin.post("/0", 10_000)];
    let proxy = proxy(&authority, &[&list]);
    let results = run(&proxy, "/0").await;
    assert!(results[1]["err"].as_str().unwrap().contains("within 200 ms"), "{results:?}");
    assert_eq!((&results[0]["ok"]["body"], &results[2]["ok"]["body"]), (&json!("0"), &json!("1")));
    proxy.wait_for_metric("phasegate_connections{transport=\"ssl\"}", 1.0);
}

/// Not even for a connection that another makes.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_waits_for_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("https://{}/", listener.local_addr().unwrap());
    let call = |ms: u32| json!(["handle-http", "ssl", { "method": "get", "uri": uri }, ms]);
    let mut site = Site::with("threads = 2\n");
    site.route("/0", "").script("wasm_serverless", serve("caller", &[call(2000)]).key(ALLOW));
    site.route("/1", "").script("wasm_serverless", serve("caller", &[call(1000)]));
    let proxy = Proxy::start(&site.to_string());
    let slow = tokio::spawn(send(http1().get(proxy.url("/0"))));
    let _silent = soon("a connection", listener.accept()).await.unwrap();
    let results = run(&proxy, "/1").await;
    assert!(results[0]["err"].as_str().unwrap().starts_with("allow.net does not permit"), "{results:?}");
    assert!(slow.await.unwrap().json()[0]["err"].as_str().unwrap().contains("within 2000 ms"));
}

type Http3 = h3::server::Connection<h3_quinn::Connection, Bytes>;

/// A server of HTTP/3 that does with each connection what the function does.
async fn http3<A>(
    files: &CertFiles,
    serve: impl Fn(Http3, usize) -> A + Send + Sync + 'static,
) -> (JoinHandle<()>, String)
where
    A: Future<Output = ()> + Send + 'static,
{
    let endpoint = files.quic_endpoint("h3");
    let uri = format!("https://localhost:{}/", endpoint.local_addr().unwrap().port());
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        for number in 0.. {
            let quic = h3_quinn::Connection::new(endpoint.accept().await.unwrap().await.unwrap());
            connections.spawn(serve(Http3::new(quic).await.unwrap(), number));
        }
    });
    (task, uri)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goaway_of_http3_is_followed_by_another_connection() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let (server, uri) = http3(&files, |mut server, number| async move {
        while let Ok(Some(resolver)) = server.accept().await {
            let (_, mut stream) = resolver.resolve_request().await.unwrap();
            stream.send_response(http::Response::new(())).await.unwrap();
            stream.send_data(number.to_string().into()).await.unwrap();
            stream.finish().await.unwrap();
            if number == 0 {
                server.shutdown(0).await.unwrap();
                // What it gets now it would not answer.
                std::future::pending::<()>().await;
            }
        }
    })
    .await;
    let post = json!(["handle-http", "quic", { "method": "post", "uri": uri, "body": "body" }, 5000]);
    let proxy = proxy(&authority, &[&[post.clone(), json!(["sleep", 200]), post]]);
    let results = run(&proxy, "/0").await;
    assert_eq!((&results[0]["ok"]["body"], &results[2]["ok"]["body"]), (&json!("0"), &json!("1")), "{results:?}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_http3_that_is_given_up_does_not_look_whole() {
    let authority = Authority::new();
    let files = authority.issue("localhost");
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let (server, uri) = http3(&files, move |mut server, _| {
        let ends = ends.clone();
        async move {
            let mut requests = JoinSet::new();
            while let Ok(Some(resolver)) = server.accept().await {
                let ends = ends.clone();
                requests.spawn(async move {
                    let (request, mut stream) = resolver.resolve_request().await.unwrap();
                    if request.method() == "GET" {
                        return std::future::pending().await;
                    }
                    // The request has filled the window of the stream, and is late.
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    let end = loop {
                        match stream.recv_data().await {
                            Ok(Some(_)) => {}
                            end => break end.map(drop),
                        }
                    };
                    ends.send(format!("{end:?}")).unwrap();
                });
            }
        }
    })
    .await;
    let post = json!(["handle-http", "quic", { "method": "post", "uri": uri, "body_length": 5_000_000 }, 300]);
    let get = json!(["handle-http", "quic", { "method": "get", "uri": uri }, 2000]);
    let mut site = Site::with(&format!("{}body_limit = 5000000\n", authority.network()));
    site.route("/0", "").script("wasm_serverless", serve("caller", &[post]).key(ALLOW));
    site.route("/1", "").script("wasm_serverless", serve("caller", &[get]).key(ALLOW));
    let proxy = Proxy::start(&site.to_string());
    // It holds the connection, which would end the request as well.
    let holds = tokio::spawn(send(http1().get(proxy.url("/1"))));
    proxy.wait_for_metric("phasegate_connections{transport=\"quic\"}", 1.0);
    let results = run(&proxy, "/0").await;
    assert!(results[0]["err"].as_str().unwrap().contains("within 300 ms"), "{results:?}");
    let end = soon("the end of the request", ended.recv()).await.unwrap();
    assert!(end.contains("H3_REQUEST_CANCELLED"), "{end}");
    assert_eq!(holds.await.unwrap().status, 200);
    server.abort();
}
