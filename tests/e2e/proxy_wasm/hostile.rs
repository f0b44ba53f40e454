//! Filters that loop, trap and eat memory, in each callback: they cost their own requests and nothing else.

use super::*;

/// The numbers of the callbacks in `every_callback.wat` that a request reaches, and whether its response can still be 503.
const CALLBACKS: [(&str, u32, bool); 8] = [
    ("on_context_create", 2, true),
    ("on_request_headers", 5, true),
    ("on_request_body", 6, true),
    ("on_response_headers", 7, true),
    ("on_response_body", 8, false),
    ("on_done", 9, false),
    ("on_log", 10, false),
    ("on_delete", 11, false),
];

const LOOP: &str = "(loop $again (br $again))";
const TRAP: &str = "unreachable";
/// All that there is, and then all the time.
const GROW: &str = "(loop $again (drop (memory.grow (i32.const 16))) (br $again))";

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_ends() {
    every_callback(LOOP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_ends() {
    every_callback(TRAP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eaten_memory_ends() {
    every_callback(GROW).await;
}

/// V8 gives a filter about 1 MiB of stack in Envoy: what recurses there must not end here. Each call takes at least 32 bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_may_recurse_as_deep_as_in_envoy() {
    let guest = Guest::new()
        .with("(func $deep (param i32) (result i32) (if (result i32) (local.get 0) (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1))))) (else (i32.const 0))))")
        .on("proxy_on_request_headers", "(call $show 'deep ' (call $deep (i32.const 20000)))");
    let mut site = Site::new();
    filtered(&mut site, "/", "respond = { status = 200 }", "deep", &guest.path(), "");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    proxy.wait_for_log("deep 20000");
}

async fn every_callback(what: &str) {
    let origin = Origin::saying("hello").await;
    let handler = format!("proxy_pass = \"{}\"", origin.addr());
    // One thread has one VM of each filter: the request after the failure meets the same.
    let (wat, mut site) = (Wat::new(), Site::with("threads = 1"));
    for (name, number, _) in CALLBACKS {
        let module = wat.module("every_callback", name, &[("WHICH", &number.to_string()), ("WHAT", what)]);
        for policy in ["closed", "open"] {
            let keys = format!("vm_id = \"{policy}\"\nfailure_policy = \"{policy}\"");
            filtered(&mut site, &format!("/{policy}/{name}"), &handler, &format!("{name}-{policy}"), &module, &keys);
        }
    }
    site.proxied("/", origin.addr());
    let proxy = Proxy::start(&site.to_string());
    for (name, _, before_response) in CALLBACKS {
        for policy in ["closed", "open"] {
            let path = format!("/{policy}/{name}");
            let response = soon("a response", http1().post(proxy.url(&path)).body("a body").send()).await;
            match (policy, before_response) {
                ("closed", true) => assert_eq!(response.unwrap().status(), 503, "{path}"),
                ("open", true) => assert_eq!(response.unwrap().text().await.unwrap(), "hello", "{path}"),
                // The response may have gone, or been cut.
                _ => drop(response),
            }
            proxy.wait_until_idle();
            // Now the VM has failed, whenever that was. Where that was by a limit, there may be another one, which fails as late.
            let response = send(http1().post(proxy.url(&path)).body("a body")).await;
            let is_served = policy == "open" || (!before_response && what != TRAP && response.status == 200);
            let expected = if is_served { (200, "hello".to_owned()) } else { (503, String::new()) };
            assert_eq!((response.status, response.text()), expected, "{path} after the failure");
        }
    }
    assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "hello", "nobody else has noticed");
}
