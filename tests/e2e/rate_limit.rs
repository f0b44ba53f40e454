//! The plugin `rate_limit`, on a store in memory and in Redis.

use super::support::*;

fn limit(config: &str) -> Script {
    Script::plugin("rate_limit").main(config)
}

fn stores() -> Vec<(String, Option<RedisServer>)> {
    let redis = RedisServer::start();
    let in_redis = redis
        .as_ref()
        .map(|redis| format!("[store]\nkind = \"redis\"\nurl = \"{}\"\ntimeout_ms = 20000\n", redis.url()));
    [(String::new(), None)].into_iter().chain(in_redis.map(|config| (config, redis))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_as_many_pass_as_may() {
    for (store, _redis) in stores() {
        let mut site = Site::with(&store);
        site.answered("/").script("wasm_access", limit("requests = 40\nseconds = 3600"));
        // The same count, from another route.
        site.answered("/other").script("wasm_access", limit("requests = 40\nseconds = 3600"));
        let proxy = Proxy::start(&site.to_string());
        let clients: Vec<_> = (0..16)
            .map(|n| {
                let url = proxy.url(["/", "/other"][n % 2]);
                tokio::spawn(async move {
                    let client = http1();
                    let mut passed = 0;
                    for _ in 0..8 {
                        match send(client.get(&url)).await.status {
                            200 => passed += 1,
                            429 => {}
                            status => panic!("{status}"),
                        }
                    }
                    passed
                })
            })
            .collect();
        let mut passed = 0;
        for client in clients {
            passed += client.await.unwrap();
        }
        assert_eq!(passed, 40, "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_apart_and_what_clients_are_told() {
    let mut site = Site::with("trusted_proxies = ['127.0.0.0/8']");
    let config = "requests = 2\nseconds = 3600";
    site.answered("/ip").script("wasm_access", limit(config)).script("wasm_http_filter_headers", limit(config));
    let by_key = format!("{config}\nby = 'http_header_x_api_key'\nname = 'keys'");
    site.answered("/key").script("wasm_access", limit(&by_key));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    let get =
        async |path: &str, header: (&str, &str)| send(client.get(proxy.url(path)).header(header.0, header.1)).await;

    for (from, status, remaining) in
        [("10.0.0.1", 200, 1), ("10.0.0.1", 200, 0), ("10.0.0.1", 429, 0), ("10.0.0.2", 200, 1)]
    {
        let answer = get("/ip", ("x-forwarded-for", from)).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("ratelimit-policy"), Some("\"default\";q=2;w=3600"));
        let state = answer.header("ratelimit").unwrap();
        let wait: u64 = state.strip_prefix(&format!("\"default\";r={remaining};t=")).expect(state).parse().unwrap();
        assert!((3500..=3600).contains(&wait), "{state}");
        if status == 429 {
            assert_eq!(answer.text(), "Too many requests.\n");
            let retry: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((3500..=3600).contains(&retry), "{retry}");
        }
    }
    for (header, key, status) in [
        ("x-api-key", "a", 200),
        ("x-api-key", "a", 200),
        ("x-api-key", "a", 429),
        ("x-api-key", "b", 200),
        ("x-none", "1", 200),
        ("x-none", "2", 200),
        ("x-none", "3", 429),
    ] {
        let answer = get("/key", (header, key)).await;
        assert_eq!(answer.status, status, "{header}: {key}");
        assert_eq!(answer.header("ratelimit").is_some(), status == 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_ends() {
    let mut site = Site::new();
    site.answered("/").script("wasm_access", limit("requests = 1\nseconds = 1"));
    let proxy = Proxy::start(&site.to_string());
    let client = http1();
    assert_eq!(send(client.get(proxy.url("/"))).await.status, 200);
    let started = std::time::Instant::now();
    while send(client.get(proxy.url("/"))).await.status == 429 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A check that cannot be made lets nobody in.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_nobody_passes() {
    let mut site = Site::with("store = { kind = \"redis\", url = \"redis+unix:///no/such.sock\" }");
    site.answered("/").script("wasm_access", limit("requests = 1\nseconds = 1"));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 500);
    proxy.wait_for_log("script=rate_limit phase=wasm_access request=");
    proxy.wait_for_log("failed: err: the store cannot be reached: ");
}
