//! Address lists, for `wasm_access`: who may connect, by the address of the client.
//!
//! ```toml
//! deny = ["203.0.113.0/24", "2001:db8::/32"]  # these are refused, whatever `allow` says
//! allow = ["10.0.0.0/8", "192.168.1.1"]       # when there is such a list, everybody else is refused
//! ```
//!
//! The address is the variable `client_ip`. An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.1`) counts as
//! IPv4, in the lists too.
//!
//! There has to be one of the lists at least: without both, everybody would have access.
//!
//! Verdicts: `ok`; `return` with 403 and a line of text. A client whose address is not known is a failure.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use phasegate_plugin::http::Response;
use phasegate_plugin::{Verdict, config, export, host};
use serde::Deserialize;

export!(main: check);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    deny: Vec<Network>,
    allow: Option<Vec<Network>>,
}

fn check(text: Option<String>) -> Result<Verdict, String> {
    let config = config::<Config>(&text)?;
    if config.deny.is_empty() && config.allow.is_none() {
        return Err("there is neither `deny` nor `allow`: everybody would have access".to_owned());
    }
    let client = host::variable("client_ip")?.ok_or("the variable `client_ip` is not known")?;
    let client = client.parse().map_err(|error| format!("`client_ip` is `{client}`: {error}"))?;
    if config.allows(client) {
        return Ok(Verdict::Ok);
    }
    host::out_set_response(&Response::new(403).text("Your address has no access.\n"))?;
    Ok(Verdict::Return)
}

impl Config {
    fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        let among = |networks: &[Network]| networks.iter().any(|network| network.0.contains(&client));
        !among(&self.deny) && self.allow.as_deref().is_none_or(among)
    }
}

/// A network, or a single address.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| {
                format!("`{text}` is no network, expected such as `10.0.0.0/8`, `2001:db8::/32` or a single address")
            })?,
        };
        Ok(Self(canonical(net)))
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn canonical(net: IpNet) -> IpNet {
    const MAPPED: u8 = Ipv6Addr::BITS as u8 - 32;
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(MAPPED)) {
        (IpAddr::V4(address), Some(prefix)) if net.addr().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<std::rc::Rc<Config>, String> {
        config(&Some(text.to_owned()))
    }

    fn allows(text: &str, client: &str) -> bool {
        parsed(text).unwrap().allows(client.parse().unwrap())
    }

    #[test]
    fn deny_wins() {
        let lists = r#"allow = ["10.0.0.0/8"]
                       deny = ["10.1.0.0/16"]"#;
        assert!(allows(lists, "10.0.0.1"));
        assert!(!allows(lists, "10.1.0.1"));
        assert!(!allows(lists, "192.0.2.1"));
    }

    #[test]
    fn without_an_allow_list_the_rest_passes() {
        assert!(allows("", "192.0.2.1"));
        assert!(allows("deny = [\"192.0.2.1\"]", "192.0.2.2"));
        assert!(!allows("deny = [\"192.0.2.1\"]", "192.0.2.1"));
        assert!(!allows("allow = []", "192.0.2.1"));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert!(!allows("deny = [\"192.0.2.0/24\"]", "::ffff:192.0.2.9"));
        assert!(!allows("deny = [\"::ffff:192.0.2.0/120\"]", "192.0.2.9"));
        assert!(!allows("deny = [\"::ffff:192.0.2.9\"]", "192.0.2.9"));
        assert!(!allows("deny = [\"2001:db8::/32\"]", "2001:db8::1"));
        assert!(allows("deny = [\"192.0.2.0/24\"]", "2001:db8::1"));
    }

    #[test]
    fn a_bad_network_is_explained() {
        let error = parsed("deny = []\nallow = [\"10.0.0.0/33\"]").map(|_| ()).unwrap_err();
        assert!(error.starts_with("configuration (TOML), line 2: `10.0.0.0/33` is no network"), "{error}");
    }
}
