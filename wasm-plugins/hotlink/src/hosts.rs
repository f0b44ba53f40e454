//! Hosts: in a Referer, and in patterns.

use serde::Deserialize;

/// The host of an absolute `http` or `https` URI, in lower case.
pub fn host_of(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    // A browser takes a backslash for a slash, so it ends the authority too.
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host_and_port = authority.rsplit('@').next()?;
    let host = if host_and_port.starts_with('[') {
        host_and_port.split_inclusive(']').next()?
    } else {
        host_and_port.split(':').next()?
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// `example.cn`, or `*.example.cn` for every subdomain of it.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub enum HostPattern {
    Exact(String),
    /// The domain with a dot in front.
    Subdomains(String),
}

impl HostPattern {
    /// Whether a host in lower case matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            Self::Subdomains(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = String;

    fn try_from(pattern: String) -> Result<Self, String> {
        let name = pattern.strip_prefix("*.").unwrap_or(&pattern);
        if host_of(&format!("http://{name}")).is_none_or(|host| host != name.to_ascii_lowercase()) || name.contains('*')
        {
            return Err(format!("`{pattern}` is no host, expected such as `example.cn` or `*.example.cn`"));
        }
        let name = name.to_ascii_lowercase();
        Ok(if pattern.starts_with("*.") { Self::Subdomains(format!(".{name}")) } else { Self::Exact(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_uri() {
        for (uri, host) in [
            ("https://example.cn/a", Some("example.cn")),
            ("HTTP://Example.CN.:80?x", Some("example.cn")),
            ("https://user:pass@example.cn:1/", Some("example.cn")),
            ("https://[::1]:8080/", Some("[::1]")),
            ("https://evil.com\\@example.cn/", Some("evil.com")),
            ("https:///path", None),
            ("ftp://example.cn/", None),
            ("example.cn", None),
        ] {
            assert_eq!(host_of(uri).as_deref(), host, "{uri}");
        }
    }

    #[test]
    fn patterns() {
        let pattern = |text: &str| HostPattern::try_from(text.to_owned());
        assert!(pattern("Example.cn").unwrap().matches("example.cn"));
        assert!(!pattern("*.example.cn").unwrap().matches("example.cn"));
        assert!(pattern("*.example.cn").unwrap().matches("a.example.cn"));
        for bad in ["", "*", "*.", "a.*", "example.cn:80", "example.cn/", "https://example.cn", "u@example.cn"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }
}
