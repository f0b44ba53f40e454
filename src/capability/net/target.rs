//! Where a plugin wants to connect to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::ServerName;

use super::NetError;

/// `host:port`, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// In lower case, without the final dot.
    Name(String),
    /// An IPv4 address is never written as IPv6.
    Ip(IpAddr),
}

impl Target {
    /// # Errors
    /// When it is not a host and a port from 1; IPv6 is in brackets.
    pub fn parse(text: &str) -> Result<Target, NetError> {
        let invalid = || NetError::Address(text.to_owned());
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() == 0 { Err(invalid()) } else { Ok(addr.into()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|number| *number > 0 && !port.starts_with('+')).ok_or_else(invalid)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        // What a resolver may make of other characters is anybody's guess.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(plain) {
            return Err(invalid());
        }
        Ok(Target { host: Host::Name(host.to_ascii_lowercase()), port })
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Target {
        Target { host: Host::Ip(addr.ip().to_canonical()), port: addr.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Host {
    /// The name that the certificate of the host must have.
    ///
    /// # Errors
    /// When no certificate can have it.
    pub fn server_name(&self) -> Result<ServerName<'static>, NetError> {
        match self {
            Host::Name(name) => server_name(name),
            Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

/// # Errors
/// When it is neither a DNS name nor an IP address.
pub fn server_name(name: &str) -> Result<ServerName<'static>, NetError> {
    ServerName::try_from(name.to_owned()).map_err(|_| NetError::ServerName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for (text, target) in [
            ("API.example.cn.:443", "api.example.cn:443"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(Target::parse(text).unwrap().to_string(), target, "{text}");
        }
        for text in
            ["", "a", "a:", ":80", "a:0", "a:+1", "a:65536", "::1:80", "a b:80", "ä:80", "a/b:80", "127.0.0.1:0"]
        {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
