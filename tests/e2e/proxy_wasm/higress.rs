//! What Higress adds to the ABI, and what properties do there.

use super::*;

const SET_PROPERTY: &str =
    r#"(import "env" "proxy_set_property" (func $proxy_set_property (param i32 i32 i32 i32) (result i32)))"#;

const INJECT: &str = r#"(import "env" "proxy_inject_encoded_data_to_filter_chain"
    (func $inject (param i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value"
    (func $proxy_remove_header_map_value (param i32 i32 i32) (result i32)))"#;

/// Whether the origin has got a header.
fn has(answer: &Answer, name: &str) -> bool {
    answer.json()["headers"].as_array().unwrap().iter().any(|header| header[0] == name)
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_iteration_holds_the_header_alone() {
    // Holds the header, collects the body, and then changes the header.
    let collects =
        Guest::new().on("proxy_on_request_headers", "(if (i32.eqz (local.get $b)) (then (return (i32.const 1))))").on(
            "proxy_on_request_body",
            "(if (i32.eqz (local.get $b)) (then (return (i32.const 1))))
             (drop (call $proxy_add_header_map_value (i32.const 0) 'x-collected' 'yes'))",
        );
    let mut site = Site::new();
    let keys = "limits = { wall_ms = 300 }\n";
    filtered(&mut site, "/higress", "echo = true", "higress", &collects.clone().of_higress().path(), keys);
    filtered(&mut site, "/envoy", "echo = true", "envoy", &collects.path(), keys);
    let proxy = Proxy::start(&site.to_string());
    let answer = send(http1().post(proxy.url("/higress")).body("hello")).await;
    assert_eq!(answer.status, 200, "{}", proxy.log());
    assert!(has(&answer, "x-collected"));
    assert_eq!(send(http1().post(proxy.url("/envoy")).body("hello")).await.status, 503, "nothing resumes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_to_stay_does() {
    let moves = |first: &str| {
        Guest::new().importing(SET_PROPERTY).on(
            "proxy_on_request_headers",
            &format!("{first} (drop (call $proxy_add_header_map_value (i32.const 0) ':path' '/other'))"),
        )
    };
    let off = "(drop (call $proxy_set_property 'clear_route_cache' 'off'))";
    let on = "(drop (call $proxy_set_property 'clear_route_cache' 'on'))";
    let mut site = Site::new();
    for (path, guest) in [("/stays", moves(off)), ("/goes", moves("")), ("/goes-again", moves(&format!("{off} {on}")))]
    {
        filtered(&mut site, path, "respond = { status = 201 }", &path[1..], &guest.path(), "");
    }
    // Of two filters, each for itself.
    filtered(&mut site, "/both", "respond = { status = 201 }", "stays", &moves(off).path(), "");
    site.filter(&filter("goes", &moves("").path()));
    site.route("/other", "respond = { status = 202 }");
    let proxy = Proxy::start(&site.to_string());
    for (path, status) in [("/stays", 201), ("/goes", 202), ("/goes-again", 202), ("/both", 202)] {
        assert_eq!(send(http1().get(proxy.url(path))).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_may_want_to_hold_less() {
    let holds = |property: &str, value: &str, callback: &str| {
        Guest::new()
            .importing(SET_PROPERTY)
            .on("proxy_on_request_headers", &format!("(drop (call $proxy_set_property '{property}' '{value}'))"))
            .on(
                callback,
                "(call $show 'holds ' (local.get $a))
                 (if (i32.eqz (local.get $b)) (then (return (i32.const 1))))",
            )
    };
    let origin = Origin::start(|_| reply(200, "x".repeat(300_000))).await;
    let (request, response) = ("set_decoder_buffer_limit", "set_encoder_buffer_limit");
    let mut site = Site::new();
    for (path, property, value) in
        [("/less", request, "9"), ("/more", request, "104857600"), ("/text", request, "many")]
    {
        let module = holds(property, value, "proxy_on_request_body").path();
        filtered(&mut site, path, "echo = true", &path[1..], &module, "limits = { buffer = '4KiB' }\n");
    }
    for (path, value) in [("/whole", "300000"), ("/cut", "9")] {
        let (module, to) = (holds(response, value, "proxy_on_response_body").path(), origin.addr());
        filtered(&mut site, path, &format!("proxy_pass = '{to}'"), &path[1..], &module, "");
    }
    let proxy = Proxy::start(&site.to_string());
    for (path, length, status) in
        [("/less", 9, 200), ("/less", 10, 413), ("/more", 4096, 200), ("/more", 4097, 413), ("/text", 4096, 200)]
    {
        let mut client = Raw::connect(proxy.addr()).await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", length + 1);
        client.send(head + &"x".repeat(length)).await;
        proxy.wait_for_log(&format!("holds {length}"));
        client.send("x").await;
        assert_eq!(client.read_response().await.status(), status, "{path} {length}");
    }
    proxy.wait_for_log(
        "set_decoder_buffer_limit: it wants to hold 104857600 bytes of a body; limits.buffer permits 4096",
    );
    assert_eq!(send(http1().get(proxy.url("/whole"))).await.status, 200);
    assert_eq!(send(http1().get(proxy.url("/cut"))).await.status, 500);
}

/// Takes the length of a response away.
const WITHOUT_LENGTH: &str = "(drop (call $proxy_remove_header_map_value (i32.const 2) 'content-length'))";

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_sends_a_body_on_by_itself() {
    let guest = || Guest::new().importing(INJECT).of_higress().on("proxy_on_response_headers", WITHOUT_LENGTH);
    let before = guest().on("proxy_on_response_body", "(drop (call $inject 'before ' (i32.const 0)))");
    let instead = guest().on(
        "proxy_on_response_body",
        "(drop (call $inject 'this ' (i32.const 0))) (drop (call $inject 'instead' (i32.const 1)))",
    );
    // The header is held as well.
    let later = guest()
        .with("(global $stream (mut i32) (i32.const 0))")
        .on("proxy_on_response_headers", "(return (i32.const 1))")
        .on(
            "proxy_on_response_body",
            "(global.set $stream (local.get $context)) (drop (call $proxy_set_effective_context (i32.const 1)))
             (drop (call $tick_every (i32.const 20))) (return (i32.const 1))",
        )
        .on(
            "proxy_on_tick",
            "(drop (call $tick_every (i32.const 0))) (drop (call $proxy_set_effective_context (global.get $stream)))
             (drop (call $inject 'later ' (i32.const 0))) (drop (call $proxy_continue_stream (i32.const 1)))",
        );
    // All that comes is held, whatever the filter sends on.
    let holds = guest()
        .with("(global $stream (mut i32) (i32.const 0)) (global $ticks (mut i32) (i32.const 0))")
        .on(
            "proxy_on_response_headers",
            "(global.set $stream (local.get $context)) (drop (call $inject 'first ' (i32.const 0)))
             (global.set $ticks (i32.const 0))
             (drop (call $proxy_set_effective_context (i32.const 1))) (drop (call $tick_every (i32.const 20)))
             (return (i32.const 4))",
        )
        .on("proxy_on_response_body", "(call $count 'body_shown_early')")
        .on(
            "proxy_on_tick",
            "(drop (call $proxy_set_effective_context (global.get $stream)))
             (global.set $ticks (i32.add (global.get $ticks) (i32.const 1)))
             (drop (call $inject 'tick ' (i32.const 0)))
             (if (i32.eq (global.get $ticks) (i32.const 3)) (then
               (drop (call $proxy_continue_stream (i32.const 1)))
               (drop (call $proxy_set_effective_context (i32.const 1))) (drop (call $tick_every (i32.const 0)))))",
        );
    let nothing = guest().on("proxy_on_request_headers", "(drop (call $inject 'early ' (i32.const 0)))");
    let origin = Origin::saying("hello").await;
    let mut site = Site::with("threads = 1");
    for (path, guest) in
        [("/before", before.clone()), ("/instead", instead), ("/later", later), ("/early", nothing), ("/holds", holds)]
    {
        filtered(&mut site, path, &format!("proxy_pass = '{}'", origin.addr()), &path[1..], &guest.path(), "");
    }
    // What the second sends on, the first sees.
    filtered(&mut site, "/two", &format!("proxy_pass = '{}'", origin.addr()), "first", &before.path(), "");
    site.filter(&filter("second", &before.path()));
    let proxy = Proxy::start(&site.to_string());
    for (path, body) in [
        ("/before", "before hello"),
        ("/instead", "this instead"),
        ("/later", "later hello"),
        ("/early", "early hello"),
        ("/holds", "first tick tick tick hello"),
        ("/two", "before before hello"),
    ] {
        for _ in 0..3 {
            let answer = send(http1().get(proxy.url(path))).await;
            assert_eq!((answer.status, answer.text()), (200, body.to_owned()), "{path}");
        }
    }
    assert_eq!(failures(&proxy, "later", "trap"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_a_filter_has_ended_does_not_wait_for_the_upstream() {
    // Ends the response at the first piece, and pauses.
    let ends = Guest::new()
        .importing(INJECT)
        .of_higress()
        .on("proxy_on_response_headers", WITHOUT_LENGTH)
        .on("proxy_on_response_body", "(drop (call $inject 'the end' (i32.const 1))) (return (i32.const 1))");
    let origin = RawOrigin::start(|mut client, _| async move {
        while client.read_request().await.is_some() {
            client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n").await;
        }
    })
    .await;
    let mut site = Site::new();
    filtered(&mut site, "/", &format!("proxy_pass = '{}'", origin.addr()), "ends", &ends.path(), "");
    let proxy = Proxy::start(&site.to_string());
    for _ in 0..3 {
        assert_eq!(send(http1().get(proxy.url("/"))).await.text(), "the end");
    }
    eventually("the requests have ended", || proxy.metric("phasegate_requests_in_flight") == 0.0);
    assert_eq!(failures(&proxy, "ends", "wall"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_sends_on_has_a_bound() {
    // The second sends on at each tick; the first holds it back.
    let floods = Guest::new()
        .importing(INJECT)
        .of_higress()
        .with("(global $stream (mut i32) (i32.const 0))")
        .on(
            "proxy_on_response_headers",
            "(global.set $stream (local.get $context)) (drop (call $proxy_set_effective_context (i32.const 1)))
             (drop (call $tick_every (i32.const 1)))",
        )
        .on("proxy_on_response_body", "(return (i32.const 1))")
        .on(
            "proxy_on_tick",
            "(drop (call $proxy_set_effective_context (global.get $stream)))
             (drop (call $inject (i32.const 0) (i32.const 1000) (i32.const 0)))",
        );
    let holds = Guest::new().of_higress().on("proxy_on_response_headers", "(return (i32.const 4))");
    let origin = Origin::saying("hello").await;
    let mut site = Site::with("threads = 1");
    let keys = "limits = { buffer = '8KiB', wall_ms = 10000 }\n";
    filtered(&mut site, "/", &format!("proxy_pass = '{}'", origin.addr()), "holds", &holds.path(), keys);
    site.filter(&(filter("floods", &floods.path()) + keys));
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_chooses_the_server() {
    let says = |name: &'static str| Origin::start(move |_| reply(200, name));
    let (one, two) = (says("one").await, says("two").await);
    let guest = Guest::new()
        .importing(
            r#"(import "env" "proxy_get_upstream_hosts" (func $hosts (param i32 i32) (result i32)))
               (import "env" "proxy_set_upstream_override_host" (func $choose (param i32 i32) (result i32)))"#,
        )
        .of_higress()
        .on(
            "proxy_on_request_headers",
            "(call $show 'hosts: ' (call $hosts (i32.const 0x80) (i32.const 0x84)))
             (call $say (i32.load (i32.const 0x80)) (i32.load (i32.const 0x84)))
             (if (call $header 'x-server') (then
               (drop (call $choose (i32.load (i32.const 0x104)) (i32.load (i32.const 0x108))))))",
        );
    let servers = format!("servers = [{{ addr = '{}' }}, {{ addr = '{}' }}]", one.addr(), two.addr());
    let mut site = Site::with(&format!("[upstream.both]\n{servers}\n"));
    filtered(&mut site, "/", "proxy_pass = 'both'", "chooses", &guest.path(), "");
    let proxy = Proxy::start(&site.to_string());
    for (server, expected) in [(one.addr(), "one"), (two.addr(), "two")] {
        for _ in 0..4 {
            let answer = send(http1().get(proxy.url("/")).header("x-server", server.to_string())).await;
            assert_eq!(answer.text(), expected);
        }
    }
    for wrong in ["127.0.0.1:1", "nonsense"] {
        assert_eq!(send(http1().get(proxy.url("/")).header("x-server", wrong)).await.status, 200, "{wrong}");
    }
    proxy.wait_for_log("hosts: 0");
    let log = proxy.wait_for_log(&format!(r#"{}\u{{0}}{{"health_status":"Healthy"}}"#, one.addr()));
    assert!(log.contains(&two.addr().to_string()), "{log}");
}
