//! Which server a request is for: by the listener that it came to, and by its host.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::{Config, HostPattern};

/// An address to listen on, and the servers behind it.
pub struct Listener {
    pub addr: SocketAddr,
    pub tls: bool,
    pub h2: bool,
    /// Positions in the configuration.
    pub servers: Vec<usize>,
}

impl Config {
    /// All listeners, by address.
    pub fn listeners(&self) -> Vec<Listener> {
        let mut listeners = BTreeMap::<(SocketAddr, bool), Listener>::new();
        for (index, server) in self.servers.iter().enumerate() {
            for listen in &server.listen {
                let (addr, tls) = (listen.addr, listen.tls.is_some());
                let new = || Listener { addr, tls, h2: false, servers: Vec::new() };
                let listener = listeners.entry((addr, tls)).or_insert_with(new);
                listener.h2 |= listen.h2;
                listener.servers.push(index);
            }
        }
        listeners.into_values().collect()
    }
}

/// The servers behind one listener.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<String, usize>,
    /// Suffixes with their dot; the longest first.
    wildcards: Vec<(String, usize)>,
    default: usize,
    /// Whether there is any other server: else the host does not matter.
    several: bool,
}

impl Router {
    /// Of the servers behind this listener.
    pub fn of(config: &Config, listener: &Listener) -> Router {
        Router::new(listener.servers.iter().map(|index| (*index, config.servers[*index].names.as_slice())))
    }

    /// From the servers that share the listener, each with its position in the configuration; the first is the default.
    pub fn new<'a>(servers: impl IntoIterator<Item = (usize, &'a [HostPattern])>) -> Router {
        let mut router = Router::default();
        let mut servers = servers.into_iter().peekable();
        router.default = servers.peek().map_or(0, |(index, _)| *index);
        for (index, names) in servers {
            router.several |= index != router.default;
            for name in names {
                match name {
                    HostPattern::Exact(name) => drop(router.exact.entry(name.clone()).or_insert(index)),
                    HostPattern::Wildcard(suffix) => router.wildcards.push((suffix.clone(), index)),
                }
            }
        }
        router.wildcards.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        router
    }

    /// The position of the server for this host, in lower case. The host is only asked for when it matters.
    pub fn server<'a>(&self, host: impl FnOnce() -> Option<Cow<'a, str>>) -> usize {
        if !self.several {
            return self.default;
        }
        let Some(host) = host() else { return self.default };
        if let Some(index) = self.exact.get(host.as_ref()) {
            return *index;
        }
        let wildcard = self.wildcards.iter().find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix));
        wildcard.map_or(self.default, |(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_go_before_wildcards_and_longer_wildcards_before_shorter() {
        let exact = |name: &str| HostPattern::Exact(name.into());
        let wildcard = |suffix: &str| HostPattern::Wildcard(suffix.into());
        let servers = [
            (3, vec![exact("a.cn")]),
            (4, vec![wildcard(".a.cn"), exact("x.b.a.cn")]),
            (7, vec![wildcard(".b.a.cn"), exact("c.cn")]),
        ];
        let router = Router::new(servers.iter().map(|(index, names)| (*index, names.as_slice())));
        for (host, server) in [
            ("a.cn", 3),
            ("x.a.cn", 4),
            (".a.cn", 3),
            ("x.b.a.cn", 4),
            ("y.b.a.cn", 7),
            ("c.cn", 7),
            ("other", 3),
            ("xa.cn", 3),
        ] {
            assert_eq!(router.server(|| Some(host.into())), server, "{host}");
        }
        assert_eq!(router.server(|| None), 3);
    }
}
