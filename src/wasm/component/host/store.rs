use futures::FutureExt;

use super::bindings::phasegate::plugin::wasm_store;
use super::bindings::waiting::phasegate::plugin::wasm_store as waiting_store;
use crate::capability::{Store, StoreError, ttl};
use crate::wasm::component::state::State;

/// The result of a function, and its body, where the store never waits.
macro_rules! now {
    ($result:ty) => {
        $result
    };
    ($state:ident, $store:ident => $call:expr) => {{
        let $store = &$state.capabilities().store;
        let answer = $call.now_or_never().expect("a store that waits is linked with functions that wait");
        text($store, answer)
    }};
}

/// The same where it can wait.
macro_rules! later {
    ($result:ty) => { impl Future<Output = $result> + Send };
    ($state:ident, $store:ident => $call:expr) => {
        async move {
            let $store = &$state.capabilities().store;
            text($store, $call.await)
        }
    };
}

/// The functions, bound by one of these two.
macro_rules! functions {
    ($host:path, $bound:ident: $($set:ident $get:ident $hset:ident $hget:ident: $type:ty;)*) => {
        impl $host for State {
            $(
                fn $set(&mut self, key: String, value: $type) -> $bound!(Result<(), String>) {
                    $bound!(self, store => store.set(&key, value, None))
                }

                fn $get(&mut self, key: String) -> $bound!(Result<Option<$type>, String>) {
                    $bound!(self, store => store.get(&key))
                }

                fn $hset(&mut self, key: String, field: String, value: $type) -> $bound!(Result<(), String>) {
                    $bound!(self, store => store.hset(&key, &field, value))
                }

                fn $hget(&mut self, key: String, field: String) -> $bound!(Result<Option<$type>, String>) {
                    $bound!(self, store => store.hget(&key, &field))
                }
            )*

            fn del(&mut self, key: String) -> $bound!(Result<bool, String>) {
                $bound!(self, store => store.del(&key))
            }

            fn hdel(&mut self, key: String, field: String) -> $bound!(Result<bool, String>) {
                $bound!(self, store => store.hdel(&key, &field))
            }

            fn incr(&mut self, key: String, delta: i64) -> $bound!(Result<i64, String>) {
                $bound!(self, store => store.incr(&key, delta, None))
            }

            fn incr_with_expiry(&mut self, key: String, delta: i64, time_ms: u64) -> $bound!(Result<i64, String>) {
                $bound!(self, store => store.incr(&key, delta, ttl(time_ms)))
            }

            fn set_string_with_expiry(
                &mut self,
                key: String,
                value: String,
                time_ms: u64,
            ) -> $bound!(Result<(), String>) {
                $bound!(self, store => store.set(&key, value, ttl(time_ms)))
            }

            fn compare_and_set(
                &mut self,
                key: String,
                expected: Option<String>,
                value: String,
            ) -> $bound!(Result<bool, String>) {
                $bound!(self, store => store.compare_and_set(&key, expected.as_deref(), value))
            }

            fn expire(&mut self, key: String, time_ms: u64) -> $bound!(Result<bool, String>) {
                $bound!(self, store => store.expire(&key, ttl(time_ms)))
            }

            fn expires_in(&mut self, key: String) -> $bound!(Result<Option<u64>, String>) {
                $bound!(self, store => store.expires_in(&key))
            }
        }
    };
}

macro_rules! of_all_types {
    ($host:path, $bound:ident) => {
        functions! {
            $host, $bound:
            set_bool get_bool hset_bool hget_bool: bool;
            set_s8 get_s8 hset_s8 hget_s8: i8;
            set_s16 get_s16 hset_s16 hget_s16: i16;
            set_s32 get_s32 hset_s32 hget_s32: i32;
            set_s64 get_s64 hset_s64 hget_s64: i64;
            set_u8 get_u8 hset_u8 hget_u8: u8;
            set_u16 get_u16 hset_u16 hget_u16: u16;
            set_u32 get_u32 hset_u32 hget_u32: u32;
            set_u64 get_u64 hset_u64 hget_u64: u64;
            set_f32 get_f32 hset_f32 hget_f32: f32;
            set_f64 get_f64 hset_f64 hget_f64: f64;
            set_char get_char hset_char hget_char: char;
            set_string get_string hset_string hget_string: String;
        }
    };
}

of_all_types!(wasm_store::Host, now);
of_all_types!(waiting_store::Host, later);

fn text<T>(store: &Store, answer: Result<T, StoreError>) -> Result<T, String> {
    answer.map_err(|error| store.failed(&error))
}
