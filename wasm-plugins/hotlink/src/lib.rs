//! Hotlink check, for `wasm_access`: only pages of the allowed hosts may embed what is served here.
//!
//! ```toml
//! allow = ["example.cn", "*.example.cn"]  # hosts of the Referer; `*.` is every subdomain, but not the domain itself
//! allow_empty = true                      # requests without a Referer: bookmarks, curl, privacy settings
//! status = 403                            # what the others get
//! ```
//!
//! Verdicts: `ok`; `return` with `status` and a line of text.

mod hosts;

use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

use hosts::{HostPattern, host_of};

export!(main: check);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    allow: Vec<HostPattern>,
    #[serde(default = "yes")]
    allow_empty: bool,
    #[serde(default)]
    status: Status,
}

fn yes() -> bool {
    true
}

/// A status of a refusal: 400 to 599.
#[derive(Deserialize)]
#[serde(try_from = "u16")]
struct Status(u16);

impl Default for Status {
    fn default() -> Self {
        Self(403)
    }
}

impl TryFrom<u16> for Status {
    type Error = String;

    fn try_from(status: u16) -> Result<Self, String> {
        match status {
            400..=599 => Ok(Self(status)),
            _ => Err(format!("{status} does not refuse a request, expected 400 to 599")),
        }
    }
}

fn check(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let referer = host::in_get_header("referer")?.unwrap_or_default();
    if config.allows(referer.trim()) {
        return Ok(Verdict::Ok);
    }
    let refusal = Response::new(config.status.0).text("This may not be embedded in pages of other sites.\n");
    host::out_set_response(&refusal)?;
    Ok(Verdict::Return)
}

impl Config {
    fn allows(&self, referer: &str) -> bool {
        if referer.is_empty() {
            return self.allow_empty;
        }
        host_of(referer).is_some_and(|host| self.allow.iter().any(|pattern| pattern.matches(&host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(referer: &str) -> bool {
        let text = r#"allow = ["example.cn", "*.example.com"]"#;
        config::<Config>(&Some(text.to_owned())).unwrap().allows(referer)
    }

    #[test]
    fn allowed_hosts_pass() {
        assert!(allows("https://example.cn/page"));
        assert!(allows("http://EXAMPLE.cn:8080"));
        assert!(allows("https://a.b.example.com/?q"));
        assert!(allows(""));
    }

    #[test]
    fn tricks_with_substrings_do_not() {
        assert!(!allows("https://example.cn.evil.com/"));
        assert!(!allows("https://notexample.cn/"));
        assert!(!allows("https://evil.com/example.cn"));
        assert!(!allows("https://example.cn@evil.com/"));
        assert!(!allows("https://evil.com?@example.cn"));
        assert!(!allows("https://evil.com#@example.cn"));
        assert!(!allows("https://evilexample.com/"));
        assert!(!allows("https://example.com/"));
        assert!(!allows("about:blank"));
    }

    #[test]
    fn a_bad_config_is_explained() {
        let error = |text: &str| config::<Config>(&Some(text.to_owned())).map(|_| ()).unwrap_err();
        assert!(error("").contains("missing field `allow`"));
        assert!(error("allow = []\nstatus = 200").contains("line 2: 200 does not refuse a request"));
        assert!(error("allow = [\"https://example.cn\"]").contains("`https://example.cn` is no host"));
    }
}
