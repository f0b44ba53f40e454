//! What is counted of Proxy-Wasm filters.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Counted;
use crate::phase::FailureKind;

/// The counters of one filter.
#[derive(Clone, Debug)]
pub struct FilterMetrics {
    /// Responses that it sent itself.
    pub local_replies: Counter,
    streams: Counter,
    in_flight: Gauge,
    paused: Gauge,
    failures: [Counter; FailureKind::ALL.len()],
    /// Streams that found no VM after a failure; attempts to start the filter anew that succeeded, and that failed.
    pub reload_backoff: Counter,
    pub reload_success: Counter,
    pub reload_failure: Counter,
}

/// The counters of all filters.
#[derive(Default)]
pub(super) struct Filters {
    streams: Family<Filter, Counter>,
    in_flight: Family<Filter, Gauge>,
    paused: Family<Filter, Gauge>,
    local_replies: Family<Filter, Counter>,
    failures: Family<FailureLabels, Counter>,
    vm_reloads: Family<ReloadLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filter {
    filter: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    filter: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    filter: String,
    result: &'static str,
}

impl Filters {
    pub fn new(registry: &mut Registry) -> Filters {
        let Filters { streams, in_flight, paused, local_replies, failures, vm_reloads } = Filters::default();
        registry.register("filter_streams", "Streams that filters were given", streams.clone());
        registry.register("filter_streams_in_flight", "Streams that filters have now", in_flight.clone());
        registry.register("filter_streams_paused", "Streams that filters hold up now", paused.clone());
        registry.register("filter_local_replies", "Responses that filters sent themselves", local_replies.clone());
        registry.register("filter_failures", "Failures of filters", failures.clone());
        registry.register(
            "filter_vm_reloads",
            "Attempts to start failed filters anew, and streams that found none meanwhile (backoff)",
            vm_reloads.clone(),
        );
        Filters { streams, in_flight, paused, local_replies, failures, vm_reloads }
    }

    pub fn filter(&self, name: &str) -> FilterMetrics {
        let filter = || name.to_owned();
        let label = Filter { filter: filter() };
        let reload = |result| self.vm_reloads.get_or_create_owned(&ReloadLabels { filter: filter(), result });
        FilterMetrics {
            local_replies: self.local_replies.get_or_create_owned(&label),
            streams: self.streams.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            paused: self.paused.get_or_create_owned(&label),
            failures: FailureKind::ALL
                .map(|kind| self.failures.get_or_create_owned(&FailureLabels { filter: filter(), kind: kind.name() })),
            reload_backoff: reload("backoff"),
            reload_success: reload("success"),
            reload_failure: reload("failure"),
        }
    }
}

impl FilterMetrics {
    /// Counts a stream, as in flight until the answer is dropped.
    pub fn stream(&self) -> Counted {
        self.streams.inc();
        Counted::new(&self.in_flight)
    }

    /// Counts a stream as held up until the answer is dropped.
    pub fn paused(&self) -> Counted {
        Counted::new(&self.paused)
    }

    pub fn failures(&self, kind: FailureKind) -> &Counter {
        &self.failures[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use crate::observe::metrics::Metrics;

    use super::*;

    #[test]
    fn a_filter_has_its_own_counters() {
        let metrics = Metrics::new();
        let filter = metrics.filter("auth");
        let (ended, _stream, _paused) = (filter.stream(), filter.stream(), metrics.filter("auth").paused());
        drop(ended);
        filter.local_replies.inc();
        FailureKind::ALL.into_iter().zip(1..).for_each(|(kind, times)| _ = filter.failures(kind).inc_by(times));
        filter.reload_success.inc_by(2);
        metrics.filter("other");

        let text = metrics.encode().unwrap();
        for line in [
            "phasegate_filter_streams_total{filter=\"auth\"} 2",
            "phasegate_filter_streams_total{filter=\"other\"} 0",
            "phasegate_filter_streams_in_flight{filter=\"auth\"} 1",
            "phasegate_filter_streams_paused{filter=\"auth\"} 1",
            "phasegate_filter_local_replies_total{filter=\"auth\"} 1",
            "phasegate_filter_failures_total{filter=\"auth\",kind=\"trap\"} 1",
            "phasegate_filter_failures_total{filter=\"auth\",kind=\"instantiate\"} 6",
            "phasegate_filter_vm_reloads_total{filter=\"auth\",result=\"backoff\"} 0",
            "phasegate_filter_vm_reloads_total{filter=\"auth\",result=\"success\"} 2",
            "phasegate_filter_vms 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
