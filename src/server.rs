//! The Pingora server: services, listeners, shutdown.

mod listen;
mod report;
mod shutdown;
pub mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pingora::apps::HttpServerOptions;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora_proxy::http_proxy_service_with_name;
use serde_json::json;

use self::listen::{Bound, Prebound};
use self::shutdown::Shutdown;
use self::tls::Certificates;
use crate::capability::Capabilities;
use crate::config::{Config, HostPattern};
use crate::observe::access_log::{AccessLog, AccessLogError};
use crate::observe::admin::Admin;
use crate::observe::metrics::Metrics;
use crate::proxy::upstream::{Upstream, UpstreamError};
use crate::proxy::{Gateway, Router, Shared};
use crate::snapshot::Snapshot;
use crate::wasm::Host;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// What a server is started with: everything checked and compiled.
pub struct Start {
    pub config: Config,
    pub capabilities: Arc<Capabilities>,
    pub host: Host,
    pub snapshot: Snapshot,
    pub certificates: Certificates,
    pub metrics: Arc<Metrics>,
}

/// Serves until SIGTERM or SIGINT, and then until the requests in flight have ended, or the grace period has.
///
/// # Errors
/// When an upstream's name does not resolve, the access log cannot be opened or an address is taken.
pub fn run(start: Start) -> Result<(), ServerError> {
    let Start { config, capabilities, host, snapshot, certificates, metrics } = start;
    let mut server = Server::new_with_opt_and_conf(None, settings(&config));
    server.bootstrap();

    let (access_log, _access_log_guard) = match &config.access_log {
        Some(log) => {
            let (writer, guard) = AccessLog::open(&log.target, metrics.access_log_dropped())?;
            (Some((writer, log.format.clone())), Some(guard))
        }
        None => (None, None),
    };
    let mut upstreams = Vec::new();
    for upstream in &config.upstreams {
        let (built, health_checks) = Upstream::build(upstream)?;
        upstreams.push((built, upstream.hash_key.clone()));
        if let Some(health_checks) = health_checks {
            server.add_service(health_checks);
        }
    }
    let plugins = json!(report::scripts(&snapshot));
    capabilities.named.replace(snapshot.definitions());
    let shared = Arc::new(Shared {
        snapshot,
        upstreams,
        access_log,
        metrics: metrics.clone(),
        body_limit: config.body_limit,
        trusted_proxies: config.trusted_proxies.clone(),
    });

    for listener in listeners(&config) {
        let bound = listen::bind(listener.addr)?;
        let scheme = if listener.tls { "https" } else { "http" };
        log::info!("listening on {scheme}://{}", bound.addr);
        server.add_service(proxy_service(&server.configuration, &shared, &certificates, listener, bound, &config));
    }
    let ready = Arc::new(AtomicBool::new(true));
    if let Some(addr) = config.admin {
        let bound = listen::bind(addr)?;
        log::info!("admin on http://{}", bound.addr);
        let config = json!(report::configuration(&config));
        let admin = Admin {
            metrics: metrics.clone(),
            ready: ready.clone(),
            plugins: Box::new(move || plugins.clone()),
            config: Box::new(move || config.clone()),
        };
        let service = admin.service(&bound.addr.to_string());
        // It is there to say that the process is not ready any more.
        server.add_service(Prebound::new(service, bound).until_the_end());
    }

    let shutdown = Shutdown::default();
    let signals = shutdown.signals();
    // On a thread of its own: Pingora always waits for the whole grace period, and ours may end before.
    let serving = std::thread::Builder::new()
        .name("server".into())
        .spawn(move || server.run(RunArgs { shutdown_signal: Box::new(signals) }))
        .map_err(ServerError::Thread)?;
    shutdown.wait(&serving);
    ready.store(false, Ordering::Relaxed);
    log::info!("shutting down");
    let stopped = Instant::now();
    shutdown::drain(&metrics, config.grace_period);
    // Requests need them to the end.
    capabilities.named.shut_down(config.grace_period.saturating_sub(stopped.elapsed()));
    // The engine's clock ticks until the last request and session have ended.
    drop(host);
    Ok(())
}

/// A distinct address to listen on, and the servers behind it.
struct Listener {
    addr: SocketAddr,
    tls: bool,
    h2: bool,
    /// Positions in the configuration.
    servers: Vec<usize>,
}

fn listeners(config: &Config) -> Vec<Listener> {
    let mut listeners = BTreeMap::<(SocketAddr, bool), Listener>::new();
    for (index, server) in config.servers.iter().enumerate() {
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

fn proxy_service(
    settings: &Arc<ServerConf>,
    shared: &Arc<Shared>,
    certificates: &Certificates,
    listener: Listener,
    bound: Bound,
    config: &Config,
) -> Prebound<impl pingora::apps::ServerApp + Send + Sync + 'static> {
    let names = |index: &usize| -> (usize, &[HostPattern]) { (*index, &config.servers[*index].names) };
    let gateway = Gateway::new(shared.clone(), Router::new(listener.servers.iter().map(names)));
    let mut service = http_proxy_service_with_name(settings, gateway, "proxy");
    let addr = bound.addr.to_string();
    if listener.tls {
        service.add_tls_with_settings(&addr, None, certificates.settings(listener.addr, listener.h2));
    } else {
        if let Some(app) = service.app_logic_mut() {
            let mut options = HttpServerOptions::default();
            options.h2c = listener.h2;
            app.server_options = Some(options);
        }
        service.add_tcp(&addr);
    }
    Prebound::new(service, bound)
}

fn settings(config: &Config) -> ServerConf {
    ServerConf {
        threads: config.threads,
        work_stealing: config.work_stealing,
        grace_period_seconds: Some(config.grace_period.as_secs() + 1),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    }
}
