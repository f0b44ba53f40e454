//! A limit of requests, for `wasm_access`: so many in a window of time, which begins with the first of them.
//!
//! ```toml
//! requests = 100                    # so many …
//! seconds = 60                      # … in so much time
//! by = "client_ip"                  # who is counted apart: a variable, such as `http_header_x_api_key`; this is the default
//! name = "default"                  # limits of one name count together, on all routes
//! ```
//!
//! The count is in the store: all instances share it, and with a store in Redis all proxies do. Requests in which the
//! variable is not known count together.
//!
//! In `wasm_http_filter_headers`, with the same configuration, it counts nothing and adds the header fields `ratelimit-policy`
//! and `ratelimit` (draft-ietf-httpapi-ratelimit-headers), so that clients know before they are refused. A response that has
//! `ratelimit` already, such as the 429 of another limit, keeps it.
//!
//! Verdicts: `ok`; `return` with 429, these two fields, `retry-after` in seconds and a line of text. A store that is full
//! or cannot be reached is a failure.

use std::num::NonZeroU32;

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host, store};
use serde::Deserialize;

export!(main: check);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    requests: NonZeroU32,
    seconds: NonZeroU32,
    #[serde(default = "client_ip")]
    by: String,
    #[serde(default)]
    name: Name,
}

fn check(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let key = config.key(host::variable(&config.by)?.as_deref().unwrap_or_default());
    if host::out_get_status().is_ok() {
        if host::out_is_header("ratelimit")? {
            return Ok(Verdict::Ok);
        }
        let count = store::get_s64(&key)?.unwrap_or(0);
        let [policy, state] = config.fields(count, config.wait(store::expires_in(&key)?));
        host::out_set_header("ratelimit-policy", &policy)?;
        host::out_set_header("ratelimit", &state)?;
        return Ok(Verdict::Ok);
    }
    let count = store::incr_with_expiry(&key, 1, config.window_ms())?;
    if count <= config.requests.get().into() {
        return Ok(Verdict::Ok);
    }
    let wait = config.wait(store::expires_in(&key)?);
    let [policy, state] = config.fields(count, wait);
    let response = Response::new(429)
        .header("retry-after", wait.to_string())
        .header("ratelimit-policy", policy)
        .header("ratelimit", state)
        .text("Too many requests.\n");
    host::out_set_response(&response)?;
    Ok(Verdict::Return)
}

impl Config {
    fn key(&self, who: &str) -> String {
        format!("rate_limit:{}:{who}", self.name.0)
    }

    fn window_ms(&self) -> u64 {
        u64::from(self.seconds.get()) * 1000
    }

    /// Seconds until the window ends, from the milliseconds that its key still lives; there is no key where there is no window.
    fn wait(&self, left_ms: Option<u64>) -> u64 {
        left_ms.unwrap_or(self.window_ms()).div_ceil(1000).max(1)
    }

    /// `ratelimit-policy` and `ratelimit`: quota and window; what remains, and for how long.
    fn fields(&self, count: i64, wait: u64) -> [String; 2] {
        let Self { requests, seconds, name: Name(name), .. } = self;
        let remaining = (i64::from(requests.get()) - count).max(0);
        [format!("\"{name}\";q={requests};w={seconds}"), format!("\"{name}\";r={remaining};t={wait}")]
    }
}

fn client_ip() -> String {
    "client_ip".to_owned()
}

/// What stands between quotes in a header field.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl Default for Name {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if text.is_empty() || !text.chars().all(word) {
            return Err(format!("`{text}` is no name, expected letters, digits, `_` and `-`"));
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<std::rc::Rc<Config>, String> {
        config(&Some(text.to_owned()))
    }

    #[test]
    fn what_clients_are_told() {
        let config = parsed("requests = 10\nseconds = 60\nname = 'api'").unwrap();
        assert_eq!(config.fields(3, 12), ["\"api\";q=10;w=60", "\"api\";r=7;t=12"]);
        assert_eq!(config.fields(11, 12)[1], "\"api\";r=0;t=12");
        assert_eq!([Some(1), Some(1000), Some(1001), Some(0), None].map(|ms| config.wait(ms)), [1, 1, 2, 1, 60]);
    }

    #[test]
    fn names_keep_counts_apart() {
        let config = parsed("requests = 1\nseconds = 1").unwrap();
        assert_eq!(
            (config.key("::1"), config.key("")),
            ("rate_limit:default:::1".into(), "rate_limit:default:".into())
        );
    }

    #[test]
    fn bad_configurations_are_explained() {
        for (text, expected) in [
            ("requests = 0\nseconds = 1", "configuration (TOML), line 1: "),
            ("requests = 1", "missing field `seconds`"),
            ("requests = 1\nseconds = 1\nname = 'a\"b'", "line 3: `a\"b` is no name"),
            ("requests = 1\nseconds = 1\nper = 'minute'", "unknown field `per`"),
        ] {
            let error = parsed(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
