//! Entry points that run at once: the first to finish gives the verdict, the others are cancelled.

use super::support::*;

/// A script of the guest `verdict`, with an order for `wasm-main` and some for other entry points.
fn race(main: &str, others: &[(&str, &str)]) -> Script {
    let script = Script::guest("verdict", "race").main(main).key("on_ext1 = \"status:451\"");
    let script = script.key("on_ext2 = \"status:452\"").key("on_ext3 = \"status:453\"");
    others.iter().fold(script, |script, (entry, order)| script.key(format!("wasm_main_{entry}_config = '{order}'")))
}

/// Long enough to be the last whatever happens, far shorter than the limit of a run.
const LATE: &str = "sleep 8000 then error";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_to_finish_gives_the_verdict() {
    let cases = [
        ("main", race("return", &[("timeout", LATE)]), 403),
        ("timeout", race(LATE, &[("timeout", "sleep 20 then return")]), 403),
        ("timeout-at-once", race(LATE, &[("timeout", "return")]), 403),
        ("ext1", race(LATE, &[("timeout", LATE), ("ext1", "ext1")]), 451),
        ("ext2", race(LATE, &[("timeout", LATE), ("ext2", "sleep 5 then ext2")]), 452),
        ("ext3", race(LATE, &[("ext1", LATE), ("ext2", LATE), ("ext3", "ext3")]), 453),
        ("all", race("sleep 5 then return", &[("timeout", LATE), ("ext1", LATE), ("ext2", LATE), ("ext3", LATE)]), 403),
        // A failure comes first like a verdict.
        ("main-fails", race("err broken", &[("timeout", "sleep 8000 then ok")]), 500),
        ("timeout-fails", race(LATE, &[("timeout", "err broken")]), 500),
        // An empty configuration is none: this would fail at once.
        ("off", race("sleep 50 then return", &[("timeout", ""), ("ext1", ""), ("ext2", ""), ("ext3", "")]), 403),
    ];
    let mut site = Site::new();
    for (name, script, _) in &cases {
        site.answered(&format!("/{name}/")).script("wasm_access", script.clone());
    }
    let proxy = Proxy::start(&site.to_string());
    let started = std::time::Instant::now();
    for (name, _, status) in &cases {
        let answer = send(http1().get(proxy.url(&format!("/{name}/")))).await;
        assert_eq!(answer.status, *status, "{name}");
    }
    assert!(started.elapsed().as_millis() < 8000, "nobody waited for the losers");
}

#[tokio::test(flavor = "multi_thread")]
async fn wasm_main_wins_a_tie() {
    let mut site = Site::new();
    let all = [("timeout", "error"), ("ext1", "ext1"), ("ext2", "ext2"), ("ext3", "ext3")];
    site.answered("/all").script("wasm_access", race("return", &all));
    site.answered("/timeout").script("wasm_access", race("sleep 8000 then ok", &all[..2]));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for _ in 0..50 {
        assert_eq!(send(client.get(proxy.url("/all"))).await.status, 403);
        assert_eq!(send(client.get(proxy.url("/timeout"))).await.status, 500, "then the order of the entry points");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn losers_are_cancelled_at_once() {
    let wakes = |ms: u32, text: &str| {
        format!(r#"[{{"call": "sleep", "args": [{ms}]}}, {{"call": "log-info", "args": ["{text}"]}}]"#)
    };
    let mut site = Site::new();
    let timeout = r#"wasm_main_timeout_config = '''[{"verdict": "return"}]'''"#;
    site.answered("/race")
        .script("wasm_access", Script::guest("probe", "race").main(wakes(100, "the loser wakes")).key(timeout));
    site.answered("/clock")
        .script("wasm_access", Script::guest("probe", "clock").main(wakes(300, "the clock strikes")));
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..5 {
        assert_eq!(send(http1().get(proxy.url("/race"))).await.status, 403);
    }
    // By then every loser would have woken.
    assert_eq!(send(http1().get(proxy.url("/clock"))).await.status, 200);
    proxy.wait_for_log("the clock strikes");
    assert!(!proxy.log().contains("the loser wakes"), "{}", proxy.log());
}

/// An instance reserves some GiB of address space: that shows whether the cancelled ones are gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_losers_held_is_released() {
    let mut site = Site::new();
    // The winner lets the others begin.
    let script = race("sleep 2 then return", &[("timeout", LATE), ("ext1", LATE)]);
    site.answered("/").script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    for _ in 0..20 {
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 403);
    }
    let before = proxy.memory("VmSize");
    for _ in 0..200 {
        assert_eq!(send(client.get(proxy.url("/"))).await.status, 403);
    }
    let grown = proxy.memory("VmSize").saturating_sub(before) >> 30;
    assert!(grown < 50, "grown by {grown} GiB in 200 runs with 2 losers each");
}

#[tokio::test(flavor = "multi_thread")]
async fn entry_points_share_the_request_but_not_their_memory() {
    let origin = Origin::saying("hello").await;
    let main = r#"[
        {"call": "in-set-header", "args": ["x-main", "1"]}, {"call": "sleep", "args": [50]},
        {"call": "in-get-header", "args": ["x-timeout"]}, {"call": "curr-session-id"}, {"call": "main-session-id"},
        {"deliver": "log"}
    ]"#;
    let timeout = r#"[
        {"call": "in-set-header", "args": ["x-timeout", "1"]}, {"call": "curr-session-id"}, {"call": "main-session-id"},
        {"deliver": "log"}, {"call": "sleep", "args": [8000]}
    ]"#;
    let script = Script::guest("probe", "both").main(main).key(format!("wasm_main_timeout_config = '''{timeout}'''"));
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", script);
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    let request = origin.only();
    assert_eq!((request.header("x-main"), request.header("x-timeout")), (Some("1"), Some("1")));

    let results = |probe: &str| -> Vec<serde_json::Value> {
        let line = proxy.wait_for_log(probe);
        serde_json::from_str(line.split_once("probe: ").unwrap().1).unwrap()
    };
    let timeout = results("probe: [{\"ok\":null},{\"ok\":");
    let main = results("probe: [{\"ok\":null},{\"ok\":null},");
    assert_eq!(main.len(), 5, "{main:?}");
    assert_eq!(main[2]["ok"], "1", "what the other has set");
    assert_eq!(main[3], main[4], "the mailbox of `wasm-main`");
    assert_eq!(timeout[2], main[4]);
    assert_ne!(timeout[1], timeout[2], "an entry point has its own mailbox");
}

/// A response that an entry point has asked for and another has cut off was not sent: the request goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_cut_off_does_not_count() {
    let origin = Origin::saying("hello").await;
    let responds = [step(&serde_json::json!(["out-response", { "status": 202 }]))];
    let script = Script::guest("probe", "race").main(serde_json::Value::from(responds.to_vec()));
    let mut site = Site::new();
    site.proxied("/", origin.addr()).script("wasm_access", script.key("wasm_main_ext1_config = '[]'"));
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().get(proxy.url("/"))).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
}
