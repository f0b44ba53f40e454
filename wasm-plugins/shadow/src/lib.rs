//! Shadow traffic, for `wasm_access_log`: another service gets a copy of every request, and nobody waits for what it says.
//!
//! ```toml
//! to = "http://10.0.0.7:8080"         # where to; a path goes before that of the request
//! headers = ["host", "user-agent"]    # fields that are copied, the first value of each (the default: none)
//! timeout_ms = 1000                   # how long the service has to answer (the default)
//! ```
//!
//! The copy has the method, the path and the query as the client sent them, and the body only when another plugin has read
//! it: what is not read goes to the upstream unseen. A field that is not UTF-8 is not copied. Fields that belong to a
//! connection, such as `content-length` and `connection`, are refused in `headers`: the copy has its own. The script needs
//! `allow = { net = ["10.0.0.7:8080"] }`.
//!
//! Verdict: `ok`. A copy that does not arrive is a line in the log, level warn.

use phasegate_plugin::http::{Method, Request, handle_http};
use phasegate_plugin::socket::SocketType;
use phasegate_plugin::{Verdict, config, export, host, log};
use serde::Deserialize;

export!(main: copy);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    to: Service,
    #[serde(default)]
    headers: Vec<Field>,
    #[serde(default = "one_second")]
    timeout_ms: u64,
}

fn one_second() -> u64 {
    1000
}

/// A header field that can be copied.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Field(String);

/// Fields of one connection, or of how a message is sent on it (RFC 9110, section 7.6.1; RFC 9112, section 6).
const OF_THE_CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl TryFrom<String> for Field {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if OF_THE_CONNECTION.iter().any(|field| name.eq_ignore_ascii_case(field)) {
            return Err(format!("`{name}` cannot be copied: it belongs to the connection, and the copy has its own"));
        }
        Ok(Self(name))
    }
}

impl Field {
    fn of_the_request(&self) -> Option<(String, String)> {
        let value = host::in_get_header(&self.0).ok()??;
        Some((self.0.clone(), value))
    }
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
        let known = |name: &str| host::variable(name).map(Option::unwrap_or_default);
        let copy = Request {
            method: method(&known("http_request_method")?)?,
            uri: format!("{}{}", self.to.uri, known("http_request_uri")?),
            // They are in the URI already.
            params: Vec::new(),
            headers: self.headers.iter().filter_map(Field::of_the_request).collect(),
            // In this phase it is an error that nobody has read it.
            body: host::in_body_read_exact().ok(),
        };
        handle_http(self.to.transport, &copy, self.timeout_ms)?;
        Ok(())
    }
}
/// # Errors
/// When no call can have it.
fn method(name: &str) -> Result<Method, String> {
    Ok(match name {
        "GET" => Method::Get,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "PATCH" => Method::Patch,
        "HEAD" => Method::Head,
        "OPTIONS" => Method::Options,
        _ => return Err(format!("a call cannot have the method {name}")),
    })
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
    #[test]
    fn fields_of_the_connection_are_not_copied() {
        for name in ["content-length", "Connection", "TRANSFER-ENCODING"] {
            let text = format!("to = 'http://a.cn'\nheaders = ['host', '{name}']");
            let error = config::<Config>(&Some(text)).map(|_| ()).unwrap_err();
            assert!(error.contains(&format!("`{name}` cannot be copied")), "{error}");
        }
        assert!(config::<Config>(&Some("to = 'http://a.cn'\nheaders = ['host', 'accept']".to_owned())).is_ok());
    }
}
