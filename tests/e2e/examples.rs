//! The files in `conf/` are what people start from: they load, and the demo does what its text says.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::support::*;

fn conf() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf")
}

/// A file of the folder, with the plugins where they are.
fn example(path: &Path) -> String {
    let plugins = plugins::path("hotlink").parent().unwrap().display().to_string();
    let text = fs::read_to_string(path).unwrap();
    let filter = |name: &str| format!("\"{}\"", guests::path(&format!("pw_{name}")).display());
    text.replace("../wasm-plugins/target/wasm32-wasip1/release", &plugins)
        .replace("\"plugins/", &format!("\"{plugins}/"))
        .replace("\"hello_world.wasm\"", &filter("hello_world"))
        .replace("\"http_config.wasm\"", &filter("http_config"))
        .replace("\"redis.wasm\"", &filter("redis"))
}

#[test]
fn every_example_is_right() {
    let authority = Authority::new();
    let certificate = authority.issue("localhost");
    let mut checked = 0;
    for entry in fs::read_dir(conf()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let config = example(&path)
            .replace("\"cert.pem\"", &format!("'{}'", certificate.cert.display()))
            .replace("\"key.pem\"", &format!("'{}'", certificate.key.display()));
        let output = check(&config);
        // What filters say as they start is no complaint.
        let complaints: Vec<_> = output.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!((output.code, complaints), (Some(0), vec![]), "{}", path.display());
        checked += 1;
    }
    assert!(checked > 1);
}

/// The demo on free ports. Its origin is another of its servers, so that port must be known beforehand: it is a free one
/// of an address that nothing else uses.
fn demo() -> Proxy {
    let origin = TcpListener::bind("127.0.0.81:0").unwrap().local_addr().unwrap();
    let config = example(&conf().join("demo.toml"))
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:8081", &origin.to_string())
        .replace("[admin]\nlisten = \"127.0.0.1:9901\"\n", "");
    Proxy::start(&config)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_its_phases() {
    let proxy = demo();
    let client = http1();

    let answer = send(client.get(proxy.url("/hello")).header("cookie", "a=b")).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let headers = answer.json()["headers"].to_string();
    assert!(!headers.contains("cookie"), "{headers}");
    assert!(headers.contains(r#"["via","1.1 phasegate"]"#), "{headers}");
    assert!(headers.contains(r#"["x-forwarded-for","127.0.0.1"]"#), "{headers}");

    for (referer, status) in [("https://evil.example/", 403), ("https://www.example.cn/", 200)] {
        let answer = send(client.get(proxy.url("/images/a.png")).header("referer", referer)).await;
        assert_eq!(answer.status, status, "{referer}");
    }
    assert_eq!(send(client.get(proxy.url("/private/"))).await.status, 403);
    let answer = send(client.get(proxy.url("/app/hello?name=you"))).await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "hello": "you" })));
    let answer = send(client.post(proxy.url("/app/echo")).body(r#"{"a":1}"#)).await;
    assert_eq!(answer.status, 200);

    proxy.wait_until_idle();
    let (_, metrics) = proxy.admin("GET", "/metrics");
    for phase in PHASES {
        let ran = |line: &str| {
            line.starts_with("phasegate_plugin_runs_total")
                && line.contains(&format!("phase=\"{phase}\""))
                && !line.ends_with(" 0")
        };
        assert!(metrics.lines().any(ran), "{phase} in {metrics}");
    }
    proxy.wait_for_log("script=stats");
    proxy.wait_for_stdout("GET /private/");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_count_for_both_rate_limits() {
    let origin = Origin::saying("hello").await;
    let config = example(&conf().join("rate_limit.toml"))
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9001", &origin.addr().to_string());
    let proxy = Proxy::start(&config);
    let client = http1();
    let get = async |path: &str, status: u16, limit: &str| {
        let answer = send(client.get(proxy.url(path))).await;
        let state = answer.header("ratelimit").unwrap();
        assert_eq!(answer.status, status, "{state}");
        assert!(state.starts_with(limit), "{state}");
    };
    for left in (95..100).rev() {
        get("/login", 200, &format!("\"default\";r={left};")).await;
    }
    get("/login", 429, "\"logins\";r=0;").await;
    for left in (0..94).rev() {
        get("/", 200, &format!("\"default\";r={left};")).await;
    }
    for path in ["/", "/login"] {
        get(path, 429, "\"default\";r=0;").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_the_rust_sdk_do_what_they_are_configured_for() {
    let config = example(&conf().join("proxy_wasm.toml")).replace("127.0.0.1:8080", "127.0.0.1:0");
    let proxy = Proxy::start(&config);
    for (path, header) in [("/", "everybody"), ("/staff/", "staff"), ("/other", "everybody")] {
        let answer = send(http1().get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.header("custom-header")), (200, Some(header)), "{path}");
    }
    proxy.wait_for_log("Hello, World!");
    proxy.wait_until_idle();
    for filter in ["who", "staff"] {
        assert_eq!(proxy.metric(&format!("phasegate_filter_streams_in_flight{{filter=\"{filter}\"}}")), 0.0);
    }
}
