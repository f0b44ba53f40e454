//! What the user typed: keys and types are right, nothing else is checked yet.

mod filter;

pub use filter::{Filter, FilterLimits, Remote, Service};

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use ipnet::IpNet;
use log::LevelFilter;
use toml::Spanned;

use super::keys::{self, Level};
use super::leaf::{Host, HostPort, Name, RedisUrl, Size, StoreKind, Target, Threads, UriPath};
use super::model::{Balance, HostPattern, Instance, OnFailure};
use super::net::NetRule;
use super::reader::{FromTable, Reader};
use super::{Diagnostic, Span};
use crate::phase::{Ext, Phase};

pub struct Main {
    pub threads: Option<Threads>,
    pub work_stealing: Option<bool>,
    pub watch: Option<bool>,
    pub error_log: Option<LevelFilter>,
    pub access_log: Option<AccessLog>,
    pub grace_period_ms: Option<u64>,
    pub client_timeout_ms: Option<Duration>,
    pub keepalive_timeout_ms: Option<Duration>,
    pub body_limit: Option<Size>,
    pub trusted_proxies: Vec<IpNet>,
    pub cache: Option<String>,
    pub admin: Option<Spanned<SocketAddr>>,
    pub network: Option<Network>,
    pub store: Option<Store>,
    pub upstreams: Vec<(Spanned<String>, Upstream)>,
    pub sessions: Vec<Session>,
    pub services: Vec<Service>,
    /// None: the key is not there, or an empty list.
    pub servers: Option<Vec<Server>>,
    pub chains: Chains,
}

/// What every one of the three levels can set; none where the level says nothing.
pub struct Chains {
    /// In the order of `Phase::ALL`.
    pub phases: [Option<Vec<Plugin>>; Phase::ALL.len()],
    pub filters: Option<Vec<Filter>>,
    /// The keys of the chains that are there.
    pub keys: Vec<Spanned<&'static str>>,
}

impl Chains {
    /// The keys of all chains.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Phase::ALL.into_iter().map(Phase::directive).chain(["proxy_wasm"])
    }

    /// Where the chain with this key is set, if it is.
    pub fn key(&self, name: &str) -> Option<Span> {
        self.keys.iter().find(|key| *key.get_ref() == name).map(Spanned::span)
    }
}

impl FromTable for Main {
    const LEVEL: &'static Level = &keys::MAIN;

    fn read(reader: &mut Reader) -> Self {
        if let Some(daemon) = reader.leaf::<bool>("daemon").filter(|daemon| *daemon.get_ref()) {
            let refused = Diagnostic::error(daemon.span(), "Phasegate runs in the foreground");
            let help = "remove `daemon`, and let systemd, a container or `nohup` put it in the background";
            reader.diagnostics().push(refused.help(help));
        }
        Main {
            threads: reader.plain("threads"),
            work_stealing: reader.plain("work_stealing"),
            watch: reader.plain("watch"),
            error_log: reader.plain("error_log"),
            access_log: reader.table("access_log"),
            grace_period_ms: reader.plain("grace_period_ms"),
            client_timeout_ms: reader.plain("client_timeout_ms"),
            keepalive_timeout_ms: reader.plain("keepalive_timeout_ms"),
            body_limit: reader.plain("body_limit"),
            trusted_proxies: reader.plain_all("trusted_proxies"),
            cache: reader.plain("cache"),
            admin: reader.table("admin").and_then(|admin: Admin| admin.listen),
            network: reader.table("network"),
            store: reader.table("store"),
            upstreams: reader.named_tables("upstream"),
            sessions: reader.tables("wasm_session").unwrap_or_default(),
            services: reader.tables("wasm_service").unwrap_or_default(),
            servers: unless_empty(reader, "server"),
            chains: read_chains(reader),
        }
    }
}

pub struct AccessLog {
    pub path: Option<Spanned<String>>,
    pub format: Option<Spanned<String>>,
}

impl FromTable for AccessLog {
    const LEVEL: &'static Level = &keys::ACCESS_LOG;

    fn read(reader: &mut Reader) -> Self {
        AccessLog { path: reader.required("path"), format: reader.leaf("format") }
    }
}

struct Admin {
    listen: Option<Spanned<SocketAddr>>,
}

impl FromTable for Admin {
    const LEVEL: &'static Level = &keys::ADMIN;

    fn read(reader: &mut Reader) -> Self {
        Admin { listen: reader.required("listen") }
    }
}

#[derive(Default)]
pub struct Network {
    pub ca: Option<Spanned<String>>,
    pub body_limit: Option<Size>,
    pub max_callouts: Option<NonZeroUsize>,
}

impl FromTable for Network {
    const LEVEL: &'static Level = &keys::NETWORK;

    fn read(reader: &mut Reader) -> Self {
        Network {
            ca: reader.leaf("ca"),
            body_limit: reader.plain("body_limit"),
            max_callouts: reader.plain("max_callouts"),
        }
    }
}

pub struct Store {
    pub kind: Option<Spanned<StoreKind>>,
    pub size: Option<Size>,
    pub url: Option<RedisUrl>,
    pub prefix: Option<String>,
    pub timeout_ms: Option<Duration>,
    /// The keys that belong to one kind and are there.
    pub memory_keys: Vec<Spanned<&'static str>>,
    pub redis_keys: Vec<Spanned<&'static str>>,
}

impl FromTable for Store {
    const LEVEL: &'static Level = &keys::STORE;

    fn read(reader: &mut Reader) -> Self {
        Store {
            kind: reader.leaf("kind"),
            size: reader.plain("size"),
            url: reader.plain("url"),
            prefix: reader.plain("prefix"),
            timeout_ms: reader.plain("timeout_ms"),
            memory_keys: keys_of(reader, ["size"]),
            redis_keys: keys_of(reader, ["url", "prefix", "timeout_ms"]),
        }
    }
}

pub struct Upstream {
    pub servers_key: Option<Span>,
    /// None: the key is not there, or an empty list.
    pub servers: Option<Vec<UpstreamServer>>,
    pub balance: Option<Spanned<Balance>>,
    pub hash_key: Option<Spanned<String>>,
    pub health_check: Option<HealthCheck>,
    pub tls: Option<UpstreamTls>,
    pub h2: Option<bool>,
    pub connect_timeout_ms: Option<Duration>,
    pub silence_timeout_ms: Option<Duration>,
}

impl FromTable for Upstream {
    const LEVEL: &'static Level = &keys::UPSTREAM;

    fn read(reader: &mut Reader) -> Self {
        Upstream {
            servers_key: reader.key("servers"),
            servers: unless_empty(reader, "servers"),
            balance: reader.leaf("balance"),
            hash_key: reader.leaf("hash_key"),
            health_check: reader.table("health_check"),
            tls: reader.table("tls"),
            h2: reader.plain("h2"),
            connect_timeout_ms: reader.plain("connect_timeout_ms"),
            silence_timeout_ms: reader.plain("silence_timeout_ms"),
        }
    }
}

pub struct UpstreamServer {
    pub addr: Option<Spanned<HostPort>>,
    pub weight: Option<NonZeroU16>,
}

impl FromTable for UpstreamServer {
    const LEVEL: &'static Level = &keys::UPSTREAM_SERVER;

    fn read(reader: &mut Reader) -> Self {
        UpstreamServer { addr: reader.required("addr"), weight: reader.plain("weight") }
    }
}

pub struct UpstreamTls {
    pub sni: Option<Host>,
    pub verify: Option<bool>,
}

impl FromTable for UpstreamTls {
    const LEVEL: &'static Level = &keys::UPSTREAM_TLS;

    fn read(reader: &mut Reader) -> Self {
        UpstreamTls { sni: reader.plain("sni"), verify: reader.plain("verify") }
    }
}

pub struct HealthCheck {
    pub path: Option<Target>,
    pub interval_ms: Option<Duration>,
}

impl FromTable for HealthCheck {
    const LEVEL: &'static Level = &keys::HEALTH_CHECK;

    fn read(reader: &mut Reader) -> Self {
        HealthCheck { path: reader.plain("path"), interval_ms: reader.plain("interval_ms") }
    }
}

pub struct Server {
    pub span: Span,
    /// None: the key is not there.
    pub names: Option<Vec<Spanned<HostPattern>>>,
    /// None: the key is not there, or an empty list.
    pub listen: Option<Vec<Listen>>,
    pub locals: Option<Vec<Local>>,
    pub chains: Chains,
}

impl FromTable for Server {
    const LEVEL: &'static Level = &keys::SERVER;

    fn read(reader: &mut Reader) -> Self {
        Server {
            span: reader.span(),
            names: reader.key("name").map(|_| reader.leaves("name").unwrap_or_default()),
            listen: unless_empty(reader, "listen"),
            locals: reader.tables("local"),
            chains: read_chains(reader),
        }
    }
}

pub struct Listen {
    pub addr: Option<Spanned<SocketAddr>>,
    pub tls: Option<Tls>,
    pub h2: Option<bool>,
}

impl FromTable for Listen {
    const LEVEL: &'static Level = &keys::LISTEN;

    fn read(reader: &mut Reader) -> Self {
        Listen { addr: reader.required("addr"), tls: reader.table("tls"), h2: reader.plain("h2") }
    }
}

pub struct Tls {
    pub cert: Option<Spanned<String>>,
    pub key: Option<Spanned<String>>,
}

impl FromTable for Tls {
    const LEVEL: &'static Level = &keys::TLS;

    fn read(reader: &mut Reader) -> Self {
        Tls { cert: reader.required("cert"), key: reader.required("key") }
    }
}

pub struct Local {
    pub span: Span,
    pub name: Option<String>,
    pub path: Option<Spanned<UriPath>>,
    pub regex: Option<Spanned<String>>,
    /// The keys `path` and `regex` that are there.
    pub matcher_keys: Vec<Spanned<&'static str>>,
    pub proxy_pass: Option<Spanned<String>>,
    pub respond: Option<Respond>,
    pub echo: bool,
    /// The handler keys that are there.
    pub handler_keys: Vec<Spanned<&'static str>>,
    pub chains: Chains,
}

impl FromTable for Local {
    const LEVEL: &'static Level = &keys::LOCAL;

    fn read(reader: &mut Reader) -> Self {
        let echo = reader.leaf::<bool>("echo").map(Spanned::into_inner);
        let mut handler_keys = keys_of(reader, ["proxy_pass", "respond", "echo"]);
        handler_keys.retain(|key| *key.get_ref() != "echo" || echo != Some(false));
        Local {
            span: reader.span(),
            name: reader.plain("name"),
            path: reader.leaf("path"),
            regex: reader.leaf("regex"),
            matcher_keys: keys_of(reader, ["path", "regex"]),
            proxy_pass: reader.leaf("proxy_pass"),
            respond: reader.table("respond"),
            echo: echo == Some(true),
            handler_keys,
            chains: read_chains(reader),
        }
    }
}

pub struct Respond {
    pub status: Option<StatusCode>,
    pub headers: Vec<(Spanned<String>, Spanned<HeaderValue>)>,
    pub body: Option<Spanned<String>>,
}

impl FromTable for Respond {
    const LEVEL: &'static Level = &keys::RESPOND;

    fn read(reader: &mut Reader) -> Self {
        Respond { status: reader.plain("status"), headers: reader.named_leaves("headers"), body: reader.leaf("body") }
    }
}

pub struct Plugin {
    /// Only of one with a list of scripts: else the script has the name.
    pub name: Option<Spanned<Name>>,
    pub scripts: Vec<Script>,
}

impl FromTable for Plugin {
    const LEVEL: &'static Level = &keys::PLUGIN;

    fn read(reader: &mut Reader) -> Self {
        let span = reader.span();
        let keys = reader.keys();
        let script_key = keys.iter().find(|key| {
            let key = key.get_ref().as_str();
            key != "name" && keys::SCRIPT.key(key).is_some()
        });
        let listed = reader.key("wasm").is_some();
        let scripts = match (listed, script_key) {
            (true, None) => reader.tables("wasm").inspect(|scripts| {
                if scripts.is_empty() {
                    reader.diagnostics().push(no_scripts(span.clone()));
                }
            }),
            (true, Some(key)) => {
                let message = format!("a plugin with both `wasm` and `{}`", key.get_ref());
                let help = "put every script into the list `wasm`, or leave the list out for a plugin of one script";
                reader.diagnostics().push(Diagnostic::error(key.span(), message).help(help));
                reader.tables("wasm")
            }
            (false, Some(_)) => Some(vec![Script::read(reader)]),
            (false, None) => {
                reader.diagnostics().push_absent(no_scripts(span));
                None
            }
        };
        let name = if listed { reader.leaf("name") } else { None };
        Plugin { name, scripts: scripts.unwrap_or_default() }
    }
}

fn no_scripts(plugin: Span) -> Diagnostic {
    let help = "add `wasm_path = \"plugin.wasm\"`, or remove the plugin; a chain without plugins is `wasm_access = []`";
    Diagnostic::error(plugin, "plugin has no scripts").help(help)
}

pub struct Script {
    pub name: Option<Spanned<Name>>,
    pub wasm_path: Option<Spanned<String>>,
    /// In the order main, timeout, ext1, ext2, ext3.
    pub configs: [Option<EntryConfig>; 5],
    pub is_open: bool,
    pub on_failure: Option<OnFailure>,
    pub instance: Option<Instance>,
    pub recycle_after: Option<u64>,
    pub recycle_memory: Option<Size>,
    pub limits: Limits,
    pub allow: Allow,
    pub on_ext: [Option<Spanned<String>>; Ext::ALL.len()],
}

pub struct EntryConfig {
    pub key: Span,
    pub text: String,
}

impl FromTable for Script {
    const LEVEL: &'static Level = &keys::SCRIPT;

    fn read(reader: &mut Reader) -> Self {
        let configs = [
            "wasm_main_config",
            "wasm_main_timeout_config",
            "wasm_main_ext1_config",
            "wasm_main_ext2_config",
            "wasm_main_ext3_config",
        ];
        Script {
            name: reader.leaf("name"),
            wasm_path: reader.required("wasm_path"),
            configs: configs.map(|name| read_entry_config(reader, name)),
            is_open: reader.plain("is_open").unwrap_or(true),
            on_failure: reader.plain("on_failure"),
            instance: reader.plain("instance"),
            recycle_after: reader.plain("recycle_after"),
            recycle_memory: reader.plain("recycle_memory"),
            limits: reader.table("limits").unwrap_or_default(),
            allow: reader.table("allow").unwrap_or_default(),
            on_ext: ["on_ext1", "on_ext2", "on_ext3"].map(|name| reader.leaf(name)),
        }
    }
}

/// A named session. Its `name` is none when it is missing, which is reported.
pub struct Session {
    pub name: Option<Spanned<Name>>,
    pub wasm_path: Option<Spanned<String>>,
    pub main_config: Option<EntryConfig>,
    pub limits: Limits,
    pub allow: Allow,
}

impl FromTable for Session {
    const LEVEL: &'static Level = &keys::SESSION;

    fn read(reader: &mut Reader) -> Self {
        Session {
            name: reader.required("name"),
            wasm_path: reader.required("wasm_path"),
            main_config: read_entry_config(reader, "wasm_main_config"),
            limits: reader.table("limits").unwrap_or_default(),
            allow: reader.table("allow").unwrap_or_default(),
        }
    }
}

#[derive(Default)]
pub struct Limits {
    pub memory: Option<Spanned<Size>>,
    pub cpu_ms: Option<Duration>,
    pub wall_ms: Option<Duration>,
}

impl FromTable for Limits {
    const LEVEL: &'static Level = &keys::LIMITS;

    fn read(reader: &mut Reader) -> Self {
        Limits { memory: reader.leaf("memory"), cpu_ms: reader.plain("cpu_ms"), wall_ms: reader.plain("wall_ms") }
    }
}

#[derive(Default)]
pub struct Allow {
    pub env: Vec<Spanned<String>>,
    pub net: Vec<NetRule>,
}

impl FromTable for Allow {
    const LEVEL: &'static Level = &keys::ALLOW;

    fn read(reader: &mut Reader) -> Self {
        Allow { env: reader.leaves("env").unwrap_or_default(), net: reader.plain_all("net") }
    }
}

fn read_entry_config(reader: &mut Reader, name: &'static str) -> Option<EntryConfig> {
    let text = reader.leaf(name)?.into_inner();
    Some(EntryConfig { key: reader.key(name)?, text })
}

fn read_chains(reader: &mut Reader) -> Chains {
    let phases = Phase::ALL.map(|phase| reader.tables(phase.directive()));
    Chains { phases, filters: reader.tables("proxy_wasm"), keys: keys_of(reader, Chains::names()) }
}

/// The tables of a key that is there and is not an empty list, those left out that are no tables.
fn unless_empty<T: FromTable>(reader: &mut Reader, name: &'static str) -> Option<Vec<T>> {
    (reader.key(name).is_some() && !reader.is_empty(name)).then(|| reader.tables(name).unwrap_or_default())
}

/// Those of the keys that are there, in the order of the file.
fn keys_of(reader: &Reader, names: impl IntoIterator<Item = &'static str>) -> Vec<Spanned<&'static str>> {
    let there = names.into_iter().filter_map(|name| Some(Spanned::new(reader.key(name)?, name)));
    let mut keys: Vec<_> = there.collect();
    keys.sort_by_key(|key| key.span().start);
    keys
}
