//! Headers as plugins read and change them.

use serde_json::{Value, json};

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn request_headers() {
    let (given, request) = in_access(&[
        json!(["in-get-header", "x-own"]),
        json!(["in-get-header", "X-CASE"]),
        json!(["in-get-header", "x-none"]),
        json!(["in-is-header", "X-Own"]),
        json!(["in-is-header", "x-none"]),
        json!(["in-add-header", "x-own", "3"]),
        json!(["in-add-header", "X-Added", "1"]),
        json!(["in-add-headers", [["x-added", "2"], ["x-added", "3"]]]),
        json!(["in-set-header", "x-case", "no"]),
        json!(["in-set-header", "x-set", "ünïcode"]),
        json!(["in-add-header", "x-gone", "1"]),
        json!(["in-add-header", "x-gone", "2"]),
        json!(["in-del-header", "X-Gone"]),
        json!(["in-del-header", "x-none"]),
        json!(["in-add-header", "x-empty", ""]),
        json!(["in-get-header", "x-set"]),
        json!(["in-get-headers"]),
    ])
    .await;
    let expected = [json!("1"), json!("yes"), json!(null), json!(true), json!(false)];
    assert!(given.iter().zip(&expected).all(|(given, expected)| given["ok"] == *expected), "{given:?}");
    assert!(given.iter().all(|result| result.get("ok").is_some()), "{given:?}");
    assert_eq!(given[15]["ok"], "ünïcode");
    let own = json!([["x-own", "1"], ["x-own", "2"], ["x-own", "3"]]);
    let pairs: Vec<_> = given[16]["ok"].as_array().unwrap().iter().filter(|pair| pair[0] == "x-own").cloned().collect();
    assert_eq!(Value::from(pairs), own, "a pair for every value");

    let values =
        |name: &str| -> Vec<_> { request.headers.get_all(name).iter().map(|v| v.as_bytes().to_vec()).collect() };
    assert_eq!(values("x-own"), [b"1", b"2", b"3"]);
    assert_eq!(values("x-added"), [b"1", b"2", b"3"]);
    assert_eq!(values("x-case"), [b"no"]);
    assert_eq!(values("x-set"), ["ünïcode".as_bytes()]);
    assert_eq!(values("x-empty"), [b""]);
    assert!(values("x-gone").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_is_refused_and_changes_nothing() {
    let bad_names = ["", "a b", "a:b", "ü", "a\r\nb", "(a)"];
    let bad_values = ["a\r\nx-injected: 1", "a\nb", "a\u{0}b", "\u{1f}", " a", "a\t"];
    let framing = ["content-length", "Transfer-Encoding"];
    let mut calls = Vec::new();
    for side in ["in", "out"] {
        for name in bad_names.iter().chain(&framing) {
            calls.push(json!([format!("{side}-add-header"), name, "1"]));
            calls.push(json!([format!("{side}-set-header"), name, "1"]));
            calls.push(json!([format!("{side}-del-header"), name]));
            // All or nothing.
            calls.push(json!([format!("{side}-add-headers"), [["x-first", "1"], [name, "1"]]]));
            calls.push(json!([format!("{side}-del-headers"), ["x-own", name]]));
        }
        for name in ["connection", "Keep-Alive", "proxy-connection", "te"] {
            calls.push(json!([format!("{side}-add-header"), name, "close"]));
            calls.push(json!([format!("{side}-set-header"), name, "close"]));
            calls.push(json!([format!("{side}-add-headers"), [["x-first", "1"], [name, "close"]]]));
        }
        for name in bad_names {
            calls.push(json!([format!("{side}-get-header"), name]));
            calls.push(json!([format!("{side}-is-header"), name]));
        }
        for value in bad_values {
            calls.push(json!([format!("{side}-add-header"), "x-own", value]));
            calls.push(json!([format!("{side}-set-header"), "x-own", value]));
            calls.push(json!([format!("{side}-add-headers"), [["x-first", "1"], ["x-own", value]]]));
        }
    }
    let (request_calls, response_calls) = calls.split_at(calls.len() / 2);
    // What would be lost on the way.
    let uris = ["/a#b", "/#", "#", "/a?b#c", "/ä", "/a?ä"].map(|uri| json!(["in-set-uri", uri]));
    let of_hop =
        ["upgrade", "Trailer", "proxy-authorization", "http2-settings"].map(|name| json!(["in-set-header", name, "x"]));
    let hosts = [
        json!(["in-add-header", "host", "b"]),
        json!(["in-set-header", "host", "b c"]),
        json!(["in-add-headers", [["x-first", "1"], ["host", "b"]]]),
    ];
    let request_calls = &[request_calls, &uris, &of_hop, &hosts].concat()[..];
    let of_proxy = [
        json!(["out-set-header", "date", "x"]),
        json!(["out-del-header", "date"]),
        json!(["out-del-headers", ["x-own", "date"]]),
        json!(["out-add-header", "upgrade", "x"]),
    ];
    let response_calls = &[response_calls, &of_proxy].concat()[..];
    let origin = Origin::start(|_| {
        let mut reply = reply(200, "hello");
        reply.headers_mut().insert("x-own", "kept".parse().unwrap());
        reply
    })
    .await;
    let mut site = Site::new();
    site.proxied("/", origin.addr())
        .script("wasm_access", probe("probe_sync", "request", request_calls))
        .script("wasm_http_filter_headers_pre", probe("probe_sync", "pre", response_calls))
        .script("wasm_http_filter_headers", probe("probe_sync", "filter", response_calls));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/")).header("x-own", "kept")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    for (name, calls) in [("request", request_calls), ("pre", response_calls), ("filter", response_calls)] {
        let given = results(&proxy, name);
        assert_eq!(given.len(), calls.len());
        for (call, result) in calls.iter().zip(&given) {
            assert!(result["err"].is_string(), "{call} in {name}: {result}");
        }
    }
    let request = origin.only();
    for headers in [&request.headers, &answer.headers] {
        assert_eq!(headers.get_all("x-own").iter().collect::<Vec<_>>(), ["kept"]);
        assert!(!headers.contains_key("x-first") && !headers.contains_key("x-injected"), "{headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_too_many_headers_is_refused_and_changes_nothing() {
    let many: Vec<_> = (0..5000).map(|i| [format!("x-{i}"), String::new()]).collect();
    let origin = Origin::saying("hello").await;
    let limits = "limits = { cpu_ms = 20000 }";
    let request =
        [json!(["in-add-headers", many]), json!(["out-set-response", { "status": 200, "headers": many, "body": "x" }])];
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe", "request", &request).key(limits)).script(
        "wasm_http_filter_headers",
        probe("probe", "response", &[json!(["out-add-headers", many])]).key(limits),
    );
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.header("x-0"), origin.only().header("x-0")), (200, None, None));
    let given = [results(&proxy, "request"), results(&proxy, "response")].concat();
    assert_eq!(given.len(), 3);
    assert!(given.iter().all(|given| given["err"] == "there are too many headers: a message has 4096 at the most"));
}

/// The host of the server's address takes the place of one that a plugin has removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_always_names_a_host() {
    let origin = Proxy::start(&server("path = '/'\necho = true"));
    let upstream =
        |name: &str, keys: &str| format!("[upstream.{name}]\nservers = [{{ addr = '{}' }}]\n{keys}\n", origin.addr());
    let mut site = Site::with(&(upstream("h1", "") + &upstream("h2", "h2 = true")));
    for name in ["h1", "h2"] {
        for phase in ["wasm_access", "wasm_http_in_headers"] {
            site.route(&format!("/{name}/{phase}"), &format!("proxy_pass = '{name}'"))
                .script(phase, probe("probe_sync", "removes", &[json!(["in-del-header", "host"])]));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    for name in ["h1", "h2"] {
        for phase in ["wasm_access", "wasm_http_in_headers"] {
            let answer = send(http1().get(proxy.url(&format!("/{name}/{phase}")))).await;
            assert_eq!(answer.status, 200, "{name} {phase}");
            let headers = answer.json()["headers"].clone();
            let host = headers.as_array().unwrap().iter().find(|pair| pair[0] == "host").map(|pair| pair[1].clone());
            assert_eq!(host, Some(json!("127.0.0.1")), "{name} {phase}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_is_not_text_is_err_and_passes() {
    let origin = Origin::saying("hello").await;
    let calls =
        [json!(["in-get-header", "x-raw"]), json!(["in-get-header", "x-own"]), json!(["in-is-header", "x-raw"])];
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe_sync", "calls", &calls));
    let proxy = Proxy::start(&site.to_string());
    let mut client = Raw::connect(proxy.addr()).await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-raw: \xff\xfe\r\nx-own: 1\r\n\r\n").await;
    assert_eq!(client.read_response().await.status(), 200);
    let given = results(&proxy, "calls");
    assert!(given[0]["err"].as_str().unwrap().contains("`x-raw` is not valid UTF-8"), "{given:?}");
    assert_eq!((&given[1]["ok"], &given[2]["ok"]), (&json!("1"), &json!(true)));
    assert_eq!(origin.only().headers["x-raw"].as_bytes(), b"\xff\xfe");
}
