//! Health checks: one round over all servers of an upstream every interval.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use http::uri::PathAndQuery;
use http::{Uri, Version, header};
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::prelude::HttpPeer;
use pingora::protocols::http::client::HttpSession;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Server;
use super::protocol::{Protocol, connector_options};
use crate::config::{Ca, HealthCheck};

/// A check that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Of Linux: too many open files, in the system and in the process.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// The health checks of one upstream. The first failure takes a server out, the first success takes it back.
pub struct HealthChecks {
    upstream: String,
    interval: Duration,
    targets: Vec<Target>,
    options: ConnectorOptions,
}

struct Target {
    server: Arc<Server>,
    peer: HttpPeer,
    /// None: a connection is enough.
    request: Option<RequestHeader>,
    /// Whether the last check could not be made.
    hindered: AtomicBool,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Connection(#[from] Box<pingora::Error>),
    #[error("the health check answered {0} instead of 200")]
    Status(u16),
    #[error("the health check took longer than {} s", TIMEOUT.as_secs())]
    Timeout,
}

impl Failure {
    /// Whether it says nothing about the server: there was no connection to be had from the system, for lack of open files.
    fn is_ours(&self) -> bool {
        let Failure::Connection(error) = self else { return false };
        let cause = error.root_cause().downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        matches!(cause, Some(ENFILE | EMFILE))
    }
}

impl HealthChecks {
    pub(super) fn new(
        upstream: &str,
        check: &HealthCheck,
        servers: &[Arc<Server>],
        protocol: &Protocol,
        ca: Option<&Ca>,
    ) -> Self {
        let target = |server: &Arc<Server>| {
            let request = check.path.as_ref().map(|path| request(path, &server.authority));
            let mut peer = protocol.peer(server.addr, &server.host);
            // Every check makes a connection of its own.
            peer.options.max_h2_streams = 1;
            Target { server: server.clone(), peer, request, hindered: AtomicBool::new(false) }
        };
        HealthChecks {
            upstream: upstream.to_owned(),
            interval: check.interval,
            targets: servers.iter().map(target).collect(),
            options: connector_options(ca),
        }
    }

    async fn run(&self) {
        let connector = Connector::new(Some(self.options.clone()));
        let mut rounds = interval(self.interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            futures::future::join_all(self.targets.iter().map(|target| self.check(target, &connector))).await;
        }
    }

    async fn check(&self, target: &Target, connector: &Connector) {
        let result = timeout(TIMEOUT, target.probe(connector)).await.unwrap_or(Err(Failure::Timeout));
        let (upstream, authority, addr) = (&self.upstream, &target.server.authority, target.server.addr);
        let is_hindered = result.as_ref().is_err_and(|failure| failure.is_ours());
        let was_hindered = target.hindered.swap(is_hindered, Relaxed);
        if let Err(failure) = &result
            && is_hindered
        {
            if !was_hindered {
                log::warn!("upstream {upstream}: {authority} ({addr}) cannot be checked: {failure}");
            }
            return;
        }
        let was_healthy = target.server.healthy.swap(result.is_ok(), Relaxed);
        match result {
            Err(failure) if was_healthy => log::warn!("upstream {upstream}: {authority} ({addr}) is down: {failure}"),
            Ok(()) if !was_healthy => log::warn!("upstream {upstream}: {authority} ({addr}) is up again"),
            _ => {}
        }
    }
}

#[async_trait]
impl BackgroundService for HealthChecks {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        tokio::select! {
            _ = shutdown.wait_for(|down| *down) => {}
            () = self.run() => {}
        }
    }
}

impl Target {
    async fn probe(&self, connector: &Connector) -> Result<(), Failure> {
        let (mut session, _) = connector.get_http_session(&self.peer).await?;
        let Some(request) = &self.request else { return Ok(()) };
        let mut request = Box::new(request.clone());
        if let HttpSession::H2(_) = session {
            self.turn_into_h2(&mut request);
        }
        session.write_request_header(request).await?;
        session.finish_request_body().await?;
        session.read_response_header().await?;
        match session.response_header().map_or(0, |response| response.status.as_u16()) {
            200 => Ok(()),
            status => Err(Failure::Status(status)),
        }
    }

    fn turn_into_h2(&self, request: &mut RequestHeader) {
        let scheme = if self.peer.is_tls() { "https" } else { "http" };
        let path = request.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = Uri::builder().scheme(scheme).authority(self.server.authority.as_str()).path_and_query(path).build();
        request.set_version(Version::HTTP_2);
        request.remove_header(&header::HOST);
        request.remove_header(&header::CONNECTION);
        if let Ok(uri) = uri {
            request.set_uri(uri);
        }
    }
}

fn request(path: &PathAndQuery, authority: &str) -> RequestHeader {
    let mut request = RequestHeader::build("GET", path.as_str().as_bytes(), None).expect("a path");
    for (name, value) in [("host", authority), ("user-agent", "phasegate health check"), ("connection", "close")] {
        request.insert_header(name, value).expect("an authority and a constant are values of headers");
    }
    request
}
