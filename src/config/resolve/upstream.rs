use std::collections::HashMap;
use std::num::NonZeroU16;
use std::time::Duration;

use toml::Spanned;

use super::Context;
use crate::config::diagnostic::{key, nearest};
use crate::config::leaf::{HostPort, Name};
use crate::config::model::{Balance, HealthCheck, Place, Timeouts, Upstream, UpstreamServer, UpstreamTls};
use crate::config::{Diagnostic, Span, schema};

/// The upstreams so far. A name stands for one also if it has errors, so that they are reported only once.
#[derive(Default)]
pub struct Upstreams {
    list: Vec<Upstream>,
    /// Position in `list`.
    by_name: HashMap<String, usize>,
    /// How many the file declares: they come first, and only they have a name to call them by.
    declared: usize,
}

impl Upstreams {
    pub fn into_list(self) -> Vec<Upstream> {
        self.list
    }

    /// The names that the file declares.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.list[..self.declared].iter().map(|upstream| upstream.name.as_str())
    }

    fn add(&mut self, upstream: Upstream) -> usize {
        let position = self.list.len();
        self.by_name.insert(upstream.name.clone(), position);
        self.list.push(upstream);
        position
    }
}

impl Context<'_> {
    pub fn declare_upstreams(&mut self, upstreams: Vec<(Spanned<String>, schema::Upstream)>) {
        for (name, upstream) in upstreams {
            let upstream = self.upstream(name, upstream);
            self.upstreams.add(upstream);
        }
        self.upstreams.declared = self.upstreams.list.len();
    }

    fn upstream(&mut self, name: Spanned<String>, upstream: schema::Upstream) -> Upstream {
        if name.get_ref().contains(Name::breaks) {
            let shown = name.get_ref().escape_debug();
            let message = format!("the upstream `{shown}` has quotes, backslashes or control characters in its name");
            self.error(Diagnostic::error(name.span(), message).help("logs and metrics show it: leave them out"));
        }
        if upstream.servers.is_none() {
            let span = upstream.servers_key.unwrap_or(name.span());
            let message = format!("upstream `{}` has no servers", name.get_ref());
            let help = "add `servers = [{ addr = \"127.0.0.1:9001\" }]`";
            self.diagnostics.push_absent(Diagnostic::error(span, message).help(help));
        }
        let balance = upstream.balance.as_ref().map(|balance| *balance.get_ref()).unwrap_or_default();
        if let (Balance::Hash, Some(key), None) = (balance, &upstream.balance, &upstream.hash_key) {
            let missing = Diagnostic::error(key.span(), "`balance = \"hash\"` without `hash_key`");
            self.diagnostics.push_absent(missing.help("add what is hashed: `hash_key = \"${client_ip}\"`"));
        }
        if let Some(key) = &upstream.hash_key {
            self.check_hash_key(key, balance);
        }
        let server = |server: schema::UpstreamServer| {
            let (addr, weight) = (server.addr?, server.weight.unwrap_or(NonZeroU16::MIN));
            let place = Place(addr.span());
            Some(UpstreamServer { addr: addr.into_inner().0, weight, place })
        };
        Upstream {
            name: name.into_inner(),
            servers: upstream.servers.unwrap_or_default().into_iter().filter_map(server).collect(),
            balance,
            hash_key: upstream.hash_key.and_then(|key| self.template(&key)),
            health_check: upstream.health_check.map(|check| HealthCheck {
                path: check.path.map(|path| path.0),
                interval: check.interval_ms.unwrap_or(Duration::from_secs(1)),
            }),
            tls: upstream
                .tls
                .map(|tls| UpstreamTls { sni: tls.sni.map(|sni| sni.0), verify: tls.verify.unwrap_or(true) }),
            h2: upstream.h2.unwrap_or(false),
            timeouts: Timeouts {
                connect: upstream.connect_timeout_ms.unwrap_or(Timeouts::default().connect),
                silence: upstream.silence_timeout_ms.unwrap_or(Timeouts::default().silence),
            },
        }
    }

    fn check_hash_key(&mut self, key: &Spanned<String>, balance: Balance) {
        if key.get_ref().is_empty() {
            let message = "`hash_key` is empty: every request would go to the same server";
            self.error(Diagnostic::error(key.span(), message).help("for example: `hash_key = \"${client_ip}\"`"));
        } else if balance != Balance::Hash {
            let message = format!("`hash_key` has no effect: servers are balanced by `{}`", balance.name());
            let help = "write `balance = \"hash\"` as well, or remove it";
            self.error(Diagnostic::warning(key.span(), message).help(help));
        }
    }

    /// The upstream that `proxy_pass` or a verdict means: by its name, or by the address itself.
    pub fn upstream_for(&mut self, target: &Spanned<String>) -> Option<usize> {
        if let Some(position) = self.upstreams.by_name.get(target.get_ref()) {
            return Some(*position);
        }
        if let Some(HostPort(addr)) = HostPort::parse(target.get_ref()) {
            return Some(self.upstreams.add(Upstream {
                name: addr.clone(),
                servers: vec![UpstreamServer { addr, weight: NonZeroU16::MIN, place: Place(target.span()) }],
                balance: Balance::default(),
                hash_key: None,
                health_check: None,
                tls: None,
                h2: false,
                timeouts: Timeouts::default(),
            }));
        }
        self.unknown_upstream(target.span(), target.get_ref());
        None
    }

    fn unknown_upstream(&mut self, span: Span, name: &str) {
        let address = name.split_once("://").map(|(_, rest)| rest.split('/').next().unwrap_or(rest));
        let help = match (address, nearest(name, self.upstreams.names())) {
            (Some(address), _) if name.starts_with("https") => {
                let address = with_port(address, name);
                format!("name an `[upstream.NAME]` with `servers = [{{ addr = \"{address}\" }}]` and `tls = {{}}`")
            }
            (Some(address), _) => format!("write the host and port alone: `{}`", with_port(address, name)),
            (None, Some(known)) => format!("did you mean `{known}`?"),
            // As a name it would be misleading.
            (None, None) if name.is_empty() || name.contains(':') => {
                "write the name of an upstream, or a host and port such as `127.0.0.1:9001`".to_owned()
            }
            (None, None) => {
                format!("declare `[upstream.{}]`, or write a host and port such as `127.0.0.1:9001`", key(name))
            }
        };
        self.error(Diagnostic::error(span, format!("there is no upstream `{name}`")).help(help));
    }
}

/// The authority of `url` with the port that its scheme stands for.
fn with_port(authority: &str, url: &str) -> String {
    match authority.contains(':') {
        true => authority.to_owned(),
        false => format!("{authority}:{}", if url.starts_with("https") { 443 } else { 80 }),
    }
}
