//! The store of plugins. What does not depend on where it is kept is shown on both: in memory, and in a real Redis.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::support::*;

const TYPES: [(&str, &str); 13] = [
    ("bool", "a bool"),
    ("s8", "an s8"),
    ("s16", "an s16"),
    ("s32", "an s32"),
    ("s64", "an s64"),
    ("u8", "a u8"),
    ("u16", "a u16"),
    ("u32", "a u32"),
    ("u64", "a u64"),
    ("f32", "an f32"),
    ("f64", "an f64"),
    ("char", "a char"),
    ("string", "a string"),
];

/// A store, by the keys of the main level that choose it.
struct Kind {
    name: &'static str,
    config: String,
    /// Lives as long.
    _redis: Option<RedisServer>,
}

/// In memory, and in Redis where there is one.
fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind { name: "memory", config: String::new(), _redis: None }];
    if let Some(redis) = RedisServer::start() {
        kinds.push(Kind { name: "redis", config: in_redis(&redis.url(), 20_000), _redis: Some(redis) });
    }
    kinds
}

fn in_redis(url: &str, timeout_ms: u64) -> String {
    format!("[store]\nkind = \"redis\"\nurl = \"{url}\"\ntimeout_ms = {timeout_ms}\n")
}

/// A script that makes calls and answers with their results.
fn answering(name: &str, calls: impl IntoIterator<Item = Value>) -> Script {
    let mut steps: Vec<_> = calls.into_iter().map(|call| step(&call)).collect();
    steps.extend([json!({ "deliver": "response" }), json!({ "verdict": "return" })]);
    Script::guest("probe_sync", name).main(Value::from(steps)).key("limits = { cpu_ms = 5000, wall_ms = 60000 }")
}

async fn ask(proxy: &Proxy, path: &str) -> Vec<Value> {
    let answer = send(http1().get(proxy.url(path))).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json().as_array().unwrap().clone()
}

/// Makes the calls one after another in each kind of store, and compares what each answers.
async fn table(name: &str, table: &[(Value, Value)]) {
    for kind in kinds() {
        let mut site = Site::with(&kind.config);
        site.answered("/").script("wasm_access", answering(name, table.iter().map(|(call, _)| call.clone())));
        let proxy = Proxy::start(&site.to_string());
        let given = ask(&proxy, "/").await;
        for ((call, expected), given) in table.iter().zip(&given) {
            // As text: there, 1 is not 1.0.
            assert_eq!(given.to_string(), expected.to_string(), "{call} in {}", kind.name);
        }
        assert_eq!(given.len(), table.len());
        let refused = table.iter().filter(|(_, expected)| expected.get("err").is_some()).count();
        assert_eq!(proxy.metric("phasegate_store_failures_total"), refused as f64, "{}", kind.name);
    }
}

fn ok(value: impl Into<Value>) -> Value {
    json!({ "ok": value.into() })
}

fn err(text: impl Into<String>) -> Value {
    json!({ "err": text.into() })
}

/// As the guest takes and gives them.
fn reals<T: std::fmt::Debug>(values: &[T]) -> Vec<Value> {
    values.iter().map(|value| json!(format!("{value:?}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_as_it_was() {
    let values = [
        ("bool", vec![json!(true), json!(false)]),
        ("s8", vec![json!(i8::MIN), json!(i8::MAX), json!(0)]),
        ("s16", vec![json!(i16::MIN), json!(i16::MAX)]),
        ("s32", vec![json!(i32::MIN), json!(i32::MAX)]),
        ("s64", vec![json!(i64::MIN), json!(i64::MAX), json!(-1)]),
        ("u8", vec![json!(u8::MIN), json!(u8::MAX)]),
        ("u16", vec![json!(u16::MAX)]),
        ("u32", vec![json!(u32::MAX)]),
        ("u64", vec![json!(u64::MAX), json!(u64::MIN)]),
        ("f32", reals(&[f32::MIN, 1e-45, -0.0, 0.1, f32::NAN, f32::INFINITY])),
        ("f64", reals(&[f64::MIN, f64::MAX, 5e-324, -0.0, 0.1, f64::NAN, f64::NEG_INFINITY])),
        ("char", vec![json!("a"), json!("\0"), json!("é"), json!("你"), json!("🦀"), json!("\u{10ffff}"), json!(":")]),
        ("string", vec![json!(""), json!("s64:1"), json!("12"), json!("a\0b\r\n\"'é你🦀"), json!("x".repeat(1 << 20))]),
    ];
    let mut calls = Vec::new();
    for (of, values) in values {
        for value in values {
            calls.push((json!([format!("set-{of}"), "k", value]), ok(json!(null))));
            calls.push((json!([format!("get-{of}"), "k"]), ok(value.clone())));
            calls.push((json!([format!("hset-{of}"), "h", "f", value]), ok(json!(null))));
            calls.push((json!([format!("hget-{of}"), "h", "f"]), ok(value)));
        }
        calls.push((json!([format!("get-{of}"), "absent"]), ok(json!(null))));
        calls.push((json!([format!("hget-{of}"), "absent", "f"]), ok(json!(null))));
        calls.push((json!([format!("hget-{of}"), "h", "absent"]), ok(json!(null))));
    }
    table("types", &calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_is_read_as_what_it_is() {
    let value = |of: &str| match of {
        "bool" => json!(true),
        "char" => json!("1"),
        "string" => json!("1"),
        "f32" | "f64" => json!("1.0"),
        _ => json!(1),
    };
    let mut calls = Vec::new();
    for (held, held_as) in TYPES {
        calls.push((json!([format!("set-{held}"), held, value(held)]), ok(json!(null))));
        calls.push((json!([format!("hset-{held}"), "fields", held, value(held)]), ok(json!(null))));
        for (asked, asked_as) in TYPES {
            let answer =
                if held == asked { ok(value(held)) } else { err(format!("`{held}` holds {held_as}, not {asked_as}")) };
            calls.push((json!([format!("get-{asked}"), held]), answer.clone()));
            calls.push((json!([format!("hget-{asked}"), "fields", held]), answer));
        }
        if held != "s64" {
            let refused = err(format!("`{held}` holds {held_as}, not an s64"));
            calls.push((json!(["incr", held, 1]), refused));
        }
        if held != "string" {
            let refused = err(format!("`{held}` holds {held_as}, not a string"));
            calls.push((json!(["compare-and-set", held, "1", "2"]), refused.clone()));
            calls.push((json!(["compare-and-set", held, null, "2"]), refused));
        }
    }
    table("mismatch", &calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_a_value_and_keys_with_fields() {
    let fields = "`h` holds fields, not a value: ask by hget, or delete it first";
    let value = "`k` holds a value, not fields: ask by get, or delete it first";
    let calls = [
        (json!(["set-u8", "k", 1]), ok(json!(null))),
        (json!(["hset-u8", "h", "f", 1]), ok(json!(null))),
        (json!(["hset-string", "h", "g", "2"]), ok(json!(null))),
        (json!(["get-u8", "h"]), err(fields)),
        (json!(["set-u8", "h", 1]), err(fields)),
        (json!(["set-string-with-expiry", "h", "1", 1000]), err(fields)),
        (json!(["incr", "h", 1]), err(fields)),
        (json!(["compare-and-set", "h", null, "v"]), err(fields)),
        (json!(["hget-u8", "k", "f"]), err(value)),
        (json!(["hset-u8", "k", "f", 1]), err(value)),
        (json!(["hdel", "k", "f"]), err(value)),
        // A value is replaced by one of another type.
        (json!(["set-string", "k", "now a string"]), ok(json!(null))),
        (json!(["get-string", "k"]), ok("now a string")),
        (json!(["del", "k"]), ok(true)),
        (json!(["del", "k"]), ok(false)),
        (json!(["get-string", "k"]), ok(json!(null))),
        // After that it can be a key with fields.
        (json!(["hset-u8", "k", "f", 1]), ok(json!(null))),
        (json!(["hdel", "h", "f"]), ok(true)),
        (json!(["hdel", "h", "f"]), ok(false)),
        (json!(["hdel", "absent", "f"]), ok(false)),
        (json!(["hget-u8", "h", "f"]), ok(json!(null))),
        (json!(["hget-string", "h", "g"]), ok("2")),
        // The key goes with its last field.
        (json!(["hdel", "h", "g"]), ok(true)),
        (json!(["del", "h"]), ok(false)),
        (json!(["set-u8", "h", 1]), ok(json!(null))),
    ];
    table("shapes", &calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_in_one_step() {
    let overflow = "`n` would not fit an s64 any more";
    let calls = [
        (json!(["incr", "n", 5]), ok(5)),
        (json!(["incr", "n", -7]), ok(-2)),
        (json!(["get-s64", "n"]), ok(-2)),
        (json!(["incr", "n", 0]), ok(-2)),
        (json!(["set-s64", "n", i64::MAX - 1]), ok(json!(null))),
        (json!(["incr", "n", 1]), ok(i64::MAX)),
        (json!(["incr", "n", 1]), err(overflow)),
        (json!(["get-s64", "n"]), ok(i64::MAX)),
        (json!(["set-s64", "n", i64::MIN]), ok(json!(null))),
        (json!(["incr", "n", -1]), err(overflow)),
        (json!(["incr", "m", i64::MIN]), ok(i64::MIN)),
        (json!(["compare-and-set", "s", "a", "b"]), ok(false)),
        (json!(["get-string", "s"]), ok(json!(null))),
        (json!(["compare-and-set", "s", null, "a"]), ok(true)),
        (json!(["compare-and-set", "s", null, "b"]), ok(false)),
        (json!(["compare-and-set", "s", "", "b"]), ok(false)),
        (json!(["compare-and-set", "s", "a", ""]), ok(true)),
        (json!(["get-string", "s"]), ok("")),
        (json!(["compare-and-set", "s", "", "c"]), ok(true)),
        (json!(["get-string", "s"]), ok("c")),
    ];
    table("atomic", &calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_keys_and_values() {
    let long = "k".repeat((16 << 10) + 1);
    let longest = "🦀".repeat(4 << 10);
    let value = "v".repeat((1 << 20) + 1);
    let mut calls = vec![
        (json!(["set-u8", longest, 1]), ok(json!(null))),
        (json!(["get-u8", longest]), ok(1)),
        (json!(["hset-u8", "h", longest, 1]), ok(json!(null))),
        (json!(["hget-u8", "h", ""]), err("the field is empty")),
        (json!(["hset-u8", "h", long, 1]), err("the field is longer than 16 KiB")),
        (json!(["hdel", "h", ""]), err("the field is empty")),
        (json!(["hset-string", "h", "f", value]), err("the value is longer than 1024 KiB")),
        (json!(["set-string", "k", value]), err("the value is longer than 1024 KiB")),
        (json!(["compare-and-set", "k", null, value]), err("the value is longer than 1024 KiB")),
        // Longer than any value: it is no value's.
        (json!(["compare-and-set", "k", value, "v"]), ok(false)),
        (json!(["set-u8", "a b\r\n\0'\"$(x)", 7]), ok(json!(null))),
        (json!(["get-u8", "a b\r\n\0'\"$(x)"]), ok(7)),
        (json!(["get-s8", "a b\r\n\0'\"$(x)"]), err("`a b\\r\\n\\0\\'\\\"$(x)` holds a u8, not an s8")),
        (json!(["get-s8", longest]), err(format!("`{}…` holds a u8, not an s8", "🦀".repeat(64)))),
    ];
    for (key, why) in [("", "the key is empty"), (long.as_str(), "the key is longer than 16 KiB")] {
        for call in [
            json!(["set-u8", key, 1]),
            json!(["get-u8", key]),
            json!(["hset-u8", key, "f", 1]),
            json!(["hget-u8", key, "f"]),
            json!(["del", key]),
            json!(["hdel", key, "f"]),
            json!(["incr", key, 1]),
            json!(["incr-with-expiry", key, 1, 1]),
            json!(["set-string-with-expiry", key, "v", 1]),
            json!(["compare-and-set", key, null, "v"]),
            json!(["expire", key, 1]),
            json!(["expires-in", key]),
        ] {
            calls.push((call, err(why)));
        }
    }
    table("bad", &calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live() {
    for kind in kinds() {
        let mut site = Site::with(&kind.config);
        let ever = u64::MAX;
        let long = 1_000_000;
        let calls = [
            json!(["expire", "absent", 1000]),
            json!(["expires-in", "absent"]),
            json!(["set-string", "k", "v"]),
            json!(["expires-in", "k"]),
            json!(["expire", "k", long]),
            json!(["expires-in", "k"]),
            json!(["compare-and-set", "k", "v", "w"]),
            json!(["expires-in", "k"]), // 7: it stays
            json!(["set-string", "k", "x"]),
            json!(["expires-in", "k"]), // 9: made anew
            json!(["expire", "k", long]),
            json!(["expire", "k", 0]),
            json!(["expires-in", "k"]), // 12: for good
            json!(["incr-with-expiry", "n", 1, long]),
            json!(["incr-with-expiry", "n", 1, ever]),
            json!(["incr", "n", 1]),
            json!(["expires-in", "n"]), // 16: of the first call
            json!(["hset-u8", "h", "f", 1]),
            json!(["expire", "h", long]),
            json!(["hset-u8", "h", "g", 1]),
            json!(["expires-in", "h"]), // 20: it stays
            json!(["set-string-with-expiry", "e", "v", ever]),
            json!(["expires-in", "e"]), // 22: some 300 years
            json!(["set-string-with-expiry", "e", "v", 0]),
            json!(["expires-in", "e"]), // 24
            json!(["incr-with-expiry", "m", 1, 0]),
            json!(["expires-in", "m"]), // 26
        ];
        site.answered("/rules").script("wasm_access", answering("rules", calls));
        let brief = [
            json!(["set-string-with-expiry", "a", "v", 300]),
            json!(["incr-with-expiry", "b", 1, 300]),
            json!(["hset-u8", "c", "f", 1]),
            json!(["expire", "c", 300]),
            json!(["get-string", "a"]),
            json!(["get-s64", "b"]),
            json!(["hget-u8", "c", "f"]),
        ];
        site.answered("/brief").script("wasm_access", answering("brief", brief.clone()));
        let [.., a, b, c] = brief;
        site.answered("/after").script("wasm_access", answering("after", [a, b, c]));
        let proxy = Proxy::start(&site.to_string());

        let given = ask(&proxy, "/rules").await;
        for there in [5, 7, 16, 20] {
            let left = given[there]["ok"].as_u64().unwrap_or_else(|| panic!("{there} of {given:?}"));
            assert!((1..=long).contains(&left), "{there}: {left} in {}", kind.name);
        }
        for none in [1, 3, 9, 12, 24, 26] {
            assert_eq!(given[none], ok(json!(null)), "{none} in {}", kind.name);
        }
        assert!(given[22]["ok"].as_u64().unwrap() > 9_000_000_000_000, "{given:?}");
        assert_eq!((&given[0], &given[4], &given[11]), (&ok(false), &ok(true), &ok(true)));

        let started = Instant::now();
        assert_eq!(ask(&proxy, "/brief").await[4..], [ok("v"), ok(1), ok(1)], "{}", kind.name);
        while ask(&proxy, "/after").await != [ok(json!(null)), ok(json!(null)), ok(json!(null))] {
            assert!(started.elapsed() < PATIENCE, "it does not expire in {}", kind.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(300), "too early in {}", kind.name);
    }
}

/// Calls at random, on few keys: both kinds answer the same, and in memory the account is right.
#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_answer_the_same() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = seed;
    let mut calls: Vec<_> = (0..2000).map(|_| random_call(&mut random)).collect();
    calls.extend(KEYS.map(|key| json!(["del", key])));
    let mut answers = Vec::new();
    for kind in kinds() {
        let mut site = Site::with(&kind.config);
        site.answered("/").script("wasm_access", answering("random", calls.clone()));
        let proxy = Proxy::start(&site.to_string());
        answers.push(ask(&proxy, "/").await);
        assert_eq!(proxy.metric("phasegate_store_entries"), 0.0, "seed {seed}");
        assert_eq!(proxy.metric("phasegate_store_bytes"), 0.0, "seed {seed}");
    }
    if let [memory, redis] = &answers[..] {
        for (n, call) in calls.iter().enumerate() {
            assert_eq!(memory[n], redis[n], "call {n}, {call}, with the seed {seed}");
        }
    }
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

fn random_call(random: &mut u64) -> Value {
    let mut below = |bound: usize| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) as usize % bound
    };
    let key = KEYS[below(KEYS.len())];
    let field = ["f", "g"][below(2)];
    let number = [0, 1, -1, i64::MAX, i64::MIN, 7][below(6)];
    let text = ["", "1", "x", "s64:1"][below(4)];
    let expected = [Some(text), None][below(2)];
    let ms = [0, 1_000_000][below(2)];
    match below(16) {
        0 => json!(["set-s64", key, number]),
        1 => json!(["get-s64", key]),
        2 => json!(["set-string", key, text]),
        3 => json!(["get-string", key]),
        4 => json!(["set-u8", key, 7]),
        5 => json!(["hset-string", key, field, text]),
        6 => json!(["hget-string", key, field]),
        7 => json!(["hset-s64", key, field, number]),
        8 => json!(["hget-s64", key, field]),
        9 => json!(["hdel", key, field]),
        10 if below(2) == 0 => json!(["del", key]),
        11 => json!(["incr-with-expiry", key, number, ms]),
        12 => json!(["set-string-with-expiry", key, text, ms]),
        13 => json!(["expire", key, ms]),
        14 => json!(["compare-and-set", key, expected, "x"]),
        _ => json!(["incr", key, number]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_share_it_and_lose_nothing() {
    for kind in kinds() {
        let mut site = Site::with(&kind.config);
        let both = ["one", "two"].map(|name| probe("probe_sync", name, &[json!(["incr", "shared", 1])]));
        site.answered("/").plugin("wasm_access", "both", both);
        // The same key from another route, phase and path of calling.
        let calls = [json!(["get-s64", "shared"])];
        site.answered("/read").script("wasm_access", answering("reader", calls.clone()));
        site.answered("/log").script("wasm_access_log", probe("probe", "late", &calls));
        let proxy = Proxy::start(&site.to_string());
        let (connections, requests) = (16, 25);
        let clients = (0..connections).map(|_| {
            let url = proxy.url("/");
            tokio::spawn(async move {
                let client = http1();
                for _ in 0..requests {
                    assert_eq!(send(client.get(&url)).await.status, 200);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let total = ok(2 * connections * requests);
        assert_eq!(ask(&proxy, "/read").await[0], total, "{}", kind.name);
        send(http1().get(proxy.url("/log"))).await;
        assert_eq!(results(&proxy, "late")[0], total, "{}", kind.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_says_so() {
    let mut site = Site::with("store = { size = \"64KiB\" }");
    let text = "v".repeat(10 << 10);
    let keep = (0..6).map(|n| json!(["set-string", format!("k{n}"), text]));
    let more = [
        json!(["set-string", "k6", text]),
        json!(["hset-string", "h", "f", text]),
        json!(["compare-and-set", "c", null, text]),
        json!(["set-string", "k0", format!("{text}{text}")]),
        json!(["get-string", "k0"]),
        // There is room for what is small or smaller.
        json!(["set-u8", "small", 1]),
        json!(["set-string", "k0", "v"]),
        json!(["set-string", "k6", text]),
        json!(["del", "k1"]),
        json!(["hset-string", "h", "f", text]),
    ];
    site.answered("/fill").script("wasm_access", answering("fill", keep.chain(more)));
    let others = ["h", "small", "again"].map(|key| json!(["del", key]));
    let empty = (0..7).map(|n| json!(["del", format!("k{n}")])).chain(others);
    site.answered("/empty").script("wasm_access", answering("empty", empty));
    let brief = (0..6).map(|n| json!(["set-string-with-expiry", format!("brief{n}"), text, 100]));
    site.answered("/brief").script("wasm_access", answering("brief", brief));
    site.answered("/again").script("wasm_access", answering("again", [json!(["set-string", "again", text])]));
    // Writes too little to need the room, everywhere in the store.
    let touch = (0..64).map(|n| json!(["del", format!("absent{n}")]));
    site.answered("/touch").script("wasm_access", answering("touch", touch));
    let proxy = Proxy::start(&site.to_string());

    let full = err("the store is full (64 KiB): delete keys, let them expire or raise [store] size");
    let given = ask(&proxy, "/fill").await;
    assert!(given[..6].iter().all(|result| *result == ok(json!(null))), "{given:?}");
    assert!(given[6..10].iter().all(|result| *result == full), "{given:?}");
    assert_eq!(given[10], ok(text), "what did not fit has changed nothing");
    assert!(given[11..].iter().all(|result| result.get("ok").is_some()), "{given:?}");
    assert_eq!(proxy.metric("phasegate_store_failures_total"), 4.0);
    assert_eq!(proxy.metric("phasegate_store_entries"), 8.0);
    let bytes = proxy.metric("phasegate_store_bytes");
    assert!((60_000.0..65_536.0).contains(&bytes), "{bytes}");

    ask(&proxy, "/empty").await;
    assert_eq!((proxy.metric("phasegate_store_entries"), proxy.metric("phasegate_store_bytes")), (0.0, 0.0));

    // Nobody reads the keys that expire.
    for way in ["/again", "/touch"] {
        ask(&proxy, "/empty").await;
        let given = ask(&proxy, "/brief").await;
        assert!(given.iter().all(|result| *result == ok(json!(null))), "{given:?}");
        let started = Instant::now();
        while ask(&proxy, way).await[0].get("err").is_some() || proxy.metric("phasegate_store_entries") > 1.0 {
            assert!(started.elapsed() < PATIENCE, "what has expired keeps its room");
        }
        assert_eq!(ask(&proxy, "/again").await, [ok(json!(null))]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_redis_makes_plugins_wait() {
    for kind in kinds() {
        let mut site = Site::with(&kind.config);
        site.answered("/").script("wasm_access", answering("calls", [json!(["get-u8", "k"])]));
        let proxy = Proxy::start(&site.to_string());
        let (_, plugins) = proxy.admin("GET", "/plugins");
        let plugins: Value = serde_json::from_str(&plugins).unwrap();
        let path = if kind.name == "redis" { "asynchronous" } else { "synchronous" };
        assert_eq!(plugins[0]["path"], path, "{}", kind.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_and_goes() {
    let mut redis = RedisServer::stopped();
    let mut site = Site::with(&in_redis(&redis.url(), 5000));
    site.answered("/").script("wasm_access", answering("calls", [json!(["incr", "n", 1])]));
    let config = site.to_string();
    assert_eq!(check(&config).code, Some(0), "nobody is asked before the first use");
    let proxy = Proxy::start(&config);
    let down = async |when: &str| {
        let given = ask(&proxy, "/").await;
        let error = given[0]["err"].as_str().unwrap_or_else(|| panic!("{when}: {given:?}"));
        assert!(error.starts_with("the store cannot be reached: "), "{when}: {error}");
    };
    down("before it starts").await;
    if RedisServer::start().is_none() || !redis.go() {
        return;
    }
    assert_eq!(ask(&proxy, "/").await, [ok(1)]);
    assert_eq!(ask(&proxy, "/").await, [ok(2)]);
    redis.stop();
    down("when it is gone").await;
    assert!(redis.go());
    assert_eq!(ask(&proxy, "/").await, [ok(1)], "a new one, with nothing in it");
    // Gone and back between two calls: the first one after it is not lost. It may take a moment until that is seen.
    redis.stop();
    assert!(redis.go());
    assert_eq!(ask(&proxy, "/").await, [ok(1)]);
    assert!(proxy.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::with(&in_redis(&format!("redis://{}", silent.local_addr().unwrap()), 200));
    site.answered("/").script("wasm_access", answering("calls", [json!(["get-u8", "k"]), json!(["set-u8", "k", 1])]));
    let proxy = Proxy::start(&site.to_string());
    let late = err("the store did not answer within 200 ms");
    let started = Instant::now();
    assert_eq!(ask(&proxy, "/").await, [late.clone(), late]);
    assert!(started.elapsed() >= Duration::from_millis(400));
}

/// Two proxies are one application; other keys in the same Redis are nobody's business.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_share_a_redis() {
    let Some(redis) = RedisServer::start() else { return };
    let start = |prefix: &str| {
        let mut site = Site::with(&format!("{}prefix = \"{prefix}\"\n", in_redis(&redis.url(), 20_000)));
        site.answered("/").script("wasm_access", answering("calls", [json!(["incr", "n", 1])]));
        let foreign = [json!(["get-string", "foreign"]), json!(["incr", "foreign", 1]), json!(["get-string", "list"])];
        site.answered("/foreign").script("wasm_access", answering("foreign", foreign));
        Proxy::start(&site.to_string())
    };
    let (one, two, other) = (start("a:"), start("a:"), start("b:"));
    assert_eq!(ask(&one, "/").await, [ok(1)]);
    assert_eq!(ask(&two, "/").await, [ok(2)]);
    assert_eq!(ask(&other, "/").await, [ok(1)]);
    assert_eq!(redis.ask("SET b:foreign hello"), "+OK");
    assert_eq!(redis.ask("RPUSH b:list 1"), ":1");
    let foreign = "`foreign` holds what no plugin has written: use another key, or another `prefix` in [store]";
    let fields = "`list` holds fields, not a value: ask by hget, or delete it first";
    assert_eq!(ask(&other, "/foreign").await, [err(foreign), err(foreign), err(fields)]);
}
