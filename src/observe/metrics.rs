//! What is counted. Whoever counts asks once for its counters; from then on each count is one atomic addition.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::phase::{Phase, Verdict};
use crate::wasm::FailureKind;

/// The content type of `Metrics::encode`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// By the first digit of the status; in 0, those that got no response.
    requests: [Counter; 6],
    requests_in_flight: Gauge,
    access_log_dropped: Counter,
    snapshots: Gauge,
    config_generation: Gauge,
    config_loaded: Gauge,
    /// In the order of [`ReloadResult`].
    reloads: [Counter; ReloadResult::ALL.len()],
    instances: Gauge,
    plugin_runs: Family<ScriptPhase, Counter>,
    plugin_failures: Family<FailureLabels, Counter>,
    plugin_unsupported_verdicts: Family<VerdictLabels, Counter>,
    plugin_instances: Family<Script, Counter>,
}

/// The counters of one script in one phase.
#[derive(Clone, Debug)]
pub struct ScriptMetrics {
    pub runs: Counter,
    /// Instances made of the script, in whatever phase.
    pub instances: Counter,
    /// Instances that live, of all scripts.
    pub live_instances: Gauge,
    failures: [Counter; FailureKind::ALL.len()],
    labels: ScriptPhase,
    unsupported_verdicts: Family<VerdictLabels, Counter>,
}

/// One in a gauge, until it is dropped.
#[derive(Debug)]
#[must_use = "it counts until this is dropped"]
pub struct Counted(Gauge);

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
struct ScriptPhase {
    script: String,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    script: String,
    phase: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabels {
    script: String,
    phase: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Script {
    script: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusClass {
    status: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Metrics {
    pub fn new() -> Metrics {
        let requests = Family::<StatusClass, Counter>::default();
        let class = |status| requests.get_or_create_owned(&StatusClass { status });
        let reloads = Family::<ReloadLabels, Counter>::default();
        let reload = |result: ReloadResult| reloads.get_or_create_owned(&ReloadLabels { result: result.name() });
        let mut metrics = Metrics {
            registry: Registry::with_prefix("phasegate"),
            requests: ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            requests_in_flight: Gauge::default(),
            access_log_dropped: Counter::default(),
            snapshots: Gauge::default(),
            config_generation: Gauge::default(),
            config_loaded: Gauge::default(),
            reloads: ReloadResult::ALL.map(reload),
            instances: Gauge::default(),
            plugin_runs: Family::default(),
            plugin_failures: Family::default(),
            plugin_unsupported_verdicts: Family::default(),
            plugin_instances: Family::default(),
        };
        metrics.registry.register("requests", "Requests by class of their status", requests);
        metrics.registry.register("reloads", "Attempts to load the configuration anew, by how they ended", reloads);
        metrics.register();
        metrics
    }

    /// Counts a request that has ended, with the status that the client got; none: it got none.
    pub fn request_ended(&self, status: Option<u16>) {
        let class = usize::from(status.unwrap_or(0) / 100);
        self.requests.get(class).unwrap_or(&self.requests[0]).inc();
    }

    /// Counts a request in flight until the answer is dropped.
    pub fn request_in_flight(&self) -> Counted {
        Counted::new(&self.requests_in_flight)
    }

    /// Counts a version of the configuration that requests are served from, until the answer is dropped.
    pub fn snapshot(&self) -> Counted {
        Counted::new(&self.snapshots)
    }

    /// From now on, requests are served from this version of the configuration.
    pub fn config_loaded(&self, generation: u64) {
        self.config_generation.set(generation.cast_signed());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.config_loaded.set(now.as_secs().cast_signed());
    }

    /// Counts an attempt to load the configuration anew.
    pub fn reload_ended(&self, result: ReloadResult) {
        self.reloads[result as usize].inc();
    }

    /// How many requests are in flight.
    pub fn requests_in_flight(&self) -> i64 {
        self.requests_in_flight.get()
    }

    /// Lines of the access log that were lost.
    pub fn access_log_dropped(&self) -> Counter {
        self.access_log_dropped.clone()
    }

    /// The counters of a script in a phase: the same ones for the same names.
    pub fn script(&self, name: &str, phase: Phase) -> ScriptMetrics {
        let labels = ScriptPhase { script: name.to_owned(), phase: phase.directive() };
        let failure = |kind: FailureKind| {
            let ScriptPhase { script, phase } = labels.clone();
            self.plugin_failures.get_or_create_owned(&FailureLabels { script, phase, kind: kind.name() })
        };
        ScriptMetrics {
            runs: self.plugin_runs.get_or_create_owned(&labels),
            instances: self.plugin_instances.get_or_create_owned(&Script { script: name.to_owned() }),
            live_instances: self.instances.clone(),
            failures: FailureKind::ALL.map(failure),
            unsupported_verdicts: self.plugin_unsupported_verdicts.clone(),
            labels,
        }
    }

    /// The text exposition of OpenMetrics, which Prometheus reads. Its type is `CONTENT_TYPE`.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// All but the requests by status and the reloads. The encoder ends the names of counters with `_total`.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests_in_flight", "Requests being served", self.requests_in_flight.clone());
        registry.register(
            "access_log_dropped",
            "Lines of the access log that were lost",
            self.access_log_dropped.clone(),
        );
        registry.register("snapshots", "Versions of the configuration that requests use", self.snapshots.clone());
        registry.register(
            "config_generation",
            "The version of the configuration that new requests get, counted from the start of the process",
            self.config_generation.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When that version was loaded",
            self.config_loaded.clone(),
        );
        registry.register("instances", "Instances that live", self.instances.clone());
        registry.register("plugin_runs", "Runs of scripts", self.plugin_runs.clone());
        registry.register("plugin_failures", "Runs of scripts that failed", self.plugin_failures.clone());
        registry.register(
            "plugin_unsupported_verdicts",
            "Verdicts that the phase does not support, taken as ok",
            self.plugin_unsupported_verdicts.clone(),
        );
        registry.register("plugin_instances", "Instances made of scripts", self.plugin_instances.clone());
    }
}

impl ScriptMetrics {
    pub fn failures(&self, kind: FailureKind) -> &Counter {
        &self.failures[kind as usize]
    }

    /// Counts a verdict that the phase does not support. Looks its counter up: few verdicts ever need one.
    pub fn unsupported_verdict(&self, verdict: Verdict) {
        let ScriptPhase { script, phase } = self.labels.clone();
        self.unsupported_verdicts.get_or_create(&VerdictLabels { script, phase, verdict: verdict.name() }).inc();
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

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::Ext;

    #[test]
    fn a_new_process_shows_zeros() {
        let text = Metrics::new().encode().unwrap();
        for line in [
            "# TYPE phasegate_requests counter",
            "phasegate_requests_total{status=\"none\"} 0",
            "phasegate_requests_total{status=\"5xx\"} 0",
            "phasegate_requests_in_flight 0",
            "phasegate_access_log_dropped_total 0",
            "phasegate_reloads_total{result=\"failed\"} 0",
            "phasegate_snapshots 0",
            "phasegate_instances 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_by_class() {
        let metrics = Metrics::new();
        for status in [Some(200), Some(204), Some(404), Some(599), Some(999), None] {
            metrics.request_ended(status);
        }
        assert_eq!(metrics.requests.each_ref().map(Counter::get), [2, 0, 2, 0, 1, 1]);
    }

    #[test]
    fn a_request_is_in_flight_until_dropped() {
        let metrics = Metrics::new();
        let (one, two) = (metrics.request_in_flight(), metrics.request_in_flight());
        assert_eq!(metrics.requests_in_flight.get(), 2);
        drop((one, two));
        assert_eq!(metrics.requests_in_flight.get(), 0);
    }

    #[test]
    fn a_script_has_its_own_counters() {
        let metrics = Metrics::new();
        let access = metrics.script("referer", Phase::Access);
        let log = metrics.script("referer", Phase::AccessLog);
        access.runs.inc();
        access.instances.inc();
        log.runs.inc_by(2);
        log.instances.inc();
        for (times, kind) in FailureKind::ALL.into_iter().enumerate() {
            metrics.script("referer", Phase::Access).failures(kind).inc_by(times as u64);
        }
        log.unsupported_verdict(Verdict::Return);
        log.unsupported_verdict(Verdict::Ext(Ext::Ext1));

        let text = metrics.encode().unwrap();
        for line in [
            "phasegate_plugin_runs_total{script=\"referer\",phase=\"wasm_access\"} 1",
            "phasegate_plugin_runs_total{script=\"referer\",phase=\"wasm_access_log\"} 2",
            "phasegate_plugin_instances_total{script=\"referer\"} 2",
            "phasegate_plugin_failures_total{script=\"referer\",phase=\"wasm_access\",kind=\"trap\"} 0",
            "phasegate_plugin_failures_total{script=\"referer\",phase=\"wasm_access\",kind=\"err\"} 1",
            "phasegate_plugin_failures_total{script=\"referer\",phase=\"wasm_access\",kind=\"instantiate\"} 5",
            "phasegate_plugin_unsupported_verdicts_total{script=\"referer\",phase=\"wasm_access_log\",verdict=\"return\"} 1",
            "phasegate_plugin_unsupported_verdicts_total{script=\"referer\",phase=\"wasm_access_log\",verdict=\"ext1\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
