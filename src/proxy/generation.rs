//! One version of the configuration, with all that requests are served from.

use std::collections::HashMap;
use std::sync::Arc;

use pingora::services::background::GenBackgroundService;

use super::upstream::{HealthChecks, ResolveError, Upstream};
use crate::capability::cluster::Cluster;
use crate::config::{Config, Router};
use crate::observe::metrics::{Counted, Metrics};
use crate::snapshot::Snapshot;

/// A version of the configuration. It lives as long as it is the current one, or a request uses it.
pub struct Generation {
    /// Counted from 1, with which the process starts.
    pub number: u64,
    pub config: Config,
    pub snapshot: Snapshot,
    /// In the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
    /// In the order of the listeners.
    routers: Vec<Router>,
    _alive: Counted,
}

/// A service that looks after the health of an upstream. It has to be added to the server.
pub type HealthService = GenBackgroundService<HealthChecks>;

impl Generation {
    /// The generation after `before`, of which it takes over the upstreams whose definition is the same, with their health
    /// and their connections in use. The names of others are resolved, blocking.
    ///
    /// # Errors
    /// When an upstream cannot be built.
    pub fn build(
        config: Config,
        snapshot: Snapshot,
        before: Option<&Generation>,
        metrics: &Metrics,
    ) -> Result<(Generation, Vec<HealthService>), ResolveError> {
        let mut upstreams = Vec::new();
        let mut services = Vec::new();
        for spec in &config.upstreams {
            upstreams.push(match before.and_then(|before| before.same_upstream(spec)) {
                Some(upstream) => upstream.clone(),
                None => {
                    let (upstream, health_checks) = Upstream::build(spec, config.network.ca.as_ref())?;
                    services.extend(health_checks);
                    upstream
                }
            });
        }
        let generation = Generation {
            number: before.map_or(1, |before| before.number + 1),
            routers: config.listeners().iter().map(|listener| Router::of(&config, listener)).collect(),
            config,
            snapshot,
            upstreams,
            _alive: metrics.reloads.snapshot(),
        };
        Ok((generation, services))
    }

    /// The upstreams as what plugins call out to.
    pub fn clusters(&self) -> HashMap<String, Arc<dyn Cluster>> {
        let cluster = |upstream: &Arc<Upstream>| (upstream.name().to_string(), upstream.clone() as Arc<dyn Cluster>);
        self.upstreams.iter().map(cluster).collect()
    }

    /// Of a listener, by its position.
    pub fn router(&self, listener: usize) -> &Router {
        &self.routers[listener]
    }

    fn same_upstream(&self, spec: &crate::config::Upstream) -> Option<&Arc<Upstream>> {
        let position = self.config.upstreams.iter().position(|other| other == spec)?;
        Some(&self.upstreams[position])
    }
}
