//! The guest `probe`: calls to make, results to read.

use serde_json::{Value, json};

use super::{Origin, Proxy, Received, Script, Site, eventually, http1, send};

/// A script that makes these calls, and leaves the results in the log.
pub fn probe(guest: &str, name: &str, calls: &[Value]) -> Script {
    let mut steps: Vec<_> = calls.iter().map(step).collect();
    steps.push(json!({ "deliver": "log" }));
    Script::guest(guest, name).main(Value::from(steps))
}

/// The steps of an entry point that makes these calls, and then waits to be cancelled.
pub fn calls_and_rest(calls: &[Value]) -> Value {
    let rest = json!(["sleep", 60_000]);
    calls.iter().chain([&rest]).map(step).collect()
}

/// The steps of a `wasm-main` that makes these calls, and answers with the results.
pub fn answers(calls: &[Value]) -> Value {
    let end = [json!({ "deliver": "response" }), json!({ "verdict": "return" })];
    calls.iter().map(step).chain(end).collect()
}

/// A script for `wasm_serverless` that makes these calls, and answers with the results.
pub fn serve(name: &str, calls: &[Value]) -> Script {
    Script::guest("probe", name).main(answers(calls))
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
