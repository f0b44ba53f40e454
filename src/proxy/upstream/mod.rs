//! Where requests go: the servers of an upstream, and which of them gets the next request.

mod cluster;
mod health;
mod protocol;

pub use health::HealthChecks;
pub use protocol::ca_file;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pingora::lb::Backend;
use pingora::lb::selection::{BackendIter, BackendSelection, Consistent, Random, RoundRobin};
use pingora::prelude::HttpPeer;
use pingora::services::background::GenBackgroundService;

use self::protocol::Protocol;
use crate::config::{self, Balance, Ca, Diagnostic, Span, Template, Timeouts};
use crate::worker;

/// How often, for each server, a selection is asked for its next choice before any usable server will do.
const TRIES_PER_SERVER: usize = 8;

/// How long a connection is kept that no request uses.
const IDLE: Duration = Duration::from_secs(60);

/// A name of an upstream's server has no address.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{upstream}`: cannot resolve `{addr}`: {source}")]
pub struct ResolveError {
    upstream: String,
    addr: String,
    place: Span,
    source: io::Error,
}

impl ResolveError {
    /// With its place in the configuration.
    pub fn diagnostic(&self) -> Diagnostic {
        let help = "names are resolved at the start: look whether it is right, or write an address";
        Diagnostic::error(self.place.clone(), self.to_string()).help(help)
    }
}

/// A named group of servers.
pub struct Upstream {
    name: Arc<str>,
    balance: Balance,
    protocol: Protocol,
    timeouts: Timeouts,
    /// What a hash is made of.
    hash_key: Option<Template>,
    servers: Box<[Arc<Server>]>,
    picker: Picker,
}

/// The way to the next server. The pingora selections carry the `Arc<Server>` in each backend's extensions.
enum Picker {
    /// There is nothing to choose: no state is touched but the server's own.
    Single,
    RoundRobin(Arc<RoundRobin>),
    Random(Arc<Random>),
    /// Among equals it is their turn that counts.
    LeastConn(Arc<RoundRobin>),
    Hash(Arc<Consistent>),
}

/// One address of an upstream.
struct Server {
    addr: SocketAddr,
    /// As configured: `host:port`.
    authority: String,
    /// The host part of it.
    host: Arc<str>,
    weight: usize,
    healthy: AtomicBool,
    /// Requests that have selected this server and not ended; kept only for `least_conn`.
    active: AtomicUsize,
}

/// A server chosen for a request. Keep it as long as the request uses the connection: `least_conn` counts it.
pub struct Selected {
    pub addr: SocketAddr,
    /// As configured, without the port; an IPv6 address keeps its brackets.
    pub host: Arc<str>,
    active: Option<Active>,
}

impl Upstream {
    /// Resolves the servers, blocking, and prepares the selection. A name stands for all its IPv4 addresses, or for all
    /// its IPv6 addresses when it has no other. The service, if there is one, runs the health checks: until it is added
    /// to the server, every server is taken as healthy. `ca` is whom health checks over TLS trust.
    pub fn build(
        spec: &config::Upstream,
        ca: Option<&Ca>,
    ) -> Result<(Arc<Upstream>, Option<GenBackgroundService<HealthChecks>>), ResolveError> {
        let servers = resolve(spec)?;
        let protocol = Protocol::of(spec);
        let health = spec.health_check.as_ref().map(|check| {
            let checks = HealthChecks::new(&spec.name, check, &servers, &protocol, ca);
            GenBackgroundService::new(format!("health {}", spec.name), Arc::new(checks))
        });
        let picker = Picker::new(spec.balance, &servers);
        Ok((
            Arc::new(Upstream {
                name: spec.name.as_str().into(),
                balance: spec.balance,
                protocol,
                timeouts: spec.timeouts,
                hash_key: spec.hash_key.clone(),
                servers,
                picker,
            }),
            health,
        ))
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The word of the configuration: `round_robin`, `random`, `least_conn` or `hash`.
    pub fn balancer(&self) -> &'static str {
        self.balance.name()
    }

    /// How many addresses it has.
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    pub fn hash_key(&self) -> Option<&Template> {
        self.hash_key.as_ref()
    }

    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether it is spoken to over TLS.
    pub fn tls(&self) -> bool {
        self.protocol.tls()
    }

    /// A selected server, as Pingora connects to it.
    pub fn peer(&self, selected: &Selected) -> Box<HttpPeer> {
        let mut peer = Box::new(self.protocol.peer(selected.addr, &selected.host));
        peer.options.connection_timeout = Some(self.timeouts.connect);
        peer.options.read_timeout = Some(self.timeouts.silence);
        peer.options.idle_timeout = Some(IDLE);
        // Connections stay with the worker whose reactor they are registered with: another would be woken by it each time.
        peer.group_key = worker::number() as u64;
        peer
    }

    /// A healthy server for the next request, none of those that have failed it; none when there is no other. Only `hash`
    /// looks at the key.
    pub fn select(&self, hash_key: &[u8], failed: &[SocketAddr]) -> Option<Selected> {
        match &self.picker {
            Picker::Single => {
                self.servers.first().filter(|server| server.usable(failed)).map(|server| server.selected())
            }
            Picker::RoundRobin(selection) => self.next(selection, &[], failed).map(|server| server.selected()),
            Picker::Random(selection) => self.next(selection, &[], failed).map(|server| server.selected()),
            Picker::Hash(selection) => self.next(selection, hash_key, failed).map(|server| server.selected()),
            Picker::LeastConn(turns) => self.least_busy(turns, failed).map(|server| server.counted()),
        }
    }

    /// This server, if it is one of them, healthy, and has not failed the request.
    pub fn select_server(&self, addr: SocketAddr, failed: &[SocketAddr]) -> Option<Selected> {
        let server = self.servers.iter().find(|server| server.addr == addr && server.usable(failed))?;
        Some(if let Picker::LeastConn(_) = self.picker { server.counted() } else { server.selected() })
    }

    /// Whether there is another server to try.
    pub fn has_other(&self, failed: &[SocketAddr]) -> bool {
        self.servers.iter().any(|server| server.usable(failed))
    }

    /// The first usable server in the order of the selection.
    fn next<S>(&self, selection: &Arc<S>, key: &[u8], failed: &[SocketAddr]) -> Option<Arc<Server>>
    where
        S: BackendSelection,
        S::Iter: BackendIter,
    {
        let mut choices = selection.iter(key);
        for _ in 0..TRIES_PER_SERVER * self.servers.len() {
            let server = choices.next()?.ext.get::<Arc<Server>>()?;
            if server.usable(failed) {
                return Some(server.clone());
            }
        }
        // Choices repeat, so that the only usable server may not have come up yet.
        self.servers.iter().find(|server| server.usable(failed)).cloned()
    }

    fn least_busy(&self, turns: &Arc<RoundRobin>, failed: &[SocketAddr]) -> Option<Arc<Server>> {
        let first = self.next(turns, &[], failed)?;
        let best = self
            .servers
            .iter()
            .filter(|server| server.usable(failed))
            .fold(&first, |best, server| if server.less_busy_than(best) { server } else { best });
        Some(best.clone())
    }
}

impl Picker {
    fn new(balance: Balance, servers: &[Arc<Server>]) -> Picker {
        if servers.len() == 1 {
            return Picker::Single;
        }
        let backends = servers.iter().map(Server::backend).collect();
        match balance {
            Balance::RoundRobin => Picker::RoundRobin(Arc::new(RoundRobin::build(&backends))),
            Balance::Random => Picker::Random(Arc::new(Random::build(&backends))),
            Balance::LeastConn => Picker::LeastConn(Arc::new(RoundRobin::build(&backends))),
            Balance::Hash => Picker::Hash(Arc::new(Consistent::build(&backends))),
        }
    }
}

impl Server {
    fn backend(self: &Arc<Server>) -> Backend {
        let mut ext = pingora::lb::Extensions::new();
        ext.insert(self.clone());
        Backend { addr: self.addr.into(), weight: self.weight, ext }
    }

    /// Whether it is healthy, and has not failed the request.
    fn usable(&self, failed: &[SocketAddr]) -> bool {
        self.healthy.load(Relaxed) && !failed.contains(&self.addr)
    }

    /// Compares connections in use per weight, without dividing.
    fn less_busy_than(&self, other: &Server) -> bool {
        self.active.load(Relaxed) * other.weight < other.active.load(Relaxed) * self.weight
    }

    fn selected(&self) -> Selected {
        Selected { addr: self.addr, host: self.host.clone(), active: None }
    }

    fn counted(self: &Arc<Server>) -> Selected {
        self.active.fetch_add(1, Relaxed);
        Selected { active: Some(Active(self.clone())), ..self.selected() }
    }
}

/// Counts as one connection in use, until dropped.
struct Active(Arc<Server>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// All addresses, each once: servers that come to the same address add up their weights.
fn resolve(spec: &config::Upstream) -> Result<Box<[Arc<Server>]>, ResolveError> {
    let mut servers = BTreeMap::<SocketAddr, Server>::new();
    for config::UpstreamServer { addr: authority, weight, place } in &spec.servers {
        // The selection keeps an entry for each unit of it.
        let weight = usize::from(weight.get());
        let addrs = addresses(authority).map_err(|source| {
            let (upstream, addr) = (spec.name.clone(), authority.clone());
            ResolveError { upstream, addr, place: place.0.clone(), source }
        })?;
        for addr in addrs {
            servers.entry(addr).and_modify(|server| server.weight += weight).or_insert_with(|| Server {
                addr,
                authority: authority.clone(),
                host: host_of(authority).into(),
                weight,
                healthy: AtomicBool::new(true),
                active: AtomicUsize::new(0),
            });
        }
    }
    Ok(servers.into_values().map(Arc::new).collect())
}

/// One family only: a name like `localhost` has an address in both, and its server listens often on just the IPv4 one.
fn addresses(authority: &str) -> io::Result<Vec<SocketAddr>> {
    let (v4, v6): (Vec<_>, Vec<_>) = authority.to_socket_addrs()?.partition(SocketAddr::is_ipv4);
    let addrs = if v4.is_empty() { v6 } else { v4 };
    if addrs.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addrs)
}

fn host_of(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _port)| host)
}

#[cfg(test)]
mod tests;
