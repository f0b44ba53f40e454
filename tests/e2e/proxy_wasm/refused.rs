//! Modules that are no filters are found before anything listens, and the message says why.

use super::*;

#[test]
fn modules_that_do_not_start() {
    let wat = Wat::new();
    let abi =
        "(func (export \"proxy_abi_version_0_2_1\")) (func (export \"malloc\") (param i32) (result i32) (i32.const 0))";
    let memory = "(memory (export \"memory\") 1)";
    let every = |number: &str| wat.module("every_callback", number, &[("WHICH", number), ("WHAT", "unreachable")]);
    let start = |name: &str, import: &str, call: &str| {
        wat.inline(name, &format!("(module (import {import}) {memory} {abi} (func (export \"_start\") {call}))"))
    };
    let cases = [
        ("no_abi", wat.inline("no_abi", &format!("(module {memory})")), "Proxy-Wasm"),
        ("no_memory", wat.inline("no_memory", &format!("(module {abi})")), "memory"),
        (
            "unknown_import",
            wat.inline(
                "unknown_import",
                &format!("(module (import \"env\" \"proxy_unheard_of\" (func)) {memory} {abi})"),
            ),
            "proxy_unheard_of",
        ),
        (
            "host_call_in_start",
            start(
                "host_call_in_start",
                "\"env\" \"proxy_set_tick_period_milliseconds\" (func $tick (param i32) (result i32))",
                "(drop (call $tick (i32.const 1)))",
            ),
            "proxy_set_tick_period_milliseconds",
        ),
        (
            "exit",
            start(
                "exit",
                "\"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32))",
                "(call $exit (i32.const 3))",
            ),
            "exit",
        ),
        ("trap_in_initialize", every("0"), "unreachable"),
        ("trap_in_context_create", every("1"), "unreachable"),
        ("trap_in_vm_start", every("3"), "unreachable"),
        ("trap_in_configure", every("4"), "unreachable"),
    ];
    for (name, module, expected) in cases {
        let mut site = Site::new();
        filtered(&mut site, "/", "echo = true", name, &module, "");
        let output = refused(&site.to_string());
        assert!(output.stderr.contains(expected), "{name}: {}", output.stderr);
        assert!(!output.stderr.contains("listening"), "{name}: {}", output.stderr);
    }
}

/// As old emscripten builds do, which leave these to the host.
#[tokio::test(flavor = "multi_thread")]
async fn memory_and_table_may_be_imported() {
    let wat = Wat::new();
    let module = wat.inline(
        "imported",
        r#"(module
          (import "env" "memory" (memory 1))
          (import "env" "__indirect_function_table" (table 2 funcref))
          (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
          (type $callback (func (result i32)))
          (elem (i32.const 1) $adds)
          (data (i32.const 16) "x-tableyes")
          (func (export "proxy_abi_version_0_1_0"))
          (func (export "malloc") (param i32) (result i32) (i32.const 1024))
          (func $adds (result i32)
            (drop (call $add (i32.const 2) (i32.const 16) (i32.const 7) (i32.const 23) (i32.const 3)))
            (i32.const 0))
          (func (export "proxy_on_response_headers") (param i32 i32) (result i32)
            (call_indirect (type $callback) (i32.const 1))))"#,
    );
    let mut site = Site::new();
    filtered(&mut site, "/", "respond = { status = 200 }", "imported", &module, "");
    let proxy = Proxy::start(&site.to_string());
    assert_eq!(send(http1().get(proxy.url("/"))).await.header("x-table"), Some("yes"));
}

/// Both shapes of the functions that ABI 0.1.0 has: those of the specification and those of its SDK.
#[tokio::test(flavor = "multi_thread")]
async fn abi_0_1_0_in_both_shapes() {
    let wat = Wat::new();
    let origin = Origin::saying("hello").await;
    let handler = format!("proxy_pass = \"{}\"", origin.addr());
    let mut site = Site::new();
    for (path, result, drop) in [("/status", "(result i32)", "drop"), ("/nothing", "", "")] {
        let module = wat.module("abi_0_1_0", &path[1..], &[("RESULT", result), ("DROP", drop)]);
        filtered(&mut site, path, &handler, &path[1..], &module, "configuration = \"its text\"");
    }
    let proxy = Proxy::start(&site.to_string());
    for path in ["/status", "/nothing"] {
        assert_eq!(send(http1().get(proxy.url(path))).await.text(), "hello", "{path}");
    }
}
