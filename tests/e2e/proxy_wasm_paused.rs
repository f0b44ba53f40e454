//! Proxy-Wasm: a stream that a filter has paused waits for its callout, and no thread waits with it.

use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::support::*;

const STREAMS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_streams_cost_no_thread() {
    let (open, is_open) = watch::channel(true);
    let gate = Origin::start_async(move |_| {
        let mut is_open = is_open.clone();
        async move {
            // Also when the test has failed.
            let _ = is_open.wait_for(|open| *open).await;
            reply(200, "go on")
        }
    })
    .await;
    let origin = Origin::saying("passed").await;
    let proxy = Proxy::start(&gated(&origin, &gate));

    // What a process starts once, such as the connections of callouts, is there before it counts.
    assert_eq!(send(http1().get(proxy.url("/first"))).await.text(), "passed");
    let threads = proxy.threads();
    open.send_replace(false);
    let client = http1();
    let mut requests = JoinSet::new();
    for number in 0..STREAMS {
        requests.spawn(send(client.get(proxy.url(&format!("/{number}")))));
    }
    gate.wait_for_requests(1 + STREAMS);

    proxy.wait_for_metric("phasegate_requests_in_flight", STREAMS as f64);
    assert!(proxy.threads() <= threads, "{} threads, {threads} before", proxy.threads());
    assert_eq!(origin.received().len(), 1, "none has got past the gate");

    open.send_replace(true);
    for answer in requests.join_all().await {
        assert_eq!((answer.status, answer.text()), (200, "passed".into()));
    }
    assert_eq!(origin.received().len(), 1 + STREAMS);
    assert!(proxy.threads() <= threads, "{} threads, {threads} before", proxy.threads());
}

/// Requests go to the origin once the gate has answered for them.
fn gated(origin: &Origin, gate: &Origin) -> String {
    let plan = json!({
        "on_request_headers": [
            ["http_call", { "cluster": "gate", "timeout": 60_000, "then": { "on_http_call_response": [["continue", "request"]] } }],
            ["pause"],
        ],
    });
    format!(
        "threads = 2\n[upstream.gate]\nservers = [{{ addr = \"{}\" }}]\n{}\
         [[server.local.proxy_wasm]]\nwasm_path = '{}'\nconfiguration = '{plan}'\n\
         limits = {{ callouts = {}, wall_ms = 60000 }}\n",
        gate.addr(),
        proxy_to(origin.addr()),
        guests::path("pw_probe").display(),
        1 + STREAMS,
    )
}
