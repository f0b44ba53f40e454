//! Filters in WebAssembly text: ABI 0.1.0, and allocators that are wrong.

use crate::case::*;
use crate::compare;
use crate::support::Wat;

#[tokio::test(flavor = "multi_thread")]
async fn text() {
    let wat = Wat::new();
    compare("text", cases(&wat)).await;
}

pub fn cases(wat: &Wat) -> Vec<Case> {
    let old = wat.module("abi_0_1_0", "abi_0_1_0", &[("RESULT", "(result i32)"), ("DROP", "drop")]);
    let old = Filter { vm_configuration: "of the VM".into(), ..Filter::module(old, "of the plugin") };
    let mut cases = vec![Case::new("abi_0_1_0", old)];
    // Twice: whether the VM is there after the first.
    let allocators = [
        ("allocator_gives_0", "(i32.const 0)"),
        ("allocator_gives_what_is_out_of_memory", "(i32.const -8)"),
        ("allocator_gives_the_last_byte", "(i32.const 65535)"),
        ("allocator_traps", "unreachable"),
        (
            "allocator_calls_the_host",
            "(drop (call $get (i32.const 0) (i32.const 64) (i32.const 5) (i32.const 0) (i32.const 4))) (i32.const 4096)",
        ),
        ("allocator_logs", "(drop (call $log (i32.const 2) (i32.const 64) (i32.const 5))) (i32.const 4096)"),
    ];
    for (name, body) in allocators {
        let module = wat.module("allocator", name, &[("ALLOCATE", body)]);
        cases.push(Case::new(name, Filter::module(module, "")).request(get("/")).request(get("/")));
    }
    cases
}
