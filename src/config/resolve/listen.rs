use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::Context;
use crate::config::model::{HostPattern, Listen, Tls};
use crate::config::{Diagnostic, Span, schema};

/// What the servers so far listen on.
#[derive(Default)]
pub struct Listeners {
    /// Those with a port of their own, in the order of the file.
    by_address: Vec<(SocketAddr, Protocol)>,
    names: HashSet<(SocketAddr, bool, HostPattern)>,
    /// They have a default server.
    addresses: HashSet<(SocketAddr, bool)>,
}

/// What is spoken at an address.
#[derive(Clone, Copy)]
struct Protocol {
    tls: bool,
    h2: bool,
}

impl Listeners {
    fn at(&self, addr: SocketAddr) -> Option<Protocol> {
        self.by_address.iter().find(|(other, _)| *other == addr).map(|(_, protocol)| *protocol)
    }

    /// Another address that cannot be listened on beside this one.
    fn overlapping(&self, addr: SocketAddr) -> Option<SocketAddr> {
        self.by_address.iter().map(|(other, _)| *other).find(|other| *other != addr && overlap(*other, addr))
    }
}

/// Whether the two have an address in common. The wildcard of IPv6 takes IPv4 as well.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |wildcard: IpAddr, ip: IpAddr| wildcard.is_unspecified() && (wildcard.is_ipv6() || ip.is_ipv4());
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    one.port() == other.port() && one.port() != 0 && (a == b || takes(a, b) || takes(b, a))
}

impl Context<'_> {
    pub fn listen(&mut self, listen: schema::Listen) -> Option<Listen> {
        let tls = listen.tls.map(|tls| {
            let cert = tls.cert.and_then(|cert| self.file("the certificate", &cert));
            let key = tls.key.and_then(|key| self.file("the private key", &key));
            cert.zip(key).map(|(cert, key)| Tls { cert, key })
        });
        let addr = listen.addr?;
        let tls = match tls {
            Some(tls) => Some(tls?),
            None => None,
        };
        Some(Listen { addr: *addr.get_ref(), tls, h2: listen.h2.unwrap_or(false), span: addr.span() })
    }

    /// Servers on one address must speak the same there.
    pub fn check_listeners(&mut self, listen: &[Listen], listeners: &mut Listeners) {
        for listen in listen.iter().filter(|listen| listen.addr.port() != 0) {
            let protocol = Protocol { tls: listen.tls.is_some(), h2: listen.h2 };
            match listeners.at(listen.addr) {
                Some(before) => self.check_protocols(listen, protocol, before),
                None => {
                    self.check_overlap(listen, listeners);
                    listeners.by_address.push((listen.addr, protocol));
                }
            }
        }
    }

    fn check_protocols(&mut self, Listen { addr, span, .. }: &Listen, here: Protocol, before: Protocol) {
        let (here, before, what, help) = if here.tls != before.tls {
            (here.tls, before.tls, "TLS", "use another port for one of the two")
        } else if here.h2 != before.h2 {
            (
                here.h2,
                before.h2,
                "HTTP/2",
                "write `h2 = true` at both or at none, or use another port for one of the two",
            )
        } else {
            return;
        };
        let word = |with| if with { "with" } else { "without" };
        let message = format!("{addr} is listened on {} {what} here and {} {what} before", word(here), word(before));
        self.error(Diagnostic::error(span.clone(), message).help(help));
    }

    fn check_overlap(&mut self, Listen { addr, span, .. }: &Listen, listeners: &Listeners) {
        if let Some(other) = listeners.overlapping(*addr) {
            let message = format!("{addr} cannot be listened on beside {other}, which is listened on before");
            self.error(Diagnostic::error(span.clone(), message).help(OVERLAP));
        }
    }

    pub fn check_admin(&mut self, admin: &Spanned<SocketAddr>, listeners: &Listeners) {
        let (addr, span) = (*admin.get_ref(), admin.span());
        if listeners.at(addr).is_some_and(|_| addr.port() != 0) {
            let message = format!("a server listens on {addr} too");
            self.error(Diagnostic::error(span, message).help("give the admin endpoint a port of its own"));
        } else if let Some(other) = listeners.overlapping(addr) {
            let message = format!("{addr} cannot be listened on beside {other}, on which a server listens");
            self.error(Diagnostic::error(span, message).help(OVERLAP));
        }
    }

    /// A server without a name is chosen only where it is the first to listen.
    pub fn check_default(&mut self, server: &Span, listen: &[Listen], named: bool, listeners: &mut Listeners) {
        let first = |listen: &&Listen| listeners.addresses.insert((listen.addr, listen.tls.is_some()));
        let first = listen.iter().filter(first).count();
        if first == 0 && !listen.is_empty() && !named {
            let message = "the server is never chosen: it has no name, and is the first on none of its addresses";
            let help = "add `name = [\"www.example.cn\"]`";
            self.diagnostics.push_absent(Diagnostic::warning(server.clone(), message).help(help));
        }
    }

    pub fn check_names(&mut self, listen: &[Listen], names: &[Spanned<HostPattern>], listeners: &mut Listeners) {
        for name in names {
            let taken =
                |listen: &&Listen| !listeners.names.insert((listen.addr, listen.tls.is_some(), name.get_ref().clone()));
            // Every address has to be entered, hence no `find`.
            let taken: Vec<_> = listen.iter().filter(taken).collect();
            if let Some(listen) = taken.first() {
                let message = format!("this name is already taken on {}", listen.addr);
                let help = "a name stands for one server: remove it here or there";
                self.error(Diagnostic::error(name.span(), message).help(help));
            }
        }
    }
}

const OVERLAP: &str = "`0.0.0.0` takes the port on every address of IPv4, `[::]` on every address: keep one of the two, or use \
     another port";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_overlap_with_what_they_take() {
        for (one, other, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            let (one_, other_) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(one_, other_), overlap(other_, one_)), (expected, expected), "{one} {other}");
        }
    }
}
