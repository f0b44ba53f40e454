//! A Proxy-Wasm filter that makes the calls its configuration lists, and logs each with its result. It stands on the bare
//! ABI, not on an SDK: whatever status a call gives is logged, and callbacks may return anything.
//!
//! The configuration is JSON: `{ "on_request_headers": [STEP, …], … }`, for each callback by its name without `proxy_`. The VM
//! configuration says the same for what is called before `on_configure`. A step is an array, `["get", "request_headers",
//! ":path"]`: see `steps.rs`. Every callback and every step is a line of the log:
//!
//! ```text
//! #2 on_request_headers(5, true)
//! #2 get("request_headers",":path") -> "/"
//! ```

mod abi;
mod arguments;
mod host;
mod plan;
mod steps;
mod text;

use steps::Run;

/// Defines exported callbacks: their name and arguments, of which the first is the context, and what they return.
macro_rules! callbacks {
    ($($export:ident = $name:literal($($arg:ident),*) $(-> $returned:literal)?;)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $export(context: i32 $(, $arg: i32)*) $(-> callbacks!(@type $returned))? {
            let _returned = Run::callback($name, context, &[$($arg),*], 0 $(+ $returned)?);
            $(let _: i32 = $returned; _returned)?
        }
    )*};
    (@type $returned:literal) => { i32 };
}

callbacks! {
    proxy_on_request_headers = "on_request_headers"(count, end) -> 0;
    proxy_on_request_body = "on_request_body"(size, end) -> 0;
    proxy_on_request_trailers = "on_request_trailers"(count) -> 0;
    proxy_on_response_headers = "on_response_headers"(count, end) -> 0;
    proxy_on_response_body = "on_response_body"(size, end) -> 0;
    proxy_on_response_trailers = "on_response_trailers"(count) -> 0;
    proxy_on_done = "on_done"() -> 1;
    proxy_on_log = "on_log"();
    proxy_on_delete = "on_delete"();
    proxy_on_tick = "on_tick"();
    proxy_on_queue_ready = "on_queue_ready"(queue);
    proxy_on_foreign_function = "on_foreign_function"(function, size);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {
    unsafe extern "C" {
        fn __wasm_call_ctors();
    }
    // SAFETY: what the linker makes for static constructors; called once, before anything else.
    unsafe { __wasm_call_ctors() }
}

/// Exactly as many bytes as were asked for: whoever gets them frees them by that number.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    Box::into_raw(vec![0_u8; size].into_boxed_slice()).cast()
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(context: i32, parent: i32) {
    plan::create(context, parent);
    Run::callback("on_context_create", context, &[parent], 0);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(root: i32, size: i32) -> i32 {
    Run::callback("on_vm_start", root, &[size], 1)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(root: i32, size: i32) -> i32 {
    plan::configure(root);
    Run::callback("on_configure", root, &[size], 1)
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_http_call_response(root: i32, call: i32, headers: i32, body: i32, trailers: i32) {
    Run::answer("on_http_call_response", root, call, &[headers, body, trailers]);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive_initial_metadata(root: i32, call: i32, count: i32) {
    Run::answer("on_grpc_receive_initial_metadata", root, call, &[count]);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive(root: i32, call: i32, size: i32) {
    Run::answer("on_grpc_receive", root, call, &[size]);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_receive_trailing_metadata(root: i32, call: i32, count: i32) {
    Run::answer("on_grpc_receive_trailing_metadata", root, call, &[count]);
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_grpc_close(root: i32, call: i32, status: i32) {
    Run::answer("on_grpc_close", root, call, &[status]);
}
