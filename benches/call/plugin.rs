//! The plugin of the benchmarks, and a request for it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use phasegate::capability::Capabilities;
use phasegate::config::{Config, Diagnostics};
use phasegate::exchange::{Exchange, Shared};
use phasegate::observe::metrics::Metrics;
use phasegate::phase::{Phase, Verdict};
use phasegate::wasm::{Failure, Host, Module, Script, ScriptSpec};
use pingora::http::RequestHeader;

/// The engine and the host functions, with the defaults of a configuration.
pub fn host() -> Host {
    let path = Path::new("bench.toml");
    let mut diagnostics = Diagnostics::new(path, String::new());
    let metrics = Metrics::new();
    let capabilities = Capabilities::load(&Config::empty(path), &metrics, &mut diagnostics);
    Host::new(capabilities.into(), None, &metrics).expect("the machine runs WebAssembly")
}

/// `rewrite_one`, compiled.
pub fn load(host: &Host) -> Arc<Module> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/target/wasm32-wasip1/release/rewrite_one.wasm");
    host.load(&file).unwrap_or_else(|error| panic!("{}: {error}; build tests/guests", file.display()))
}

/// With the limits that a configuration has by default.
pub fn script(host: &Host, module: &Arc<Module>, fresh: bool) -> Arc<Script> {
    let spec = ScriptSpec {
        name: "rewrite_one".into(),
        place: Phase::Access.into(),
        configs: Default::default(),
        fresh,
        recycle_after: 10_000,
        recycle_memory: 32 << 20,
        memory: 64 << 20,
        cpu: Duration::from_millis(50),
        wall: Some(Duration::from_secs(10)),
        env: Vec::new(),
        net: Default::default(),
        metrics: Metrics::new().script("rewrite_one", Phase::Access),
    };
    Script::prepare(host, module, spec).expect("the guest links")
}

/// A request like that of a browser.
pub fn exchange() -> Shared {
    let mut request = RequestHeader::build("GET", b"/path/of/a/page?query=1", None).expect("a valid request");
    for (name, value) in [
        ("host", "www.example.cn"),
        ("user-agent", "load"),
        ("accept", "text/html,application/xhtml+xml"),
        ("accept-language", "en"),
        ("x-drop", "request"),
    ] {
        request.append_header(name, value).expect("a valid header");
    }
    let mut exchange = Exchange::new();
    exchange.request = request;
    Shared::new(exchange.into())
}

pub fn ok(result: Result<Verdict, Failure>) {
    match result {
        Ok(Verdict::Ok) => {}
        Ok(verdict) => panic!("the verdict is {}", verdict.name()),
        Err(failure) => panic!("the run failed: {}", failure.detail),
    }
}
