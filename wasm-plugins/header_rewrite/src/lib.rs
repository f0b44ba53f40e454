//! Changes the request that goes upstream, for `wasm_http_in_headers`.
//!
//! ```toml
//! uri_prefix_strip = "/api"                  # /api/users?page=2 goes upstream as /users?page=2
//! remove = ["cookie"]
//! [set]                                      # replaces
//! x-forwarded-for = "${client_ip}"
//! [add]                                      # appends
//! via = "1.1 ${domain}"
//! ```
//!
//! `${NAME}` is a variable; one that is not known is empty. Values see the request as it came; then the order is
//! `remove`, `set`, `add`.
//!
//! Verdict: `ok`.

mod template;

use std::collections::BTreeMap;

use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

use template::Template;

export!(main: rewrite);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    uri_prefix_strip: Option<Prefix>,
    #[serde(default)]
    remove: Vec<String>,
    #[serde(default)]
    set: BTreeMap<String, Template>,
    #[serde(default)]
    add: BTreeMap<String, Template>,
}

/// A path without a slash at the end.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Prefix(String);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let prefix = path.trim_end_matches('/');
        if !path.starts_with('/') || prefix.is_empty() {
            return Err(format!("`{path}` is no prefix to strip, expected such as `/api`"));
        }
        Ok(Self(prefix.to_owned()))
    }
}

fn rewrite(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    let set = expand(&config.set)?;
    let add = expand(&config.add)?;
    host::in_del_headers(&config.remove)?;
    for (name, value) in &set {
        host::in_set_header(name, value)?;
    }
    host::in_add_headers(&add)?;
    if let Some(prefix) = &config.uri_prefix_strip {
        strip(prefix)?;
    }
    Ok(Verdict::Ok)
}

fn expand(headers: &BTreeMap<String, Template>) -> Result<Vec<(String, String)>, String> {
    headers.iter().map(|(name, value)| Ok((name.clone(), value.expand(host::variable)?))).collect()
}

fn strip(prefix: &Prefix) -> Result<(), String> {
    let uri = host::variable("http_request_uri")?.ok_or("the variable `http_request_uri` is not known")?;
    match prefix.stripped(&uri) {
        Some(uri) => host::in_set_uri(&uri),
        None => Ok(()),
    }
}

impl Prefix {
    /// The URI without the prefix; none when it does not begin with these path segments.
    fn stripped(&self, uri: &str) -> Option<String> {
        let rest = uri.strip_prefix(&self.0)?;
        match rest.bytes().next() {
            Some(b'/') => Some(rest.to_owned()),
            Some(b'?') | None => Some(format!("/{rest}")),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_whole_segments() {
        let prefix = Prefix::try_from("/api/".to_owned()).unwrap();
        assert_eq!(prefix.stripped("/api/a?b").as_deref(), Some("/a?b"));
        assert_eq!(prefix.stripped("/api").as_deref(), Some("/"));
        assert_eq!(prefix.stripped("/api?b").as_deref(), Some("/?b"));
        assert_eq!(prefix.stripped("/apis"), None);
        assert_eq!(prefix.stripped("/a/api"), None);
    }

    #[test]
    fn a_bad_config_is_explained() {
        let error = |text: &str| config::<Config>(&Some(text.to_owned())).map(|_| ()).unwrap_err();
        assert!(error("uri_prefix_strip = \"/\"").contains("line 1: `/` is no prefix"));
        let unclosed = error("[set]\nx-a = \"${client_ip\"");
        assert!(unclosed.contains("line 2: `${client_ip` has no `}`"), "{unclosed}");
        assert!(error("sets = {}").contains("unknown field `sets`"));
    }
}
