//! Which filters share VMs and root contexts, and what each may do.

use std::fs;

use sha2::{Digest, Sha256};

use super::*;

/// Answers with its configuration in a header. Each root context keeps its own; each stream knows its root.
fn configured() -> Guest {
    Guest::new()
        .with(
            "(func $of_root (param i32) (result i32)
               (i32.add (i32.const 0x30000) (i32.shl (i32.and (local.get 0) (i32.const 0x3ff)) (i32.const 6))))
             (func $of_stream (param i32) (result i32)
               (i32.add (i32.const 0x20000) (i32.shl (i32.and (local.get 0) (i32.const 0xfff)) (i32.const 2))))",
        )
        .on(
            "proxy_on_context_create",
            "(i32.store (call $of_stream (local.get $context)) (local.get $a))
             (if (i32.eqz (local.get $a)) (then (call $count 'roots')))",
        )
        .on(
            "proxy_on_configure",
            "(drop (call $proxy_get_buffer_bytes
               (i32.const 7) (i32.const 0) (i32.const 60) (i32.const 0x80) (i32.const 0x84)))
             (i32.store (call $of_root (local.get $context)) (i32.load (i32.const 0x84)))
             (memory.copy (i32.add (call $of_root (local.get $context)) (i32.const 4))
               (i32.load (i32.const 0x80)) (i32.load (i32.const 0x84)))",
        )
        .on(
            "proxy_on_response_headers",
            "(local.set $b (call $of_root (i32.load (call $of_stream (local.get $context)))))
             (drop (call $proxy_add_header_map_value (i32.const 2) 'x-configuration'
               (i32.add (local.get $b) (i32.const 4)) (i32.load (local.get $b))))",
        )
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_configurations_of_a_module_share_its_code_and_its_vms() {
    let cache = tempfile::tempdir().unwrap();
    let mut site = Site::with(&format!("threads = 2\ncache = '{}'", cache.path().display()));
    for number in 0..10 {
        let keys = format!("configuration = 'number {number}'\n");
        let name = format!("ten-{number}");
        filtered(&mut site, &format!("/{number}"), "respond = { status = 200 }", &name, &configured().path(), &keys);
    }
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(proxy.metric("phasegate_filter_vms"), 2.0);
    let compilers = fs::read_dir(cache.path().join("compiled/modules")).unwrap();
    let kept = compilers.flat_map(|compiler| fs::read_dir(compiler.unwrap().path()).unwrap());
    let kept = kept.filter(|file| file.as_ref().unwrap().path().extension().is_none()).count();
    assert_eq!(kept, 1, "compiled once");
    for _ in 0..3 {
        for number in 0..10 {
            let answer = send(http1().get(proxy.url(&format!("/{number}")))).await;
            assert_eq!(answer.header("x-configuration"), Some(&*format!("number {number}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shared_and_what_is_not() {
    let module = configured().path();
    // Two filters with these keys: how many VMs they have together, and how many root contexts, on one thread.
    for (one, two, vms, roots) in [
        ("", "", 1.0, 1.0),
        ("configuration = 'c'", "configuration = 'c'", 1.0, 1.0),
        ("limits = { wall_ms = 1 }", "limits = { buffer = '2MiB' }\nfailure_policy = 'open'", 1.0, 1.0),
        ("configuration = ''", "vm_configuration = ''", 1.0, 1.0),
        ("configuration = 'c'", "configuration = 'd'", 1.0, 2.0),
        ("root_id = 'c'", "root_id = 'd'", 1.0, 2.0),
        ("vm_id = 'c'", "vm_id = 'd'", 2.0, 2.0),
        ("vm_configuration = 'c'", "vm_configuration = 'd'", 2.0, 2.0),
        ("env = { A = '1' }", "env = { A = '2' }", 2.0, 2.0),
        ("limits = { memory = '1MiB' }", "", 2.0, 2.0),
        ("limits = { cpu_ms = 7 }", "", 2.0, 2.0),
        ("allowed_capabilities = ['proxy_log']", "", 2.0, 1.0),
        ("instances = 3", "instances = 3", 3.0, 3.0),
    ] {
        let mut site = Site::with("threads = 1");
        for (path, keys) in [("/one", one), ("/two", two)] {
            filtered(&mut site, path, "respond = { status = 200 }", "same", &module, keys);
        }
        let proxy = Proxy::start(&site.to_string());
        assert_eq!(proxy.metric("phasegate_filter_vms"), vms, "{one} beside {two}");
        // A second root is tried out beside the VM that it joins.
        let trial = if roots > vms { 1.0 } else { 0.0 };
        assert_eq!(counter(&proxy, "roots"), roots + trial, "{one} beside {two}");
    }
}

/// Answers with 200 and the number of the request to its VM.
fn visits() -> Guest {
    Guest::new().on(
        "proxy_on_request_headers",
        "(if (call $header 'x-harm') (then unreachable))
         (i32.store (i32.const 0x80) (i32.add (i32.const 1) (i32.load (i32.const 0x80))))
         (call $answer (i32.add (i32.const 200) (i32.load (i32.const 0x80))))",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_can_have_a_vm_of_its_own() {
    let mut site = Site::new();
    filtered(&mut site, "/", "respond = { status = 500 }", "alone", &visits().path(), "instances = 'request'\n");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(proxy.metric("phasegate_filter_vms"), 0.0);
    for client in [http1(), http2()] {
        for harm in [false, true, false, true, false] {
            let request = client.get(proxy.url("/"));
            let answer = send(if harm { request.header("x-harm", "1") } else { request }).await;
            assert_eq!(answer.status, if harm { 503 } else { 201 });
        }
    }
    proxy.wait_until_idle();
    proxy.wait_for_metric("phasegate_filter_vms", 0.0);
    assert_eq!(failures(&proxy, "alone", "trap"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_a_request_share_the_vm_that_it_has() {
    let guest = Guest::new()
        .on("proxy_on_context_create", "(if (i32.eqz (local.get $a)) (then (call $say 'a root')))")
        .on(
            "proxy_on_request_headers",
            "(i32.store (i32.const 0x80) (i32.add (i32.const 1) (i32.load (i32.const 0x80))))
             (call $show 'visit ' (i32.load (i32.const 0x80)))",
        )
        .path();
    let chain: String = [("one", "1"), ("other", "2"), ("one", "1"), ("apart", "1' vm_id = 'apart")]
        .map(|(name, keys)| {
            let keys = keys.replace("' ", "'\n");
            filter(name, &guest) + &format!("instances = 'request'\nconfiguration = '{keys}'\n")
        })
        .concat();
    let mut site = Site::new();
    site.route("/", &format!("respond = {{ status = 200 }}\n{chain}"));
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..2 {
        let before = proxy.log().len();
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
        let lines = || {
            let log = proxy.log()[before..].to_owned();
            let lines = log.lines().filter_map(|line| {
                let (name, rest) = line.split_once("filter=")?.1.split_once(" request=")?;
                Some(format!("{name}: {}", rest.split_once(' ')?.1))
            });
            lines.collect::<Vec<_>>()
        };
        let expected = [
            "one: a root",
            "one: visit 1",
            "other: a root",
            "other: visit 2",
            "one: visit 3",
            "apart: a root",
            "apart: visit 1",
        ];
        eventually("all have been there", || lines().len() >= expected.len());
        assert_eq!(lines(), expected);
        proxy.wait_for_metric("phasegate_filter_vms", 0.0);
    }
}

#[test]
fn a_filter_sees_the_environment_that_it_is_given() {
    let guest = Guest::new().on(
        "proxy_on_vm_start",
        "(drop (call $environ_sizes_get (i32.const 0x80) (i32.const 0x84)))
         (drop (call $environ_get (i32.const 0x20000) (i32.const 0x21000)))
         (call $show 'variables: ' (i32.load (i32.const 0x80)))
         (loop $next
           (i32.store (i32.const 0x80) (i32.sub (i32.load (i32.const 0x80)) (i32.const 1)))
           (i32.store (i32.const 0x88)
             (i32.load (i32.add (i32.const 0x20000) (i32.shl (i32.load (i32.const 0x80)) (i32.const 2)))))
           (call $say (i32.load (i32.const 0x88)) (i32.const 9))
           (br_if $next (i32.load (i32.const 0x80))))",
    );
    let given = service("env", &guest.path()) + "env = { ONE = 'first', TWO = 'other' }\nallow = { env = ['PATH'] }\n";
    let mut site = Site::with(&given);
    site.answered("/");
    let proxy = Proxy::start(&site.to_string());
    for line in ["variables: 3", "PATH=", "ONE=first", "TWO=other"] {
        proxy.wait_for_log(&format!("filter=env request=- {line}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_refused_and_not_called() {
    let guest = Guest::new()
        .on(
            "proxy_on_request_headers",
            "(call $show 'tick ' (call $tick_every (i32.const 1)))
             (call $show 'random ' (call $random_get (i32.const 0x80) (i32.const 4)))
             (call $show 'environment ' (call $environ_sizes_get (i32.const 0x80) (i32.const 0x84)))",
        )
        .on("proxy_on_tick", "(call $say 'never')")
        .on("proxy_on_response_headers", "(call $say 'never')")
        .on("proxy_on_log", "(call $say 'the end')");
    let keys =
        "allowed_capabilities = ['proxy_log', 'proxy_on_request_headers', 'proxy_on_log', 'environ_sizes_get']\n";
    let mut site = Site::new();
    filtered(&mut site, "/", "respond = { status = 200 }", "bound", &guest.path(), keys);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    for line in ["tick 10", "random 76", "environment 0", "the end"] {
        proxy.wait_for_log(line);
    }
    assert!(!proxy.log().contains("never"), "{}", proxy.log());
    send(http1().get(proxy.url("/"))).await;
    for function in ["proxy_set_tick_period_milliseconds", "random_get"] {
        let denied = format!("`{function}` is not in allowed_capabilities, and was called by filter=bound");
        assert_eq!(proxy.wait_for_log(&denied).matches(&denied).count(), 1, "once is enough");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_code_is_fetched_checked_and_kept() {
    let bytes = visits().bytes();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let origin = Origin::start(move |_| reply(200, bytes.clone())).await;
    let cache = tempfile::tempdir().unwrap();
    let config = |digest: &str| {
        let remote =
            format!("remote = {{ url = 'http://{}/visits.wasm', sha256 = '{digest}', retries = 0 }}", origin.addr());
        let mut site = Site::with(&format!("cache = '{}'", cache.path().display()));
        site.route("/", &format!("echo = true\n[[server.local.proxy_wasm]]\n{remote}\ninstances = 1\n"));
        site.to_string()
    };
    let (good, wrong) = (config(&digest), config(&"0".repeat(64)));
    let (output, line) = (refused(&wrong), "sha256");
    assert!(output.stderr.contains(&format!("found {digest}")), "{}", output.stderr);
    assert!(output.stderr.contains(line) && output.stderr.contains("the filter visits "), "{}", output.stderr);

    let proxy = Proxy::start(&good);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 201);
    assert_eq!(proxy.metric("phasegate_filter_streams_total{filter=\"visits\"}"), 1.0);
    proxy.configure(&wrong);
    assert_eq!(proxy.admin("POST", "/reload").0, 400);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 202);
    drop(proxy);

    let fetched = origin.received().len();
    drop(origin);
    let proxy = Proxy::start(&good);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 201, "the server is down, the code is kept");
    assert_eq!(fetched, 3);
}
