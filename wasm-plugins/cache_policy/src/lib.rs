//! Cache headers, for `wasm_http_filter_headers_pre`: how long what the upstream sent may be kept.
//!
//! ```toml
//! [[rule]]                                   # the first rule that matches is the one
//! content_type = "image/*"                   # or "text/html"; without it, any
//! status = [200, 304]                        # default: [200]
//! cache_control = "public, max-age=86400"
//! strip_cookies = true                       # removes set-cookie: what a cache shares is for everybody
//!
//! [[rule]]
//! cache_control = "no-store"
//! ```
//!
//! `expires` and `pragma` are removed where a rule matches: old caches believe them more than `cache-control`.
//!
//! Verdict: `ok`.

use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

export!(main: apply);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    rule: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    content_type: MediaRange,
    #[serde(default = "only_200")]
    status: Vec<u16>,
    cache_control: String,
    #[serde(default)]
    strip_cookies: bool,
}

fn only_200() -> Vec<u16> {
    vec![200]
}

fn apply(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let status = host::out_get_status()?;
    let content_type = host::out_get_header("content-type")?.unwrap_or_default();
    if let Some(rule) = config.rule_for(status, &content_type) {
        host::out_set_header("cache-control", &rule.cache_control)?;
        host::out_del_header("expires")?;
        host::out_del_header("pragma")?;
        if rule.strip_cookies {
            host::out_del_header("set-cookie")?;
        }
    }
    Ok(Verdict::Ok)
}

impl Config {
    fn rule_for(&self, status: u16, content_type: &str) -> Option<&Rule> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        self.rule.iter().find(|rule| rule.status.contains(&status) && rule.content_type.contains(&media_type))
    }
}

/// What `accept` calls a media range.
#[derive(Deserialize, Default)]
#[serde(try_from = "String")]
enum MediaRange {
    #[default]
    Any,
    /// Such as `image/`.
    Type(String),
    Exact(String),
}

impl MediaRange {
    /// Whether a media type in lower case, without parameters, is in it.
    fn contains(&self, media_type: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Type(prefix) => media_type.starts_with(prefix),
            Self::Exact(exact) => media_type == exact,
        }
    }
}

impl TryFrom<String> for MediaRange {
    type Error = String;

    fn try_from(range: String) -> Result<Self, String> {
        let lower = range.to_ascii_lowercase();
        match lower.split_once('/') {
            Some(("*", "*")) => Ok(Self::Any),
            Some((kind, "*")) if is_token(kind) => Ok(Self::Type(format!("{kind}/"))),
            Some((kind, subtype)) if is_token(kind) && is_token(subtype) => Ok(Self::Exact(lower)),
            _ => Err(format!("`{range}` is no media type, expected such as `text/html` or `image/*`")),
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache_control(status: u16, content_type: &str) -> Option<String> {
        let text = r#"
            [[rule]]
            content_type = "image/*"
            status = [200, 304]
            cache_control = "images"
            [[rule]]
            content_type = "Text/HTML"
            cache_control = "pages"
            [[rule]]
            status = [404]
            cache_control = "missing"
        "#;
        let config = config::<Config>(&Some(text.to_owned())).unwrap();
        config.rule_for(status, content_type).map(|rule| rule.cache_control.clone())
    }

    #[test]
    fn the_first_rule_that_matches() {
        assert_eq!(cache_control(304, "image/png").as_deref(), Some("images"));
        assert_eq!(cache_control(200, "TEXT/html; charset=utf-8").as_deref(), Some("pages"));
        assert_eq!(cache_control(404, "").as_deref(), Some("missing"));
        assert_eq!(cache_control(404, "image/png").as_deref(), Some("missing"));
        assert_eq!(cache_control(200, "imagex/png"), None);
        assert_eq!(cache_control(500, "text/html"), None);
    }

    #[test]
    fn a_bad_config_is_explained() {
        let error = |text: &str| config::<Config>(&Some(text.to_owned())).map(|_| ()).unwrap_err();
        assert!(
            error("[[rule]]\ncache_control = \"x\"\ncontent_type = \"*/png\"").contains("line 3: `*/png` is no media")
        );
        assert!(error("[[rule]]\n").contains("missing field `cache_control`"));
        assert!(error("").contains("missing field `rule`"));
    }
}
