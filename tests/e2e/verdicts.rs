//! What verdicts do to real requests, in every phase.

use std::net::SocketAddr;

use serde_json::json;

use super::support::*;

const VERDICTS: [&str; 8] = ["ok", "break", "finish", "error", "return", "ext1", "ext2", "ext3"];

/// A script that leaves a line in the log, and lets the chain go on.
fn marker(name: &str) -> Script {
    Script::guest("probe_sync", name).main(r#"[{"call": "log-info", "args": ["ran"]}]"#)
}

/// Two ways to a verdict: by the path for modules that wait, and by the other.
fn gives(guest: &str, verdict: &str, name: &str) -> Script {
    match guest {
        "verdict" => Script::guest(guest, name).main(verdict),
        _ => Script::guest(guest, name).main(format!(r#"[{{"verdict": "{verdict}"}}]"#)),
    }
}

/// Which of the scripts `NAME.b`, `NAME.c`, … have run, from the whole log.
fn ran(log: &str, name: &str) -> String {
    let prefix = format!("script={name}.");
    let names = log.lines().filter(|line| line.ends_with(" ran")).filter_map(|line| line.split_once(&prefix));
    names.filter_map(|(_, rest)| rest.split(' ').next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verdict_in_every_phase() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for guest in ["verdict", "probe_sync"] {
        for phase in PHASES {
            for verdict in VERDICTS {
                let name = format!("{guest}.{phase}.{verdict}");
                site.proxied(&format!("/{name}"), origin.addr())
                    .plugin(phase, "first", [gives(guest, verdict, &format!("{name}.a")), marker(&format!("{name}.b"))])
                    .plugin(phase, "second", [marker(&format!("{name}.c"))]);
            }
        }
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();

    for guest in ["verdict", "probe_sync"] {
        for phase in PHASES {
            for verdict in VERDICTS {
                let name = format!("{guest}.{phase}.{verdict}");
                let before = origin.received().len();
                let answer = send(client.get(proxy.url(&format!("/{name}")))).await;
                let expected = match (phase, verdict) {
                    ("wasm_access" | "wasm_serverless", "error") => (500, "500 Internal Server Error\n"),
                    ("wasm_access", "return") => (403, "403 Forbidden\n"),
                    ("wasm_serverless", _) => (200, ""),
                    _ => (200, "hello"),
                };
                assert_eq!((answer.status, answer.text().as_str()), expected, "{name}");
                let proxied = origin.received().len() - before;
                assert_eq!(proxied, usize::from(expected.1 == "hello"), "{name} reaches the origin");
            }
        }
    }

    assert!(proxy.terminate().success());
    let log = proxy.log();
    for guest in ["verdict", "probe_sync"] {
        for phase in PHASES {
            for verdict in VERDICTS {
                let ends_request = phase == "wasm_access" || phase == "wasm_serverless";
                let expected = match verdict {
                    "break" => "c",
                    "finish" => "",
                    "error" | "return" if ends_request => "",
                    _ => "bc",
                };
                let name = format!("{guest}.{phase}.{verdict}");
                assert_eq!(ran(&log, &name), expected, "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_phase_does_not_support_is_ok_logged_once_and_counted() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for phase in &PHASES[2..] {
        site.proxied(&format!("/{phase}"), origin.addr());
        for verdict in ["error", "return"] {
            site.script(phase, gives("verdict", verdict, &format!("{phase}.{verdict}")));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for phase in &PHASES[2..] {
        for _ in 0..3 {
            let answer = send(client.get(proxy.url(&format!("/{phase}")))).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{phase}");
        }
    }
    proxy.wait_until_idle();
    for phase in &PHASES[2..] {
        for verdict in ["error", "return"] {
            let labels = format!("{{script=\"{phase}.{verdict}\",phase=\"{phase}\",verdict=\"{verdict}\"}}");
            assert_eq!(proxy.metric(&format!("phasegate_plugin_unsupported_verdicts_total{labels}")), 3.0, "{labels}");
            let line = format!("script={phase}.{verdict} phase={phase} the verdict `{verdict}` is not supported here");
            proxy.wait_for_log(&line);
            assert_eq!(proxy.log().matches(&line).count(), 1, "{line}");
        }
    }
}

/// What `return` sends is set by its own plugin, and not by a script that has failed or an entry point that was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_sends_the_response_of_its_own_plugin() {
    let origin = Origin::saying("hello").await;
    let set = step(&json!(["out-set-response", { "status": 200, "body": "welcome" }]));
    let sets = |guest: &str, verdict: &str| Script::guest(guest, "sets").main(json!([set, { "verdict": verdict }]));
    // What is no verdict is a failure.
    let fails = |guest: &str| sets(guest, "none").key("on_failure = \"open\"");
    let returns = || gives("verdict", "return", "returns");
    let rest = json!([set, step(&json!(["sleep", 60_000]))]);
    let race = || {
        let main = json!([step(&json!(["sleep", 50])), { "verdict": "ok" }]);
        Script::guest("probe", "race").main(main).key(format!("wasm_main_timeout_config = '''{rest}'''"))
    };
    let (refused, welcome, passed, empty) = ((403, "403 Forbidden\n"), (200, "welcome"), (200, "hello"), (200, ""));
    let (access, serverless) = ("wasm_access", "wasm_serverless");
    let mut cases = vec![
        ("cancelled".to_owned(), access, vec![vec![race()], vec![returns()]], refused, 0),
        ("cancelled-own".to_owned(), access, vec![vec![race(), returns()]], refused, 0),
    ];
    for guest in ["probe", "probe_sync"] {
        for (name, phase, plugins, expected, warnings) in [
            ("own", access, vec![vec![sets(guest, "return")]], welcome, 0),
            ("earlier", access, vec![vec![sets(guest, "ok"), returns()]], welcome, 0),
            ("other", access, vec![vec![sets(guest, "ok")], vec![returns()]], refused, 1),
            ("break", access, vec![vec![sets(guest, "break"), returns()], vec![returns()]], refused, 1),
            ("nobody", access, vec![vec![sets(guest, "ok")]], passed, 1),
            ("finish", access, vec![vec![sets(guest, "finish")], vec![returns()]], passed, 1),
            ("failed", access, vec![vec![fails(guest)], vec![returns()]], refused, 0),
            ("failed-own", access, vec![vec![fails(guest), returns()]], refused, 0),
            ("failed-later", access, vec![vec![sets(guest, "ok"), fails(guest), returns()]], welcome, 0),
            ("serverless", serverless, vec![vec![sets(guest, "ok")], vec![gives("verdict", "ok", "ok")]], welcome, 0),
            ("serverless-failed", serverless, vec![vec![fails(guest)], vec![gives("verdict", "ok", "ok")]], empty, 0),
        ] {
            cases.push((format!("{guest}-{name}"), phase, plugins, expected, warnings));
        }
    }
    let mut site = Site::new();
    for (name, phase, plugins, ..) in &cases {
        site.proxied(&format!("/{name}/"), origin.addr());
        for (plugin, scripts) in ["first", "second"].iter().zip(plugins) {
            site.plugin(phase, plugin, scripts.iter().map(|script| script.clone().renamed(name)));
        }
    }
    let proxy = Proxy::start(&site.to_string());
    for (name, _, _, expected, _) in &cases {
        for _ in 0..2 {
            let answer = send(http1().get(proxy.url(&format!("/{name}/")))).await;
            assert_eq!((answer.status, answer.text().as_str()), *expected, "{name}");
        }
    }
    assert!(proxy.terminate().success());
    let log = proxy.log();
    for (name, _, _, _, warnings) in &cases {
        let line = format!("script={name} phase=wasm_access a response was set, but the verdict does not send it");
        assert_eq!(log.matches(&line).count(), *warnings, "{name}: {log}");
    }
}

/// `on_ext1` to `on_ext3`: a route for each action, with the marker `b` in the same plugin, then `c`, `d` in two others.
fn route_for_action(site: &mut Site, origin: SocketAddr, phase: &str, ext: &str, action: &str) -> String {
    let name = format!("{phase}.{ext}.{}", action.replace(':', "-"));
    let script = gives("verdict", ext, &format!("{name}.a")).key(format!("on_{ext} = \"{action}\""));
    site.proxied(&format!("/{name}/"), origin)
        .plugin(phase, "first", [script, marker(&format!("{name}.b"))])
        .plugin(phase, "second", [marker(&format!("{name}.c"))])
        .plugin(phase, "third", [marker(&format!("{name}.d"))]);
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_what_the_ext_verdicts_mean() {
    let (origin, other) = (Origin::saying("hello").await, Origin::saying("other").await);
    let upstream = format!("[upstream.other]\nservers = [{{ addr = \"{}\" }}]", other.addr());
    let mut site = Site::with(&upstream);
    let mut expected = Vec::new();
    for (ext, phase) in [("ext1", "wasm_access"), ("ext2", "wasm_serverless"), ("ext3", "wasm_http_filter_headers")] {
        let served = if phase == "wasm_serverless" { (200, "") } else { (200, "hello") };
        for (action, ran, answer) in
            [("ok", "bcd", served), ("break", "cd", served), ("finish", "", served), ("goto:third", "d", served)]
        {
            expected.push((route_for_action(&mut site, origin.addr(), phase, ext, action), ran, answer));
        }
    }
    for (phase, default) in [("wasm_access", (403, "403 Forbidden\n")), ("wasm_serverless", (200, ""))] {
        for (action, answer) in [
            ("error", (500, "500 Internal Server Error\n")),
            ("return", default),
            ("status:402", (402, "402 Payment Required\n")),
            ("status:204", (204, "")),
        ] {
            expected.push((route_for_action(&mut site, origin.addr(), phase, "ext2", action), "", answer));
        }
    }
    let upstream = route_for_action(&mut site, origin.addr(), "wasm_access", "ext3", "upstream:other");
    expected.push((upstream, "bcd", (200, "other")));

    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for (name, _, answer) in &expected {
        let given = send(client.get(proxy.url(&format!("/{name}/")))).await;
        assert_eq!((given.status, given.text().as_str()), *answer, "{name}");
    }
    assert!(proxy.terminate().success());
    for (name, marks, _) in &expected {
        assert_eq!(ran(&proxy.log(), name), *marks, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_ext_verdict_is_a_variable_from_then_on() {
    let origin = Origin::saying("hello").await;
    let mut site =
        Site::with("access_log = { path = \"stdout\", format = 'path=${http_request_path} ext=${wasm_ext}' }");
    let tells = |name: &str| {
        Script::guest("probe_sync", name).main(r#"[{"call": "variable", "args": ["wasm_ext"]}, {"deliver": "log"}]"#)
    };
    site.proxied("/ext", origin.addr())
        .script("wasm_access", tells("before"))
        .script("wasm_access", gives("verdict", "ext1", "one"))
        .script("wasm_access", tells("after"))
        .script("wasm_http_in_headers", tells("upstream"))
        .script("wasm_http_filter_headers", gives("probe_sync", "ext3", "three"))
        .script("wasm_access_log", tells("end"))
        .proxied("/none", origin.addr());
    let proxy = Proxy::start(&site.to_string());
    for path in ["/ext", "/none"] {
        send(http1().get(proxy.url(path))).await;
    }
    proxy.wait_for_stdout("path=/ext ext=ext3");
    let none = proxy.wait_for_stdout("path=/none");
    assert!(!none.contains("ext1") && !none.contains("ext3"), "{none}");
    for (name, value) in [("before", "null"), ("after", "\"ext1\""), ("upstream", "\"ext1\""), ("end", "\"ext3\"")] {
        let line = proxy.wait_for_log(&format!("script={name} "));
        assert!(line.ends_with(&format!("probe: [{{\"ok\":{value}}}]")), "{line}");
    }
}

/// Steps for `probe_sync`: sets a response, then gives a verdict.
fn sets_response(name: &str, verdict: &str) -> Script {
    let response = r#"{"status": 418, "headers": [["x-own", "1"], ["x-own", "2"]], "body": "tea\n"}"#;
    let steps = format!(r#"[{{"call": "out-set-response", "args": [{response}]}}, {{"verdict": "{verdict}"}}]"#);
    Script::guest("probe_sync", name).main(steps)
}

#[tokio::test(flavor = "multi_thread")]
async fn return_and_error_send_the_response_that_a_plugin_set() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for phase in &PHASES[..2] {
        for verdict in ["return", "error"] {
            site.proxied(&format!("/{phase}/{verdict}"), origin.addr()).script(phase, sets_response("own", verdict));
            let later = [sets_response("sets", "ok"), gives("verdict", verdict, "gives")];
            site.proxied(&format!("/{phase}/later/{verdict}"), origin.addr()).plugin(phase, "two", later);
        }
        let status = sets_response("own", "ext1").key("on_ext1 = \"status:402\"");
        site.proxied(&format!("/{phase}/status"), origin.addr()).script(phase, status);
    }
    // What one phase has set and nobody sends is no answer in the next.
    site.proxied("/unused", origin.addr()).script("wasm_access", sets_response("own", "ok"));
    site.proxied("/forgotten", origin.addr())
        .script("wasm_access", sets_response("own", "ok"))
        .script("wasm_serverless", gives("verdict", "return", "serverless"));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();

    for phase in &PHASES[..2] {
        for path in ["return", "error", "later/return", "later/error"] {
            let answer = send(client.get(proxy.url(&format!("/{phase}/{path}")))).await;
            assert_eq!((answer.status, answer.text().as_str()), (418, "tea\n"), "{phase} {path}");
            let own: Vec<_> = answer.headers.get_all("x-own").iter().collect();
            assert_eq!(own, ["1", "2"], "{phase} {path}");
            assert_eq!(answer.header("content-length"), Some("4"), "{phase} {path}");
        }
        let answer = send(client.get(proxy.url(&format!("/{phase}/status")))).await;
        assert_eq!((answer.status, answer.header("x-own")), (402, None), "{phase}");
    }
    assert_eq!(origin.received().len(), 0);
    let unused = send(client.get(proxy.url("/unused"))).await;
    assert_eq!((unused.status, unused.text().as_str()), (200, "hello"));
    let forgotten = send(client.get(proxy.url("/forgotten"))).await;
    assert_eq!((forgotten.status, forgotten.text().as_str(), forgotten.header("x-own")), (200, "", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_is_not_open_is_skipped() {
    let origin = Origin::saying("hello").await;
    let closed = || gives("verdict", "return", "closed").key("is_open = false");
    let mut site = Site::new();
    site.proxied("/first", origin.addr()).plugin("wasm_access", "p", [closed(), marker("first.b")]);
    site.proxied("/all", origin.addr()).plugin("wasm_access", "p", [closed(), closed()]);
    // Nothing is left of the plugin to go to, so that the chain goes on behind it.
    site.proxied("/goto", origin.addr())
        .plugin("wasm_access", "p", [gives("verdict", "ext1", "goes").key("on_ext1 = \"goto:closed\"")])
        .plugin("wasm_access", "q", [marker("goto.q")])
        .plugin("wasm_access", "closed", [closed()])
        .plugin("wasm_access", "r", [marker("goto.r")]);
    let proxy = Proxy::start(&site.to_string());
    for path in ["/first", "/all", "/goto"] {
        let answer = send(http1().get(proxy.url(path))).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{path}");
    }
    assert!(proxy.terminate().success());
    assert_eq!((ran(&proxy.log(), "first"), ran(&proxy.log(), "goto")), ("b".into(), "r".into()));
}
