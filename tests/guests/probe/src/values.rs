//! The records and enums of the WIT files, as JSON.

use phasegate_plugin::http::{Method, Request, Response};
use serde::Deserialize;
use serde_json::{Value, json};

type Pairs = Vec<(String, String)>;

/// Declares an enum that is read by the names of the WIT files.
macro_rules! named {
    ($name:ident is $of:path { $($case:ident),+ $(,)? }) => {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($case),+ }

        impl From<$name> for $of {
            fn from(value: $name) -> Self {
                match value { $($name::$case => Self::$case),+ }
            }
        }
    };
}

named!(Level is phasegate_plugin::log::Level { Error, Warn, Info, Debug, Trace });
named!(Entry is phasegate_plugin::host::EntryPoint {
    WasmMain, WasmMainTimeout, WasmMainExt1, WasmMainExt2, WasmMainExt3,
});

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseArg {
    status: u16,
    headers: Option<Pairs>,
    body: Option<String>,
}

impl From<ResponseArg> for Response {
    fn from(ResponseArg { status, headers, body }: ResponseArg) -> Self {
        Self { status, headers, body: body.map(String::into_bytes) }
    }
}

pub fn request_value(request: Request) -> Value {
    let Request { method, uri, headers, params, body } = request;
    let method = match method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Put => "put",
        Method::Delete => "delete",
        Method::Patch => "patch",
        Method::Head => "head",
        Method::Options => "options",
    };
    json!({ "method": method, "uri": uri, "headers": headers, "params": params, "body": body.map(text) })
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(feature = "waits")]
pub use waits::*;

/// What only the functions that wait take and give.
#[cfg(feature = "waits")]
mod waits {
    use phasegate_plugin::websocket::Message;

    use super::*;

    named!(SocketKind is phasegate_plugin::socket::SocketType { Tcp, Ssl, Quic });
    named!(MethodArg is Method { Get, Post, Put, Delete, Patch, Head, Options });

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub struct RequestArg {
        method: MethodArg,
        uri: String,
        #[serde(default)]
        headers: Pairs,
        #[serde(default)]
        params: Pairs,
        body: Option<String>,
        /// A body of so many bytes, instead.
        body_length: Option<usize>,
    }

    impl From<RequestArg> for Request {
        fn from(RequestArg { method, uri, headers, params, body, body_length }: RequestArg) -> Self {
            let body = body.map(String::into_bytes).or_else(|| body_length.map(|length| vec![b'x'; length]));
            Self { method: method.into(), uri, headers, params, body }
        }
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum MessageArg {
        Text(String),
        Binary(String),
    }

    impl From<MessageArg> for Message {
        fn from(message: MessageArg) -> Self {
            match message {
                MessageArg::Text(text) => Self::Text(text),
                MessageArg::Binary(text) => Self::Binary(text.into_bytes()),
            }
        }
    }

    pub fn message_value(message: Message) -> Value {
        match message {
            Message::Text(value) => json!({ "text": value }),
            Message::Binary(bytes) => json!({ "binary": text(bytes) }),
        }
    }

    pub fn response_value(response: Response) -> Value {
        let Response { status, headers, body } = response;
        json!({ "status": status, "headers": headers, "body": body.map(text) })
    }

    /// A body that may be too large to be delivered.
    pub fn body(bytes: Vec<u8>) -> Value {
        json!({ "len": bytes.len(), "fnv": format!("{:016x}", fnv1a(&bytes)) })
    }

    fn fnv1a(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}
