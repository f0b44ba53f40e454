//! Bindings of the world `phasegate:plugin/wasm-server`. A host function that can wait is `async`: a module that imports
//! none of them runs on the synchronous path. The store waits only when it is not in memory: so it is bound twice.

wasmtime::component::bindgen!({
    path: "wit",
    world: "wasm-server",
    imports: {
        "phasegate:plugin/wasm-std.sleep": async,
        "phasegate:plugin/wasm-std.session-recv": async,
        "phasegate:plugin/wasm-std.session-request": async,
        "phasegate:plugin/wasm-std.uniq-session-request": async,
        "phasegate:plugin/wasm-std.get-timer-timeout": async,
        "phasegate:plugin/wasm-std.in-body-read-exact": async,
        "phasegate:plugin/wasm-std.out-response": async,
        "phasegate:plugin/wasm-http.handle-http": async,
        "phasegate:plugin/wasm-socket": async,
        "phasegate:plugin/wasm-websocket": async,
    },
});

/// `wasm-store` for a store that can wait.
pub mod waiting {
    wasmtime::component::bindgen!({
        path: "wit",
        inline: "package phasegate:waiting; world store { import phasegate:plugin/wasm-store@0.1.0; }",
        world: "phasegate:waiting/store",
        imports: { default: async },
    });
}
