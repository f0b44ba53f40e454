//! Plugins without streams: ticks, queues, and what they share with filters.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

fn started_with(services: &str) -> Proxy {
    let mut site = Site::with(&format!("threads = 2\n{services}"));
    site.answered("/");
    Proxy::start(&site.to_string())
}

/// How often a filter or service has said this.
fn said(proxy: &Proxy, name: &str, text: &str) -> usize {
    let line = format!("filter={name} request=- {text}");
    proxy.log().lines().filter(|said| said.ends_with(&line)).count()
}

/// Says hello, and ticks.
fn hello(milliseconds: u32) -> Guest {
    Guest::new()
        .on("proxy_on_vm_start", &format!("(call $say 'hello') (drop (call $tick_every (i32.const {milliseconds})))"))
        .on("proxy_on_tick", "(call $say 'tick')")
}

#[test]
fn a_singleton_runs_once_and_others_once_a_worker() {
    let module = hello(20).path();
    let many = format!("{}singleton = false\n", service("many", &module));
    let three = format!("{}singleton = false\ninstances = 3\n", service("three", &module));
    let proxy = started_with(&format!("{}{many}{three}", service("one", &module)));
    for (name, vms) in [("one", 1), ("many", 2), ("three", 3)] {
        eventually("it ticks again and again", || said(&proxy, name, "tick") >= 5 * vms);
        assert_eq!(said(&proxy, name, "hello"), vms, "{name}");
    }
    assert_eq!(proxy.metric("phasegate_filter_vms"), 6.0);
}

#[test]
fn a_tick_comes_after_its_period_until_it_is_stopped() {
    let stopping = hello(20).with("(global $ticks (mut i32) (i32.const 0))").on(
        "proxy_on_tick",
        "(global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
         (if (i32.eq (global.get $ticks) (i32.const 3)) (then (drop (call $tick_every (i32.const 0)))))",
    );
    let begun = Instant::now();
    let proxy = started_with(&(service("stops", &stopping.path()) + &service("goes", &hello(50).path())));
    eventually("the other goes on", || said(&proxy, "goes", "tick") >= 10);
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(said(&proxy, "stops", "tick"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_takes_from_the_queue_what_filters_put_there() {
    let jobs = Guest::new()
        .on("proxy_on_vm_start", "(drop (call $proxy_register_shared_queue 'jobs' (i32.const 0x80)))")
        // On reloads: a configuration of one letter is refused.
        .on("proxy_on_configure", "(if (i32.eq (local.get $a) (i32.const 1)) (then (return (i32.const 0))))")
        .on(
            "proxy_on_queue_ready",
            "(if (i32.ne (local.get $a) (i32.load (i32.const 0x80))) (then unreachable))
             (if (call $proxy_dequeue_shared_queue (local.get $a) (i32.const 0x84) (i32.const 0x88))
               (then (call $say 'nothing') (return)))
             (call $say (i32.load (i32.const 0x84)) (i32.load (i32.const 0x88)))
             (call $count 'jobs')",
        );
    let asks = Guest::new().on(
        "proxy_on_request_headers",
        "(if (call $proxy_resolve_shared_queue 'office' 'jobs' (i32.const 0x80))
           (then (call $answer (i32.const 404)) (return (i32.const 1))))
         (drop (call $header 'x-job'))
         (drop (call $proxy_enqueue_shared_queue
           (i32.load (i32.const 0x80)) (i32.load (i32.const 0x104)) (i32.load (i32.const 0x108))))",
    );
    let config = |configuration: &str| {
        let service = service("office", &jobs.path()) + "vm_id = 'office'\n" + configuration;
        let mut site = Site::with(&format!("threads = 2\n{service}"));
        filtered(&mut site, "/", "respond = { status = 202 }", "front", &asks.path(), "vm_id = 'front'\n");
        site.to_string()
    };
    let proxy = Proxy::start(&config(""));
    let client = http1();
    let ask = async |number: usize| {
        let request = client.get(proxy.url("/")).header("x-job", format!("job {number}."));
        assert_eq!(send(request).await.status, 202);
    };
    let jobs: Vec<_> = (0..50).map(ask).collect();
    futures::future::join_all(jobs).await;
    eventually("all jobs are done", || counter(&proxy, "jobs") == 50.0);
    for number in 0..50 {
        eventually("each job is done", || said(&proxy, "office", &format!("job {number}.")) > 0);
        assert_eq!(said(&proxy, "office", &format!("job {number}.")), 1);
    }
    assert_eq!(said(&proxy, "office", "nothing"), 0);

    // A trial takes the queue from nobody, nor does one that is right, in VMs of its own, when something else is wrong.
    let other_vms = format!("trehads = 3\n{}", config("vm_configuration = 'other'\n"));
    for (number, refused) in [(50, config("configuration = 'x'\n")), (51, other_vms)] {
        proxy.configure(&refused);
        assert_eq!(proxy.admin("POST", "/reload").0, 400);
        ask(number).await;
        eventually("the service still hears", || said(&proxy, "office", &format!("job {number}.")) == 1);
    }

    // What is in the queue stays when the service is another, and nothing in it is forgotten meanwhile.
    let mut asked = 52;
    for round in 0..20 {
        let keys = if round % 2 == 0 { format!("configuration = 'round {round}'\n") } else { String::new() };
        proxy.configure(&config(&keys));
        let reload = tokio::task::block_in_place(|| {
            let (proxy, asked) = (&proxy, &mut asked);
            std::thread::scope(|scope| {
                let reload = scope.spawn(|| proxy.admin("POST", "/reload").0);
                while !reload.is_finished() {
                    tokio::runtime::Handle::current().block_on(ask(*asked));
                    *asked += 1;
                }
                reload.join().unwrap()
            })
        });
        assert_eq!(reload, 200);
    }
    eventually("all jobs are done", || counter(&proxy, "jobs") == f64::from(asked as u32));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_are_told_one_after_another_and_a_bad_one_hurts_one_vm() {
    let office = Guest::new()
        .on("proxy_on_vm_start", "(drop (call $proxy_register_shared_queue 'jobs' (i32.const 0x80)))")
        .with("(global $turns (mut i32) (i32.const 0))")
        .on(
            "proxy_on_queue_ready",
            "(if (call $proxy_dequeue_shared_queue (local.get $a) (i32.const 0x84) (i32.const 0x88)) (then (return)))
             (if (i32.eq (i32.load (i32.const 0x88)) (i32.const 3)) (then unreachable))
             (global.set $turns (i32.const 1000000))
             (loop $again
               (global.set $turns (i32.sub (global.get $turns) (i32.const 1)))
               (br_if $again (global.get $turns)))
             (call $count 'jobs')",
        );
    let asks = Guest::new().with("(global $left (mut i32) (i32.const 300))").on(
        "proxy_on_request_headers",
        "(drop (call $proxy_resolve_shared_queue 'office' 'jobs' (i32.const 0x80)))
         (if (call $header 'x-bad') (then
           (drop (call $proxy_enqueue_shared_queue (i32.load (i32.const 0x80)) 'bad'))
           (return (i32.const 0))))
         (loop $again
           (drop (call $proxy_enqueue_shared_queue (i32.load (i32.const 0x80)) 'a job'))
           (global.set $left (i32.sub (global.get $left) (i32.const 1)))
           (br_if $again (global.get $left)))",
    );
    let office = service("office", &office.path()) + "vm_id = 'office'\nsingleton = false\ninstances = 3\n";
    let mut site = Site::with(&format!("threads = 1\n{office}"));
    filtered(&mut site, "/", "respond = { status = 200 }", "asks", &asks.path(), "");
    let proxy = Proxy::start(&site.to_string());
    let (before, mut most) = (proxy.threads(), 0);
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    eventually("all are told", || {
        most = most.max(proxy.threads());
        counter(&proxy, "jobs") == 300.0
    });
    assert!(most < before + 10, "{before} threads before, then {most}");

    assert_eq!(send(http1().get(proxy.url("/")).header("x-bad", "1")).await.status, 200);
    proxy.wait_for_metric("phasegate_filter_vms", 3.0);
    assert_eq!(failures(&proxy, "office", "trap"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_a_queue_for_a_request_takes_it_away_no_longer_than_that() {
    let register = "(drop (call $proxy_register_shared_queue 'jobs' (i32.const 0x80)))";
    let office = Guest::new().on("proxy_on_vm_start", register).on("proxy_on_queue_ready", "(call $say 'a job')");
    let brief = Guest::new().on("proxy_on_vm_start", register);
    let asks = Guest::new().on(
        "proxy_on_request_headers",
        "(drop (call $proxy_resolve_shared_queue 'office' 'jobs' (i32.const 0x80)))
         (drop (call $proxy_enqueue_shared_queue (i32.load (i32.const 0x80)) 'job'))",
    );
    let vm_id = "vm_id = 'office'\n";
    let mut site = Site::with(&format!("threads = 2\n{}{vm_id}", service("office", &office.path())));
    let answer = "respond = { status = 200 }";
    filtered(&mut site, "/brief", answer, "brief", &brief.path(), &format!("instances = 'request'\n{vm_id}"));
    filtered(&mut site, "/asks", answer, "asks", &asks.path(), "");
    let proxy = Proxy::start(&site.to_string());
    for round in 1..=2 {
        assert_eq!(send(http1().get(proxy.url("/brief"))).await.status, 200);
        proxy.wait_for_metric("phasegate_filter_vms", 3.0);
        assert_eq!(send(http1().get(proxy.url("/asks"))).await.status, 200);
        eventually("the service hears", || said(&proxy, "office", "a job") == round);
    }
}

#[test]
fn a_service_of_a_reload_that_is_refused_does_not_run() {
    let module = hello(20).path();
    let config = |others: &str| {
        let mut site = Site::with(&format!("{}{others}", service("one", &module)));
        site.answered("/");
        site.to_string()
    };
    let proxy = Proxy::start(&config(""));
    let new = service("new", &module);
    proxy.configure(&format!("trehads = 3\n{}", config(&new)));
    assert_eq!(proxy.admin("POST", "/reload").0, 400);
    let before = said(&proxy, "one", "tick");
    eventually("the other goes on", || said(&proxy, "one", "tick") > before + 5);
    assert_eq!(said(&proxy, "new", "tick"), 0);

    proxy.configure(&config(&new));
    assert_eq!(proxy.admin("POST", "/reload").0, 200);
    eventually("it runs now", || said(&proxy, "new", "tick") > 5);
}

#[test]
fn services_compute_at_the_same_time() {
    let busy = Guest::new()
        .on("proxy_on_vm_start", "(drop (call $tick_every (i32.const 1)))")
        .on("proxy_on_tick", "(call $say 'begins') (loop $for_ever (br $for_ever))");
    let limits = "limits = { cpu_ms = 600000 }\nsingleton = false\ninstances = 2\n";
    let proxy = started_with(&(service("busy", &busy.path()) + limits));
    eventually("both compute", || said(&proxy, "busy", "begins") == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_data_is_changed_by_one_vm_at_a_time() {
    let adds = Guest::new()
        .on(
            "proxy_on_vm_start",
            "(drop (call $proxy_set_shared_data 'total' (i32.const 0x90) (i32.const 4) (i32.const 0)))",
        )
        .on(
            "proxy_on_request_headers",
            "(if (call $header 'x-read') (then
               (drop (call $proxy_get_shared_data 'total' (i32.const 0x80) (i32.const 0x84) (i32.const 0x88)))
               (call $show 'total ' (i32.load (i32.load (i32.const 0x80))))
               (return (i32.const 0))))
             (loop $again
               (if (call $proxy_get_shared_data 'total' (i32.const 0x80) (i32.const 0x84) (i32.const 0x88))
                 (then unreachable))
               (i32.store (i32.const 0x90) (i32.add (i32.const 1) (i32.load (i32.load (i32.const 0x80)))))
               (br_if $again (i32.eq (i32.const 8)
                 (call $proxy_set_shared_data
                   'total' (i32.const 0x90) (i32.const 4) (i32.load (i32.const 0x88))))))",
        );
    let mut site = Site::with("threads = 4");
    // VMs of two kinds, which share by `vm_id`.
    for path in ["/a", "/b"] {
        let keys = format!("vm_id = 'sums'\nvm_configuration = '{path}'\n");
        filtered(&mut site, path, "respond = { status = 200 }", &path[1..], &adds.path(), &keys);
    }
    let proxy = Proxy::start(&site.to_string());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..16 {
        let url = proxy.url(if number % 2 == 0 { "/a" } else { "/b" });
        clients.spawn(async move {
            let client = http1();
            for _ in 0..50 {
                assert_eq!(send(client.get(&url)).await.status, 200);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(send(http1().get(proxy.url("/a")).header("x-read", "1")).await.status, 200);
    proxy.wait_for_log("total 800");
}

#[test]
fn a_service_that_fails_comes_back_if_its_policy_says_so() {
    let failing = hello(1).on("proxy_on_tick", "unreachable").path();
    let policy = |name: &str, policy: &str| {
        format!("{}vm_id = '{name}'\nfailure_policy = '{policy}'\n", service(name, &failing))
    };
    let begun = Instant::now();
    let proxy = started_with(&(policy("closed", "closed") + &policy("again", "reload")));
    eventually("it comes back twice", || said(&proxy, "again", "hello") >= 3);
    assert!(begun.elapsed() >= Duration::from_secs(2), "not before the backoff: {:?}", begun.elapsed());
    assert!(failures(&proxy, "again", "trap") >= 2.0);
    assert!(proxy.metric("phasegate_filter_vm_reloads_total{filter=\"again\",result=\"success\"}") >= 2.0);
    assert_eq!((said(&proxy, "closed", "hello"), said(&proxy, "closed", "tick")), (1, 1));
    assert_eq!(failures(&proxy, "closed", "trap"), 1.0);
    let line = proxy.wait_for_log("filter=closed request=- failed: trap: ");
    assert!(line.contains("ERROR"), "{line}");
    proxy.wait_for_log("filter=closed a VM of this service stays down until it is started again, as by a reload");
    // Once more when it fails at the very moment in which it is looked at.
    assert!((1..=2).contains(&proxy.log().matches("stays down").count()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_ends_with_its_configuration_whatever_requests_still_go_on() {
    let origin = Origin::start_async(|_| std::future::pending()).await;
    let config = |services: &str| {
        let mut site = Site::with(services);
        site.answered("/").proxied("/hang", origin.addr());
        site.to_string()
    };
    let guest = hello(10).on("proxy_on_done", "(call $say 'done')").on("proxy_on_delete", "(call $say 'deleted')");
    let proxy = Proxy::start(&config(&service("clock", &guest.path())));
    let hanging = tokio::spawn(http1().get(proxy.url("/hang")).send());
    origin.wait_for_requests(1);
    proxy.configure(&config(""));
    assert_eq!(proxy.admin("POST", "/reload").0, 200);
    proxy.wait_for_log("filters removed: clock");
    proxy.wait_for_metric("phasegate_filter_vms", 0.0);
    assert_eq!((said(&proxy, "clock", "done"), said(&proxy, "clock", "deleted")), (1, 1));
    hanging.abort();
}

#[test]
fn plugins_are_told_of_the_end_of_the_process_and_may_finish_what_they_do() {
    let ends_at_once =
        hello(10).on("proxy_on_done", "(call $say 'done')").on("proxy_on_delete", "(call $say 'deleted')");
    let ends_later = hello(10)
        .with("(global $ending (mut i32) (i32.const 0))")
        .on("proxy_on_done", "(call $say 'done') (global.set $ending (i32.const 1)) (return (i32.const 0))")
        .on(
            "proxy_on_tick",
            "(if (i32.eq (global.get $ending) (i32.const 3))
               (then (drop (call $proxy_done))))
             (if (global.get $ending) (then (global.set $ending (i32.add (global.get $ending) (i32.const 1)))))",
        )
        .on("proxy_on_delete", "(call $say 'deleted')");
    let proxy = started_with(&(service("soon", &ends_at_once.path()) + &service("later", &ends_later.path())));
    assert_eq!(proxy.terminate().code(), Some(0));
    for name in ["soon", "later"] {
        assert_eq!((said(&proxy, name, "done"), said(&proxy, name, "deleted")), (1, 1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_called_back_of_a_plugin_that_is_gone() {
    // One of them ticks all the time, also while it is told of its end: the next tick waits until then.
    let guest = Guest::new()
        .on(
            "proxy_on_configure",
            "(if (i32.eq (local.get $a) (i32.const 5)) (then
               (i32.store (i32.const 0x80) (local.get $context)) (drop (call $tick_every (i32.const 1)))))",
        )
        .with("(global $turns (mut i32) (i32.const 50000000))")
        .on(
            "proxy_on_done",
            "(if (i32.eq (local.get $context) (i32.load (i32.const 0x80))) (then
               (loop $again
                 (global.set $turns (i32.sub (global.get $turns) (i32.const 1))) (br_if $again (global.get $turns)))))",
        )
        .on("proxy_on_delete", "(i32.store (i32.const 0x84) (local.get $context))")
        .on("proxy_on_tick", "(if (i32.eq (local.get $context) (i32.load (i32.const 0x84))) (then unreachable))");
    let keys = "limits = { cpu_ms = 5000 }\n";
    let config = |services: &str| {
        let mut site = Site::with(services);
        let keys = format!("instances = 1\n{keys}");
        filtered(&mut site, "/", "respond = { status = 200 }", "stays", &guest.path(), &keys);
        site.to_string()
    };
    let proxy = Proxy::start(&config(&(service("goes", &guest.path()) + keys + "configuration = 'ticks'\n")));
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0);
    proxy.configure(&config(""));
    assert_eq!(proxy.admin("POST", "/reload").0, 200);
    proxy.wait_for_log("filters removed: goes");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    assert!(!proxy.log().contains("failed:"), "{}", proxy.log());
}

fn probe(name: &str, plan: &Value) -> String {
    format!("{}configuration = '''{plan}'''\n", service(name, &guests::path("pw_probe")))
}

#[tokio::test(flavor = "multi_thread")]
async fn callouts_end_with_their_plugin() {
    let silent = RawOrigin::start(|client, _| async move { std::mem::forget(client) }).await;
    let config = |services: &str| {
        let upstream = |name, keys| format!("[upstream.{name}]\nservers = [{{ addr = '{}' }}]\n{keys}", silent.addr());
        let mut site = Site::with(&(upstream("http", "") + &upstream("grpc", "h2 = true\n") + services));
        site.answered("/");
        site.to_string()
    };
    let calls = json!({ "on_configure": [
        ["http_call", { "cluster": "http", "timeout": 0 }],
        ["grpc_call", { "cluster": "grpc", "timeout": 0 }],
        ["grpc_stream", { "cluster": "grpc" }],
    ] });
    let stays = probe("stays", &json!({}));
    let proxy = Proxy::start(&config(&(probe("calls", &calls) + &stays)));
    proxy.wait_for_metric("phasegate_callouts_in_flight", 3.0);
    proxy.configure(&config(&stays));
    assert_eq!(proxy.admin("POST", "/reload").0, 200);
    proxy.wait_for_metric("phasegate_callouts_in_flight", 0.0);
    assert_eq!(proxy.metric("phasegate_filter_vms"), 1.0, "their VM goes on");
}

/// Refuses its configuration as often as a text that is shared is long, which becomes shorter each time.
pub fn sick() -> Guest {
    Guest::new()
        .with(
            "(func $found (result i32) (i32.eqz
               (call $proxy_get_shared_data 'sick' (i32.const 0x80) (i32.const 0x84) (i32.const 0x88))))",
        )
        .on(
            "proxy_on_configure",
            "(if (i32.ne (local.get $a) (i32.const 4)) (then (return (i32.const 1))))
             (drop (call $tick_every (i32.const 20)))
             (if (call $found) (then
               (if (i32.load (i32.const 0x84)) (then
                 (drop (call $proxy_set_shared_data 'sick'
                   (i32.load (i32.const 0x80)) (i32.sub (i32.load (i32.const 0x84)) (i32.const 1)) (i32.const 0)))
                 (return (i32.const 0))))))",
        )
}

#[test]
fn a_service_that_does_not_start_again_is_tried_again() {
    let guest = sick().on(
        "proxy_on_tick",
        "(if (i32.eqz (call $found)) (then
           (drop (call $proxy_set_shared_data 'sick' 'ab' (i32.const 0))) unreachable))
         (call $say 'works')",
    );
    let proxy = started_with(&(service("weak", &guest.path()) + "configuration = 'weak'\nfailure_policy = 'reload'\n"));
    eventually("it works", || said(&proxy, "weak", "works") >= 3);
    assert_eq!((failures(&proxy, "weak", "trap"), failures(&proxy, "weak", "instantiate")), (1.0, 2.0));
    let reloads =
        |result| proxy.metric(&format!("phasegate_filter_vm_reloads_total{{filter=\"weak\",result=\"{result}\"}}"));
    assert_eq!((reloads("failure"), reloads("success")), (2.0, 1.0));
}

#[test]
fn the_end_of_the_process_waits_for_plugins_that_a_reload_has_removed() {
    let guest = hello(1000)
        .with("(global $ending (mut i32) (i32.const 0))")
        .on("proxy_on_done", "(global.set $ending (i32.const 1)) (return (i32.const 0))")
        .on("proxy_on_tick", "(if (global.get $ending) (then (drop (call $proxy_done))))")
        .on("proxy_on_delete", "(call $say 'deleted')");
    let config = |services: &str| {
        let mut site = Site::with(&format!("grace_period_ms = 5000\n{services}"));
        site.answered("/");
        site.to_string()
    };
    let proxy = Proxy::start(&config(&service("later", &guest.path())));
    proxy.configure(&config(""));
    assert_eq!(proxy.admin("POST", "/reload").0, 200);
    proxy.wait_for_log("filters removed: later");
    assert_eq!(proxy.terminate().code(), Some(0));
    assert_eq!(said(&proxy, "later", "deleted"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_finds_the_queue_of_a_service_when_it_starts() {
    let registers =
        Guest::new().on("proxy_on_vm_start", "(drop (call $proxy_register_shared_queue 'jobs' (i32.const 0x80)))");
    let resolves = Guest::new().on(
        "proxy_on_configure",
        "(return (i32.eqz (call $proxy_resolve_shared_queue 'both' 'jobs' (i32.const 0x80))))",
    );
    let mut site = Site::with(&format!("{}vm_id = 'both'\n", service("registers", &registers.path())));
    filtered(&mut site, "/", "respond = { status = 200 }", "resolves", &resolves.path(), "vm_id = 'both'\n");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
}
