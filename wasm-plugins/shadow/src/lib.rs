//! Shadow traffic, for `wasm_access_log`: another service gets a copy of every request, and nobody waits for what it says.
//!
//! ```toml
//! to = "http://10.0.0.7:8080"         # where to; a path goes before that of the request
//! headers = ["host", "user-agent"]    # fields that are copied (the default: none)
//! timeout_ms = 1000                   # how long the service has to answer (the default)
//! ```
//!
//! The copy has the method, the path and the query as the client sent them, and the body only when another plugin has read
//! it: what is not read goes to the upstream unseen. The script needs `allow = { net = ["10.0.0.7:8080"] }`.
//!
//! Verdict: `ok`. A copy that does not arrive is a line in the log, level warn.

use phasegate_plugin::http::{Request, handle_http};
use phasegate_plugin::socket::SocketType;
use phasegate_plugin::{Verdict, config, export, host, log};
use serde::Deserialize;

export!(main: copy);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    to: Service,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default = "one_second")]
    timeout_ms: u64,
}

fn one_second() -> u64 {
    1000
}

/// An absolute URI without a query.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Service {
    uri: String,
    transport: SocketType,
}

impl TryFrom<String> for Service {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let transport = match text.split_once("://") {
            _ if text.contains(['?', '#']) => None,
            Some(("http", _)) => Some(SocketType::Tcp),
            Some(("https", _)) => Some(SocketType::Ssl),
            _ => None,
        };
        let transport =
            transport.ok_or_else(|| format!("`{text}` is no service, expected such as `http://10.0.0.7:8080`"))?;
        Ok(Self { uri: text.trim_end_matches('/').to_owned(), transport })
    }
}

fn copy(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    if let Err(error) = config.send() {
        log::log_warn(&format!("no copy: {error}"));
    }
    Ok(Verdict::Ok)
}

impl Config {
    fn send(&self) -> Result<(), String> {
        let request = host::in_get_request()?;
        let copied = |name: &str| self.headers.iter().any(|header| header.eq_ignore_ascii_case(name));
        let copy = Request {
            method: request.method,
            uri: format!("{}{}", self.to.uri, request.uri),
            // They are in the URI already.
            params: Vec::new(),
            headers: request.headers.into_iter().filter(|(name, _)| copied(name)).collect(),
            body: request.body,
        };
        handle_http(self.to.transport, &copy, self.timeout_ms)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services() {
        for (text, uri, transport) in [
            ("http://a.cn:8080", "http://a.cn:8080", SocketType::Tcp),
            ("https://a.cn/base/", "https://a.cn/base", SocketType::Ssl),
        ] {
            let service = Service::try_from(text.to_owned()).unwrap();
            assert_eq!((service.uri.as_str(), service.transport), (uri, transport));
        }
        for text in ["", "a.cn", "ftp://a.cn", "http://a.cn/?a", "http://a.cn/#a"] {
            assert!(Service::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
