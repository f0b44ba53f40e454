//! A configuration of many routes, for tests that try one thing after another on one proxy.

use std::fmt;
use std::net::SocketAddr;

use super::{LISTEN, guests, plugins};

/// One server; its routes are written one after another.
#[derive(Default)]
pub struct Site {
    main: String,
    listen: Option<String>,
    routes: String,
}

impl Site {
    pub fn new() -> Site {
        Site::default()
    }

    /// With keys of the main level.
    pub fn with(main: &str) -> Site {
        Site { main: format!("{main}\n"), ..Site::default() }
    }

    /// Listens on this instead of one port without TLS.
    pub fn listen(&mut self, listen: String) {
        self.listen = Some(listen);
    }

    /// A route that sends its requests to an origin.
    pub fn proxied(&mut self, path: &str, origin: SocketAddr) -> &mut Site {
        self.route(path, &format!("proxy_pass = \"{origin}\""))
    }

    /// A route that answers `200 hello`.
    pub fn answered(&mut self, path: &str) -> &mut Site {
        self.route(path, "respond = { status = 200, body = \"hello\" }")
    }

    /// A route; plugins that follow belong to it.
    pub fn route(&mut self, path: &str, handler: &str) -> &mut Site {
        self.routes += &format!("[[server.local]]\npath = \"{path}\"\n{handler}\n");
        self
    }

    /// A Proxy-Wasm filter: its table.
    pub fn filter(&mut self, table: &str) -> &mut Site {
        self.routes += &format!("{table}\n");
        self
    }

    /// A plugin of one script.
    pub fn script(&mut self, phase: &str, script: Script) -> &mut Site {
        self.routes += &format!("[[server.local.{phase}]]\n{}\n", script.keys.join("\n"));
        self
    }

    /// A plugin of many scripts.
    pub fn plugin(&mut self, phase: &str, name: &str, scripts: impl IntoIterator<Item = Script>) -> &mut Site {
        let scripts: Vec<_> =
            scripts.into_iter().map(|script| format!("  {{ {} }},\n", script.keys.join(", "))).collect();
        self.routes += &format!("[[server.local.{phase}]]\nname = \"{name}\"\nwasm = [\n{}]\n", scripts.concat());
        self
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen = self.listen.as_deref().unwrap_or(LISTEN);
        write!(f, "{}[[server]]\n{listen}\n{}", self.main, self.routes)
    }
}

/// A script: keys of the configuration.
#[derive(Clone)]
pub struct Script {
    keys: Vec<String>,
}

impl Script {
    /// Of a test guest.
    pub fn guest(guest: &str, name: &str) -> Script {
        let keys = vec![format!("wasm_path = '{}'", guests::path(guest).display()), format!("name = \"{name}\"")];
        Script { keys }
    }

    /// Of a plugin that comes with the proxy; it has its own name.
    pub fn plugin(plugin: &str) -> Script {
        Script { keys: vec![format!("wasm_path = '{}'", plugins::path(plugin).display())] }
    }

    /// The same under another name.
    pub fn renamed(mut self, name: &str) -> Script {
        self.keys.retain(|key| !key.starts_with("name ="));
        self.key(format!("name = \"{name}\""))
    }

    /// With a configuration for `wasm-main`.
    pub fn main(self, config: impl fmt::Display) -> Script {
        self.key(format!("wasm_main_config = '''{config}'''"))
    }

    /// With another key.
    pub fn key(mut self, key: impl Into<String>) -> Script {
        self.keys.push(key.into());
        self
    }
}
