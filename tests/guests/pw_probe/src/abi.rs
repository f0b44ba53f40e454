//! The host functions as they are: numbers in, a status out.

/// Declares functions of `i32` alone, each also reachable by its name with any numbers.
macro_rules! functions {
    ($($name:ident($($arg:ident),*);)*) => {
        #[link(wasm_import_module = "env")]
        unsafe extern "C" {
            $(pub fn $name($($arg: i32),*) -> i32;)*
        }

        /// Calls a function with these numbers, as wrong as they may be. None: no such function, or too few numbers.
        pub fn raw(name: &str, numbers: &[i32]) -> Option<i32> {
            let mut numbers = numbers.iter();
            match name {
                $(stringify!($name) => {
                    $(let $arg = *numbers.next()?;)*
                    // SAFETY: the host checks what it is given. A test that lets it overwrite memory means that.
                    Some(unsafe { $name($($arg),*) })
                })*
                _ => None,
            }
        }
    };
}

functions! {
    proxy_log(level, text, length);
    proxy_get_log_level(level);
    proxy_get_current_time_nanoseconds(time);
    proxy_set_tick_period_milliseconds(period);
    proxy_get_buffer_bytes(buffer, start, max, data, length);
    proxy_get_buffer_status(buffer, length, flags);
    proxy_set_buffer_bytes(buffer, start, size, data, length);
    proxy_get_header_map_size(map, size);
    proxy_get_header_map_pairs(map, data, length);
    proxy_set_header_map_pairs(map, data, length);
    proxy_get_header_map_value(map, key, key_length, value, value_length);
    proxy_add_header_map_value(map, key, key_length, value, value_length);
    proxy_replace_header_map_value(map, key, key_length, value, value_length);
    proxy_remove_header_map_value(map, key, key_length);
    proxy_get_property(path, path_length, data, length);
    proxy_set_property(path, path_length, data, length);
    proxy_continue_stream(stream);
    proxy_close_stream(stream);
    proxy_send_local_response(status, details, details_length, body, body_length, headers, headers_length, grpc);
    proxy_http_call(cluster, cluster_length, headers, headers_length, body, body_length, trailers, trailers_length, timeout, call);
    proxy_grpc_call(cluster, cluster_length, service, service_length, method, method_length, metadata, metadata_length, message, message_length, timeout, call);
    proxy_grpc_stream(cluster, cluster_length, service, service_length, method, method_length, metadata, metadata_length, call);
    proxy_grpc_send(call, message, length, end);
    proxy_grpc_cancel(call);
    proxy_grpc_close(call);
    proxy_get_status(code, data, length);
    proxy_get_shared_data(key, key_length, data, length, cas);
    proxy_set_shared_data(key, key_length, data, length, cas);
    proxy_register_shared_queue(name, length, queue);
    proxy_resolve_shared_queue(vm, vm_length, name, name_length, queue);
    proxy_dequeue_shared_queue(queue, data, length);
    proxy_enqueue_shared_queue(queue, data, length);
    proxy_define_metric(kind, name, length, metric);
    proxy_get_metric(metric, value);
    proxy_set_effective_context(context);
    proxy_done();
    proxy_call_foreign_function(name, name_length, arguments, arguments_length, data, length);
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    pub fn proxy_increment_metric(metric: i32, by: i64) -> i32;
    pub fn proxy_record_metric(metric: i32, value: i64) -> i32;
}
