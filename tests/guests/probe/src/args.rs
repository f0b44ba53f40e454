//! From a JSON list of arguments to a call, and from its result to JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What a group of functions says to a call: none when it does not have the function.
pub type Made = Result<Option<Value>, String>;

/// `call!(args, |key: String| function(&key))`, or `call!(function())` without arguments.
macro_rules! call {
    ($args:expr, |$($name:ident: $type:ty),+| $call:expr) => {{
        let ($($name,)+): ($($type,)+) = $crate::args::decode($args)?;
        $crate::args::outcome($call)
    }};
    ($call:expr) => {
        $crate::args::outcome($call)
    };
}
pub(crate) use call;

pub fn decode<T: DeserializeOwned>(args: &Value) -> Result<T, String> {
    serde_json::from_value(args.clone()).map_err(|error| format!("arguments {args}: {error}"))
}

pub fn outcome<T: Serialize>(result: Result<T, String>) -> Value {
    match result {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "err": error }),
    }
}

/// The result of a function that cannot fail.
pub fn sure<T>(value: T) -> Result<T, String> {
    Ok(value)
}
