//! Headers that make browsers careful, for `wasm_http_filter_headers`.
//!
//! ```toml
//! hide_server = true                         # default; removes server and x-powered-by
//! [headers]                                  # over the defaults; an empty value switches a default off
//! x-frame-options = "DENY"
//! referrer-policy = ""
//! content-security-policy = "default-src 'self'"
//! ```
//!
//! | default | |
//! |---|---|
//! | `x-content-type-options` | `nosniff` |
//! | `x-frame-options` | `SAMEORIGIN` |
//! | `referrer-policy` | `strict-origin-when-cross-origin` |
//! | `strict-transport-security` | `max-age=31536000` |
//!
//! A default leaves alone what the response already has, which may be stricter; what is configured replaces it.
//! `strict-transport-security` goes out only over TLS, and to clients that named a domain (RFC 6797, 7.2 and 8.1.1).
//!
//! Verdict: `ok`.

use std::collections::BTreeMap;

use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

export!(main: apply);

const HSTS: &str = "strict-transport-security";

const DEFAULTS: [(&str, &str); 4] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    (HSTS, "max-age=31536000"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default = "yes")]
    hide_server: bool,
    #[serde(default)]
    headers: Headers,
}

fn yes() -> bool {
    true
}

/// Values by names in lower case.
#[derive(Deserialize, Default)]
#[serde(from = "BTreeMap<String, String>")]
struct Headers(BTreeMap<String, String>);

impl From<BTreeMap<String, String>> for Headers {
    fn from(headers: BTreeMap<String, String>) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect())
    }
}

fn apply(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let over_tls = host::variable("ssl_domain")?.is_some_and(|domain| !domain.is_empty());
    for (name, value) in config.defaults(over_tls) {
        if !host::out_is_header(name)? {
            host::out_set_header(name, value)?;
        }
    }
    for (name, value) in config.overrides(over_tls) {
        host::out_set_header(name, value)?;
    }
    if config.hide_server {
        host::out_del_header("server")?;
        host::out_del_header("x-powered-by")?;
    }
    Ok(Verdict::Ok)
}

impl Config {
    fn defaults(&self, over_tls: bool) -> impl Iterator<Item = (&str, &str)> {
        DEFAULTS.into_iter().filter(move |(name, _)| !self.headers.0.contains_key(*name) && (over_tls || *name != HSTS))
    }

    fn overrides(&self, over_tls: bool) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .0
            .iter()
            .filter(move |(name, value)| !value.is_empty() && (over_tls || *name != HSTS))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_comes_instead_of_the_default() {
        let text = "[headers]\nX-Frame-Options = \"DENY\"\nreferrer-policy = \"\"\nx-own = \"1\"";
        let config = config::<Config>(&Some(text.to_owned())).unwrap();
        assert_eq!(config.defaults(false).collect::<Vec<_>>(), [("x-content-type-options", "nosniff")]);
        assert_eq!(config.overrides(false).collect::<Vec<_>>(), [("x-frame-options", "DENY"), ("x-own", "1")]);
    }

    #[test]
    fn hsts_only_over_tls() {
        for text in ["", "[headers]\nStrict-Transport-Security = \"max-age=1\""] {
            let config = config::<Config>(&Some(text.to_owned())).unwrap();
            let sent = |tls| config.defaults(tls).chain(config.overrides(tls)).any(|(name, _)| name == HSTS);
            assert!(sent(true) && !sent(false), "{text}");
        }
    }
}
