//! Health checks: one round over all servers of an upstream every interval.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use http::uri::PathAndQuery;
use pingora::connectors::TransportConnector;
use pingora::http::RequestHeader;
use pingora::protocols::http::v1::client::HttpSession;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use pingora::upstreams::peer::BasicPeer;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Server, UpstreamError};
use crate::config::HealthCheck;

/// A check that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The health checks of one upstream. The first failure takes a server out, the first success takes it back.
pub struct HealthChecks {
    upstream: String,
    interval: Duration,
    targets: Vec<Target>,
}

struct Target {
    server: Arc<Server>,
    /// None: a connection is enough.
    request: Option<RequestHeader>,
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

impl HealthChecks {
    pub(super) fn new(upstream: &str, check: &HealthCheck, servers: &[Arc<Server>]) -> Result<Self, UpstreamError> {
        let target = |server: &Arc<Server>| {
            let request =
                match &check.path {
                    Some(path) => Some(request(path, &server.authority).ok_or_else(|| UpstreamError::HealthPath {
                        upstream: upstream.to_owned(),
                        path: path.clone(),
                    })?),
                    None => None,
                };
            Ok(Target { server: server.clone(), request })
        };
        let targets = servers.iter().map(target).collect::<Result<_, _>>()?;
        Ok(HealthChecks { upstream: upstream.to_owned(), interval: check.interval, targets })
    }

    async fn run(&self) {
        let connector = TransportConnector::new(None);
        // An interval of zero would panic.
        let mut rounds = interval(self.interval.max(Duration::from_millis(1)));
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            futures::future::join_all(self.targets.iter().map(|target| self.check(target, &connector))).await;
        }
    }

    async fn check(&self, target: &Target, connector: &TransportConnector) {
        let result = timeout(TIMEOUT, target.probe(connector)).await.unwrap_or(Err(Failure::Timeout));
        let was_healthy = target.server.healthy.swap(result.is_ok(), Relaxed);
        let (upstream, authority, addr) = (&self.upstream, &target.server.authority, target.server.addr);
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
    async fn probe(&self, connector: &TransportConnector) -> Result<(), Failure> {
        let stream = connector.new_stream(&BasicPeer::new(&self.server.addr.to_string())).await?;
        let Some(request) = &self.request else { return Ok(()) };
        let mut session = HttpSession::new(stream);
        session.write_request_header(Box::new(request.clone())).await?;
        session.read_response().await?;
        match session.get_status().map_or(0, |status| status.as_u16()) {
            200 => Ok(()),
            status => Err(Failure::Status(status)),
        }
    }
}

/// None: this is no path.
fn request(path: &str, authority: &str) -> Option<RequestHeader> {
    // Pingora takes any bytes for a path.
    path.parse::<PathAndQuery>().ok().filter(|_| path.starts_with('/'))?;
    let mut request = RequestHeader::build("GET", path.as_bytes(), None).ok()?;
    request.insert_header("host", authority).ok()?;
    request.insert_header("user-agent", "phasegate health check").ok()?;
    request.insert_header("connection", "close").ok()?;
    Some(request)
}
