//! `proxy_call_foreign_function`.

use serde_json::{Value, json};

use super::steps::*;
use super::{Guest, filtered};
use crate::support::*;

/// What these steps give in a request.
async fn run(steps: Value) -> Vec<String> {
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &json!({ "on_request_headers": steps }))));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    outcomes(&proxy, "first", "on_request_headers")
}

#[tokio::test(flavor = "multi_thread")]
async fn zlib_in_both_directions() {
    let given = run(json!([
        ["foreign", "compress", ""],
        ["foreign", "compress", "hello"],
        ["foreign", "uncompress", { "hex": "789ccb48cdc9c90700062c0215" }],
        ["foreign", "uncompress", "no zlib"],
        ["foreign", "uncompress", ""],
        ["foreign", "uncompress", { "hex": "789ccb48cdc9" }],
    ]))
    .await;
    let failure = "SERIALIZATION_FAILURE";
    assert_eq!(given, ["0x789c030000000001", "0x789ccb48cdc9c90700062c0215", r#""hello""#, failure, failure, failure]);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_there_are_not() {
    let given =
        run(json!([["foreign", "nothing", "x"], ["foreign", "", ""], ["foreign", "clear_route_cache", ""]])).await;
    assert_eq!(given, ["NOT_FOUND", "NOT_FOUND", r#""""#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_higress() {
    let given = run(json!([
        ["foreign", "get_log_level", ""],
        ["foreign", "set_global_max_requests_per_io_cycle", { "hex": "0100000000000000" }],
    ]))
    .await;
    assert_eq!(given, ["0x02000000", r#""""#], "info, as it is logged");
}

#[test]
fn what_only_envoy_has_can_be_imported() {
    let guest = Guest::new().on(
        "proxy_on_vm_start",
        "(call $show 'dns: ' (call $envoy_resolve_dns 'localhost' (i32.const 0x80)))
         (call $show 'dns: ' (call $envoy_resolve_dns 'localhost' (i32.const 0x80)))",
    );
    let mut site = Site::new();
    let keys = "instances = 1\nallowed_capabilities = ['proxy_log', 'proxy_on_vm_start']\n";
    filtered(&mut site, "/", "echo = true", "asks", &guest.path(), keys);
    let Output { code, stderr, .. } = check(&site.to_string());
    assert_eq!(code, Some(0), "{stderr}");
    let found = ["dns: 12", "envoy_resolve_dns: not implemented"].map(|text| stderr.matches(text).count());
    assert_eq!(found, [2, 1], "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn filter_state_of_envoy() {
    // SetEnvoyFilterStateArguments { path = 1, value = 2, span = 3 }
    let given = run(json!([
        ["foreign", "set_envoy_filter_state", { "hex": "0a036b6579120576616c75651802" }],
        ["property", ["filter_state", "key"]],
        ["property", ["key"]],
        ["foreign", "set_envoy_filter_state", { "hex": "ff" }],
    ]))
    .await;
    assert_eq!(given, [r#""""#, r#""value""#, "NOT_FOUND", "BAD_ARGUMENT"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_is_declared_by_the_root_can_be_read_only() {
    // DeclarePropertyArguments { name = 1, readonly = 2, type = 3, schema = 4, span = 5 }
    let (once, other) = (json!({ "hex": "0a046f6e63651001" }), json!({ "hex": "0a056f746865721801" }));
    let plan = json!({
        "on_configure": [
            ["foreign", "declare_property", once], ["foreign", "declare_property", once],
            ["foreign", "declare_property", other], ["foreign", "declare_property", { "hex": "ff" }],
        ],
        "on_request_headers": [
            ["set_property", ["once"], "first"], ["set_property", ["once"], "second"], ["property", ["once"]],
            ["set_property", ["other"], "first"], ["set_property", ["other"], "second"], ["property", ["other"]],
            // Of the stream: it binds nobody.
            ["foreign", "declare_property", once], ["foreign", "declare_property", once],
            ["foreign", "declare_property", { "hex": "0a046c6174651001" }],
            ["set_property", ["late"], "first"], ["set_property", ["late"], "second"],
        ],
    });
    let origin = Origin::saying("hello").await;
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan)));
    for _ in 0..2 {
        // Another stream has its own values.
        assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    }
    let empty = r#""""#;
    let lines = lines(&proxy, "first");
    let configure = lines.iter().skip_while(|line| !line.starts_with("on_configure")).skip(1).take(4);
    let configure: Vec<_> = configure.filter_map(|line| Some(line.split_once(" -> ")?.1)).collect();
    assert_eq!(configure, [empty, "BAD_ARGUMENT", empty, "BAD_ARGUMENT"]);
    assert_eq!(
        outcomes(&proxy, "first", "on_request_headers"),
        ["OK", "BAD_ARGUMENT", r#""first""#, "OK", "OK", r#""second""#, empty, "BAD_ARGUMENT", empty, "OK", "OK"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_does_not_go_off() {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..65 {
        std::io::Write::write_all(&mut encoder, &vec![0; 1 << 20]).unwrap();
    }
    let hex: String = encoder.finish().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let plan = json!({ "on_request_headers": [["foreign", "uncompress", { "hex": hex }]] });
    let origin = Origin::saying("hello").await;
    let limits = "limits = { cpu_ms = 10000 }\n";
    let proxy = Proxy::start(&(proxy_to(origin.addr()) + &pw_probe("first", &plan) + limits));
    assert_eq!(send(http1().get(proxy.url("/"))).await.status, 200);
    assert_eq!(outcomes(&proxy, "first", "on_request_headers"), ["INTERNAL_FAILURE"]);
    proxy.wait_for_log("uncompress: comes to more than");
}
