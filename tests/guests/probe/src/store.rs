//! The functions of `wasm-store`.

use phasegate_plugin::store as kv;
use serde::Deserialize;
use serde_json::Value;

use crate::args::{Made, call};

/// The four functions of a type. `$value` makes of an argument what the setters take, `$shown` of a value its JSON.
macro_rules! typed {
    ($operation:ident, $args:ident, $type:ty, $value:expr, $set:ident, $get:ident, $hset:ident, $hget:ident) => {
        typed!($operation, $args, $type, $value, std::convert::identity, $set, $get, $hset, $hget)
    };
    ($operation:ident, $args:ident, $type:ty, $value:expr, $shown:expr,
     $set:ident, $get:ident, $hset:ident, $hget:ident) => {
        match $operation {
            "set" => call!($args, |key: String, value: $type| kv::$set(&key, $value(&value))),
            "get" => call!($args, |key: String| kv::$get(&key).map(|value| value.map($shown))),
            "hset" => {
                call!($args, |key: String, field: String, value: $type| kv::$hset(&key, &field, $value(&value)))
            }
            "hget" => call!($args, |key: String, field: String| kv::$hget(&key, &field).map(|value| value.map($shown))),
            _ => return Ok(None),
        }
    };
}

pub fn store(call: &str, args: &Value) -> Made {
    match call.split_once('-') {
        Some((operation @ ("set" | "get" | "hset" | "hget"), of)) if !of.contains('-') => values(operation, of, args),
        _ => keys(call, args),
    }
}

fn values(operation: &str, of: &str, args: &Value) -> Made {
    Ok(Some(match of {
        "bool" => typed!(operation, args, bool, bool::clone, set_bool, get_bool, hset_bool, hget_bool),
        "s8" => typed!(operation, args, i8, i8::clone, set_s8, get_s8, hset_s8, hget_s8),
        "s16" => typed!(operation, args, i16, i16::clone, set_s16, get_s16, hset_s16, hget_s16),
        "s32" => typed!(operation, args, i32, i32::clone, set_s32, get_s32, hset_s32, hget_s32),
        "s64" => typed!(operation, args, i64, i64::clone, set_s64, get_s64, hset_s64, hget_s64),
        "u8" => typed!(operation, args, u8, u8::clone, set_u8, get_u8, hset_u8, hget_u8),
        "u16" => typed!(operation, args, u16, u16::clone, set_u16, get_u16, hset_u16, hget_u16),
        "u32" => typed!(operation, args, u32, u32::clone, set_u32, get_u32, hset_u32, hget_u32),
        "u64" => typed!(operation, args, u64, u64::clone, set_u64, get_u64, hset_u64, hget_u64),
        "f32" => {
            typed!(operation, args, Real, Real::f32, |value| format!("{value:?}"), set_f32, get_f32, hset_f32, hget_f32)
        }
        "f64" => {
            typed!(operation, args, Real, Real::f64, |value| format!("{value:?}"), set_f64, get_f64, hset_f64, hget_f64)
        }
        "char" => typed!(operation, args, char, char::clone, set_char, get_char, hset_char, hget_char),
        "string" => {
            typed!(operation, args, String, String::as_str, set_string, get_string, hset_string, hget_string)
        }
        _ => return Ok(None),
    }))
}

/// A float, as text: JSON has no `NaN`, and its numbers lose the last bits.
#[derive(Deserialize)]
struct Real(String);

impl Real {
    fn f32(&self) -> f32 {
        self.0.parse().expect("a number")
    }

    fn f64(&self) -> f64 {
        self.0.parse().expect("a number")
    }
}

fn keys(call: &str, args: &Value) -> Made {
    Ok(Some(match call {
        "del" => call!(args, |key: String| kv::del(&key)),
        "hdel" => call!(args, |key: String, field: String| kv::hdel(&key, &field)),
        "incr" => call!(args, |key: String, delta: i64| kv::incr(&key, delta)),
        "incr-with-expiry" => {
            call!(args, |key: String, delta: i64, ms: u64| kv::incr_with_expiry(&key, delta, ms))
        }
        "set-string-with-expiry" => {
            call!(args, |key: String, value: String, ms: u64| kv::set_string_with_expiry(&key, &value, ms))
        }
        "compare-and-set" => call!(args, |key: String, expected: Option<String>, value: String| {
            kv::compare_and_set(&key, expected.as_deref(), &value)
        }),
        "expire" => call!(args, |key: String, ms: u64| kv::expire(&key, ms)),
        "expires-in" => call!(args, |key: String| kv::expires_in(&key)),
        _ => return Ok(None),
    }))
}
