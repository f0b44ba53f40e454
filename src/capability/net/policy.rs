//! The network policy: where a script may connect to. Everything is denied that `allow.net` does not name.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::target::{Host, Target};
use crate::config::{HostPattern, NetHost, NetRule};

/// The `allow.net` of one script.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<NetRule>,
}

/// A connection that `allow.net` does not permit; as text, with what to add to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    target: Target,
    /// What the name was resolved to.
    ip: Option<IpAddr>,
    /// What keeps a name from being enough.
    special: Option<&'static str>,
}

impl Policy {
    pub fn new(rules: Vec<NetRule>) -> Policy {
        Policy { rules }
    }

    /// For what the configuration itself names, and no plugin has a hand in.
    pub fn everything() -> Policy {
        let net = |ip: IpAddr| IpNet::new_assert(ip, 0);
        let hosts = [net(Ipv4Addr::UNSPECIFIED.into()), net(Ipv6Addr::UNSPECIFIED.into())].map(NetHost::Net);
        Policy { rules: hosts.map(|host| NetRule { host, ports: 1..=u16::MAX }).into() }
    }

    /// Whether any address of the target could be permitted. A name that has no chance is not even looked up: the question
    /// would tell its name server something already.
    ///
    /// # Errors
    /// When none could.
    pub fn check_before_lookup(&self, target: &Target) -> Result<(), Denied> {
        let possible = match &target.host {
            Host::Name(name) => {
                self.names(name, target.port) || self.rules_for(target.port).any(|host| matches!(host, NetHost::Net(_)))
            }
            Host::Ip(ip) => self.contains(*ip, target.port),
        };
        if possible { Ok(()) } else { Err(Denied { target: target.clone(), ip: None, special: None }) }
    }

    /// Whether the target may be connected to at this address of it.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, target: &Target, ip: IpAddr) -> Result<(), Denied> {
        let ip = ip.to_canonical();
        if self.contains(ip, target.port) {
            return Ok(());
        }
        let named = matches!(&target.host, Host::Name(name) if self.names(name, target.port));
        match special(ip) {
            None if named => Ok(()),
            special => Err(Denied { target: target.clone(), ip: Some(ip), special }),
        }
    }

    fn contains(&self, ip: IpAddr, port: u16) -> bool {
        self.rules_for(port).any(|host| matches!(host, NetHost::Net(net) if net.contains(&ip)))
    }

    fn names(&self, name: &str, port: u16) -> bool {
        self.rules_for(port).any(|host| match host {
            NetHost::Name(HostPattern::Exact(exact)) => name == exact,
            NetHost::Name(HostPattern::Wildcard(suffix)) => name.len() > suffix.len() && name.ends_with(suffix),
            NetHost::Net(_) => false,
        })
    }

    fn rules_for(&self, port: u16) -> impl Iterator<Item = &NetHost> {
        self.rules.iter().filter(move |rule| rule.ports.contains(&port)).map(|rule| &rule.host)
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Denied { target, ip, special } = self;
        let port = target.port;
        write!(f, "allow.net does not permit {target}")?;
        let entry = match (&target.host, ip, special) {
            (Host::Ip(_), ..) => target.to_string(),
            (Host::Name(_), Some(ip), Some(special)) => {
                write!(f, " ({ip}, {special} address, for which the name is not enough)")?;
                Target::from(SocketAddr::new(*ip, port)).to_string()
            }
            (Host::Name(name), Some(ip), None) => {
                write!(f, " ({ip})")?;
                if is_rule(name) { target.to_string() } else { Target::from(SocketAddr::new(*ip, port)).to_string() }
            }
            (Host::Name(name), None, _) if is_local(name) => {
                write!(f, " (a loopback address, for which the name is not enough)")?;
                format!("127.0.0.1:{port}\", \"[::1]:{port}")
            }
            (Host::Name(name), None, _) if !is_rule(name) => {
                return write!(
                    f,
                    ", which is no name: add the address that it stands for, such as net = [\"127.0.0.1:{port}\"], to \
                     `allow` of this script"
                );
            }
            (Host::Name(_), None, _) => target.to_string(),
        };
        write!(f, ": add net = [\"{entry}\"] to `allow` of this script")
    }
}

/// Whether `allow.net` can have this name: resolvers take more, such as `127.1`.
fn is_rule(name: &str) -> bool {
    let is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    !is_number && HostPattern::parse(name).is_some()
}

/// Whether the name leads to the machine itself wherever it is resolved (RFC 6761, section 6.3).
fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// What kind of address it is, if none of the public internet: a name that is permitted must not lead into the machine or
/// the network that the proxy stands in, whatever its name server says (the registries of special-purpose addresses, RFC
/// 6890).
fn special(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [127, ..] => "a loopback",
        [169, 254, ..] => "a link-local",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private",
        [100, 64..=127, ..] => "a carrier's private",
        [0, ..] => "an unspecified",
        [224..=239, ..] => "a multicast",
        [192, 0, 0, _] | [198, 18..=19, ..] | [240..=255, ..] => "a reserved",
        _ => return None,
    })
}

fn special_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "an unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "a loopback",
        // IPv4 within IPv6 is judged as what it leads to: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            return embedded(high, low);
        }
        // A NAT64 of the network's own (RFC 8215), and Teredo (RFC 4380), which hides the address.
        [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] => "a reserved",
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => "a private",
        [0xfe80..=0xfebf, ..] => "a link-local",
        [0xff00..=0xffff, ..] => "a multicast",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_rules;

    fn policy(rules: &[&str]) -> Policy {
        Policy::new(load_rules(rules))
    }

    fn allowed(rules: &[&str], target: &str, ip: &str) -> bool {
        let (policy, target) = (policy(rules), Target::parse(target).unwrap());
        let before = policy.check_before_lookup(&target).is_ok();
        let allowed = policy.check(&target, ip.parse().unwrap()).is_ok();
        assert!(before || !allowed, "what is refused before the lookup would be permitted after it");
        allowed
    }

    #[test]
    fn everything_is_permitted_to_the_configuration() {
        for target in ["a.cn:1", "localhost:80", "127.0.0.1:65535", "[::1]:80"] {
            let target = Target::parse(target).unwrap();
            let policy = Policy::everything();
            assert_eq!(policy.check_before_lookup(&target), Ok(()), "{target}");
            for ip in ["10.0.0.1", "2001:db8::1", "::ffff:127.0.0.1"] {
                assert_eq!(policy.check(&target, ip.parse().unwrap()), Ok(()), "{target} {ip}");
            }
        }
    }

    #[test]
    fn nothing_is_permitted_by_default() {
        for (target, ip) in [("a.cn:80", "203.0.113.7"), ("127.0.0.1:80", "127.0.0.1"), ("[::1]:80", "::1")] {
            assert!(!allowed(&[], target, ip));
            assert!(policy(&[]).check_before_lookup(&Target::parse(target).unwrap()).is_err());
        }
    }

    #[test]
    fn names() {
        for (rule, target, ok) in [
            ("api.a.cn", "API.a.cn:1", true),
            ("api.a.cn", "api.a.cn.:1", true),
            ("api.a.cn:443", "api.a.cn:443", true),
            ("api.a.cn:443", "api.a.cn:80", false),
            ("api.a.cn:80-90", "api.a.cn:85", true),
            ("api.a.cn:80-90", "api.a.cn:91", false),
            ("api.a.cn", "x.api.a.cn:1", false),
            ("*.a.cn", "x.y.a.cn:1", true),
            ("*.a.cn", "a.cn:1", false),
            ("*.a.cn", "xa.cn:1", false),
        ] {
            assert_eq!(allowed(&[rule], target, "203.0.113.7"), ok, "{rule} {target}");
        }
    }

    #[test]
    fn networks_go_by_the_address() {
        for (rule, target, ip, ok) in [
            ("203.0.113.0/24:443", "a.cn:443", "203.0.113.7", true),
            ("203.0.113.0/24:443", "a.cn:443", "198.51.100.1", false),
            ("203.0.113.0/24:443", "a.cn:80", "203.0.113.7", false),
            ("10.0.0.0/8", "10.1.2.3:80", "10.1.2.3", true),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]:80", "::ffff:10.1.2.3", true),
            ("[2001:db8::/32]:443", "[2001:db8::1]:443", "2001:db8::1", true),
            ("[2001:db8::/32]:443", "[2001:db9::1]:443", "2001:db9::1", false),
            ("[::/0]", "10.0.0.1:1", "10.0.0.1", false),
        ] {
            assert_eq!(allowed(&[rule], target, ip), ok, "{rule} {target} {ip}");
        }
    }

    #[test]
    fn a_name_does_not_lead_into_the_network_by_itself() {
        for ip in [
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "fec0::1",
        ] {
            assert!(!allowed(&["a.cn"], "a.cn:80", ip), "{ip}");
            assert!(!allowed(&["*.cn"], "a.cn:80", ip), "{ip}");
            let net = if ip.parse::<IpAddr>().unwrap().to_canonical().is_ipv6() { "[::/0]" } else { "0.0.0.0/0" };
            assert!(allowed(&["a.cn", net], "a.cn:80", ip), "{ip}");
        }
        for ip in ["203.0.113.7", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::808:808", "2002:808:808::"] {
            assert!(allowed(&["a.cn"], "a.cn:80", ip), "{ip}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_add() {
        let refusal = |rules: &[&str], target: &str, ip: Option<&str>| {
            let (policy, target) = (policy(rules), Target::parse(target).unwrap());
            match ip {
                Some(ip) => policy.check(&target, ip.parse().unwrap()).unwrap_err().to_string(),
                None => policy.check_before_lookup(&target).unwrap_err().to_string(),
            }
        };
        for (text, expected) in [
            (
                refusal(&[], "api.a.cn:443", None),
                "allow.net does not permit api.a.cn:443: add net = [\"api.a.cn:443\"] to `allow` of this script",
            ),
            (
                refusal(&["10.0.0.0/8"], "api.a.cn:443", Some("203.0.113.7")),
                "allow.net does not permit api.a.cn:443 (203.0.113.7): add net = [\"api.a.cn:443\"] to `allow` of this script",
            ),
            (
                refusal(&["api.a.cn"], "api.a.cn:443", Some("fd00::1")),
                "allow.net does not permit api.a.cn:443 (fd00::1, a private address, for which the name is not enough): \
                 add net = [\"[fd00::1]:443\"] to `allow` of this script",
            ),
            (
                refusal(&["10.0.0.0/8"], "localhost:443", Some("127.0.0.1")),
                "allow.net does not permit localhost:443 (127.0.0.1, a loopback address, for which the name is not enough): \
                 add net = [\"127.0.0.1:443\"] to `allow` of this script",
            ),
            (
                refusal(&[], "localhost:443", None),
                "allow.net does not permit localhost:443 (a loopback address, for which the name is not enough): \
                 add net = [\"127.0.0.1:443\", \"[::1]:443\"] to `allow` of this script",
            ),
            (
                refusal(&[], "127.1:443", None),
                "allow.net does not permit 127.1:443, which is no name: add the address that it stands for, such as \
                 net = [\"127.0.0.1:443\"], to `allow` of this script",
            ),
            (
                refusal(&["10.0.0.0/8"], "2130706433:443", Some("127.0.0.1")),
                "allow.net does not permit 2130706433:443 (127.0.0.1, a loopback address, for which the name is not enough): \
                 add net = [\"127.0.0.1:443\"] to `allow` of this script",
            ),
            (
                refusal(&["10.0.0.0/8"], "3405803783:443", Some("203.0.113.7")),
                "allow.net does not permit 3405803783:443 (203.0.113.7): add net = [\"203.0.113.7:443\"] to `allow` of this \
                 script",
            ),
            (
                refusal(&[], "[::1]:443", None),
                "allow.net does not permit [::1]:443: add net = [\"[::1]:443\"] to `allow` of this script",
            ),
        ] {
            assert_eq!(text, expected);
            let list =
                text.split_once("net = [").and_then(|(_, rest)| rest.split_once("] to").or(rest.split_once("], to")));
            for entry in list.unwrap().0.split(", ") {
                load_rules(&[entry.trim_matches('"')]);
            }
        }
    }

    #[test]
    fn what_a_refusal_says_to_add_is_enough() {
        for (rules, target, ips) in [
            (&["127.0.0.1:443", "[::1]:443"][..], "localhost:443", &["127.0.0.1", "::1"][..]),
            (&["127.0.0.1:443"], "127.1:443", &["127.0.0.1"]),
            (&["203.0.113.7:443"], "3405803783:443", &["203.0.113.7"]),
        ] {
            for ip in ips {
                assert!(allowed(rules, target, ip), "{target} {ip}");
            }
        }
    }
}
