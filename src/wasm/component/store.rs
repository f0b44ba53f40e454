use super::bindings::phasegate::plugin::wasm_store::Host;
use super::not_available;
use crate::wasm::state::State;

/// The four functions of each type.
macro_rules! typed {
    ($($set:ident $get:ident $hset:ident $hget:ident: $type:ty;)*) => {
        impl Host for State {
            $(
                fn $set(&mut self, _: String, _: $type) -> Result<(), String> {
                    not_available(stringify!($set))
                }

                fn $get(&mut self, _: String) -> Result<Option<$type>, String> {
                    not_available(stringify!($get))
                }

                fn $hset(&mut self, _: String, _: String, _: $type) -> Result<(), String> {
                    not_available(stringify!($hset))
                }

                fn $hget(&mut self, _: String, _: String) -> Result<Option<$type>, String> {
                    not_available(stringify!($hget))
                }
            )*

            fn del(&mut self, _: String) -> Result<bool, String> {
                not_available("del")
            }

            fn hdel(&mut self, _: String, _: String) -> Result<bool, String> {
                not_available("hdel")
            }

            fn incr(&mut self, _: String, _: i64) -> Result<i64, String> {
                not_available("incr")
            }

            fn compare_and_set(&mut self, _: String, _: Option<String>, _: String) -> Result<bool, String> {
                not_available("compare-and-set")
            }

            fn expire(&mut self, _: String, _: u64) -> Result<bool, String> {
                not_available("expire")
            }
        }
    };
}

typed! {
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
