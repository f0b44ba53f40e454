//! Loading the configuration and its modules anew while requests go on.

mod applied;
mod failures;
mod load;
mod triggers;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use super::support::*;

/// The file of a module that can be replaced by another: the guest `mark`, with one mark or another in it.
struct Module {
    folder: TempDir,
}

impl Module {
    fn new(mark: &str) -> Module {
        let module = Module { folder: tempfile::tempdir().unwrap() };
        module.write(mark);
        module
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mark.wasm")
    }

    fn write(&self, mark: &str) {
        fs::write(self.path(), module(mark)).unwrap();
    }
}

/// The guest `mark` with these eight letters in it.
fn module(mark: &str) -> Vec<u8> {
    let mut bytes = fs::read(guests::path("mark")).unwrap();
    let zeros = b"mark:00000000";
    let at = bytes.windows(zeros.len()).position(|window| window == zeros).unwrap();
    bytes[at + 5..at + 13].copy_from_slice(mark.as_bytes());
    bytes
}

/// A server that shows what it received, and marks requests and responses with this text and the mark of the module.
fn marked(module: &Path, text: &str) -> String {
    marks(&server("path = '/'\necho = true"), module, text)
}

/// The same for the last local of a configuration.
fn marks(config: &str, module: &Path, text: &str) -> String {
    let request = script("wasm_access", module, &format!("request {text}"));
    let response = script("wasm_http_filter_headers", module, &format!("response {text}"));
    format!("{config}{request}{response}")
}

/// The mark of a response, which the request had too.
#[track_caller]
fn mark(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let response = answer.header("x-mark").unwrap().to_owned();
    let body = answer.json();
    let headers = body["headers"].as_array().unwrap();
    let request = headers.iter().find(|header| header[0] == "x-mark").unwrap();
    assert_eq!(request[1], response, "one version from the first phase to the last");
    response
}

/// The mark of a new request.
async fn served(proxy: &Proxy) -> String {
    mark(&send(http1().get(proxy.url("/"))).await)
}

/// Waits until new requests get this mark.
async fn wait_for(proxy: &Proxy, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mark = served(proxy).await;
        if mark == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{mark} and not {expected}\n{}", proxy.log());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Asks the admin endpoint for a reload.
fn reload(proxy: &Proxy) -> (u16, Value) {
    let (status, body) = proxy.admin("POST", "/reload");
    (status, serde_json::from_str(&body).unwrap())
}

/// Attempts that ended like this.
fn attempts(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("phasegate_reloads_total{{result=\"{result}\"}}"))
}
