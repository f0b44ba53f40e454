//! The configuration, compiled: modules loaded, chains linked, routes resolved. Immutable, and built only here.

mod changes;

pub use changes::{Changes, Names};

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use regex::Regex;

use crate::capability::named::Definition;
use crate::capability::net::Policy;
use crate::config::{
    ChainConfig, Chains, Config, Diagnostic, Diagnostics, FailurePolicy, FilterConfig, Handler, Instance, Instances,
    Match, OnFailure, ScriptConfig, ServiceConfig,
};
use crate::facts::RouteNames;
use crate::observe::metrics::Metrics;
use crate::path::{self, Doubt, Other};
use crate::phase::{Chain, Phase, Place, Verdict};
use crate::wasm::{Care, EntryPoint, FailedStart, Filter, Host, Module, Plugin, Script, ScriptSpec, Service};

/// What requests are served from.
pub struct Snapshot {
    /// In the order of the configuration.
    servers: Vec<Server>,
    /// What runs as named sessions.
    pub sessions: Vec<Arc<Script>>,
}

/// Where a route is in its snapshot.
#[derive(Clone, Copy, Debug)]
pub struct RouteId {
    server: usize,
    local: usize,
}

impl RouteId {
    /// What nothing matches on the server at this position of the configuration.
    pub fn of_server(server: usize) -> RouteId {
        RouteId { server, local: 0 }
    }
}

/// The routes of one server.
struct Server {
    /// The first is for what nothing matches: the chains of the server, and no handler.
    locals: Vec<Local>,
    /// Positions in `locals`; the longest prefix first.
    prefixes: Vec<(String, usize)>,
    /// Asked when no prefix matches, in the order of the configuration.
    regexes: Vec<(Regex, usize)>,
}

/// One route.
pub struct Local {
    pub names: Arc<RouteNames>,
    pub handler: Option<Handler>,
    /// Proxy-Wasm; none where there are none.
    pub filters: Option<Arc<Vec<Filter>>>,
    /// In the order of [`Phase::ALL`]; none where there is nothing to run.
    chains: [Option<Arc<LiveChain>>; 6],
}

/// A chain that can run.
pub type LiveChain = Chain<LiveScript>;

/// A script in its place in a chain.
pub struct LiveScript {
    pub script: Arc<Script>,
    pub on_failure: OnFailure,
    /// A bit for each unsupported verdict that was logged already.
    warned: AtomicU8,
    /// Whether it was logged that a response was set which the verdict did not send.
    warned_of_reply: AtomicBool,
}

impl Snapshot {
    /// Loads every module and links every chain. All that is wrong is reported; without a report there is a snapshot.
    /// Scripts that were the same in the snapshot before are taken over, with their instances. With it come the Proxy-Wasm
    /// plugins without streams: they run as long as somebody keeps them, whatever requests still use the snapshot. Beside one
    /// before, plugins that it has not are only tried: [`Snapshot::start_plugins`] follows.
    pub fn build(
        config: &Config,
        host: &Host,
        metrics: &Metrics,
        before: Option<&Snapshot>,
        diagnostics: &mut Diagnostics,
    ) -> Option<(Snapshot, Vec<Service>)> {
        let (modules, chains, filters) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut builder = Builder { host, metrics, before, diagnostics, modules, chains, filters };
        // First, for filters look for the queues of services when they start.
        let services = config.services.iter().filter_map(|service| builder.service(service)).collect();
        let servers = config.servers.iter().map(|server| builder.server(server)).collect();
        let sessions = config.sessions.iter().filter_map(|session| builder.script(session, Place::Session)).collect();
        (!diagnostics.has_errors()).then_some((Snapshot { servers, sessions }, services))
    }

    /// The named sessions, to be put in the place of those that run.
    pub fn definitions(&self) -> Vec<Definition> {
        let define = |script: &Arc<Script>| Definition { name: script.spec().name.clone(), program: script.clone() };
        self.sessions.iter().map(define).collect()
    }

    /// The route of a path on the server at this position of the configuration.
    pub fn route(&self, server: usize, path: &str) -> RouteId {
        RouteId { server, local: self.servers[server].local(path) }
    }

    /// Whether the path of a request with this route may be taken by an upstream for one of another local, which might not
    /// let it through.
    pub fn may_dodge(&self, route: RouteId, path: &str) -> bool {
        let (server, local) = (&self.servers[route.server], self.local(route));
        if !matches!(local.handler, Some(Handler::ProxyPass(_))) {
            return false;
        }
        let dodges = |other: usize| local.dodges(&server.locals[other]);
        match path::doubt(path) {
            Doubt::None => false,
            Doubt::Also(others) => others.iter().any(|other| match other {
                // By prefix, that could only be of a local above the one that it is of when they are merged.
                Other::Unmerged(path) => !server.regexes.is_empty() && dodges(server.local(path)),
                Other::Path(path) => dodges(server.local(path)),
            }),
            Doubt::Any => {
                let matches_all = server.prefixes.iter().any(|(prefix, _)| prefix == "/");
                (usize::from(matches_all)..server.locals.len()).any(dodges)
            }
        }
    }

    /// The route itself. The id must be of this snapshot.
    pub fn local(&self, route: RouteId) -> &Local {
        &self.servers[route.server].locals[route.local]
    }

    /// All scripts, each chain once.
    pub fn scripts(&self) -> impl Iterator<Item = &LiveScript> {
        let mut seen = HashSet::new();
        let locals = self.servers.iter().flat_map(|server| &server.locals);
        let chains = locals.flat_map(|local| local.chains.iter().flatten());
        chains.filter(move |chain| seen.insert(Arc::as_ptr(chain))).flat_map(|chain| chain.scripts())
    }

    /// Starts the Proxy-Wasm plugins, with those of services, that have only been tried.
    ///
    /// # Errors
    /// When one of them fails beside others that share its VMs. The next are not started.
    pub fn start_plugins(&self, services: &[Service]) -> Result<(), FailedStart> {
        self.plugins(services).into_iter().try_for_each(|(plugin, _)| {
            let failed = |error| FailedStart { name: plugin.identity.name.clone(), error };
            plugin.group.start(plugin).map_err(failed)
        })
    }

    /// From now on, what fails of these plugins is started anew, or not: for the snapshot that requests get.
    pub fn take_care_of_plugins(&self, services: &[Service]) {
        for (plugin, care) in self.plugins(services) {
            plugin.take_care(care);
        }
    }

    /// Each once, with the most care that a filter or service wants for it.
    fn plugins<'a>(&'a self, services: &'a [Service]) -> Vec<(&'a Arc<Plugin>, Care)> {
        let care = |policy, otherwise| if policy == FailurePolicy::Reload { Care::Revive } else { otherwise };
        let filters = self.filters().map(|filter| (&filter.plugin, care(filter.failure_policy, Care::Limits)));
        let services = services.iter().map(|service| (&service.plugin, care(service.failure_policy, Care::Tell)));
        let (mut plugins, mut positions) = (Vec::new(), HashMap::new());
        for (plugin, care) in services.chain(filters) {
            let position = *positions.entry(Arc::as_ptr(plugin)).or_insert(plugins.len());
            match plugins.get_mut(position) {
                Some((_, most)) => *most = care.max(*most),
                None => plugins.push((plugin, care)),
            }
        }
        plugins
    }

    /// Drops idle instances that were not used since the last time.
    pub fn trim(&self) {
        // Each once: chains that were the same before share them.
        let mut seen = HashSet::new();
        let scripts = self.scripts().map(|live| &live.script).chain(&self.sessions);
        scripts.filter(|script| seen.insert(Arc::as_ptr(script))).for_each(|script| script.trim());
    }

    /// All Proxy-Wasm filters on streams, each chain once.
    pub fn filters(&self) -> impl Iterator<Item = &Filter> {
        let mut seen = HashSet::new();
        let locals = self.servers.iter().flat_map(|server| &server.locals);
        let chains = locals.filter_map(|local| local.filters.as_ref());
        chains.filter(move |chain| seen.insert(Arc::as_ptr(chain))).flat_map(|chain| chain.iter())
    }

    /// The script that has been prepared of this module with this configuration.
    fn same_script(&self, module: &Arc<Module>, spec: &ScriptSpec) -> Option<Arc<Script>> {
        let scripts = self.scripts().map(|live| &live.script).chain(&self.sessions);
        scripts.into_iter().find(|script| script.is_of(module, spec)).cloned()
    }
}

impl Server {
    /// The route of a path: the longest prefix, else the first regex that matches, else the server's own chains.
    fn local(&self, path: &str) -> usize {
        let prefix =
            self.prefixes.iter().find(|(prefix, _)| path.starts_with(prefix.as_str())).map(|(_, local)| *local);
        let regex = || self.regexes.iter().find(|(regex, _)| regex.is_match(path)).map(|(_, local)| *local);
        prefix.or_else(regex).unwrap_or(0)
    }
}

impl Local {
    /// The chain of a phase, if there is anything to run.
    pub fn chain(&self, phase: Phase) -> Option<&Arc<LiveChain>> {
        self.chains[phase as usize].as_ref()
    }

    /// Whether the other local might not let through what this one sends to its upstream: a request that could be for
    /// either must not go by this one.
    fn dodges(&self, other: &Local) -> bool {
        fn differs<T>(others: Option<&Arc<T>>, own: Option<&Arc<T>>) -> bool {
            others.is_some_and(|others| !own.is_some_and(|own| Arc::ptr_eq(own, others)))
        }
        let is_same_upstream = match (&self.handler, &other.handler) {
            (Some(Handler::ProxyPass(own)), Some(Handler::ProxyPass(others))) => own == others,
            _ => false,
        };
        let guards = [Phase::Access, Phase::Serverless, Phase::HttpInHeaders];
        !is_same_upstream
            || differs(other.filters.as_ref(), self.filters.as_ref())
            || guards.into_iter().any(|phase| differs(other.chain(phase), self.chain(phase)))
    }
}

impl LiveScript {
    /// Whether this is the first time that the script returned this verdict where it is not supported.
    pub fn first_unsupported(&self, verdict: Verdict) -> bool {
        let bit = Verdict::ALL.iter().position(|v| *v == verdict).map_or(0, |position| 1 << position);
        self.warned.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether this is the first time that a response was set which the verdict did not send.
    pub fn first_unsent_reply(&self) -> bool {
        !self.warned_of_reply.swap(true, Ordering::Relaxed)
    }
}

struct Builder<'a> {
    host: &'a Host,
    metrics: &'a Metrics,
    before: Option<&'a Snapshot>,
    diagnostics: &'a mut Diagnostics,
    /// Each file once; none where it was reported as wrong.
    modules: HashMap<PathBuf, Option<Arc<Module>>>,
    /// A chain that several routes inherit is built once: by the address of its configuration.
    chains: HashMap<(*const ChainConfig, Phase), Option<Arc<LiveChain>>>,
    /// As `chains`.
    filters: HashMap<*const Vec<FilterConfig>, Option<Arc<Vec<Filter>>>>,
}

impl Builder<'_> {
    fn server(&mut self, server: &crate::config::Server) -> Server {
        let names = |route: &str| RouteNames {
            route: route.to_owned(),
            server: server.names.first().map(ToString::to_string).unwrap_or_default(),
        };
        let fallback = self.local(names(""), None, &server.chains, &server.filters);
        let mut built = Server { locals: vec![fallback], prefixes: Vec::new(), regexes: Vec::new() };
        for local in &server.locals {
            let position = built.locals.len();
            let names = names(&local.name);
            built.locals.push(self.local(names, local.handler.clone(), &local.chains, &local.filters));
            match &local.matcher {
                Match::Prefix(prefix) => built.prefixes.push((prefix.clone(), position)),
                Match::Regex(regex) => built.regexes.push((regex.clone(), position)),
            }
        }
        built.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        built
    }

    fn local(
        &mut self,
        names: RouteNames,
        handler: Option<Handler>,
        chains: &Chains,
        filters: &Arc<Vec<FilterConfig>>,
    ) -> Local {
        let chains = Phase::ALL.map(|phase| self.chain(&chains[phase as usize], phase));
        Local { names: Arc::new(names), handler, filters: self.filter_chain(filters), chains }
    }

    fn filter_chain(&mut self, configs: &Arc<Vec<FilterConfig>>) -> Option<Arc<Vec<Filter>>> {
        let key = Arc::as_ptr(configs);
        if let Some(chain) = self.filters.get(&key) {
            return chain.clone();
        }
        let filters: Vec<_> = configs.iter().filter_map(|config| self.filter(config)).collect();
        let chain = (!filters.is_empty()).then(|| Arc::new(filters));
        self.filters.insert(key, chain.clone());
        chain
    }

    fn filter(&mut self, config: &FilterConfig) -> Option<Filter> {
        let slots = match config.instances {
            Instances::Slots(slots) => slots,
            Instances::Request => 0,
        };
        let plugin = self.plugin(config, slots)?;
        Some(Filter {
            failure_policy: config.failure_policy,
            allow_stop_iteration: config.allow_on_headers_stop_iteration || plugin.allows_stop_iteration(),
            longest_pause: config.limits.wall,
            buffer: config.limits.buffer,
            plugin,
        })
    }

    fn service(&mut self, config: &ServiceConfig) -> Option<Service> {
        let slots = match config.filter.instances {
            Instances::Slots(slots) if !config.singleton => slots,
            _ => 1,
        };
        Some(Service::new(self.plugin(&config.filter, slots)?, config.filter.failure_policy))
    }

    /// The plugin, tried or started; none when something is wrong with it, which is reported.
    fn plugin(&mut self, config: &FilterConfig, slots: usize) -> Option<Arc<Plugin>> {
        let metrics = self.metrics.filter(&config.name);
        // Beside another version, what is wrong with this one must hurt nobody.
        let at_once = self.before.is_none();
        let error = match self.host.filters().plugin(config, slots, metrics, at_once) {
            Ok(plugin) => return Some(plugin),
            Err(error) => error,
        };
        let span = match error.callback() {
            Some("proxy_on_configure") => &config.spans.configuration,
            Some("proxy_on_vm_start") => &config.spans.vm_configuration,
            _ => &config.spans.code,
        };
        let message = format!("the filter {} {error}", config.name);
        self.diagnostics.push(Diagnostic::error(span.clone(), message).help(error.help()));
        None
    }

    fn chain(&mut self, config: &Arc<ChainConfig>, phase: Phase) -> Option<Arc<LiveChain>> {
        let key = (Arc::as_ptr(config), phase);
        if let Some(chain) = self.chains.get(&key) {
            return chain.clone();
        }
        let mut chain = Chain::default();
        for plugin in &config.plugins {
            chain.add_plugin();
            for script in &plugin.scripts {
                if let Some(linked) = self.script(script, phase.into()) {
                    let live = LiveScript {
                        script: linked,
                        on_failure: script.on_failure,
                        warned: AtomicU8::new(0),
                        warned_of_reply: AtomicBool::new(false),
                    };
                    chain.add_script(live, script.on_ext.clone());
                }
            }
        }
        let chain = Some(chain).filter(|chain| !chain.is_empty()).map(Arc::new);
        self.chains.insert(key, chain.clone());
        chain
    }

    /// The script, ready to run; none when something is wrong with it, which is reported.
    fn script(&mut self, config: &ScriptConfig, place: Place) -> Option<Arc<Script>> {
        let module = self.module(config)?;
        let spec = ScriptSpec {
            name: config.name.as_str().into(),
            place,
            configs: config.configs.clone().map(|text| text.map(Arc::from)),
            fresh: config.instance == Instance::Fresh,
            recycle_after: config.recycle_after.unwrap_or(u64::MAX),
            recycle_memory: config.recycle_memory.unwrap_or(usize::MAX),
            memory: config.limits.memory,
            cpu: config.limits.cpu,
            wall: config.limits.wall,
            env: config.env.clone(),
            net: Arc::new(Policy::new(config.net.clone())),
            metrics: self.metrics.script(&config.name, place),
        };
        let before = self.before.and_then(|before| before.same_script(&module, &spec));
        let script = match before.map_or_else(|| Script::prepare(self.host, &module, spec), Ok) {
            Ok(script) => script,
            Err(error) => {
                self.wrong_module(config, &error);
                return None;
            }
        };
        if let Some(used) = script.is_worn_at_first() {
            let message =
                format!("no instance is used again: one begins with {} KiB, more than `recycle_memory`", used >> 10);
            let help = "raise `recycle_memory`, or `limits.memory`, of which it is half by default";
            self.diagnostics.push(Diagnostic::warning(config.spans.wasm_path.clone(), message).help(help));
        }
        self.entry_points(config, &script);
        Some(script)
    }

    fn module(&mut self, config: &ScriptConfig) -> Option<Arc<Module>> {
        let path = config.wasm_path.canonicalize().unwrap_or_else(|_| config.wasm_path.clone());
        if let Some(module) = self.modules.get(&path) {
            return module.clone();
        }
        let module = match self.host.load(&path) {
            Ok(module) => Some(module),
            Err(error) => {
                self.wrong_module(config, &error);
                None
            }
        };
        self.modules.insert(path, module.clone());
        module
    }

    /// Reports configurations of entry points that are not there.
    fn entry_points(&mut self, config: &ScriptConfig, script: &Script) {
        let implemented: Vec<_> = EntryPoint::ALL
            .into_iter()
            .filter(|entry| script.exports(*entry))
            .map(|entry| format!("`{}`", entry.export()))
            .collect();
        let implemented = implemented.join(", ");
        for entry in EntryPoint::ALL {
            let span = config.spans.configs[entry as usize].clone();
            let on = config.configs[entry as usize].is_some();
            let span = match (entry, span) {
                (EntryPoint::Main, span) => span.unwrap_or_else(|| config.spans.wasm_path.clone()),
                (_, Some(span)) if on => span,
                _ => continue,
            };
            if !script.exports(entry) {
                let message = format!("the plugin has no entry point `{}`", entry.export());
                let help = format!("it implements {implemented}: remove this key, or implement the entry point");
                self.diagnostics.push(Diagnostic::error(span, message).help(help));
            }
        }
    }

    fn wrong_module(&mut self, config: &ScriptConfig, error: &crate::wasm::ModuleError) {
        let message = format!("the module {} {error}", file_name(&config.wasm_path));
        self.diagnostics.push(Diagnostic::error(config.spans.wasm_path.clone(), message).help(error.help()));
    }
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
}
