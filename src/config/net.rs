//! Entries of `allow.net`: where a script may connect to.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use toml::de::DeValue;

use super::leaf::Leaf;
use super::model::HostPattern;

/// Addresses or names, and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetRule {
    pub host: NetHost,
    pub ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetHost {
    Net(IpNet),
    Name(HostPattern),
}

impl NetRule {
    /// `host[:ports]`; the host of IPv6 in brackets; `ports` one, a range, or `*`.
    fn parse(text: &str) -> Option<NetRule> {
        let (host, ports) = match text.strip_prefix('[') {
            Some(text) => {
                let (host, ports) = text.split_once(']')?;
                (NetHost::Net(network(host).filter(|net| net.addr().is_ipv6())?), ports)
            }
            None => {
                let (host, ports) = text.split_at(text.find(':').unwrap_or(text.len()));
                (network(host).map(NetHost::Net).or_else(|| name(host).map(NetHost::Name))?, ports)
            }
        };
        let ports = if ports.is_empty() { ANY_PORT } else { self::ports(ports.strip_prefix(':')?)? };
        Some(NetRule { host, ports })
    }
}

impl Leaf for NetRule {
    const EXPECTED: &'static str =
        "a host, `*.` and a host, or an address or network, with a port, a range of ports or none";

    fn from_value(value: &DeValue) -> Option<Self> {
        NetRule::parse(value.as_str()?)
    }
}

/// The rules that are written so.
#[cfg(test)]
pub fn load_rules(texts: &[&str]) -> Vec<NetRule> {
    texts.iter().map(|text| NetRule::parse(text).expect(text)).collect()
}

const ANY_PORT: RangeInclusive<u16> = 1..=u16::MAX;

/// An address is a network of one.
pub fn network(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| ip.into()))?;
    // Addresses are compared as what they are mapped to, so that such a network has none.
    let mapped = matches!(net.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    (!mapped).then(|| net.trunc())
}

/// A name. One whose last label is a number is a misspelt address (the URL Standard, "ends in a number").
fn name(text: &str) -> Option<HostPattern> {
    let last = text.rsplit('.').next()?;
    if last.bytes().all(|byte| byte.is_ascii_digit()) { None } else { HostPattern::parse(text) }
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(ANY_PORT);
    }
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let net = |net: &str, ports| Some(NetRule { host: NetHost::Net(net.parse().unwrap()), ports });
        let name = |pattern, ports| Some(NetRule { host: NetHost::Name(pattern), ports });
        let exact = |host: &str| HostPattern::Exact(host.to_owned());
        for (text, rule) in [
            ("API.Example.cn", name(exact("api.example.cn"), ANY_PORT)),
            ("api.example.cn:*", name(exact("api.example.cn"), ANY_PORT)),
            ("localhost:443", name(exact("localhost"), 443..=443)),
            ("*.example.cn:8000-8999", name(HostPattern::Wildcard(".example.cn".to_owned()), 8000..=8999)),
            ("10.1.2.3/8:443", net("10.0.0.0/8", 443..=443)),
            ("10.1.2.3", net("10.1.2.3/32", ANY_PORT)),
            ("[2001:db8::/32]:443", net("2001:db8::/32", 443..=443)),
            ("[::1]", net("::1/128", ANY_PORT)),
        ] {
            assert_eq!(NetRule::parse(text), rule, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule() {
        for text in [
            "",
            "*",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:9-8",
            "a:1-",
            "a:1-2-3",
            "a b",
            "http://a",
            "a/b",
            "a.*.cn",
            "::1",
            "::1:443",
            "2001:db8::/32",
            "[10.0.0.1]",
            "[::1",
            "[::1]443",
            "[::ffff:10.0.0.1]",
            "[::ffff:0:0/96]",
            "10.0.0.0/33",
            "10.0.0",
            "300.1.1.1",
            "10.0.0/8",
            "[a.cn]:443",
        ] {
            assert_eq!(NetRule::parse(text), None, "{text}");
        }
    }
}
