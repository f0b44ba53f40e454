//! What a step is told.

use serde_json::Value;

use crate::{host, plan};

/// The arguments of a step.
pub struct Arguments<'a>(pub &'a [Value]);

impl Arguments<'_> {
    /// As they stand in the configuration, but not what is to follow.
    pub fn shown(&self) -> String {
        let shown = self.0.iter().map(|argument| match argument {
            Value::Object(object) => {
                let mut object = object.clone();
                object.remove("then");
                Value::from(object).to_string()
            }
            Value::String(text) if text.len() > 512 => format!("{} bytes", text.len()),
            other => other.to_string(),
        });
        shown.collect::<Vec<_>>().join(",")
    }

    pub fn text(&self, index: usize) -> &str {
        self.0.get(index).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number, or what has the name `$…`; 0 where there is none.
    pub fn number(&self, index: usize) -> i64 {
        match self.0.get(index) {
            Some(Value::String(name)) => plan::get(name.trim_start_matches('$')),
            Some(number) => number.as_i64().unwrap_or_default(),
            None => 0,
        }
    }

    pub fn bytes(&self, index: usize) -> Vec<u8> {
        self.0.get(index).map(data).unwrap_or_default()
    }

    /// A property's path: its segments, or bytes as they are.
    pub fn path(&self, index: usize) -> Vec<u8> {
        match self.0.get(index) {
            Some(Value::Array(segments)) => segments.iter().map(data).collect::<Vec<_>>().join(&0),
            Some(path) => data(path),
            None => Vec::new(),
        }
    }

    pub fn pairs(&self, index: usize) -> Vec<u8> {
        self.0.get(index).map(pairs).unwrap_or_default()
    }

    pub fn map(&self, index: usize) -> i32 {
        self.one_of(
            index,
            &[
                "request_headers",
                "request_trailers",
                "response_headers",
                "response_trailers",
                "grpc_initial_metadata",
                "grpc_trailing_metadata",
                "call_headers",
                "call_trailers",
            ],
        )
    }

    pub fn buffer(&self, index: usize) -> i32 {
        self.one_of(
            index,
            &[
                "request_body",
                "response_body",
                "downstream_data",
                "upstream_data",
                "call_body",
                "grpc_message",
                "vm_configuration",
                "plugin_configuration",
                "call_data",
            ],
        )
    }

    pub fn stream(&self, index: usize) -> i32 {
        self.one_of(index, &["request", "response", "downstream", "upstream"])
    }

    fn one_of(&self, index: usize, names: &[&str]) -> i32 {
        let position = names.iter().position(|name| *name == self.text(index));
        position.map_or_else(|| self.number(index) as i32, |position| position as i32)
    }
}

/// Bytes: of a text, of `{ "hex": "00ff" }`, or of `{ "times": 1000, "text": "a" }`.
pub fn data(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(object) if object.contains_key("hex") => {
            let digits = object["hex"].as_str().unwrap_or_default();
            let byte = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
            (0..digits.len()).step_by(2).filter_map(byte).collect()
        }
        Value::Object(object) => {
            let times = object["times"].as_u64().unwrap_or_default() as usize;
            object["text"].as_str().unwrap_or_default().repeat(times).into_bytes()
        }
        _ => Vec::new(),
    }
}

/// A map from `[[name, value], …]`, or bytes that stand for one; empty for null.
pub fn pairs(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => host::map(&list.iter().map(|pair| (data(&pair[0]), data(&pair[1]))).collect::<Vec<_>>()),
        bytes => data(bytes),
    }
}
