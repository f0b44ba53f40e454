//! A plugin that misbehaves costs its own request, and nothing else.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::support::*;

/// What a guest does, and what kind of failure that is.
const BEHAVIOURS: [(&str, &[&str]); 8] = [
    // On a busy machine it may have to wait for its CPU time.
    ("loop", &["cpu", "wall"]),
    ("trap", &["trap"]),
    ("panic", &["trap"]),
    ("memory", &["memory"]),
    ("recursion", &["trap"]),
    ("err", &["err"]),
    ("host-loop", &["cpu", "wall"]),
    ("sleep-forever", &["wall"]),
];

const LIMITS: &str = "limits = { memory = \"4MiB\", cpu_ms = 20, wall_ms = 200 }";

/// Each guest with each of its behaviours.
fn hostilities() -> impl Iterator<Item = (&'static str, &'static str, &'static [&'static str])> {
    let guests = ["hostile", "hostile_sync"].into_iter();
    let all = guests.flat_map(|guest| BEHAVIOURS.map(|(behaviour, kinds)| (guest, behaviour, kinds)));
    all.filter(|(guest, behaviour, _)| (*guest, *behaviour) != ("hostile_sync", "sleep-forever"))
}

fn hostile(guest: &str, behaviour: &str, name: &str) -> Script {
    Script::guest(guest, name).main(behaviour).key(LIMITS)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_costs_its_own_request_in_wasm_access() {
    costs_its_own_request("wasm_access").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_misbehaviour_costs_its_own_request_in_wasm_http_filter_headers() {
    costs_its_own_request("wasm_http_filter_headers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_compute_while_a_plugin_waits_is_not_its_own() {
    let mut site = Site::with("threads = 1");
    let rests = Script::guest("hostile", "rests").main("rest").key("limits = { cpu_ms = 200 }");
    // It holds the only worker for as long as it may.
    let computes = Script::guest("hostile_sync", "computes").main("loop").key("limits = { cpu_ms = 500 }");
    site.answered("/rests").script("wasm_access", rests);
    site.answered("/computes").script("wasm_access", computes);
    let proxy = Proxy::start(&site.to_string());
    // Several: each has a chance that the clock ticks once, and not twice, before it waits.
    let rests: Vec<_> = (0..8).map(|_| tokio::spawn(send(http1().get(proxy.url("/rests"))))).collect();
    proxy.wait_for_metric("phasegate_plugin_runs_total{script=\"rests\",phase=\"wasm_access\"}", 8.0);
    assert_eq!(send(http1().get(proxy.url("/computes"))).await.status, 500);
    for answer in rests {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

async fn costs_its_own_request(phase: &str) {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with(
        "threads = 2\naccess_log = { path = 'stdout', format = '${http_request_path} ${status} ${request_id}' }",
    );
    for (guest, behaviour, _) in hostilities() {
        let name = format!("{guest}.{behaviour}");
        let script = hostile(guest, &format!("{behaviour} if-header"), &name);
        site.proxied(&format!("/{name}"), origin.addr()).script(phase, script);
    }
    site.proxied("/other", origin.addr());
    let proxy = Proxy::start(&site.to_string());
    let client = http1();

    for (guest, behaviour, kinds) in hostilities() {
        let name = format!("{guest}.{behaviour}");
        let url = proxy.url(&format!("/{name}"));
        for _ in 0..2 {
            let answer = send(client.get(&url).header("x-hostile", "1")).await;
            // Nothing of the plugin: no text of its error, no backtrace.
            assert_eq!((answer.status, answer.text().as_str()), (500, "500 Internal Server Error\n"), "{name}");
            for path in [&url, &proxy.url("/other")] {
                let next = send(client.get(path)).await;
                assert_eq!((next.status, next.text().as_str()), (200, "hello"), "{path} after {name}");
            }
        }
        proxy.wait_until_idle();
        let failures = |kind: &str| {
            proxy.metric(&format!(
                "phasegate_plugin_failures_total{{script=\"{name}\",phase=\"{phase}\",kind=\"{kind}\"}}"
            ))
        };
        assert_eq!(kinds.iter().map(|kind| failures(kind)).sum::<f64>(), 2.0, "{name} fails as {kinds:?}");

        // The log says it once for each: with script, phase and request.
        let lines = || -> Vec<String> {
            let log = proxy.log();
            let of_script = log.lines().filter(|line| line.contains(&format!("script={name} ")));
            of_script.filter(|line| line.contains(" failed: ")).map(str::to_owned).collect()
        };
        eventually(&format!("two failures of {name} in the log"), || lines().len() >= 2);
        let lines = lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        eventually("two lines in the access log", || proxy.stdout().matches(&format!("/{name} 500 ")).count() == 2);
        let stdout = proxy.stdout();
        let ids = stdout.lines().filter_map(|line| line.strip_prefix(&format!("/{name} 500 ")));
        for (line, id) in lines.iter().zip(ids) {
            assert!(line.contains(&format!("phase={phase} request={id} failed: ")), "{line}, not {id}");
        }
    }
    let log = proxy.log();
    for said in [
        "computed for more than limits.cpu_ms, 20 ms",
        "used more memory than limits.memory permits, 4096 KiB",
        "failed: err: the guest fails",
        "the guest panics",
        "stack",
        "ran for more than limits.wall_ms, 200 ms",
    ] {
        assert!(log.contains(said), "{said:?} is not in the log");
    }
    assert!(!log.contains("RUST_BACKTRACE"), "advice that nobody can follow is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_failure_open_skips_the_script() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::new();
    for (guest, behaviour, _) in hostilities() {
        let name = format!("{guest}.{behaviour}");
        let marks =
            Script::guest("probe_sync", "marks").main(r#"[{"call": "in-add-header", "args": ["x-next", "1"]}]"#);
        let fails = hostile(guest, behaviour, &name).key("on_failure = \"open\"");
        site.proxied(&format!("/{name}"), origin.addr()).plugin("wasm_access", "p", [fails, marks]);
    }
    let proxy = Proxy::start(&site.to_string());
    for (guest, behaviour, _) in hostilities() {
        let name = format!("{guest}.{behaviour}");
        let answer = send(http1().get(proxy.url(&format!("/{name}")))).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}");
        assert_eq!(origin.last().header("x-next"), Some("1"), "the next script of {name} runs");
    }
}

/// It is open unless the configuration says otherwise, and even closed it is too late to hurt.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_wasm_access_log_hurts_nobody() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with("access_log = { path = 'stdout', format = 'served ${http_request_path} ${status}' }");
    for (guest, behaviour, _) in hostilities() {
        for closed in ["", "on_failure = \"close\""] {
            let name = format!("{guest}.{behaviour}.{}", closed.len());
            let script = hostile(guest, behaviour, &name).key(closed);
            site.proxied(&format!("/{name}"), origin.addr()).script("wasm_access_log", script);
            if closed.is_empty() {
                let marks = Script::guest("probe_sync", "marks")
                    .main(format!(r#"[{{"call": "log-info", "args": ["after {name}"]}}]"#));
                site.script("wasm_access_log", marks);
            }
        }
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for (guest, behaviour, _) in hostilities() {
        for closed in [0, 20] {
            let name = format!("{guest}.{behaviour}.{closed}");
            let answer = send(client.get(proxy.url(&format!("/{name}")))).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{name}");
            proxy.wait_for_stdout(&format!("served /{name} 200"));
            proxy.wait_for_log(&format!("script={name} phase=wasm_access_log"));
            if closed == 0 {
                proxy.wait_for_log(&format!("after {name}"));
            }
        }
    }
}

/// 16 connections of misbehaviour beside four of an ordinary route, on two workers.
#[tokio::test(flavor = "multi_thread")]
async fn other_routes_lose_nothing_under_a_hostile_load() {
    let origin = Origin::saying("hello").await;
    let mut site = Site::with("threads = 2");
    let behaviours = ["loop", "trap", "memory", "recursion"];
    for guest in ["hostile", "hostile_sync"] {
        for behaviour in behaviours {
            let script = Script::guest(guest, behaviour).main(behaviour).key("limits = { memory = \"32MiB\" }");
            site.proxied(&format!("/{guest}/{behaviour}"), origin.addr()).script("wasm_access", script);
        }
    }
    site.proxied("/good", origin.addr());
    let proxy = Arc::new(Proxy::start(&site.to_string()));
    let hostile_is_over = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));

    let good = (0..4).map(|_| {
        let (url, over, served) = (proxy.url("/good"), hostile_is_over.clone(), served.clone());
        tokio::spawn(async move {
            let client = http1();
            while !over.load(Relaxed) {
                let answer = send(client.get(&url)).await;
                assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
                served.fetch_add(1, Relaxed);
            }
        })
    });
    let good: Vec<_> = good.collect();
    let until = Instant::now() + Duration::from_secs(3);
    let hostile = (0..16).map(|n| {
        let guest = ["hostile", "hostile_sync"][n / 8];
        let url = proxy.url(&format!("/{guest}/{}", behaviours[n % 4]));
        tokio::spawn(async move {
            let client = http1();
            let mut sent = 0;
            while Instant::now() < until {
                assert_eq!(send(client.get(&url)).await.status, 500);
                sent += 1;
            }
            sent
        })
    });
    let hostile: Vec<_> = hostile.collect();
    for client in hostile {
        assert!(client.await.unwrap() > 0, "every hostile client was answered");
    }
    hostile_is_over.store(true, Relaxed);
    for client in good {
        client.await.expect("no request of the other route fails");
    }
    // How many depends on the machine; that some come through while all workers are under attack does not.
    assert!(served.load(Relaxed) >= 4, "only {} requests in 3 seconds", served.load(Relaxed));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_memory_hogs() {
    let mut site = Site::new();
    for guest in ["hostile", "hostile_sync"] {
        let script = Script::guest(guest, "hog").main("memory").key("limits = { memory = \"32MiB\" }");
        site.answered(&format!("/{guest}")).script("wasm_access", script);
    }
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let (resident, reserved) = (proxy.memory("VmRSS"), proxy.memory("VmSize"));
    for _ in 0..50 {
        for guest in ["hostile", "hostile_sync"] {
            assert_eq!(send(client.get(proxy.url(&format!("/{guest}")))).await.status, 500);
        }
    }
    // 100 of 32 MiB have gone through.
    let grown = proxy.memory("VmRSS").saturating_sub(resident) >> 20;
    assert!(grown < 200, "grown by {grown} MiB");
    let grown = proxy.memory("VmSize").saturating_sub(reserved) >> 30;
    assert!(grown < 50, "grown by {grown} GiB of address space");
}
/// One that computes yields to whatever else its worker has to do, and connections are looked after in between.
#[tokio::test(flavor = "multi_thread")]
async fn who_computes_does_not_keep_the_worker() {
    let mut site = Site::with("threads = 1");
    let computes = Script::guest("hostile", "computes").main("loop").key("limits = { cpu_ms = 2000 }");
    site.answered("/computes").script("wasm_access", computes);
    site.answered("/other");
    let proxy = Proxy::start(&site.to_string());
    let computes = tokio::spawn(send(http1().get(proxy.url("/computes"))));
    proxy.wait_for_metric("phasegate_plugin_runs_total{script=\"computes\",phase=\"wasm_access\"}", 1.0);
    let client = http1();
    let mut answered = 0;
    while !computes.is_finished() {
        assert_eq!(send(client.get(proxy.url("/other"))).await.status, 200);
        answered += 1;
    }
    assert_eq!(computes.await.unwrap().status, 500);
    assert!(answered > 20, "{answered} requests in two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_limit_is_no_trap_for_small_work() {
    let mut site = Site::new();
    let quick = Script::guest("verdict", "quick").main("ok").key("limits = { cpu_ms = 1 }");
    let path = guests::path("pw_one_header");
    let filter = format!(
        "[[server.local.proxy_wasm]]\nwasm_path = '{}'\nconfiguration = 'x-one'\nlimits = {{ cpu_ms = 1 }}\n",
        path.display()
    );
    site.answered("/script").script("wasm_access", quick);
    site.route("/filter", &format!("respond = {{ status = 200 }}\n{filter}"));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for request in 0..200 {
        let path = ["/script", "/filter"][request % 2];
        assert_eq!(send(client.get(proxy.url(path))).await.status, 200, "{path}");
        if request % 20 == 0 {
            // The clock ticks in between.
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    }
}

/// A log that nobody takes: connections wait for it, when too many runs do already.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_are_left_behind_are_bounded() {
    const BOUND: usize = 1000;
    const CLIENTS: usize = 16;
    let mut site = Site::with("access_log = { path = 'access.log' }");
    site.answered("/").script("wasm_access_log", Script::guest("verdict", "log").main("sleep 4000 then ok"));
    let proxy = Arc::new(Proxy::start(&site.to_string()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let proxy = proxy.clone();
            tokio::spawn(async move {
                let client = http1();
                for _ in 0..BOUND / CLIENTS + 3 {
                    assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
                }
            })
        })
        .collect();
    let mut most = 0.0;
    for client in clients {
        while !client.is_finished() {
            most = proxy.metric("phasegate_instances").max(most);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        client.await.unwrap();
    }
    assert!(most >= 100.0 && most <= (BOUND + CLIENTS + 1) as f64, "{most} instances");
}

/// The address space ends, so that no more instances can be made: 503 for those requests, and when there is room again
/// the same script serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_cannot_be_instantiated_is_503() {
    let mut site = Site::new();
    let script = Script::guest("verdict", "sleeper").main("sleep 1000 then return");
    site.answered("/").script("wasm_access", script);
    let proxy = Arc::new(Proxy::start(&site.to_string()));
    let answers = |count: usize| {
        let proxy = proxy.clone();
        async move {
            let requests: Vec<_> = (0..count).map(|_| tokio::spawn(send(http1().get(proxy.url("/"))))).collect();
            let mut answers = Vec::new();
            for request in requests {
                answers.push(request.await.unwrap());
            }
            answers
        }
    };
    assert_eq!(answers(1).await[0].status, 403);

    // Room for two more, of 4 GiB each.
    let limit = proxy.memory("VmSize") + (10 << 30);
    let limited = Command::new("prlimit").args([format!("--pid={}", proxy.pid()), format!("--as={limit}")]).status();
    assert!(limited.unwrap().success());
    let busy = answers(8).await;
    let refused = busy.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(busy.iter().filter(|answer| answer.status == 403).count(), 8 - refused);
    assert!((1..=7).contains(&refused), "{refused} of 8 are refused");
    let unavailable = busy.iter().find(|answer| answer.status == 503).unwrap();
    assert_eq!(unavailable.text(), "503 Service Unavailable\n");
    proxy.wait_for_log("script=sleeper phase=wasm_access request=");
    let kind = "{script=\"sleeper\",phase=\"wasm_access\",kind=\"instantiate\"}";
    proxy.wait_for_metric(&format!("phasegate_plugin_failures_total{kind}"), refused as f64);
    assert_eq!(answers(1).await[0].status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_time_is_a_timeout_where_it_ends_the_request() {
    let late = |policy: &str| {
        let script = Script::guest("hostile", "late").main("sleep-forever").key("limits = { wall_ms = 50 }");
        script.key(format!("on_failure = \"{policy}\""))
    };
    let mut site =
        Site::with("access_log = { path = 'stdout', format = '${http_request_path} ${is_timeout_exit} end' }");
    site.answered("/closed").script("wasm_access", late("close"));
    site.answered("/open").script("wasm_access", late("open"));
    site.answered("/log").script("wasm_access_log", late("close"));
    let proxy = Proxy::start(&site.to_string());
    for (path, status, timeout) in [("/closed", 500, true), ("/open", 200, false), ("/log", 200, false)] {
        assert_eq!(send(http1().get(proxy.url(path))).await.status, status, "{path}");
        proxy.wait_for_stdout(&format!("{path} {timeout} end"));
    }
}

/// Who sleeps as the standard library does has not called a function of ours.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_not_charged_with_what_others_compute() {
    let mut site = Site::with("threads = 1");
    for behaviour in ["nap", "busy"] {
        let script = Script::guest("napper", behaviour).main(behaviour).key("limits = { cpu_ms = 50 }");
        site.answered(&format!("/{behaviour}")).script("wasm_access", script);
    }
    let proxy = Proxy::start(&site.to_string());
    let (client, over) = (http1(), Arc::new(AtomicBool::new(false)));
    let busy: Vec<_> = (0..3)
        .map(|_| {
            let (client, url, over) = (client.clone(), proxy.url("/busy"), over.clone());
            tokio::spawn(async move {
                while !over.load(Relaxed) {
                    assert_eq!(send(client.get(&url)).await.status, 200);
                }
            })
        })
        .collect();
    let naps = (0..3).map(|_| send(client.get(proxy.url("/nap"))));
    let statuses = futures::future::join_all(naps).await.into_iter().map(|answer| answer.status);
    assert_eq!(statuses.collect::<Vec<_>>(), [200, 200, 200]);
    over.store(true, Relaxed);
    for task in busy {
        task.await.unwrap();
    }
}
