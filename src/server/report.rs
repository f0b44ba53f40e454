//! What the admin endpoint tells of a running server, as JSON.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{self, Config, FailurePolicy};
use crate::phase::Phase;
use crate::reload::{Outcome, Report};
use crate::snapshot::{Changes, LiveScript, Names, Snapshot};
use crate::wasm;

/// An entry of `GET /plugins`.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Plugin<'a> {
    Script(Script<'a>),
    Filter { name: &'a str, phase: &'static str, failure_policy: FailurePolicy },
}

#[derive(Serialize)]
pub struct Script<'a> {
    name: &'a str,
    phase: &'static str,
    instance: &'static str,
    on_failure: &'static str,
    path: &'static str,
}

/// `GET /config`: where requests go. Configurations of plugins are not in it, for they may hold secrets.
#[derive(Serialize)]
pub struct Configuration<'a> {
    file: String,
    threads: usize,
    upstreams: Vec<Upstream<'a>>,
    servers: Vec<Server<'a>>,
}

#[derive(Serialize)]
struct Upstream<'a> {
    name: &'a str,
    servers: Vec<&'a str>,
    balance: &'static str,
}

#[derive(Serialize)]
struct Server<'a> {
    names: Vec<String>,
    listen: Vec<String>,
    locals: Vec<Local<'a>>,
}

#[derive(Serialize)]
struct Local<'a> {
    r#match: String,
    /// The names of the plugins, by phase, and of the filters.
    chains: BTreeMap<&'static str, Vec<&'a str>>,
}

/// All scripts, named sessions, filters and services.
pub fn plugins<'a>(snapshot: &'a Snapshot, config: &'a Config) -> Vec<Plugin<'a>> {
    let sessions = snapshot.sessions.iter().map(|session| script(session, "restart"));
    let scripts = snapshot.scripts().map(in_a_chain).chain(sessions).map(Plugin::Script);
    let filter = |name: &'a str, phase, failure_policy| Plugin::Filter { name, phase, failure_policy };
    let filters = snapshot.filters().map(|live| filter(&live.plugin.identity.name, "proxy_wasm", live.failure_policy));
    let services = config.services.iter().map(|service| &service.filter);
    let services = services.map(|service| filter(&service.name, "wasm_service", service.failure_policy));
    scripts.chain(filters).chain(services).collect()
}

/// The configuration, without what may be secret.
pub fn configuration(config: &Config) -> Configuration<'_> {
    Configuration {
        file: config.path.display().to_string(),
        threads: config.threads,
        upstreams: config.upstreams.iter().map(upstream).collect(),
        servers: config.servers.iter().map(server).collect(),
    }
}

/// The answer to `POST /reload`; without a report the process is about to end.
pub fn reload(report: Option<Report>) -> (StatusCode, Value) {
    let Some(Report { generation, outcome }) = report else {
        return (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": "the process is about to end" }));
    };
    match outcome {
        Outcome::Ok { changes, took } => {
            let Changes { scripts, filters } = *changes;
            let names =
                |Names { added, changed, removed }| json!({ "changed": changed, "added": added, "removed": removed });
            let (scripts, filters, ms) = (names(scripts), names(filters), took.as_millis() as u64);
            (StatusCode::OK, json!({ "generation": generation, "scripts": scripts, "filters": filters, "ms": ms }))
        }
        Outcome::Unchanged => (StatusCode::OK, json!({ "generation": generation })),
        Outcome::Failed { told, .. } => (StatusCode::BAD_REQUEST, json!({ "generation": generation, "error": told })),
        Outcome::Refused(keys) => {
            let error = Outcome::refusal(&keys);
            (StatusCode::CONFLICT, json!({ "generation": generation, "error": error, "keys": keys }))
        }
    }
}

fn in_a_chain(live: &LiveScript) -> Script<'_> {
    let on_failure = match live.on_failure {
        config::OnFailure::Close => "close",
        config::OnFailure::Open => "open",
    };
    script(&live.script, on_failure)
}

fn script<'a>(script: &'a wasm::Script, on_failure: &'static str) -> Script<'a> {
    let spec = script.spec();
    Script {
        name: &spec.name,
        phase: spec.place.name(),
        instance: if spec.fresh { "fresh" } else { "reuse" },
        on_failure,
        path: if script.is_synchronous() { "synchronous" } else { "asynchronous" },
    }
}

fn upstream(upstream: &config::Upstream) -> Upstream<'_> {
    Upstream {
        name: &upstream.name,
        servers: upstream.servers.iter().map(|server| server.addr.as_str()).collect(),
        balance: upstream.balance.name(),
    }
}

fn server(server: &config::Server) -> Server<'_> {
    Server {
        names: server.names.iter().map(ToString::to_string).collect(),
        listen: server.listen.iter().map(|listen| listen.addr.to_string()).collect(),
        locals: server.locals.iter().map(local).collect(),
    }
}

fn local(local: &config::Local) -> Local<'_> {
    let plugins = |phase| local.chain(phase).plugins.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>();
    let filters = local.filters.iter().map(|filter| filter.name.as_str()).collect();
    let phases = Phase::ALL.into_iter().map(|phase| (phase.directive(), plugins(phase)));
    let chains = phases.chain([("proxy_wasm", filters)]);
    Local { r#match: local.matcher.to_string(), chains: chains.filter(|(_, plugins)| !plugins.is_empty()).collect() }
}
