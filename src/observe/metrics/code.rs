//! What is counted of fetching the code of filters.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The counters of remote code, by the names that Envoy has for them.
#[derive(Clone, Debug)]
pub struct RemoteCodeMetrics {
    /// It was there, in memory or on disk.
    pub cache_hits: Counter,
    /// It could not be fetched a moment ago.
    pub cache_negative_hits: Counter,
    /// It had to be fetched.
    pub cache_misses: Counter,
    pub fetch_successes: Counter,
    /// With all retries.
    pub fetch_failures: Counter,
}

impl RemoteCodeMetrics {
    pub(super) fn new(registry: &mut Registry) -> RemoteCodeMetrics {
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        RemoteCodeMetrics {
            cache_hits: counter("remote_load_cache_hits", "Remote code of filters that was there"),
            cache_negative_hits: counter(
                "remote_load_cache_negative_hits",
                "Remote code of filters that was not fetched, as that had failed a moment before",
            ),
            cache_misses: counter("remote_load_cache_misses", "Remote code of filters that had to be fetched"),
            fetch_successes: counter("remote_load_fetch_successes", "Remote code of filters that was fetched"),
            fetch_failures: counter("remote_load_fetch_failures", "Remote code of filters that could not be fetched"),
        }
    }
}
