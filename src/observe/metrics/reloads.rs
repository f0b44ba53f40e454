//! What is counted of loading the configuration anew.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Counted;

/// The counters of reloads.
pub struct ReloadMetrics {
    snapshots: Gauge,
    generation: Gauge,
    loaded: Gauge,
    /// In the order of [`ReloadResult::ALL`].
    attempts: [Counter; ReloadResult::ALL.len()],
}

/// How an attempt to load the configuration anew ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    Ok,
    /// Something is wrong with the new one.
    Failed,
    /// It changes what cannot be changed while the proxy runs.
    Refused,
    Unchanged,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl ReloadMetrics {
    pub(super) fn new(registry: &mut Registry) -> ReloadMetrics {
        let attempts = Family::<ResultLabel, Counter>::default();
        let attempt = |result: ReloadResult| attempts.get_or_create_owned(&ResultLabel { result: result.name() });
        let metrics = ReloadMetrics {
            snapshots: Gauge::default(),
            generation: Gauge::default(),
            loaded: Gauge::default(),
            attempts: ReloadResult::ALL.map(attempt),
        };
        registry.register("reloads", "Attempts to load the configuration anew, by how they ended", attempts);
        registry.register("snapshots", "Versions of the configuration that requests use", metrics.snapshots.clone());
        registry.register(
            "config_generation",
            "The version of the configuration that new requests get, counted from the start of the process",
            metrics.generation.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When that version was loaded",
            metrics.loaded.clone(),
        );
        metrics
    }

    /// Counts a version of the configuration that requests are served from, until the answer is dropped.
    pub fn snapshot(&self) -> Counted {
        Counted::new(&self.snapshots)
    }

    /// From now on, requests are served from this version of the configuration.
    pub fn loaded(&self, generation: u64) {
        self.generation.set(generation.cast_signed());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.loaded.set(now.as_secs().cast_signed());
    }

    /// Counts an attempt.
    pub fn ended(&self, result: ReloadResult) {
        self.attempts[result as usize].inc();
    }
}

impl ReloadResult {
    const ALL: [ReloadResult; 4] =
        [ReloadResult::Ok, ReloadResult::Failed, ReloadResult::Refused, ReloadResult::Unchanged];

    fn name(self) -> &'static str {
        match self {
            ReloadResult::Ok => "ok",
            ReloadResult::Failed => "failed",
            ReloadResult::Refused => "refused",
            ReloadResult::Unchanged => "unchanged",
        }
    }
}
