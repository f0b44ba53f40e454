//! What becomes of filters that reach a limit, where Envoy has none or a larger one.

use serde_json::json;

use super::steps::*;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn callouts_beyond_the_limit_fail_in_their_callback() {
    let silent = RawOrigin::start(|client, _| async move { std::mem::forget(client) }).await;
    let origin = Origin::saying("hello").await;
    let kinds = [
        ("http", "http_call", "on_http_call_response"),
        ("unary", "grpc_call", "on_grpc_close"),
        ("stream", "grpc_stream", "on_grpc_close"),
    ];
    let mut site = Site::with(&format!(
        "threads = 1\n[upstream.silent]\nservers = [{{ addr = '{}' }}]\nh2 = true\n",
        silent.addr()
    ));
    for (name, call, callback) in kinds {
        let begun = json!([call, { "cluster": "silent", "timeout": 60_000, "then": {} }]);
        let refused = json!([call, { "cluster": "silent", "timeout": 60_000, "then": {
            callback: [["status"], ["continue", "request"]],
        } }]);
        let plan = json!({ "on_request_headers": [begun, begun, refused, ["pause"]] });
        site.route(&format!("/{name}"), &format!("proxy_pass = '{}'", origin.addr()));
        site.filter(&format!("{}vm_id = '{name}'\nlimits = {{ callouts = 2 }}\n", pw_probe(name, &plan)));
    }
    let proxy = Proxy::start(&site.to_string());
    for (name, ..) in kinds {
        let answer = send(http1().get(proxy.url(&format!("/{name}")))).await;
        assert_eq!((answer.status, answer.text()), (200, "hello".into()), "{name}: {}", proxy.log());
        eventually("the end of the stream", || lines(&proxy, name).iter().any(|line| line == "on_delete()"));
        let told = format!("filter={name} request=");
        let told = proxy
            .log()
            .lines()
            .filter(|line| line.contains(&told) && line.contains(" callout: 2 callouts of the VM"))
            .count();
        assert_eq!(told, 1, "{}", proxy.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callout_brings_more_than_scripts_may_fetch() {
    let large = Origin::start(|_| reply(200, "x".repeat(3 << 20))).await;
    let larger = Origin::start(|_| reply(200, "x".repeat((32 << 20) + 1))).await;
    let origin = Origin::saying("hello").await;
    let upstream =
        |name: &str, origin: &Origin| format!("[upstream.{name}]\nservers = [{{ addr = '{}' }}]\n", origin.addr());
    let mut site = Site::with(&(upstream("large", &large) + &upstream("larger", &larger)));
    for name in ["large", "larger"] {
        let then = json!([["buffer_status", "call_body"], ["status"], ["continue", "request"]]);
        let plan = json!({ "on_request_headers": [
            ["http_call", { "cluster": name, "timeout": 10_000, "then": { "on_http_call_response": then } }],
            ["pause"],
        ] });
        site.route(&format!("/{name}"), &format!("proxy_pass = '{}'", origin.addr()));
        site.filter(&pw_probe(name, &plan));
    }
    let proxy = Proxy::start(&site.to_string());
    for (name, said) in [("large", "3145728"), ("larger", "reset")] {
        assert_eq!(send(http1().get(proxy.url(&format!("/{name}")))).await.status, 200);
        eventually(said, || lines(&proxy, name).iter().any(|line| line.contains(said)));
    }
    proxy.wait_for_log(
        "filter=larger request=- proxy_http_call: the body of the response is larger than 33554432 bytes",
    );
}

/// Computes for too long, or fails, where the request wants it.
fn harmed() -> Guest {
    Guest::new().on(
        "proxy_on_request_headers",
        "(if (call $header 'x-loop') (then (loop $for_ever (br $for_ever))))
         (if (call $header 'x-grow') (then (loop $more (drop (memory.grow (i32.const 16))) (br $more))))
         (if (call $header 'x-trap') (then unreachable))",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_does_not_start_again_after_a_limit_is_tried_again() {
    // Refuses its configuration once, when it is started anew.
    let guest = harmed()
        .on(
            "proxy_on_configure",
            "(if (call $proxy_get_shared_data 'starts' (i32.const 0x80) (i32.const 0x84) (i32.const 0x88)) (then
               (drop (call $proxy_set_shared_data 'starts' 'one' (i32.const 0))) (return (i32.const 1))))
             (if (i32.eq (i32.load (i32.const 0x84)) (i32.const 3)) (then
               (drop (call $proxy_set_shared_data 'starts' 'refused' (i32.const 0))) (return (i32.const 0))))",
        )
        .on("proxy_on_memory_allocate", "");
    let mut site = Site::with("threads = 1");
    filtered(&mut site, "/", "respond = { status = 200 }", "sick", &guest.path(), "limits = { cpu_ms = 20 }\n");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/")).header("x-loop", "1")).await.status, 503);
    proxy.wait_for_log("`proxy_on_configure` answered false");
    soon("it serves again", async {
        while send(http1().get(proxy.url("/"))).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_takes_a_filter_away_by_a_limit() {
    let mut site = Site::with("threads = 2");
    for policy in ["closed", "open"] {
        let keys =
            format!("failure_policy = '{policy}'\nvm_id = '{policy}'\nlimits = {{ cpu_ms = 20, memory = '1MiB' }}\n");
        let answers = harmed().on(
            "proxy_on_response_headers",
            "(drop (call $proxy_add_header_map_value (i32.const 2) 'x-filtered' '1'))",
        );
        filtered(&mut site, &format!("/{policy}"), "respond = { status = 200 }", policy, &answers.path(), &keys);
    }
    let proxy = Proxy::start(&site.to_string());
    let get = |policy: &str| http1().get(proxy.url(&format!("/{policy}")));
    for (policy, harmed) in [("closed", 503), ("open", 200)] {
        for harm in ["x-loop", "x-grow"] {
            // All of its VMs.
            for _ in 0..4 {
                assert_eq!(send(get(policy).header(harm, "1")).await.status, harmed, "{policy} {harm}");
            }
            soon("it is there again", async {
                loop {
                    let answer = send(get(policy)).await;
                    if answer.header("x-filtered").is_some() {
                        break;
                    }
                    assert_eq!(answer.status, harmed, "{policy} {harm}");
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            })
            .await;
        }
        assert!(!proxy.log().contains("no VM of it is left"), "{}", proxy.log());
    }
    // A mistake of its own is another matter, as in Envoy. A VM that has exceeded a limit may still be on its way back.
    soon("no VM is left", async {
        while !proxy.log().contains("filter=closed no VM of it is left") {
            assert_eq!(send(get("closed").header("x-trap", "1")).await.status, 503);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(send(get("closed")).await.status, 503);
}
