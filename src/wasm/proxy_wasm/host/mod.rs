//! The host functions of the ABI (proxy-wasm/spec): a file for each group. They spell calls and convert values; what they
//! do is in `capability` and in the stream.

mod body;
mod call;
mod callout;
mod context;
mod foreign;
mod header;
mod higress;
mod metric;
mod property;
mod shared;
mod stream;

use wasmtime::{Caller, Engine, Linker};

use self::call::Call;
use super::state::State;
use super::wasi;

/// Binds functions of `env` to Rust functions that take a [`Call`] and the arguments of the ABI.
macro_rules! bind {
    ($linker:ident: $($name:literal ($($argument:ident: $type:ty),*) = $function:path;)*) => {
        $($linker.func_wrap("env", $name, |caller: Caller<'_, State>, $($argument: $type),*| -> wasmtime::Result<u32> {
            Call::answer(caller, $name, |call| $function(call, $($argument),*))
        })?;)*
    };
}

/// What is imported from `env` too, by old toolchains and by filters that are for Envoy alone.
pub const BESIDE_THE_ABI: [&str; 3] = ["pthread_equal", "emscripten_notify_memory_growth", "envoy_resolve_dns"];

/// All that filters of any version may import.
///
/// # Errors
/// When a function is bound twice.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasi::add(&mut linker)?;
    bind! { linker:
        "proxy_log"(level: u32, text: u32, size: u32) = context::log;
        "proxy_get_log_level"(to: u32) = context::get_log_level;
        "proxy_get_current_time_nanoseconds"(to: u32) = context::get_current_time;
        "proxy_set_tick_period_milliseconds"(period: u32) = context::set_tick_period;
        "proxy_get_configuration"(to: u32, size: u32) = context::get_configuration;
        "proxy_set_effective_context"(context: u32) = context::set_effective_context;
        "proxy_done"() = context::done;
        "proxy_get_status"(code: u32, to: u32, size: u32) = context::get_status;

        "proxy_get_buffer_bytes"(kind: u32, start: u32, length: u32, to: u32, size: u32) = body::get_buffer_bytes;
        "proxy_get_buffer_status"(kind: u32, size: u32, flags: u32) = body::get_buffer_status;
        "proxy_set_buffer_bytes"(kind: u32, start: u32, length: u32, from: u32, size: u32) = body::set_buffer_bytes;

        "proxy_get_header_map_size"(map: u32, to: u32) = header::get_map_size;
        "proxy_get_header_map_pairs"(map: u32, to: u32, size: u32) = header::get_map_pairs;
        "proxy_set_header_map_pairs"(map: u32, from: u32, size: u32) = header::set_map_pairs;
        "proxy_get_header_map_value"(map: u32, key: u32, key_size: u32, to: u32, size: u32) = header::get_map_value;
        "proxy_add_header_map_value"(map: u32, key: u32, key_size: u32, value: u32, size: u32) = header::add_map_value;
        "proxy_replace_header_map_value"(map: u32, key: u32, key_size: u32, value: u32, size: u32)
            = header::replace_map_value;
        "proxy_remove_header_map_value"(map: u32, key: u32, key_size: u32) = header::remove_map_value;

        "proxy_get_property"(path: u32, path_size: u32, to: u32, size: u32) = property::get;
        "proxy_set_property"(path: u32, path_size: u32, value: u32, size: u32) = property::set;

        "proxy_continue_request"() = stream::continue_request;
        "proxy_continue_response"() = stream::continue_response;
        "proxy_clear_route_cache"() = stream::clear_route_cache;
        "proxy_continue_stream"(stream: u32) = stream::continue_stream;
        "proxy_close_stream"(stream: u32) = stream::close_stream;
        "proxy_send_local_response"(
            status: u32, details: u32, details_size: u32, body: u32, body_size: u32, headers: u32, headers_size: u32,
            grpc_status: u32
        ) = stream::send_local_response;

        "proxy_http_call"(
            upstream: u32, upstream_size: u32, headers: u32, headers_size: u32, body: u32, body_size: u32,
            trailers: u32, trailers_size: u32, timeout: u32, to: u32
        ) = callout::http_call;
        "proxy_grpc_call"(
            upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32,
            metadata: u32, metadata_size: u32, message: u32, message_size: u32, timeout: u32, to: u32
        ) = callout::grpc_call;
        "proxy_grpc_stream"(
            upstream: u32, upstream_size: u32, service: u32, service_size: u32, method: u32, method_size: u32,
            metadata: u32, metadata_size: u32, to: u32
        ) = callout::grpc_stream;
        "proxy_grpc_send"(id: u32, message: u32, size: u32, end: u32) = callout::grpc_send;
        "proxy_grpc_cancel"(id: u32) = callout::grpc_cancel;
        "proxy_grpc_close"(id: u32) = callout::grpc_close;

        "proxy_get_shared_data"(key: u32, key_size: u32, to: u32, size: u32, cas: u32) = shared::get_data;
        "proxy_set_shared_data"(key: u32, key_size: u32, value: u32, size: u32, cas: u32) = shared::set_data;
        "proxy_register_shared_queue"(name: u32, name_size: u32, to: u32) = shared::register_queue;
        "proxy_resolve_shared_queue"(vm_id: u32, vm_id_size: u32, name: u32, name_size: u32, to: u32)
            = shared::resolve_queue;
        "proxy_dequeue_shared_queue"(id: u32, to: u32, size: u32) = shared::dequeue;
        "proxy_enqueue_shared_queue"(id: u32, from: u32, size: u32) = shared::enqueue;

        "proxy_define_metric"(kind: u32, name: u32, size: u32, to: u32) = metric::define;
        "proxy_increment_metric"(id: u32, delta: i64) = metric::increment;
        "proxy_record_metric"(id: u32, value: u64) = metric::record;
        "proxy_get_metric"(id: u32, to: u32) = metric::get;

        "proxy_call_foreign_function"(name: u32, name_size: u32, from: u32, from_size: u32, to: u32, size: u32)
            = foreign::call;

        // Of Higress.
        "proxy_inject_encoded_data_to_filter_chain"(body: u32, size: u32, end: u32) = higress::inject_encoded_data;
        "proxy_get_upstream_hosts"(to: u32, size: u32) = higress::get_upstream_hosts;
        "proxy_set_upstream_override_host"(addr: u32, size: u32) = higress::set_upstream_override_host;
        "proxy_redis_init"(
            upstream: u32, upstream_size: u32, username: u32, username_size: u32, password: u32, password_size: u32,
            timeout: u32
        ) = higress::redis_init;
        "proxy_redis_call"(upstream: u32, upstream_size: u32, query: u32, query_size: u32, to: u32) = higress::redis_call;

        // BESIDE_THE_ABI
        "envoy_resolve_dns"(name: u32, size: u32, token: u32) = foreign::resolve_dns;
    }
    linker.func_wrap("env", "pthread_equal", |left: u32, right: u32| u32::from(left == right))?;
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_memory: u32| {})?;
    Ok(linker)
}

/// Binds a function of ABI 0.1.0 as those import it that read the specification: it answers nothing.
///
/// # Errors
/// When it cannot be bound.
pub fn without_status(linker: &mut Linker<State>, name: &str) -> wasmtime::Result<()> {
    macro_rules! silent {
        ($name:literal, $function:path) => {
            linker.func_wrap("env", $name, |caller: Caller<'_, State>| -> wasmtime::Result<()> {
                Call::answer(caller, $name, $function).map(drop)
            })
        };
    }
    match name {
        "proxy_continue_request" => silent!("proxy_continue_request", stream::continue_request),
        "proxy_continue_response" => silent!("proxy_continue_response", stream::continue_response),
        "proxy_clear_route_cache" => silent!("proxy_clear_route_cache", stream::clear_route_cache),
        _ => return Ok(()),
    }
    .map(drop)
}
