//! What is counted. Whoever counts asks once for its counters; from then on each count is one atomic addition.

mod code;
mod filters;
mod reloads;

pub use code::RemoteCodeMetrics;
pub use filters::FilterMetrics;
pub use reloads::{ReloadMetrics, ReloadResult};

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use self::filters::Filters;
use super::defined_metrics::DefinedMetrics;
use crate::phase::{FailureKind, Place, Verdict};

/// The content type of `Metrics::encode`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Of `defined`: their names are as filters gave them, with no prefix.
    defined_registry: Registry,
    /// By the first digit of the status; in 0, those that got no response.
    requests: [Counter; 6],
    requests_in_flight: Gauge,
    access_log_dropped: Counter,
    error_log_dropped: Counter,
    connections: Family<Transport, Gauge>,
    callouts: CalloutMetrics,
    plugin_runs: Family<ScriptPhase, Counter>,
    plugin_failures: Family<FailureLabels, Counter>,
    plugin_unsupported_verdicts: Family<VerdictLabels, Counter>,
    plugin_instances: Family<Script, Counter>,
    live: Live,
    filters: Filters,
    pub store: StoreMetrics,
    pub remote_code: RemoteCodeMetrics,
    pub reloads: ReloadMetrics,
    /// What filters count.
    pub defined: DefinedMetrics,
}

/// What plugins have alive now: counted where it lives, back at 0 when all of it is gone.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Mailboxes that can be sent to.
    pub mailboxes: Gauge,
    /// Timers that have not expired yet.
    pub timers: Gauge,
    /// Runs that `spawn` started.
    pub spawned_runs: Gauge,
    /// Named sessions that run, or are about to run again.
    pub named_sessions: Gauge,
    /// Open sockets, with those to clients.
    pub sockets: Gauge,
    /// Instances of plugins.
    pub instances: Gauge,
    /// VMs of filters.
    pub filter_vms: Gauge,
}

/// What is counted of the store of plugins.
#[derive(Clone, Debug, Default)]
pub struct StoreMetrics {
    /// Keys, and bytes that they need, in memory.
    pub entries: Gauge,
    pub bytes: Gauge,
    /// Calls that failed.
    pub failures: Counter,
}

/// The counters of one script in one phase.
#[derive(Clone, Debug)]
pub struct ScriptMetrics {
    pub runs: Counter,
    /// Instances made of the script, in whatever phase.
    instances: Counter,
    /// Instances that live, of all scripts.
    live_instances: Gauge,
    failures: [Counter; FailureKind::ALL.len()],
    labels: ScriptPhase,
    unsupported_verdicts: Family<VerdictLabels, Counter>,
}

/// The counters of callouts.
#[derive(Clone, Debug, Default)]
pub struct CalloutMetrics {
    begun: Counter,
    /// Those that ended without a response, but for those that were given up.
    pub failed: Counter,
    in_flight: Gauge,
}

/// One more of what a gauge counts; one less when it is dropped.
#[derive(Debug)]
#[must_use = "it counts until this is dropped"]
pub struct Counted(Gauge);

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
struct Transport {
    transport: &'static str,
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
        let mut registry = Registry::with_prefix("phasegate");
        let mut metrics = Metrics {
            reloads: ReloadMetrics::new(&mut registry),
            filters: Filters::new(&mut registry),
            remote_code: RemoteCodeMetrics::new(&mut registry),
            registry,
            defined_registry: Registry::default(),
            defined: DefinedMetrics::default(),
            requests: ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            requests_in_flight: Gauge::default(),
            access_log_dropped: Counter::default(),
            error_log_dropped: Counter::default(),
            connections: Family::default(),
            callouts: CalloutMetrics::default(),
            plugin_runs: Family::default(),
            plugin_failures: Family::default(),
            plugin_unsupported_verdicts: Family::default(),
            plugin_instances: Family::default(),
            live: Live::default(),
            store: StoreMetrics::default(),
        };
        metrics.registry.register("requests", "Requests by class of their status", requests);
        metrics.register();
        metrics.defined_registry.register_collector(Box::new(metrics.defined.clone()));
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

    /// How many requests are in flight.
    pub fn requests_in_flight(&self) -> i64 {
        self.requests_in_flight.get()
    }

    /// Lines of the error log that were lost.
    pub fn error_log_dropped(&self) -> Counter {
        self.error_log_dropped.clone()
    }

    /// Lines of the access log that were lost.
    pub fn access_log_dropped(&self) -> Counter {
        self.access_log_dropped.clone()
    }

    /// Counts what plugins have alive.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Connections to other machines that are open for plugins.
    pub fn connections(&self, transport: &'static str) -> Gauge {
        self.connections.get_or_create_owned(&Transport { transport })
    }

    /// The counters of callouts.
    pub fn callouts(&self) -> CalloutMetrics {
        self.callouts.clone()
    }

    /// The counters of a script where it runs: the same ones for the same names.
    pub fn script(&self, name: &str, place: impl Into<Place>) -> ScriptMetrics {
        let labels = ScriptPhase { script: name.to_owned(), phase: place.into().name() };
        let failure = |kind: FailureKind| {
            let ScriptPhase { script, phase } = labels.clone();
            self.plugin_failures.get_or_create_owned(&FailureLabels { script, phase, kind: kind.name() })
        };
        ScriptMetrics {
            runs: self.plugin_runs.get_or_create_owned(&labels),
            instances: self.plugin_instances.get_or_create_owned(&Script { script: name.to_owned() }),
            live_instances: self.live.instances.clone(),
            failures: FailureKind::ALL.map(failure),
            unsupported_verdicts: self.plugin_unsupported_verdicts.clone(),
            labels,
        }
    }

    /// The counters of a filter: the same ones for the same name.
    pub fn filter(&self, name: &str) -> FilterMetrics {
        self.filters.filter(name)
    }

    /// The text exposition of OpenMetrics, which Prometheus reads. Its type is `CONTENT_TYPE`.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.registry)?;
        text::encode_registry(&mut text, &self.defined_registry)?;
        text::encode_eof(&mut text)?;
        Ok(text)
    }

    /// All but the requests by status. The encoder ends the names of counters with `_total`.
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests_in_flight", "Requests being served", self.requests_in_flight.clone());
        registry.register(
            "access_log_dropped",
            "Lines of the access log that were lost",
            self.access_log_dropped.clone(),
        );
        let help = "Lines of the error log that were lost";
        registry.register("error_log_dropped", help, self.error_log_dropped.clone());
        registry.register(
            "connections",
            "Connections to other machines that are open for plugins",
            self.connections.clone(),
        );
        let CalloutMetrics { begun, failed, in_flight } = self.callouts.clone();
        registry.register("callouts", "HTTP requests of plugins to other machines", begun);
        registry.register("callout_failures", "Callouts that ended without a response", failed);
        registry.register("callouts_in_flight", "Callouts that wait for their response", in_flight);
        registry.register("plugin_runs", "Runs of scripts", self.plugin_runs.clone());
        registry.register("plugin_failures", "Runs of scripts that failed", self.plugin_failures.clone());
        registry.register(
            "plugin_unsupported_verdicts",
            "Verdicts that the phase does not support, taken as ok",
            self.plugin_unsupported_verdicts.clone(),
        );
        registry.register("plugin_instances", "Instances made of scripts", self.plugin_instances.clone());
        let Live { mailboxes, timers, spawned_runs, named_sessions, sockets, instances, filter_vms } =
            self.live.clone();
        registry.register("mailboxes", "Mailboxes of sessions that can be sent to", mailboxes);
        registry.register("timers", "Timers of plugins that have not expired yet", timers);
        registry.register("spawned_runs", "Runs that plugins have in the background of requests", spawned_runs);
        registry.register("named_sessions", "Named sessions that run, or wait to run again", named_sessions);
        registry.register("sockets", "Sockets that plugins have open, with those to clients", sockets);
        registry.register("instances", "Instances that live", instances);
        registry.register("filter_vms", "VMs of filters that live", filter_vms);
        registry.register("store_entries", "Keys of the store in memory", self.store.entries.clone());
        registry.register("store_bytes", "Bytes of the store in memory", self.store.bytes.clone());
        registry.register("store_failures", "Calls of the store that failed", self.store.failures.clone());
    }
}

impl CalloutMetrics {
    /// Counts a callout, and as in flight until the answer is dropped; none when this many are in flight already.
    pub fn begin(&self, most: usize) -> Option<Counted> {
        let in_flight = Counted::new(&self.in_flight);
        if usize::try_from(self.in_flight.get()).is_ok_and(|now| now > most) {
            return None;
        }
        self.begun.inc();
        Some(in_flight)
    }
}

impl Live {
    /// How many instances of scripts and VMs of filters there are.
    pub fn all_instances(&self) -> usize {
        usize::try_from(self.instances.get() + self.filter_vms.get()).unwrap_or_default()
    }
}

impl ScriptMetrics {
    /// Counts an instance, as live until the answer is dropped.
    pub fn instance(&self) -> Counted {
        self.instances.inc();
        Counted::new(&self.live_instances)
    }

    pub fn failures(&self, kind: FailureKind) -> &Counter {
        &self.failures[kind as usize]
    }

    /// Counts a verdict that the phase does not support. Looks its counter up: few verdicts ever need one.
    pub fn unsupported_verdict(&self, verdict: Verdict) {
        let ScriptPhase { script, phase } = self.labels.clone();
        self.unsupported_verdicts.get_or_create(&VerdictLabels { script, phase, verdict: verdict.name() }).inc();
    }
}

impl Counted {
    pub fn new(gauge: &Gauge) -> Counted {
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
    use crate::phase::{Ext, Phase};

    #[test]
    fn a_new_process_shows_zeros() {
        let text = Metrics::new().encode().unwrap();
        for line in [
            "# TYPE phasegate_requests counter",
            "phasegate_requests_total{status=\"none\"} 0",
            "phasegate_requests_total{status=\"5xx\"} 0",
            "phasegate_requests_in_flight 0",
            "phasegate_access_log_dropped_total 0",
            "phasegate_error_log_dropped_total 0",
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
