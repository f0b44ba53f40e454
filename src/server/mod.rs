//! The Pingora server: services, listeners, shutdown.

mod begun;
mod connections;
mod listen;
mod report;
mod shutdown;
mod trim;

pub use shutdown::Shutdown;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use pingora::apps::{HttpServerOptions, ServerApp};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use pingora_proxy::http_proxy;
use serde_json::json;
use tokio::sync::Semaphore;

use self::connections::{Connected, Connections};
use self::listen::{Bound, Prebound};
use self::shutdown::Grace;
use self::trim::Trim;

use crate::capability::Capabilities;
use crate::capability::cluster::Announced;
use crate::config::{Config, Diagnostic, Listener};
use crate::observe::access_log::{AccessLog, AccessLogError};
use crate::observe::admin::Admin;
use crate::observe::metrics::Metrics;
use crate::proxy::upstream::{self, ResolveError};
use crate::proxy::{Gateway, Generation, MOST_LEFT_BEHIND, Shared};
use crate::reload::{self, Hangup, Inputs, Reloads, Running};
use crate::snapshot::Snapshot;
use crate::tls::Certificates;
use crate::wasm::{self, Host};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("the server has ended by itself{}", if *panicked { ": a panic, which is reported before this" } else { "" })]
    Ended { panicked: bool },
}

impl ServerError {
    /// With its place, if it is something in the configuration that turned out to be wrong.
    pub fn diagnostic(&self) -> Option<Diagnostic> {
        match self {
            ServerError::Resolve(error) => Some(error.diagnostic()),
            _ => None,
        }
    }
}

/// What a server is started with: everything checked and compiled.
pub struct Start {
    pub config: Config,
    pub capabilities: Arc<Capabilities>,
    /// The names of the upstreams.
    pub announced: Announced,
    pub host: Host,
    pub snapshot: Snapshot,
    pub services: Vec<wasm::Service>,
    pub certificates: Certificates,
    pub metrics: Arc<Metrics>,
    pub inputs: Inputs,
    pub hangup: Hangup,
    pub shutdown: Shutdown,
}

/// Serves until SIGTERM, SIGINT or SIGQUIT, and then until the requests in flight have ended, or the grace period has.
///
/// # Errors
/// When an upstream's name does not resolve, the access log cannot be opened or an address is taken; when the server ends
/// without a signal.
pub fn run(start: Start) -> Result<(), ServerError> {
    let Start { config, capabilities, announced, host, snapshot, services, certificates, metrics, .. } = start;
    let Start { inputs, hangup, shutdown, .. } = start;
    let (listeners, admin, grace_period) = (config.listeners(), config.admin, config.grace_period);
    let keepalive_timeout = config.keepalive_timeout;
    let mut server = Server::new_with_opt_and_conf(None, settings(&config));
    server.bootstrap();

    let (access_log, _access_log_guard) = match &config.access_log {
        Some(log) => {
            let (writer, guard) = AccessLog::open(&log.target, metrics.access_log_dropped())?;
            (Some(writer), Some(guard))
        }
        None => (None, None),
    };
    let (generation, health_checks) = Generation::build(config, snapshot, None, &metrics)?;
    // Nothing takes long from here on.
    let end = shutdown.serve();
    for service in health_checks {
        server.add_service(service);
    }
    generation.snapshot.take_care_of_plugins(&services);
    metrics.reloads.loaded(generation.number);
    capabilities.clusters.replace(generation.clusters());
    drop(announced);
    capabilities.named.replace(generation.snapshot.definitions());
    let shared = Arc::new(Shared {
        current: ArcSwap::from_pointee(generation),
        access_log,
        metrics: metrics.clone(),
        ready: Arc::new(AtomicBool::new(true)),
        left_behind: Arc::new(Semaphore::new(MOST_LEFT_BEHIND)),
    });

    server.add_service(background_service("trim", Trim(shared.clone())));

    let connections = Connections::default();
    for (position, listener) in listeners.iter().enumerate() {
        let bound = listen::bind(listener.addr)?;
        let scheme = if listener.tls { "https" } else { "http" };
        log::info!("listening on {scheme}://{}", bound.addr);
        let app = |h2c| {
            let mut proxy = http_proxy(&server.configuration, Gateway::new(shared.clone(), position));
            let mut options = HttpServerOptions::default();
            options.h2c = h2c;
            options.h2_idle_timeout = Some(keepalive_timeout);
            proxy.server_options = Some(options);
            Arc::new(proxy)
        };
        let h2c = (listener.h2 && !listener.tls).then(|| app(true));
        let app = Connected { app: app(false), h2c, connections: connections.clone(), idle: keepalive_timeout };
        server.add_service(service(app, &certificates, listener, bound));
    }
    let host = Arc::new(host);
    let running = Running {
        hangup,
        shared: shared.clone(),
        capabilities: capabilities.clone(),
        host: host.clone(),
        services,
        certificates,
        inputs,
    };
    let reloads = reload::start(running).map_err(ServerError::Thread)?;
    if let Some(addr) = admin {
        let bound = listen::bind(addr)?;
        log::info!("admin on http://{}", bound.addr);
        let service = admin_endpoint(&shared, reloads.clone()).service(&bound.addr.to_string());
        // It is there to say that the process is not ready any more.
        server.add_service(Prebound::new(service, bound).until_the_end());
    }

    // On a thread of its own: Pingora always waits for the whole grace period, and ours may end before.
    let serving = std::thread::Builder::new()
        .name("server".into())
        .spawn(move || server.run(RunArgs { shutdown_signal: Box::new(end) }))
        .map_err(ServerError::Thread)?;
    shutdown.wait(serving)?;
    shared.ready.store(false, Ordering::Relaxed);
    log::info!("shutting down");
    let grace = Grace::new(shutdown, grace_period);
    shutdown::drain(&metrics, &connections, &grace);
    // Requests need them to the end.
    capabilities.named.shut_down(|| grace.is_over());
    host.filters().shut_down(|| grace.is_over());
    // The engine's clock ticks until the last request and session have ended.
    drop((host, reloads));
    Ok(())
}

/// Shows the generation that is current when it is asked.
fn admin_endpoint(shared: &Arc<Shared>, reloads: Reloads) -> Admin {
    let (plugins, config) = (shared.clone(), shared.clone());
    Admin {
        metrics: shared.metrics.clone(),
        ready: shared.ready.clone(),
        plugins: Box::new(move || {
            let generation = plugins.current.load();
            json!(report::plugins(&generation.snapshot, &generation.config))
        }),
        config: Box::new(move || json!(report::configuration(&config.current.load().config))),
        reload: Box::new(move || {
            let reloads = reloads.clone();
            Box::pin(async move { report::reload(reloads.reload().await) })
        }),
    }
}

fn service<A: ServerApp + Send + Sync + 'static>(
    app: A,
    certificates: &Certificates,
    listener: &Listener,
    bound: Bound,
) -> Prebound<A> {
    let mut service = Service::new("proxy".to_owned(), app);
    let addr = bound.addr.to_string();
    if listener.tls {
        service.add_tls_with_settings(&addr, None, certificates.settings(listener.addr, listener.h2));
    } else {
        service.add_tcp(&addr);
    }
    Prebound::new(service, bound)
}

fn settings(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.threads,
        work_stealing: config.work_stealing,
        ca_file: upstream::ca_file(config.network.ca.as_ref()),
        // When a request is not tried again is for the proxy to say.
        max_retries: usize::MAX,
        grace_period_seconds: Some(config.grace_period.as_secs() + 1),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}
