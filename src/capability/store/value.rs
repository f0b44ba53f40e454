//! What a key or a field holds: a value of one of 13 types.

use std::fmt;

/// A type that can be stored.
pub trait Typed: Sized {
    const KIND: Kind;

    fn into_value(self) -> Value;

    /// None: the value is of another type.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! kinds {
    ($($kind:ident($type:ty) $name:literal $article:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($kind),* }

        #[derive(Clone, Debug, PartialEq)]
        pub enum Value { $($kind($type)),* }

        impl Kind {
            /// As WIT calls it.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }

        impl Value {
            pub fn kind(&self) -> Kind {
                match self { $(Value::$kind(_) => Kind::$kind),* }
            }

            /// The value alone, as text that [`Value::parse`] takes.
            fn text(&self) -> String {
                match self { $(Value::$kind(value) => value.to_string()),* }
            }

            fn parse(name: &str, text: &str) -> Option<Value> {
                match name {
                    $($name => Some(Value::$kind(text.parse().ok()?)),)*
                    _ => None,
                }
            }
        }

        /// With its article: `a u32`, `an s64`.
        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Kind::$kind => concat!($article, " ", $name)),* })
            }
        }

        $(impl Typed for $type {
            const KIND: Kind = Kind::$kind;

            fn into_value(self) -> Value {
                Value::$kind(self)
            }

            fn from_value(value: Value) -> Option<$type> {
                match value {
                    Value::$kind(value) => Some(value),
                    _ => None,
                }
            }
        })*
    };
}

kinds! {
    Bool(bool) "bool" "a",
    S8(i8) "s8" "an",
    S16(i16) "s16" "an",
    S32(i32) "s32" "an",
    S64(i64) "s64" "an",
    U8(u8) "u8" "a",
    U16(u16) "u16" "a",
    U32(u32) "u32" "a",
    U64(u64) "u64" "a",
    F32(f32) "f32" "an",
    F64(f64) "f64" "an",
    Char(char) "char" "a",
    String(String) "string" "a",
}

impl Value {
    /// Bytes that it needs beside what every value needs.
    pub fn length(&self) -> usize {
        match self {
            Value::String(text) => text.len(),
            _ => 0,
        }
    }

    /// As it stands in Redis: `u32:5`, `string:hello`; an `s64` is the number alone, which Redis can add to.
    pub fn encode(&self) -> String {
        match self {
            Value::S64(number) => number.to_string(),
            value => format!("{}:{}", value.kind().name(), value.text()),
        }
    }

    /// None: nothing that [`Value::encode`] makes.
    pub fn decode(text: &str) -> Option<Value> {
        match text.split_once(':') {
            Some((name, text)) => Value::parse(name, text),
            None => Value::parse("s64", text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let values = [
            Value::Bool(true),
            Value::S8(i8::MIN),
            Value::S64(i64::MIN),
            Value::S64(i64::MAX),
            Value::U64(u64::MAX),
            Value::F32(f32::MIN_POSITIVE),
            Value::F64(f64::MAX),
            Value::F64(f64::NEG_INFINITY),
            Value::Char('\u{10ffff}'),
            Value::Char(':'),
            Value::String(String::new()),
            Value::String("s64:1:\0\n你🦀".to_owned()),
        ];
        for value in values {
            assert_eq!(Value::decode(&value.encode()), Some(value));
        }
        let zero = Value::decode(&Value::F64(-0.0).encode());
        assert!(matches!(zero, Some(Value::F64(zero)) if zero == 0.0 && zero.is_sign_negative()), "{zero:?}");
        assert!(matches!(Value::decode(&Value::F32(f32::NAN).encode()), Some(Value::F32(nan)) if nan.is_nan()));
    }

    #[test]
    fn what_others_have_written_is_no_value() {
        for text in ["", "hello", "u8:256", "u8:", "bool:1", "list:1", "1.5", "9223372036854775808", "char:ab"] {
            assert_eq!(Value::decode(text), None, "{text}");
        }
    }
}
