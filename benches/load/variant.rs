//! What is measured: proxies that differ in one thing each.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::Result;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// A Pingora proxy with nothing but an upstream.
    Bare,
    /// The same with the timeouts that Phasegate sets on its connections.
    BareTimeouts,
    Phasegate(Scripts),
}

/// The plugins of a Phasegate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scripts {
    pub name: &'static str,
    count: Count,
    /// The value of `instance`.
    instance: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    None,
    One,
    Six,
}

/// The scripts of `Count::Six` in their phases. `wasm_serverless` is not among them: it ends the request.
const SIX: [(&str, &[&str]); 5] = [
    ("wasm_access", &["rewrite_one", "rewrite_one"]),
    ("wasm_http_in_headers", &["rewrite_one"]),
    ("wasm_http_filter_headers_pre", &["rewrite_out"]),
    ("wasm_http_filter_headers", &["rewrite_out"]),
    ("wasm_access_log", &["read_out"]),
];

const ONE: [(&str, &[&str]); 1] = [("wasm_access", &["rewrite_one"])];

impl Variant {
    pub const ALL: [Variant; 7] = [
        Variant::Bare,
        Variant::BareTimeouts,
        Variant::Phasegate(Scripts { name: "none", count: Count::None, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "one", count: Count::One, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "six", count: Count::Six, instance: "reuse" }),
        Variant::Phasegate(Scripts { name: "one-fresh", count: Count::One, instance: "fresh" }),
        Variant::Phasegate(Scripts { name: "six-fresh", count: Count::Six, instance: "fresh" }),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Variant::Bare => "bare",
            Variant::BareTimeouts => "bare-timeouts",
            Variant::Phasegate(scripts) => scripts.name,
        }
    }

    pub fn title(self) -> String {
        match self {
            Variant::Bare => "bare Pingora".into(),
            Variant::BareTimeouts => "bare Pingora with timeouts".into(),
            Variant::Phasegate(Scripts { count: Count::None, .. }) => "Phasegate, no script".into(),
            Variant::Phasegate(Scripts { count: Count::One, instance, .. }) => format!("1 script, `{instance}`"),
            Variant::Phasegate(Scripts { count: Count::Six, instance, .. }) => format!("6 scripts, `{instance}`"),
        }
    }

    /// How many headers the upstream and the client get from plugins.
    pub fn added_headers(self) -> (usize, usize) {
        match self {
            Variant::Phasegate(Scripts { count: Count::One, .. }) => (1, 0),
            Variant::Phasegate(Scripts { count: Count::Six, .. }) => (3, 2),
            _ => (0, 0),
        }
    }
}

impl Scripts {
    /// A configuration file.
    pub fn config(&self, listen: SocketAddr, origin: SocketAddr) -> Result<String> {
        let mut config = format!(
            "threads = 1\nerror_log = \"warn\"\n[[server]]\nlisten = [{{ addr = \"{listen}\" }}]\n\
             [[server.local]]\npath = \"/\"\nproxy_pass = \"{origin}\"\n"
        );
        let chains: &[(&str, &[&str])] = match self.count {
            Count::None => &[],
            Count::One => &ONE,
            Count::Six => &SIX,
        };
        for (phase, guests) in chains {
            for (index, guest) in guests.iter().enumerate() {
                let (module, instance) = (module(guest)?, self.instance);
                write!(
                    config,
                    "[[server.local.{phase}]]\nname = \"{guest}-{index}\"\nwasm_path = '{module}'\ninstance = \"{instance}\"\n"
                )?;
            }
        }
        Ok(config)
    }
}

/// The file of a guest.
fn module(guest: &str) -> Result<String> {
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let file = guests.join(format!("target/wasm32-wasip1/release/{guest}.wasm"));
    if !file.exists() {
        return Err(format!(
            "{} is not there: build it with cargo build --target wasm32-wasip1 --release in {}",
            file.display(),
            guests.display()
        )
        .into());
    }
    Ok(file.display().to_string())
}
