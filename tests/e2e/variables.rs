//! The variables, as plugins read them.

use std::collections::BTreeSet;

use phasegate::variables::Variable;
use serde_json::{Value, json};

use super::support::*;

/// Pingora counts that of HTTP/1.1 only.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_upstream_is_known_in_every_version() {
    let origin = Proxy::start(&server("path = '/'\necho = true"));
    let format = "${http_request_path} ${upstream_protocol} ${upstream_bytes_sent} end";
    let upstream =
        |name: &str, keys: &str| format!("[upstream.{name}]\nservers = [{{ addr = '{}' }}]\n{keys}\n", origin.addr());
    let main = format!("access_log = {{ path = 'stdout', format = '{format}' }}\n");
    let mut site = Site::with(&(main + &upstream("h1", "") + &upstream("h2", "h2 = true")));
    site.route("/h1", "proxy_pass = 'h1'").route("/h2", "proxy_pass = 'h2'").answered("/none");
    let proxy = Proxy::start(&site.to_string());
    for path in ["/h1", "/h2", "/none"] {
        assert_eq!(send(http1().post(proxy.url(path)).body(bytes(200_000))).await.status, 200);
    }
    for line in ["/h1 HTTP/1.1 200000 end", "/h2 HTTP/2.0 200000 end", "/none - - end"] {
        proxy.wait_for_stdout(line);
    }
    assert_eq!(send(http1().get(proxy.url("/h2"))).await.status, 200);
    proxy.wait_for_stdout("/h2 HTTP/2.0 0 end");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_variable_at_the_end_of_a_request() {
    let origin = Origin::start(|_| {
        let mut response = reply(201, "hello");
        response.headers_mut().insert("x-of-origin", "yes".parse().unwrap());
        response
    })
    .await;
    let upstream = format!("[upstream.behind]\nservers = [{{ addr = \"{}\" }}]\nbalance = \"random\"", origin.addr());
    let mut site = Site::with(&upstream);
    let names: Vec<_> = Variable::names()
        .map(|name| match name {
            "http_header_" => "http_header_x_a".to_owned(),
            "http_resp_header_" => "http_resp_header_x_of_origin".to_owned(),
            name => name.to_owned(),
        })
        .chain(["no_such_variable".to_owned(), "http_header_x_none".to_owned(), String::new()])
        .collect();
    let calls: Vec<_> = names.iter().map(|name| json!(["variable", name])).collect();
    site.route("/", "proxy_pass = \"behind\"")
        .script("wasm_access", probe("probe_sync", "begin", &calls))
        .script("wasm_access", Script::guest("verdict", "ext").main("ext2"))
        .script("wasm_access_log", probe("probe_sync", "end", &calls));
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    let client_addr = client.local_addr();
    client
        .send("POST /p/q?a=b HTTP/1.1\r\nhost: WWW.Example.cn:80\r\nx-a: 1\r\ncontent-length: 7\r\n\r\n1234567")
        .await;
    assert_eq!(client.read_response().await.status(), 201);

    let (proxy_addr, client_port) = (proxy.addr(), client_addr.port().to_string());
    let (proxy_port, origin_port) = (proxy_addr.port().to_string(), origin.addr().port().to_string());
    let (begin, end) = (results(&proxy, "begin"), results(&proxy, "end"));
    let value = |given: &[Value], name: &str| {
        let index = names.iter().position(|n| n == name).unwrap();
        given[index].get("ok").unwrap_or_else(|| panic!("{name}: {}", given[index])).clone()
    };
    let exact = [
        ("local_addr", json!(proxy_addr.to_string())),
        ("local_ip", json!("127.0.0.1")),
        ("local_port", json!(proxy_port)),
        ("remote_addr", json!(client_addr.to_string())),
        ("remote_ip", json!("127.0.0.1")),
        ("remote_port", json!(client_port)),
        ("client_addr", json!(client_addr.to_string())),
        ("client_ip", json!("127.0.0.1")),
        ("client_port", json!(client_port)),
        ("domain", json!("www.example.cn")),
        ("ssl_domain", json!(null)),
        ("local_protocol", json!("HTTP/1.1")),
        ("scheme", json!("http")),
        ("versions", json!(phasegate::VERSION)),
        ("http_request_method", json!("POST")),
        ("http_request_uri", json!("/p/q?a=b")),
        ("http_request_path", json!("/p/q")),
        ("http_request_query", json!("a=b")),
        ("http_request_version", json!("HTTP/1.1")),
        ("http_cache_status", json!(null)),
        ("is_timeout_exit", json!("false")),
        ("http_header_x_a", json!("1")),
        ("no_such_variable", json!(null)),
        ("http_header_x_none", json!(null)),
        ("", json!(null)),
    ];
    let only_at_the_end = [
        ("upstream_protocol", json!("HTTP/1.1")),
        ("upstream_name", json!("behind")),
        ("upstream_host", json!("127.0.0.1")),
        ("upstream_addr", json!(origin.addr().to_string())),
        ("upstream_ip", json!("127.0.0.1")),
        ("upstream_port", json!(origin_port)),
        ("upstream_balancer", json!("random")),
        ("status", json!("201")),
        ("status_str", json!("Created")),
        ("client_bytes_sent", json!("5")),
        ("client_bytes_received", json!("7")),
        ("upstream_bytes_sent", json!("7")),
        ("upstream_bytes_received", json!("5")),
        ("http_resp_header_x_of_origin", json!("yes")),
        ("wasm_ext", json!("ext2")),
    ];
    let mut checked: BTreeSet<&str> = BTreeSet::new();
    for (name, expected) in &exact {
        assert_eq!((value(&begin, name), value(&end, name)), (expected.clone(), expected.clone()), "{name}");
        checked.insert(name);
    }
    for (name, expected) in &only_at_the_end {
        let unknown = if name.starts_with("client_bytes") { json!("0") } else { json!(null) };
        assert_eq!((value(&begin, name), value(&end, name)), (unknown, expected.clone()), "{name}");
        checked.insert(name);
    }
    // What has no fixed value.
    let text = |name: &str| value(&end, name).as_str().unwrap_or_default().to_owned();
    for name in ["session_time", "upstream_connect_time"] {
        assert!(text(name).parse::<f64>().is_ok_and(|ms| (0.0..20_000.0).contains(&ms)), "{name}: {}", text(name));
    }
    assert!(text("local_time").len() >= 20 && text("local_time").contains('T'), "{}", text("local_time"));
    assert!(text("stream_work_times").starts_with("wasm_access="), "{}", text("stream_work_times"));
    assert_eq!(value(&begin, "request_id"), value(&end, "request_id"));
    assert_eq!(text("request_id").len(), 32);
    checked.extend(["session_time", "upstream_connect_time", "local_time", "stream_work_times", "request_id"]);
    let left: Vec<_> = names.iter().filter(|name| !checked.contains(name.as_str())).collect();
    assert!(left.is_empty(), "not tested: {left:?}");
}
