mod filter;

pub use filter::*;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use log::LevelFilter;
use regex::Regex;

use super::Span;
use super::net::NetRule;
use super::template::Template;
use crate::phase::{Action, Phase};

/// What the program runs on: everything inherited, every reference resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of the file.
    pub path: PathBuf,
    /// Worker threads per service.
    pub threads: usize,
    pub work_stealing: bool,
    /// Whether a change of one of the files loads the configuration anew.
    pub watch: bool,
    pub error_log: LevelFilter,
    pub access_log: Option<AccessLog>,
    /// How long a shutdown waits for the requests in flight.
    pub grace_period: Duration,
    /// How long a client may take nothing of what is written to it.
    pub client_timeout: Duration,
    /// How long a connection may be without a request.
    pub keepalive_timeout: Duration,
    /// Bytes of the largest request body that a plugin may read.
    pub body_limit: usize,
    /// Who may say by a header which client a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Where compiled modules and fetched code are kept; none: nowhere. Not there yet, maybe.
    pub cache: Option<PathBuf>,
    pub admin: Option<SocketAddr>,
    pub network: Network,
    pub store: Store,
    /// Also those that a literal address in `proxy_pass` makes; they have the address as name.
    pub upstreams: Vec<Upstream>,
    /// Named sessions, each name once: scripts that run for no request.
    pub sessions: Vec<ScriptConfig>,
    /// Filters without streams.
    pub services: Vec<ServiceConfig>,
    pub servers: Vec<Server>,
    /// All that it names to be read, whether it is there or not: modules, certificates, keys.
    pub files: Vec<PathBuf>,
}

impl Config {
    pub fn upstream_names(&self) -> impl Iterator<Item = String> + '_ {
        self.upstreams.iter().map(|upstream| upstream.name.clone())
    }

    /// The defaults, with no server.
    pub fn empty(path: &Path) -> Self {
        Config {
            path: path.to_owned(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            work_stealing: false,
            watch: false,
            error_log: LevelFilter::Info,
            access_log: None,
            grace_period: Duration::from_secs(30),
            client_timeout: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(75),
            body_limit: 1 << 20,
            trusted_proxies: Vec::new(),
            cache: default_cache(),
            admin: None,
            network: Network::default(),
            store: Store::default(),
            upstreams: Vec::new(),
            sessions: Vec::new(),
            services: Vec::new(),
            servers: Vec::new(),
            files: Vec::new(),
        }
    }
}

/// Where the user keeps what can be made anew (the XDG Base Directory Specification, which tells to ignore relative paths).
fn default_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("phasegate"))
}

#[derive(Clone, Debug)]
pub struct AccessLog {
    pub target: LogTarget,
    pub format: Template,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    File(PathBuf),
}

/// How plugins reach other machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Whom to trust for TLS and QUIC; none: the roots of the system.
    pub ca: Option<Ca>,
    /// Bytes of the largest body of a callout, of its request and of its response.
    pub body_limit: usize,
    /// Callouts that may be in flight at once.
    pub max_callouts: usize,
}

impl Default for Network {
    fn default() -> Self {
        Network { ca: None, body_limit: 1 << 20, max_callouts: 1000 }
    }
}

/// A PEM file, which is there; what is in it is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    pub path: PathBuf,
    pub place: Place,
}

/// Where plugins keep what they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// Most bytes.
    Memory {
        size: usize,
    },
    Redis(RedisStore),
}

impl Default for Store {
    fn default() -> Self {
        Store::Memory { size: 64 << 20 }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct RedisStore {
    /// Of a form that the client takes.
    pub url: String,
    /// What all keys begin with.
    pub prefix: String,
    /// Of a whole call.
    pub timeout: Duration,
}

/// Without the address: a password may be in it.
impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: String,
    pub servers: Vec<UpstreamServer>,
    pub balance: Balance,
    /// Always there when `balance` is `Hash`.
    pub hash_key: Option<Template>,
    pub health_check: Option<HealthCheck>,
    pub tls: Option<UpstreamTls>,
    /// HTTP/2: with TLS where the server chooses it, without TLS with no question.
    pub h2: bool,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name to send and to verify; none: the host of the server.
    pub sni: Option<String>,
    /// Whether the certificate has to be right.
    pub verify: bool,
}

/// How long to wait for a server of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the next bytes come, or go.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { connect: Duration::from_secs(10), silence: Duration::from_secs(60) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamServer {
    /// `host:port`.
    pub addr: String,
    pub weight: NonZeroU16,
    pub place: Place,
}

/// Where something is written. All are equal: what is the same elsewhere in the file has not changed.
#[derive(Clone, Debug, Default)]
pub struct Place(pub Span);

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl Eq for Place {}

/// How a server is chosen for a request. All of them honour the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    #[default]
    RoundRobin,
    Random,
    /// The fewest connections in use for its weight.
    LeastConn,
    /// The same server for the same key, and few keys move when a server comes or goes (Ketama).
    Hash,
}

impl Balance {
    /// The value of the variable `upstream_balancer`, and the word of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Balance::RoundRobin => "round_robin",
            Balance::Random => "random",
            Balance::LeastConn => "least_conn",
            Balance::Hash => "hash",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What to GET; without it a connection is enough.
    pub path: Option<PathAndQuery>,
    pub interval: Duration,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// None: the server is chosen only as the default.
    pub names: Vec<HostPattern>,
    pub listen: Vec<Listen>,
    /// In the order of the file.
    pub locals: Vec<Local>,
    /// For requests that no local matches.
    pub chains: Chains,
    /// For those requests too.
    pub filters: Arc<Vec<FilterConfig>>,
}

/// A server name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// What the host must end with, and be longer than: `.example.cn` of `*.example.cn`.
    Wildcard(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Servers that listen on the same address, both with or both without TLS, share the listener. Only with port 0 (any
/// free port) may the same address be listened on with and without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub addr: SocketAddr,
    pub tls: Option<Tls>,
    pub h2: bool,
    pub span: Span,
}

/// PEM files, which are there; what is in them is not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug)]
pub struct Local {
    /// As filters know the route.
    pub name: String,
    pub matcher: Match,
    /// None: `wasm_serverless` has the last word.
    pub handler: Option<Handler>,
    /// In the order of `Phase::ALL`; a chain that is inherited is the same `Arc`.
    pub chains: Chains,
    /// The Proxy-Wasm filters, in the order of requests; an inherited chain is the same `Arc`.
    pub filters: Arc<Vec<FilterConfig>>,
}

impl Local {
    pub fn chain(&self, phase: Phase) -> &Arc<ChainConfig> {
        &self.chains[phase as usize]
    }
}

pub type Chains = [Arc<ChainConfig>; Phase::ALL.len()];

// `Chains` are indexed by it.
const _: () = {
    let mut index = 0;
    while index < Phase::ALL.len() {
        assert!(Phase::ALL[index] as usize == index);
        index += 1;
    }
};

#[derive(Clone, Debug)]
pub enum Match {
    Prefix(String),
    Regex(Regex),
}

impl Match {
    /// As it is written in the configuration.
    pub fn as_str(&self) -> &str {
        match self {
            Match::Prefix(prefix) => prefix,
            Match::Regex(regex) => regex.as_str(),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Match::Prefix(prefix) => f.write_str(prefix),
            Match::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}

/// What answers a request that no plugin has answered.
#[derive(Clone, Debug)]
pub enum Handler {
    /// Position in `Config::upstreams`.
    ProxyPass(usize),
    Respond(Respond),
    Echo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// The plugins of one phase, in order.
#[derive(Clone, Debug, Default)]
pub struct ChainConfig {
    /// Also those with no script, because all are switched off: `Action::Goto` counts them.
    pub plugins: Vec<PluginConfig>,
}

#[derive(Clone, Debug)]
pub struct PluginConfig {
    pub name: String,
    pub scripts: Vec<ScriptConfig>,
}

#[derive(Clone, Debug)]
pub struct ScriptConfig {
    pub name: String,
    pub wasm_path: PathBuf,
    /// In the order main, timeout, ext1, ext2, ext3. An entry point other than main without a config is off.
    pub configs: [Option<String>; 5],
    pub on_failure: OnFailure,
    pub instance: Instance,
    pub limits: Limits,
    /// Requests after which an instance is replaced; none: never.
    pub recycle_after: Option<u64>,
    /// Bytes of guest memory above which an instance is replaced; none: never.
    pub recycle_memory: Option<usize>,
    /// The environment that the guest sees.
    pub env: Vec<(String, String)>,
    /// Where the guest may connect to.
    pub net: Vec<NetRule>,
    pub on_ext: [Action; 3],
    pub spans: ScriptSpans,
}

/// Where to point when the module turns out to be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptSpans {
    pub wasm_path: Span,
    /// Of the keys of `ScriptConfig::configs`.
    pub configs: [Option<Span>; 5],
}

/// What a failure of a script does to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    Close,
    Open,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Instance {
    #[default]
    Reuse,
    Fresh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of guest memory.
    pub memory: usize,
    /// CPU time between two host calls.
    pub cpu: Duration,
    /// The whole run; none: as long as it takes.
    pub wall: Option<Duration>,
}
