//! The admin endpoint.

use serde_json::{Value, json};

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn it_says_how_the_proxy_is_and_what_is_loaded() {
    let filter = guests::path("pw_http_headers").display().to_string();
    let config = server("path = '/'\nrespond = { status = 200 }")
        + &script("wasm_access", &guests::path("verdict"), "secret")
        + "name = 'gate'\non_failure = 'open'\ninstance = 'fresh'\n"
        + &format!("[[server.local.proxy_wasm]]\nwasm_path = '{filter}'\nname = 'filter'\nfailure_policy = 'open'\n")
        + &format!("[[wasm_service]]\nwasm_path = '{filter}'\nname = 'service'\n");
    let proxy = Proxy::start(&config);

    let get = |path: &str| -> (u16, Value) {
        let (status, body) = proxy.admin("GET", path);
        (status, serde_json::from_str(&body).unwrap())
    };
    assert_eq!(get("/healthz"), (200, json!({ "status": "alive" })));
    assert_eq!(get("/readyz"), (200, json!({ "status": "ready" })));
    let gate = json!({ "name": "gate", "phase": "wasm_access", "on_failure": "open", "instance": "fresh",
                       "path": "asynchronous" });
    let filter = json!({ "name": "filter", "phase": "proxy_wasm", "failure_policy": "open" });
    let service = json!({ "name": "service", "phase": "wasm_service", "failure_policy": "closed" });
    assert_eq!(get("/plugins"), (200, json!([gate, filter, service])));

    let (status, report) = get("/config");
    assert_eq!(status, 200);
    assert_eq!(report["servers"][0]["locals"][0]["match"], "/");
    assert_eq!(report["servers"][0]["locals"][0]["chains"]["wasm_access"], json!(["gate"]));
    assert!(!report.to_string().contains("secret"), "{report}");

    assert_eq!(proxy.admin("GET", "/reload").0, 405);
    assert_eq!(proxy.admin("GET", "/nothing").0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_follow_requests_and_scripts() {
    let origin = Origin::saying("hello").await;
    let config = proxy_to(origin.addr())
        + &script("wasm_access", &guests::path("verdict"), "ok")
        + &script("wasm_access", &guests::path("verdict"), "err no")
        + "name = 'failing'\non_failure = 'open'\n";
    let proxy = Proxy::start(&config);

    let client = http1();
    for _ in 0..3 {
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
    }
    proxy.wait_for_metric(r#"phasegate_requests_total{status="2xx"}"#, 3.0);
    proxy.wait_until_idle();
    for (name, value) in [
        (r#"phasegate_requests_total{status="5xx"}"#, 0.0),
        (r#"phasegate_plugin_runs_total{script="verdict",phase="wasm_access"}"#, 3.0),
        (r#"phasegate_plugin_runs_total{script="failing",phase="wasm_access"}"#, 3.0),
        (r#"phasegate_plugin_failures_total{script="failing",phase="wasm_access",kind="err"}"#, 3.0),
        (r#"phasegate_plugin_failures_total{script="verdict",phase="wasm_access",kind="err"}"#, 0.0),
        (r#"phasegate_plugin_instances_total{script="verdict"}"#, 1.0),
        ("phasegate_access_log_dropped_total", 0.0),
    ] {
        assert_eq!(proxy.metric(name), value, "{name}");
    }
}
