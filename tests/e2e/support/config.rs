//! Pieces of configuration, to be put together with `format!`. Keys of the main level go in front of them.

use std::net::SocketAddr;
use std::path::Path;

/// One listener on any free port, for HTTP/1.1 and, for a client that knows, HTTP/2. All servers that have it share it.
pub const LISTEN: &str = r#"listen = [{ addr = "127.0.0.1:0", h2 = true }]"#;

/// A server with these locals, written as the body of the first `[[server.local]]`.
pub fn server(local: &str) -> String {
    format!("[[server]]\n{LISTEN}\n[[server.local]]\n{local}\n")
}

/// A server that sends everything to an origin.
pub fn proxy_to(origin: SocketAddr) -> String {
    server(&format!("path = \"/\"\nproxy_pass = \"{origin}\""))
}

/// A plugin of one script in this phase of the local above. More keys can follow it. Another level is asked for with its
/// table: `main.wasm_access`, `server.wasm_access`.
pub fn script(phase: &str, module: &Path, config: &str) -> String {
    let table = match phase.strip_prefix("main.") {
        Some(phase) => phase.to_owned(),
        None if phase.starts_with("server.") => phase.to_owned(),
        None => format!("server.local.{phase}"),
    };
    format!("[[{table}]]\nwasm_path = '{}'\nwasm_main_config = '''{config}'''\n", module.display())
}
