//! What a reload changes, for whom, and what it leaves alone.

use std::sync::Arc;

use tokio::sync::Notify;

use super::*;

/// Answers requests to `/wait` when it is told to, others at once.
async fn waiting_origin(go: Arc<Notify>) -> Origin {
    Origin::start_async(move |request| {
        let go = go.clone();
        async move {
            if request.uri == "/wait" {
                go.notified().await;
            }
            let received = request.header("x-mark").unwrap_or_default().to_owned();
            reply(200, received)
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_ends_on_the_version_it_began_with() {
    let go = Arc::new(Notify::new());
    let origin = waiting_origin(go.clone()).await;
    let module = Module::new("aaaaaaaa");
    let config = |text: &str| marks(&proxy_to(origin.addr()), &module.path(), text);
    let proxy = Proxy::start(&config("old"));
    let early = tokio::spawn(send(http1().get(proxy.url("/wait"))));
    origin.wait_for_requests(1);

    module.write("bbbbbbbb");
    for generation in 2..5 {
        proxy.configure(&config(&format!("new{generation}")));
        assert_eq!(reload(&proxy).0, 200);
    }
    let marks = |answer: &Answer| (answer.text(), answer.header("x-mark").unwrap().to_owned());
    let late = send(http1().get(proxy.url("/"))).await;
    assert_eq!(marks(&late), ("new4 bbbbbbbb".into(), "new4 bbbbbbbb".into()));
    // The first is held by its request, those between by nobody.
    proxy.wait_for_metric("phasegate_requests_in_flight", 1.0);
    assert_eq!(proxy.metric("phasegate_snapshots"), 2.0);
    assert_eq!(proxy.metric("phasegate_instances"), 4.0);

    go.notify_one();
    let early = early.await.unwrap();
    assert_eq!(marks(&early), ("old aaaaaaaa".into(), "old aaaaaaaa".into()));
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
    proxy.wait_for_metric("phasegate_instances", 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_waits_ends_on_its_own_version() {
    let config = |text: &str| {
        server("path = '/'\nrespond = { status = 200 }")
            + &script("wasm_access", &guests::path("verdict"), "sleep 700 then ok")
            + &script("wasm_http_filter_headers", &guests::path("mark"), &format!("response {text}"))
    };
    let proxy = Proxy::start(&config("old"));
    let early = tokio::spawn(send(http1().get(proxy.url("/"))));
    proxy.wait_for_metric("phasegate_plugin_runs_total{script=\"verdict\",phase=\"wasm_access\"}", 1.0);
    proxy.configure(&config("new"));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(early.await.unwrap().header("x-mark"), Some("old 00000000"));
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
    assert_eq!(send(http1().get(proxy.url("/"))).await.header("x-mark"), Some("new 00000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_names_limits_and_formats_change() {
    let config = |version: &str, name: &str, local: &str, limit: &str| {
        format!(
            "body_limit = '{limit}'\ntrusted_proxies = ['{}']\n\
             access_log = {{ path = 'stdout', format = '{version} ${{client_ip}} ${{status}} end' }}\n\
             [[server]]\n{LISTEN}\n{local}\n[[server]]\nname = ['{name}']\n{LISTEN}\n\
             [[server.local]]\npath = '/'\nrespond = {{ status = 200, body = '{name}' }}\n",
            if version == "v1" { "10.0.0.0/8" } else { "127.0.0.0/8" },
        )
    };
    let proxy = Proxy::start(&config("v1", "a.cn", "[[server.local]]\npath = '/a'\necho = true", "1KiB"));
    let get = async |host: &str, path: &str| {
        let request = http1().post(proxy.url(path)).header("host", host).header("x-forwarded-for", "192.0.2.1");
        send(request.body(bytes(2000))).await
    };
    assert_eq!((get("a.cn", "/").await.text(), get("b.cn", "/").await.status), ("a.cn".into(), 404));
    assert_eq!(get("", "/a").await.status, 413);
    proxy.wait_for_stdout("v1 127.0.0.1 413 end");

    let locals =
        "[[server.local]]\npath = '/a'\nrespond = { status = 204 }\n[[server.local]]\npath = '/b'\necho = true";
    proxy.configure(&config("v2", "b.cn", locals, "4KiB"));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!((get("b.cn", "/").await.text(), get("a.cn", "/").await.status), ("b.cn".into(), 404));
    assert_eq!((get("", "/a").await.status, get("", "/b").await.status), (204, 200));
    proxy.wait_for_stdout("v2 192.0.2.1 204 end");
    let (_, shown) = proxy.admin("GET", "/config");
    assert!(shown.contains("b.cn") && !shown.contains("a.cn"), "{shown}");
    assert_eq!(proxy.admin("GET", "/readyz").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_without_health_checks_change() {
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let config = |web: &Origin, literal: &Origin| {
        format!(
            "[upstream.web]\nservers = [{{ addr = '{}' }}]\n[upstream.well]\nservers = [{{ addr = '{}' }}]\n\
             health_check = {{ interval_ms = 100 }}\n{}[[server.local]]\npath = '/literal'\nproxy_pass = '{}'\n\
             [[server.local]]\npath = '/well'\nproxy_pass = 'well'\n",
            web.addr(),
            one.addr(),
            server("path = '/'\nproxy_pass = 'web'"),
            literal.addr()
        )
    };
    let proxy = Proxy::start(&config(&one, &two));
    let bodies = async || {
        let mut bodies = Vec::new();
        for path in ["/", "/literal", "/well"] {
            bodies.push(send(http1().get(proxy.url(path))).await.text());
        }
        bodies.join(" ")
    };
    assert_eq!(bodies().await, "one two one");
    proxy.configure(&config(&two, &one));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(bodies().await, "two one one");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = old.issue("a.cn");
    let config = format!(
        "[[server]]\nlisten = [{{ addr = '127.0.0.1:0', tls = {} }}]\n[[server.local]]\npath = '/'\necho = true\n",
        files.tls()
    );
    let proxy = Proxy::start(&config);
    let url = format!("https://a.cn:{}/", proxy.tls_addr().port());
    let client = |authority: &Authority| https(authority, &["a.cn"], proxy.tls_addr()).build().unwrap();
    assert_eq!(send(client(&old).get(&url)).await.status, 200);

    let renewed = new.issue("a.cn");
    fs::copy(&renewed.cert, &files.cert).unwrap();
    let (status, report) = reload(&proxy);
    assert_eq!(status, 400);
    assert!(report["error"].as_str().unwrap().contains("does not belong to the certificate"), "{report}");
    assert_eq!(send(client(&old).get(&url)).await.status, 200);

    fs::copy(&renewed.key, &files.key).unwrap();
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(send(client(&new).get(&url)).await.status, 200);
    assert!(client(&old).get(&url).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_stays_counted() {
    let config = |verdict: &str| {
        server("path = '/'\nrespond = { status = 200 }")
            + &script("wasm_access", &guests::path("verdict"), verdict)
            + "on_failure = 'open'\n"
    };
    let proxy = Proxy::start(&config("ok"));
    let families = |proxy: &Proxy| proxy.admin("GET", "/metrics").1.lines().count();
    let lines = families(&proxy);
    for (round, verdict) in ["err no", "ok", "err no"].into_iter().enumerate() {
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
        proxy.wait_until_idle();
        proxy.configure(&config(verdict));
        assert_eq!(reload(&proxy).0, 200);
        let runs = r#"phasegate_plugin_runs_total{script="verdict",phase="wasm_access"}"#;
        assert_eq!(proxy.metric(runs), (round + 1) as f64);
    }
    let failures = r#"phasegate_plugin_failures_total{script="verdict",phase="wasm_access",kind="err"}"#;
    assert_eq!(proxy.metric(failures), 1.0);
    assert_eq!(families(&proxy), lines);
    assert!(proxy.metric("phasegate_config_last_reload_success_timestamp_seconds") > 1.7e9);

    let (_, shown) = proxy.admin("GET", "/plugins");
    assert!(shown.contains("verdict"), "{shown}");
    proxy.configure(&server("path = '/'\nrespond = { status = 200 }"));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(proxy.admin("GET", "/plugins").1.trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_has_not_changed_keeps_its_instances() {
    let config = |name: &str, leak: usize| {
        server("path = '/'\nrespond = { status = 200 }")
            + &script("wasm_access", &guests::path("counter"), &format!("on = 'body'\nleak = {leak}"))
            + &script("wasm_access_log", &guests::path("verdict"), "ok")
            + &format!("name = '{name}'\n")
    };
    let proxy = Proxy::start(&config("one", 0));
    let count = async || send(http1().get(proxy.url("/"))).await.text();
    assert_eq!((count().await, count().await), ("1".into(), "2".into()));
    proxy.configure(&config("two", 0));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(count().await, "3");
    proxy.configure(&config("two", 1));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(count().await, "1");
    proxy.wait_for_metric("phasegate_instances", 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn named_sessions_are_handed_over() {
    let visits = plugins::path("visits");
    let config = |most_paths: usize, status: u16| {
        format!(
            "[[wasm_session]]\nname = 'visits'\nwasm_path = '{}'\nwasm_main_config = \"role = 'keep'\\nmost_paths = {most_paths}\"\n",
            visits.display()
        ) + &server(&format!("path = '/'\nrespond = {{ status = {status} }}"))
            + &script("wasm_access_log", &visits, "role = 'count'")
            + "[[server.local]]\npath = '/visits'\nwasm_access_log = []\n"
            + &script("wasm_serverless", &visits, "role = 'show'")
    };
    let proxy = Proxy::start(&config(10, 200));
    let visit = async |path: &str| send(http1().get(proxy.url(path))).await;
    let shown = async || {
        proxy.wait_until_idle();
        visit("/visits").await.json()
    };
    visit("/a").await;
    assert_eq!(shown().await, serde_json::json!({ "/a": 1 }));

    // The session is the same, and goes on.
    proxy.configure(&config(10, 204));
    assert_eq!(reload(&proxy).0, 200);
    assert_eq!(visit("/a").await.status, 204);
    assert_eq!(shown().await, serde_json::json!({ "/a": 2 }));

    // It is another, and begins anew.
    proxy.configure(&config(20, 204));
    let (status, report) = reload(&proxy);
    assert_eq!((status, &report["scripts"]["changed"]), (200, &serde_json::json!(["visits"])));
    visit("/b").await;
    assert_eq!(shown().await, serde_json::json!({ "/b": 1 }));
    proxy.wait_for_metric("phasegate_named_sessions", 1.0);
    proxy.wait_for_metric("phasegate_snapshots", 1.0);
}
