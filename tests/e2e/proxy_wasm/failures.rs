//! What a filter's failure does: to its request, to others, to the log and the metrics.

use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::sync::Notify;

use super::*;

/// A failure in the callback where it stands: its code, and its kind.
const HURTS: [(&str, &str, &str); 7] = [
    ("trap", "unreachable", "trap"),
    ("loop", "(loop $for_ever (br $for_ever))", "cpu"),
    // Host calls do not let it go on for ever.
    ("chatter", "(loop $for_ever (drop (call $path)) (br $for_ever))", "cpu"),
    ("hunger", "(loop $more (drop (memory.grow (i32.const 16))) (br $more))", "memory"),
    ("depth", "(call $depth)", "trap"),
    ("exit", "(call $proc_exit (i32.const 0))", "trap"),
    ("allocator", "(i32.store (i32.const 0x80) (i32.const 1)) (drop (call $path))", "trap"),
];

const DEPTH: &str = "(func $depth (call $depth) (call $depth))";

/// Whether this request is to fail.
const HARMED: &str = "(call $header 'x-harm')";

/// Counts what it sees of requests: nothing may be missing because another filter fails.
fn calm() -> Guest {
    ["proxy_on_done", "proxy_on_log", "proxy_on_delete"]
        .into_iter()
        .fold(Guest::new(), |guest, callback| guest.on(callback, &format!("(call $count 'calm_{callback}')")))
        .on("proxy_on_context_create", "(if (local.get $a) (then (call $count 'calm_proxy_on_context_create')))")
}

/// A filter that fails in a callback, of requests that are to fail.
fn failing(callback: &str, hurt: &str) -> Guest {
    let if_harmed = format!("(if {HARMED} (then {hurt}))");
    let guest =
        Guest::new().with(DEPTH).on("proxy_on_memory_allocate", "(if (i32.load (i32.const 0x80)) (then unreachable))");
    match callback {
        "proxy_on_tick" => guest
            .on("proxy_on_request_headers", &format!("(if {HARMED} (then (drop (call $tick_every (i32.const 1)))))"))
            .on(callback, hurt),
        "proxy_on_queue_ready" => guest
            .on("proxy_on_vm_start", "(drop (call $proxy_register_shared_queue 'harm' (i32.const 0x84)))")
            .on(
                "proxy_on_request_headers",
                &format!(
                    "(if {HARMED} (then
                       (drop (call $proxy_enqueue_shared_queue (i32.load (i32.const 0x84)) 'now'))))"
                ),
            )
            .on(callback, hurt),
        "proxy_on_context_create" => guest.on(callback, &format!("(if (local.get $a) (then {if_harmed}))")),
        _ => guest.on(callback, &if_harmed),
    }
}

/// What the client of the failing request gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// Nothing of the response has been sent.
    Refused,
    /// The failure comes after the response.
    Served,
    /// It may come before or after.
    Either,
}

const CALLBACKS: [(&str, Outcome); 10] = [
    ("proxy_on_context_create", Outcome::Refused),
    ("proxy_on_request_headers", Outcome::Refused),
    ("proxy_on_request_body", Outcome::Refused),
    ("proxy_on_response_headers", Outcome::Refused),
    ("proxy_on_done", Outcome::Served),
    ("proxy_on_log", Outcome::Served),
    ("proxy_on_delete", Outcome::Served),
    ("proxy_on_tick", Outcome::Either),
    ("proxy_on_queue_ready", Outcome::Either),
    ("proxy_on_response_body", Outcome::Refused),
];

/// Each failure with its callback. All callbacks with the first two failures, all failures with one callback.
fn cases() -> Vec<(String, &'static str, &'static str, &'static str, Outcome)> {
    let mut cases = Vec::new();
    for (callback, outcome) in CALLBACKS {
        for (index, (hurt, code, kind)) in HURTS.into_iter().enumerate() {
            if index < 2 || callback == "proxy_on_request_headers" {
                cases.push((format!("{}-{hurt}", &callback["proxy_on_".len()..]), callback, code, kind, outcome));
            }
        }
    }
    cases
}

fn is_limit(kind: &str) -> bool {
    matches!(kind, "cpu" | "memory")
}

fn site(policy: &str, origin: std::net::SocketAddr) -> Site {
    let mut site = Site::with("threads = 2");
    for (name, callback, code, ..) in cases() {
        let chain = filter("calm", &calm().path())
            + &filter(&name, &failing(callback, code).path())
            + &format!(
                "vm_id = '{name}'\nfailure_policy = '{policy}'\ninstances = 1\nlimits = {{ cpu_ms = 20, memory = '1MiB' }}\n"
            );
        site.route(&format!("/{name}"), &format!("proxy_pass = '{origin}'\n{chain}"));
    }
    site
}

/// The line of the log about the failure of this filter, of which there is one.
fn line(proxy: &Proxy, name: &str) -> String {
    let start = format!("filter={name} ");
    let line = proxy.wait_for_log(&format!("{start}request="));
    let failed = |line: &&str| line.contains(&start) && line.contains(" failed: ");
    assert_eq!(proxy.log().lines().filter(failed).count(), 1, "{}", proxy.log());
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_a_failure_ends_the_request_with_503_and_hurts_no_other() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let mut site = site("closed", origin.addr());
    site.route("/calm", &format!("proxy_pass = '{}'\n{}", origin.addr(), filter("calm", &calm().path())));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let post = |path: &str| client.post(proxy.url(path)).body("hello");

    for (name, callback, _, kind, outcome) in cases() {
        let path = format!("/{name}");
        let answer = send(post(&path)).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}: unharmed");
        let answer = send(post(&path).header("x-harm", "1")).await;
        match outcome {
            Outcome::Either => assert!([200, 503].contains(&answer.status), "{name}"),
            Outcome::Refused => {
                assert_eq!((answer.status, answer.text().as_str()), (503, ""), "{name}");
                assert_eq!(answer.header("content-length"), Some("0"), "{name}");
            }
            Outcome::Served => assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}"),
        }
        eventually(&name, || failures(&proxy, &name, kind) == 1.0);
        let line = line(&proxy, &name);
        assert!(line.contains(&format!("failed: {kind}: ")), "{line}");
        let of_a_request = !matches!(callback, "proxy_on_tick" | "proxy_on_queue_ready");
        assert_eq!(!line.contains("request=- "), of_a_request, "{line}");
        let answer = send(post(&path)).await;
        if is_limit(kind) {
            assert!([200, 503].contains(&answer.status), "{name}: it gets another VM");
        } else {
            assert_eq!((answer.status, answer.text().as_str()), (503, ""), "{name}: its VM is gone");
            proxy.wait_for_log(&format!("filter={name} no VM of it is left"));
        }
        assert_eq!(send(post("/calm")).await.status, 200);
    }

    assert_eq!(send(post(&format!("/{}", cases()[0].0))).await.status, 503);
    let limited = cases().iter().filter(|(.., kind, _)| is_limit(kind)).count();
    assert_eq!(proxy.log().matches(" no VM of it is left").count(), cases().len() - limited, "once for each");
    proxy.wait_until_idle();
    let created = counter(&proxy, "calm_proxy_on_context_create");
    assert_eq!(created, 1.0 + 4.0 * cases().len() as f64);
    for callback in ["proxy_on_done", "proxy_on_log", "proxy_on_delete"] {
        assert_eq!(counter(&proxy, format!("calm_{callback}")), created, "{callback}");
    }
    assert_eq!(proxy.metric(&of("calm", "filter_streams_in_flight")), 0.0);
    // Those of `calm`, and those of filters that have reached a limit.
    proxy.wait_for_metric("phasegate_filter_vms", (2 + limited) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_a_failure_lets_the_request_through() {
    let origin = Origin::start(|request| reply(200, request.body)).await;
    let proxy = Proxy::start(&site("open", origin.addr()).to_string());
    let client = http1();
    for (name, _, _, kind, _) in cases() {
        for harm in [false, true, false] {
            let request = client.post(proxy.url(&format!("/{name}"))).body("hello");
            let answer = send(if harm { request.header("x-harm", "1") } else { request }).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}");
        }
        eventually(&name, || failures(&proxy, &name, kind) == 1.0);
        line(&proxy, &name);
    }
    assert_eq!(origin.received().len(), 3 * cases().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_a_new_vm_serves_after_the_backoff() {
    let origin = Origin::saying("hello").await;
    let guest = failing("proxy_on_request_headers", "unreachable").on("proxy_on_vm_start", "(call $say 'started')");
    let mut site = Site::new();
    let keys = "failure_policy = 'reload'\ninstances = 1\n";
    site.route("/", &format!("proxy_pass = '{}'\n{}{keys}", origin.addr(), filter("again", &guest.path())));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let get = async |harm: bool| {
        let request = client.get(proxy.url("/"));
        send(if harm { request.header("x-harm", "1") } else { request }).await.status
    };
    let reloads = |result: &str| {
        proxy.metric(&format!("phasegate_filter_vm_reloads_total{{filter=\"again\",result=\"{result}\"}}"))
    };
    let mut refused = 0.0;
    for round in 1..=3 {
        assert_eq!(get(false).await, 200);
        assert_eq!(get(true).await, 503);
        // The first VM may be old enough already.
        let deadline = std::time::Instant::now() + PATIENCE;
        while get(false).await == 503 {
            refused += 1.0;
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        eventually("it is counted", || reloads("success") == f64::from(round));
        assert_eq!(reloads("backoff"), refused);
    }
    assert!(refused > 40.0, "two backoffs of a second at least, {refused} requests 20 ms apart");
    eventually("four VMs have started", || proxy.log().matches("started").count() == 4);
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0);
}

/// The policy is that of the version that requests get.
#[tokio::test(flavor = "multi_thread")]
async fn reload_a_policy_can_be_changed() {
    let guest = failing("proxy_on_request_headers", "unreachable").path();
    let site = |policy: &str| {
        let mut site = Site::new();
        let keys = format!("failure_policy = '{policy}'\ninstances = 1\n");
        filtered(&mut site, "/", "respond = { status = 200 }", "f", &guest, &keys);
        site.to_string()
    };
    let proxy = Proxy::start(&site("closed"));
    let get = async |harm: bool| {
        let request = http1().get(proxy.url("/"));
        send(if harm { request.header("x-harm", "1") } else { request }).await.status
    };
    let (vms, reloads) = ("phasegate_filter_vms", "phasegate_filter_vm_reloads_total{filter=\"f\",result=\"success\"}");
    let change = |config: &str| {
        proxy.configure(config);
        proxy.admin("POST", "/reload").0
    };
    // One that is refused changes nothing, and starts nothing.
    assert_eq!(change(&format!("trehads = 3\n{}", site("reload"))), 400);
    assert_eq!(get(true).await, 503);
    assert_eq!(change(&format!("trehads = 3\n{}", site("closed"))), 400);
    assert_eq!((get(false).await, proxy.metric(vms)), (503, 0.0));

    assert_eq!(change(&site("reload")), 200);
    assert_eq!((get(false).await, get(true).await), (200, 503));
    proxy.wait_for_metric(reloads, 1.0);
    assert_eq!(change(&site("closed")), 200);
    assert_eq!((get(false).await, get(true).await), (200, 503));
    // A filter with that policy would be back by now.
    let begun = std::time::Instant::now();
    eventually("two backoffs", || begun.elapsed() > std::time::Duration::from_secs(3));
    assert_eq!((get(false).await, proxy.metric(reloads)), (503, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_the_end_of_the_process_does_not_wait_for_a_filter_that_starts() {
    let guest = Guest::new()
        .on("proxy_on_request_headers", "(drop (call $proxy_set_shared_data 'gone' 'x' (i32.const 0))) unreachable")
        .on(
            "proxy_on_configure",
            "(if (i32.eqz (call $proxy_get_shared_data 'gone' (i32.const 0x40) (i32.const 0x44) (i32.const 0x48)))
               (then (loop $for_ever (br $for_ever))))",
        );
    let mut site = Site::with("grace_period_ms = 2000");
    let keys = "failure_policy = 'reload'\ninstances = 1\n";
    filtered(&mut site, "/", "respond = { status = 200 }", "stuck", &guest.path(), keys);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 503);
    proxy.wait_for_metric("phasegate_filter_vms", 0.0);
    // It starts, for ten seconds.
    proxy.wait_for_metric("phasegate_filter_vms", 1.0);
    let start = std::time::Instant::now();
    proxy.signal(Signal::Terminate);
    assert_eq!(proxy.wait_for_exit().code(), Some(0));
    assert!(start.elapsed() < std::time::Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_a_filter_that_does_not_start_again_is_tried_again_and_hurts_no_other_of_its_vm() {
    let guest = super::services::sick().on(
        "proxy_on_request_headers",
        &format!("(if {HARMED} (then (drop (call $proxy_set_shared_data 'sick' 'ab' (i32.const 0))) unreachable))"),
    );
    let mut site = Site::with("threads = 2");
    for name in ["weak", "well"] {
        let keys =
            format!("configuration = '{name}-'\nfailure_policy = 'reload'\ninstances = 1\n").replace("weak-", "weak");
        filtered(&mut site, &format!("/{name}"), "respond = { status = 200 }", name, &guest.path(), &keys);
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let get = async |path: &str| send(client.get(proxy.url(path))).await.status;
    assert_eq!((get("/weak").await, get("/well").await), (200, 200));
    assert_eq!(send(client.get(proxy.url("/weak")).header("x-harm", "1")).await.status, 503);
    let works = async |path: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while get(path).await != 200 {
            assert!(std::time::Instant::now() < deadline, "{path}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    works("/well").await;
    assert_eq!(get("/weak").await, 503, "it has refused");
    works("/weak").await;
    assert_eq!(get("/well").await, 200);
    assert_eq!((failures(&proxy, "weak", "instantiate"), failures(&proxy, "well", "instantiate")), (2.0, 0.0));
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0);
}

/// The origin sends head and body by themselves.
async fn in_pieces(told: Arc<Notify>) -> RawOrigin {
    RawOrigin::start(move |mut client, _| {
        let told = told.clone();
        async move {
            while client.read_request().await.is_some() {
                client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                told.notified().await;
                client.send("a\r\n0123456789\r\n0\r\n\r\n").await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_head_of_the_response_a_failure_cuts_it_off() {
    let told = Arc::new(Notify::new());
    let origin = in_pieces(told.clone()).await;
    let module = failing("proxy_on_response_body", "unreachable").path();
    for (policy, rest) in [("closed", ""), ("open", "A\r\n0123456789\r\n")] {
        let mut site = Site::new();
        let keys = format!("failure_policy = '{policy}'\n");
        site.route("/", &format!("proxy_pass = '{}'\n{}{keys}", origin.addr(), filter("late", &module)));
        let proxy = Proxy::start(&site.to_string());
        let mut client = Raw::connect(proxy.addr()).await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\nx-harm: 1\r\n\r\n").await;
        assert_eq!(client.read_head().await.unwrap().status(), 200);
        told.notify_one();
        assert_eq!(String::from_utf8_lossy(&client.read_exact(15).await), rest, "{policy}");
        if policy == "closed" {
            assert!(client.is_closed().await);
        }
        eventually("it is counted", || failures(&proxy, "late", "trap") == 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_the_trailers_resets_the_stream_and_grpc_has_its_own_503() {
    let origin = GrpcOrigin::start().await;
    let main = format!("[upstream.grpc]\nservers = [{{ addr = '{}' }}]\nh2 = true\n", origin.addr());
    let mut site = Site::with(&main);
    let module = |callback| failing(callback, "unreachable").path();
    let pass = "proxy_pass = 'grpc'\n";
    // What GrpcCall sends is always harmed.
    let harmed = |callback| Guest::new().on(callback, "unreachable").path();
    site.route("/test.Echo/Chat", &format!("{pass}{}", filter("trailers", &harmed("proxy_on_response_trailers"))));
    site.route("/test.Echo/Head", &format!("{pass}{}", filter("head", &harmed("proxy_on_request_headers"))));
    site.route("/", &format!("{pass}{}", filter("unused", &module("proxy_on_log"))));
    let proxy = Proxy::start(&site.to_string());

    let mut call = GrpcCall::start(proxy.addr(), "Chat", b"one").await;
    assert_eq!(call.next().await.unwrap().unwrap(), "one");
    call.end();
    let end = soon("the end", call.response.body_mut().frame()).await;
    assert!(end.is_some_and(|end| end.is_err()), "no trailers come");

    let call = GrpcCall::start(proxy.addr(), "Head", b"one").await;
    assert_eq!(call.response.status(), 200);
    assert_eq!(call.response.headers()["grpc-status"], "14");
    for name in ["trailers", "head"] {
        line(&proxy, name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_wakes_all_paused_streams_of_the_vm() {
    let origin = Origin::saying("hello").await;
    let guest = failing("proxy_on_request_headers", "unreachable")
        .on("proxy_on_request_headers", "(if (call $header 'x-wait') (then (return (i32.const 1))))");
    let mut site = Site::new();
    for policy in ["closed", "open"] {
        let keys = format!("failure_policy = '{policy}'\nvm_id = '{policy}'\ninstances = 1\n");
        let chain = filter(policy, &guest.path()) + &keys;
        site.route(&format!("/{policy}"), &format!("proxy_pass = '{}'\n{chain}", origin.addr()));
    }
    let proxy = Proxy::start(&site.to_string());
    for (policy, status) in [("closed", 503), ("open", 200)] {
        let url = proxy.url(&format!("/{policy}"));
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..10 {
            for client in [http1(), http2()] {
                waiting.spawn(send(client.get(&url).header("x-wait", "1")));
            }
        }
        proxy.wait_for_metric(&of(policy, "filter_streams_paused"), 20.0);
        assert_eq!(send(http1().get(&url).header("x-harm", "1")).await.status, status);
        while let Some(answer) = waiting.join_next().await {
            assert_eq!(answer.unwrap().status, status);
        }
        line(&proxy, policy);
        for gauge in ["filter_streams_paused", "filter_streams_in_flight"] {
            proxy.wait_for_metric(&of(policy, gauge), 0.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_allocator_gives_memory_or_a_status_and_must_not_call_back() {
    let status = "(call $show 'status ' (call $proxy_get_header_map_value
        (i32.const 0) ':path' (i32.const 0x104) (i32.const 0x108)))";
    let cases = [
        ("none", "(return (i32.const 0))", Some(6)),
        ("outside", "(return (i32.const -16))", Some(6)),
        ("beyond", "(return (i32.const 0x3fffe))", Some(6)),
        ("last", "(return (i32.const 0x3fffb))", Some(0)),
        ("logs", "(call $say 'from within')", Some(0)),
        ("calls", "(drop (call $proxy_done))", None),
        ("again", "(drop (call $path))", None),
        ("loops", "(loop $for_ever (br $for_ever))", None),
    ];
    let mut site = Site::new();
    for (name, allocate, _) in cases {
        let guest = Guest::new().on("proxy_on_memory_allocate", allocate).on("proxy_on_request_headers", status).path();
        filtered(&mut site, &format!("/{name}"), "respond = { status = 200 }", name, &guest, "");
    }
    let proxy = Proxy::start(&site.to_string());
    for (name, _, status) in cases {
        let answer = send(http1().get(proxy.url(&format!("/{name}")))).await;
        assert_eq!(answer.status, if status.is_some() { 200 } else { 503 }, "{name}");
        let Some(status) = status else { continue };
        let line = proxy.wait_for_log(&format!("filter={name} request="));
        assert!(line.ends_with(if name == "logs" { "from within" } else { "" }), "{line}");
        eventually(name, || {
            let log = proxy.log();
            log.lines()
                .any(|line| line.contains(&format!("filter={name} ")) && line.ends_with(&format!("status {status}")))
        });
    }
}
