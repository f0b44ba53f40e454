//! The guest `probe`: calls to make, results to read.

use serde_json::{Value, json};

use super::{Origin, Proxy, Received, Script, Site, eventually, http1, send};

/// A script that makes these calls, and leaves the results in the log.
pub fn probe(guest: &str, name: &str, calls: &[Value]) -> Script {
    let mut steps: Vec<_> = calls.iter().map(step).collect();
    steps.push(json!({ "deliver": "log" }));
    Script::guest(guest, name).main(Value::from(steps))
}

/// A script for `wasm_serverless` that makes these calls, and answers with the results.
pub fn serve(name: &str, calls: &[Value]) -> Script {
    let mut steps: Vec<_> = calls.iter().map(step).collect();
    steps.push(json!({ "deliver": "response" }));
    Script::guest("probe", name).main(Value::from(steps))
}

/// `["in-get-header", "host"]` is a call with an argument.
pub fn step(call: &Value) -> Value {
    let call = call.as_array().unwrap();
    json!({ "call": call[0], "args": if call.len() > 1 { Value::from(&call[1..]) } else { Value::Null } })
}

/// The results that the script of this name has left.
#[track_caller]
pub fn results(proxy: &Proxy, name: &str) -> Vec<Value> {
    let mut found = None;
    eventually(&format!("results of {name}"), || {
        let log = proxy.log();
        let mut lines = log.lines().filter(|line| line.contains(&format!("script={name} ")));
        found = lines.find_map(|line| serde_json::from_str(line.split_once(" probe: ")?.1).ok());
        found.is_some()
    });
    found.unwrap()
}

/// Runs these calls in `wasm_access`, on a request to `/`, and gives what the origin received.
pub async fn in_access(calls: &[Value]) -> (Vec<Value>, Received) {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", probe("probe", "calls", calls));
    let proxy = Proxy::start(&site.to_string());
    let request = http1().get(proxy.url("/a?b=c")).header("x-own", "1").header("x-own", "2").header("X-Case", "yes");
    assert_eq!(send(request).await.status, 200);
    (results(&proxy, "calls"), origin.only())
}
