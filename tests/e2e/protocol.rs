//! HTTP as it is spoken between clients, proxy and origins.

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_origin_and_its_response_comes_back() {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&proxy_to(origin.addr()));

    for client in [http1(), http2()] {
        let answer = send(client.get(proxy.url("/a?b=c"))).await;
        assert_eq!((answer.status, answer.text()), (200, "hello".into()));
        assert_eq!(origin.last().uri, "/a?b=c");
    }
    proxy.wait_for_metric("phasegate_requests_total{status=\"2xx\"}", 2.0);
    proxy.wait_until_idle();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_sees_the_request() {
    let origin = Origin::saying("hello").await;
    let steps = r#"[{"call": "in-get-header", "args": ["x-a"]}, {"deliver": "response"}, {"verdict": "return"}]"#;
    let proxy =
        Proxy::start(&format!("{}{}", proxy_to(origin.addr()), script("wasm_access", &guests::path("probe"), steps)));

    let answer = send(http1().get(proxy.url("/")).header("x-a", "1")).await;
    assert_eq!(answer.json(), serde_json::json!([{ "ok": "1" }]));
    assert!(proxy.terminate().success());
}
