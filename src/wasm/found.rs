//! What a file has in it that is not what it should be.

use std::fmt;

/// What a file that is no plugin is.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Empty,
    NotWasm,
    WebAssemblyText,
    ProxyWasm(String),
    /// With a `main`: it ends, and what it has begun with it, at each call.
    Command,
    BareModule {
        exports: usize,
    },
}

impl Found {
    /// What bytes are that are not even WebAssembly.
    pub fn before_wasm(bytes: &[u8]) -> Option<Found> {
        match bytes {
            [] => Some(Found::Empty),
            [b'\0', b'a', b's', b'm', ..] => None,
            text if text.trim_ascii_start().starts_with(b"(") => Some(Found::WebAssemblyText),
            _ => Some(Found::NotWasm),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Empty => write!(f, "an empty file"),
            Found::NotWasm => write!(f, "a file that is not WebAssembly"),
            Found::WebAssemblyText => write!(f, "WebAssembly text, which has to be compiled first"),
            Found::ProxyWasm(version) => write!(f, "a Proxy-Wasm filter ({version})"),
            Found::Command => write!(f, "a command: it exports `_start`"),
            Found::BareModule { exports } => {
                write!(f, "a core module with {exports} exports and no component type section")
            }
        }
    }
}
