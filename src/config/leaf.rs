//! The values that a key can take, each with the words in which an error asks for it.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Uri};
use ipnet::IpNet;
use log::LevelFilter;
use redis::IntoConnectionInfo;
use toml::de::DeValue;

use super::model::{Balance, FailurePolicy, HostPattern, Instance, Instances, OnFailure};
use super::net::network;

pub trait Leaf: Sized {
    /// Completes "the key takes …".
    const EXPECTED: &'static str;

    fn from_value(value: &DeValue) -> Option<Self>;
}

impl Leaf for String {
    const EXPECTED: &'static str = "a string";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_bool()
    }
}

impl Leaf for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_value(value: &DeValue) -> Option<Self> {
        let number = value.as_integer()?;
        u64::from_str_radix(number.as_str(), number.radix()).ok()
    }
}

impl Leaf for u32 {
    const EXPECTED: &'static str = u64::EXPECTED;

    fn from_value(value: &DeValue) -> Option<Self> {
        u64::from_value(value)?.try_into().ok()
    }
}

impl Leaf for NonZeroU64 {
    const EXPECTED: &'static str = "a whole number from 1";

    fn from_value(value: &DeValue) -> Option<Self> {
        u64::from_value(value).and_then(NonZeroU64::new)
    }
}

/// In milliseconds.
impl Leaf for Duration {
    const EXPECTED: &'static str = NonZeroU64::EXPECTED;

    fn from_value(value: &DeValue) -> Option<Self> {
        NonZeroU64::from_value(value).map(|ms| Duration::from_millis(ms.get()))
    }
}

impl Leaf for NonZeroUsize {
    const EXPECTED: &'static str = NonZeroU64::EXPECTED;

    fn from_value(value: &DeValue) -> Option<Self> {
        NonZeroU64::from_value(value)?.try_into().ok()
    }
}

impl Leaf for NonZeroU16 {
    const EXPECTED: &'static str = "a whole number from 1 to 65535";

    fn from_value(value: &DeValue) -> Option<Self> {
        NonZeroU64::from_value(value)?.try_into().ok()
    }
}

/// A number of threads. Each costs files and memory, also when it has nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Threads(pub usize);

impl Leaf for Threads {
    const EXPECTED: &'static str = "a whole number from 1 to 1024";

    fn from_value(value: &DeValue) -> Option<Self> {
        u64::from_value(value)?.try_into().ok().filter(|threads| (1..=1024).contains(threads)).map(Threads)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl Leaf for Size {
    const EXPECTED: &'static str = "a size such as \"64MiB\", \"256KiB\" or a number of bytes";

    fn from_value(value: &DeValue) -> Option<Self> {
        let Some(text) = value.as_str() else {
            return u64::from_value(value)?.try_into().ok().map(Size);
        };
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor: usize = match unit.trim_start() {
            "B" | "" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<usize>().ok()?.checked_mul(factor).map(Size)
    }
}

/// The name of a plugin or script.
#[derive(Clone, Debug)]
pub struct Name(pub String);

impl Name {
    /// Whether a character would break a line of a log or of the metrics, in which names stand as they are.
    pub fn breaks(c: char) -> bool {
        c.is_control() || matches!(c, '"' | '\\')
    }
}

impl Leaf for Name {
    const EXPECTED: &'static str = "a name, which is not empty and has no quotes, backslashes or control characters";

    fn from_value(value: &DeValue) -> Option<Self> {
        let is_name = |name: &&str| !name.trim().is_empty() && !name.contains(Name::breaks);
        value.as_str().filter(is_name).map(|name| Name(name.to_owned()))
    }
}

/// The beginning of a path of a URI.
#[derive(Clone, Debug)]
pub struct UriPath(pub String);

impl Leaf for UriPath {
    const EXPECTED: &'static str = "a path that starts with \"/\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str().filter(|path| path.starts_with('/')).map(|path| UriPath(path.to_owned()))
    }
}

/// What to request of a server: a path, maybe with a query.
#[derive(Clone, Debug)]
pub struct Target(pub PathAndQuery);

impl Leaf for Target {
    const EXPECTED: &'static str = "a path that starts with \"/\", percent-encoded as it is requested";

    fn from_value(value: &DeValue) -> Option<Self> {
        let target = value.as_str().filter(|target| target.starts_with('/') && !target.contains('#'))?;
        target.parse().ok().map(Target)
    }
}

impl Leaf for SocketAddr {
    const EXPECTED: &'static str = "an IP address and a port, such as \"0.0.0.0:8080\" or \"[::]:8080\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// `host:port` of an upstream server.
#[derive(Clone, Debug)]
pub struct HostPort(pub String);

impl HostPort {
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse::<NonZeroU16>().ok().filter(|_| !port.starts_with('+'));
        let literal = text.parse::<SocketAddr>().is_ok();
        (port.is_some() && (literal || is_host(host))).then(|| HostPort(text.to_owned()))
    }
}

impl Leaf for HostPort {
    const EXPECTED: &'static str = "a host and a port, such as \"127.0.0.1:9001\" or \"origin.example.cn:80\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        HostPort::parse(value.as_str()?)
    }
}

/// The name of a host.
#[derive(Clone, Debug)]
pub struct Host(pub String);

impl Leaf for Host {
    const EXPECTED: &'static str = "a host name, such as \"origin.example.cn\", with no port";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str().filter(|name| is_host(name)).map(|name| Host(name.to_owned()))
    }
}

impl Leaf for HostPattern {
    const EXPECTED: &'static str = "a host name, or `*.` and a host name, with no port (non-ASCII names as `xn--…`)";

    fn from_value(value: &DeValue) -> Option<Self> {
        HostPattern::parse(value.as_str()?)
    }
}

impl HostPattern {
    pub fn parse(text: &str) -> Option<HostPattern> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) => {
                suffix.strip_prefix('.').filter(|host| is_host(host))?;
                Some(HostPattern::Wildcard(suffix.to_owned()))
            }
            None => {
                let v6 = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let v6 = v6.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok());
                (v6 || is_host(&text)).then_some(HostPattern::Exact(text))
            }
        }
    }
}

/// Whether it is a DNS name or an IPv4 address. `_` is no part of host names, but of many names in use.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl Leaf for IpNet {
    const EXPECTED: &'static str = "an IP address or a network such as \"10.0.0.0/8\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        network(value.as_str()?)
    }
}

impl Leaf for StatusCode {
    const EXPECTED: &'static str = "a status from 200 to 599";

    fn from_value(value: &DeValue) -> Option<Self> {
        final_status(u64::from_value(value)?)
    }
}

/// The status that a final response can have.
pub fn final_status(code: u64) -> Option<StatusCode> {
    let code = u16::try_from(code).ok().filter(|code| (200..600).contains(code))?;
    StatusCode::from_u16(code).ok()
}

impl Leaf for HeaderValue {
    const EXPECTED: &'static str = "a header's value, without control characters, and without blanks at its ends";

    /// As RFC 9110, section 5.5, has it.
    fn from_value(value: &DeValue) -> Option<Self> {
        let text = value.as_str().filter(|text| text.trim_matches([' ', '\t']) == *text)?;
        HeaderValue::from_str(text).ok()
    }
}

impl Leaf for LevelFilter {
    const EXPECTED: &'static str = "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

impl Leaf for Balance {
    const EXPECTED: &'static str = "\"round_robin\", \"random\", \"least_conn\" or \"hash\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str()? {
            "round_robin" => Some(Balance::RoundRobin),
            "random" => Some(Balance::Random),
            "least_conn" => Some(Balance::LeastConn),
            "hash" => Some(Balance::Hash),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreKind {
    #[default]
    Memory,
    Redis,
}

impl Leaf for StoreKind {
    const EXPECTED: &'static str = "\"memory\" or \"redis\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str()? {
            "memory" => Some(StoreKind::Memory),
            "redis" => Some(StoreKind::Redis),
            _ => None,
        }
    }
}

/// Where a Redis is, of a form that its client takes.
#[derive(Clone, Debug)]
pub struct RedisUrl(pub String);

impl Leaf for RedisUrl {
    const EXPECTED: &'static str = "an address such as \"redis://127.0.0.1:6379/0\", \"rediss://user:password@host:6380\" \
         or \"redis+unix:///run/redis.sock\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        let url = value.as_str()?;
        url.into_connection_info().is_ok().then(|| RedisUrl(url.to_owned()))
    }
}

impl Leaf for OnFailure {
    const EXPECTED: &'static str = "\"close\" or \"open\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str()? {
            "close" => Some(OnFailure::Close),
            "open" => Some(OnFailure::Open),
            _ => None,
        }
    }
}

impl Leaf for Instance {
    const EXPECTED: &'static str = "\"reuse\" or \"fresh\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str()? {
            "reuse" => Some(Instance::Reuse),
            "fresh" => Some(Instance::Fresh),
            _ => None,
        }
    }
}

impl Leaf for FailurePolicy {
    const EXPECTED: &'static str = "\"closed\", \"open\" or \"reload\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str()? {
            "closed" => Some(FailurePolicy::Closed),
            "open" => Some(FailurePolicy::Open),
            "reload" => Some(FailurePolicy::Reload),
            _ => None,
        }
    }
}

impl Leaf for Instances {
    const EXPECTED: &'static str = "a whole number from 1, or \"request\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        match value.as_str() {
            Some("request") => Some(Instances::Request),
            Some(_) => None,
            None => NonZeroUsize::from_value(value).map(|slots| Instances::Slots(slots.get())),
        }
    }
}

/// Where to fetch code from.
#[derive(Clone, Debug)]
pub struct HttpUrl(pub Uri);

impl Leaf for HttpUrl {
    const EXPECTED: &'static str = "an address such as \"https://plugins.example.cn/auth.wasm\"";

    fn from_value(value: &DeValue) -> Option<Self> {
        let uri: Uri = value.as_str()?.parse().ok()?;
        let authority = uri.authority()?.as_str();
        // A name and a password before the host would not be sent.
        let (before, port) = authority.split_once(uri.host().filter(|host| !host.is_empty())?)?;
        let port = port.is_empty() || port.strip_prefix(':')?.parse::<NonZeroU16>().is_ok();
        let http = matches!(uri.scheme_str(), Some("http" | "https"));
        (http && before.is_empty() && port).then_some(HttpUrl(uri))
    }
}

/// A SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sha256(pub [u8; 32]);

impl Leaf for Sha256 {
    const EXPECTED: &'static str = "a SHA-256: 64 hexadecimal digits, as `sha256sum` prints them";

    fn from_value(value: &DeValue) -> Option<Self> {
        let text = value.as_str()?.as_bytes();
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
        }
        Some(Sha256(bytes))
    }
}

/// The value of a variable of the environment.
#[derive(Clone, Debug)]
pub struct EnvValue(pub String);

impl Leaf for EnvValue {
    const EXPECTED: &'static str = "a string without a NUL";

    fn from_value(value: &DeValue) -> Option<Self> {
        value.as_str().filter(|text| !text.contains('\0')).map(|text| EnvValue(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<L: Leaf>(text: &str) -> Option<L> {
        L::from_value(DeValue::parse(text).unwrap().get_ref())
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("\"64MiB\"", 64 << 20),
            ("\"256 KiB\"", 256 << 10),
            ("\"0B\"", 0),
            ("\"0\"", 0),
            ("0", 0),
            ("\"12\"", 12),
            ("1_000", 1000),
        ] {
            assert_eq!(read::<Size>(text), Some(Size(bytes)), "{text}");
        }
        for text in ["\"64MB\"", "\"MiB\"", "\"\"", "\"1.5MiB\"", "\"-1MiB\"", "-1", "1.5", "\"99999999999999GiB\""] {
            assert_eq!(read::<Size>(text), None, "{text}");
        }
    }

    #[test]
    fn host_patterns() {
        let exact = |name: &str| Some(HostPattern::Exact(name.to_owned()));
        assert_eq!(read("\"WWW.Example.cn\""), exact("www.example.cn"));
        assert_eq!(read("\"127.0.0.1\""), exact("127.0.0.1"));
        assert_eq!(read("\"[::1]\""), exact("[::1]"));
        assert_eq!(read("\"*.a_b.cn\""), Some(HostPattern::Wildcard(".a_b.cn".to_owned())));
        for text in ["*", "*.", "", "a:80", "a..b", "www.*.cn", "*a.cn", "中.cn", "-a", "[1]", "a b", "a/"] {
            assert_eq!(read::<HostPattern>(&format!("{text:?}")), None, "{text}");
        }
    }

    #[test]
    fn host_and_port() {
        for text in ["127.0.0.1:80", "[::1]:80", "origin:9001", "a.b.cn:65535"] {
            assert!(HostPort::parse(text).is_some(), "{text}");
        }
        for text in ["origin", "origin:", ":80", "origin:0", "origin:65536", "::1:80", "http://a:80", "a b:80", "a:+80"]
        {
            assert!(HostPort::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn urls() {
        for text in ["http://a", "https://a.cn:8443/b/c.wasm?d=e", "http://127.0.0.1:1/", "https://[::1]:443/a"] {
            assert!(read::<HttpUrl>(&format!("{text:?}")).is_some(), "{text}");
        }
        for text in
            ["", "/a", "a.cn/b", "ftp://a", "https://", "https:///a", "http://a:0", "http://a:65536", "http://u:p@a"]
        {
            assert!(read::<HttpUrl>(&format!("{text:?}")).is_none(), "{text}");
        }
    }

    #[test]
    fn digests() {
        let digits = "00ff".repeat(16);
        let sha256 = read::<Sha256>(&format!("{digits:?}")).unwrap();
        assert_eq!(sha256.0[..2], [0, 255]);
        assert_eq!(read(&format!("{:?}", digits.to_uppercase())), Some(sha256));
        for text in ["", "00", &digits[1..], &format!("{digits}0"), &digits.replace('f', "g"), &"é".repeat(32)] {
            assert_eq!(read::<Sha256>(&format!("{text:?}")), None, "{text}");
        }
    }

    #[test]
    fn networks_and_statuses() {
        assert_eq!(read::<IpNet>("\"10.0.0.0/8\""), "10.0.0.0/8".parse().ok());
        assert_eq!(read::<IpNet>("\"::ffff:10.0.0.0/104\""), None);
        assert_eq!(read::<IpNet>("\"::1\""), "::1/128".parse().ok());
        assert_eq!(read::<IpNet>("\"10.0.0.0/33\""), None);
        assert_eq!(read::<StatusCode>("599").map(|status| status.as_u16()), Some(599));
        for text in ["101", "600", "\"200\"", "-200"] {
            assert_eq!(read::<StatusCode>(text), None, "{text}");
        }
    }
}
