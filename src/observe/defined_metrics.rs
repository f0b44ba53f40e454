//! Metrics that filters define, under names of their own. They are of the process: all VMs share them, and they outlive
//! reloads.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;

/// Metrics of all filters at the most.
pub const MOST_METRICS: usize = 10_000;
/// Bytes of a name at the most.
pub const LONGEST_NAME: usize = 2 << 10;

/// Upper bounds of the buckets of a histogram: those of Envoy.
const BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 10e3, 30e3, 60e3, 300e3, 600e3, 1800e3,
    3600e3,
];

/// What names of the proxy's own metrics begin with.
const OWN_PREFIX: &str = "phasegate";

/// What a metric measures. Its number is in the low two bits of its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Why a metric was not defined, changed or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MetricError {
    #[error("filters have defined {MOST_METRICS} metrics already: put less into their names")]
    TooMany,
    #[error("a name of {0} bytes is too long for a metric: {LONGEST_NAME} bytes is the most")]
    LongName(usize),
    #[error("there is no metric with this id")]
    NotFound,
    #[error("metrics of this kind cannot do that")]
    Unsuitable,
}

/// All metrics that filters have defined. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct DefinedMetrics(Arc<RwLock<Table>>);

#[derive(Debug, Default)]
struct Table {
    ids: HashMap<(MetricKind, Box<str>), u32>,
    /// By kind, in the order of their ids.
    metrics: [Vec<Arc<Metric>>; MetricKind::ALL.len()],
    /// Names of samples.
    exported: HashSet<String>,
}

#[derive(Debug)]
struct Metric {
    exported: String,
    help: String,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Counter(AtomicU64),
    Gauge(AtomicU64),
    Histogram(Histogram),
}

impl MetricKind {
    /// In the order of their numbers.
    pub const ALL: [MetricKind; 3] = [MetricKind::Counter, MetricKind::Gauge, MetricKind::Histogram];

    fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

impl DefinedMetrics {
    /// The id of the metric of this kind and name, which is made if there is none.
    ///
    /// # Errors
    /// `LongName`, `TooMany`
    pub fn define(&self, kind: MetricKind, name: &str) -> Result<u32, MetricError> {
        if name.len() > LONGEST_NAME {
            return Err(MetricError::LongName(name.len()));
        }
        self.0.write().define(kind, name)
    }

    /// Adds to a counter, or to a gauge, which stays between 0 and the largest number that there is.
    ///
    /// # Errors
    /// `NotFound`; `Unsuitable` for a histogram or no kind at all, and for a counter that would not grow.
    pub fn increment(&self, id: u32, by: i64) -> Result<(), MetricError> {
        has_number(id)?;
        match &self.metric(id)?.value {
            Value::Counter(counter) if by > 0 => _ = counter.fetch_add(by.cast_unsigned(), Relaxed),
            Value::Gauge(gauge) => {
                _ = gauge.fetch_update(Relaxed, Relaxed, |value| Some(value.saturating_add_signed(by)));
            }
            Value::Counter(_) | Value::Histogram(_) => return Err(MetricError::Unsuitable),
        }
        Ok(())
    }

    /// Adds to a counter, sets a gauge, or puts a value into a histogram.
    ///
    /// # Errors
    /// `NotFound`
    pub fn record(&self, id: u32, value: u64) -> Result<(), MetricError> {
        match &self.metric(id)?.value {
            Value::Counter(counter) => _ = counter.fetch_add(value, Relaxed),
            Value::Gauge(gauge) => gauge.store(value, Relaxed),
            Value::Histogram(histogram) => histogram.observe(value as f64),
        }
        Ok(())
    }

    /// The value of a counter or gauge.
    ///
    /// # Errors
    /// `NotFound`; `Unsuitable` for a histogram or no kind at all.
    pub fn get(&self, id: u32) -> Result<u64, MetricError> {
        has_number(id)?;
        match &self.metric(id)?.value {
            Value::Counter(value) | Value::Gauge(value) => Ok(value.load(Relaxed)),
            Value::Histogram(_) => Err(MetricError::Unsuitable),
        }
    }

    fn metric(&self, id: u32) -> Result<Arc<Metric>, MetricError> {
        let place = |table: &Table| {
            let index = (id >> 2).checked_sub(1)?;
            table.metrics.get((id & 3) as usize)?.get(index as usize).cloned()
        };
        place(&self.0.read()).ok_or(MetricError::NotFound)
    }
}

/// As in Envoy, an id of the wrong kind is wrong whether there is such a metric or not.
fn has_number(id: u32) -> Result<(), MetricError> {
    let numbers = [MetricKind::Counter, MetricKind::Gauge];
    if numbers.iter().any(|kind| *kind as u32 == id & 3) { Ok(()) } else { Err(MetricError::Unsuitable) }
}

impl Table {
    fn define(&mut self, kind: MetricKind, name: &str) -> Result<u32, MetricError> {
        let key = (kind, Box::from(name));
        if let Some(id) = self.ids.get(&key) {
            return Ok(*id);
        }
        if self.ids.len() >= MOST_METRICS {
            return Err(MetricError::TooMany);
        }
        let (exported, help) = (self.export(kind, name), help(name));
        let metrics = &mut self.metrics[kind as usize];
        metrics.push(Arc::new(Metric { exported, help, value: Value::new(kind) }));
        let id = (metrics.len() as u32) << 2 | kind as u32;
        self.ids.insert(key, id);
        Ok(id)
    }

    /// A name for the exposition, none of whose samples is there already: other names may look the same there.
    fn export(&mut self, kind: MetricKind, name: &str) -> String {
        let name = family(kind, name);
        let with_kind = format!("{name}_{}", kind.name());
        let numbered = (self.ids.len() + 1..).map(|number| format!("{with_kind}_{number}"));
        let mut candidates = [name, with_kind.clone()].into_iter().chain(numbered);
        loop {
            let family = candidates.next().expect("numbers do not end");
            let samples = samples(kind, &family);
            if !samples.iter().any(|sample| self.exported.contains(sample)) {
                self.exported.extend(samples);
                return family;
            }
        }
    }
}

impl Value {
    fn new(kind: MetricKind) -> Value {
        match kind {
            MetricKind::Counter => Value::Counter(AtomicU64::new(0)),
            MetricKind::Gauge => Value::Gauge(AtomicU64::new(0)),
            MetricKind::Histogram => Value::Histogram(Histogram::new(BUCKETS)),
        }
    }
}

impl Collector for DefinedMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // Nobody waits while this writes.
        let metrics = self.0.read().metrics.clone();
        for metric in metrics.iter().flatten() {
            let mut encode = |kind, value: &dyn EncodeMetric| {
                value.encode(encoder.encode_descriptor(&metric.exported, &metric.help, None, kind)?)
            };
            match &metric.value {
                Value::Counter(value) => encode(MetricType::Counter, &ConstCounter::new(value.load(Relaxed)))?,
                // As whole numbers, the encoder fails at what is more than an `i64`.
                Value::Gauge(value) => encode(MetricType::Gauge, &ConstGauge::new(value.load(Relaxed) as f64))?,
                Value::Histogram(histogram) => encode(MetricType::Histogram, histogram)?,
            }
        }
        Ok(())
    }
}

/// The name as OpenMetrics allows it. The encoder ends the names of counters with `_total`.
fn family(kind: MetricKind, name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == ':' { c } else { '_' };
    let mut family: String = name.chars().map(allowed).collect();
    if kind == MetricKind::Counter {
        family.truncate(family.strip_suffix("_total").unwrap_or(&family).len());
    }
    if family.starts_with(OWN_PREFIX) {
        family.insert_str(0, "filter_");
    }
    if family.is_empty() || family.starts_with(|c: char| c.is_ascii_digit()) {
        family.insert(0, '_');
    }
    family
}

/// All names that a metric takes from others.
fn samples(kind: MetricKind, family: &str) -> Vec<String> {
    let suffixes: &[&str] = match kind {
        MetricKind::Counter => &["", "_total", "_created"],
        MetricKind::Gauge => &[""],
        MetricKind::Histogram => &["", "_bucket", "_count", "_sum", "_created"],
    };
    suffixes.iter().map(|suffix| format!("{family}{suffix}")).collect()
}

/// The text that shows the name as the filter gave it, on one line and with nothing that needs an escape.
fn help(name: &str) -> String {
    let plain = |c: char| if c.is_control() || matches!(c, '\\' | '"') { '_' } else { c };
    format!("Defined by a filter as {}", name.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use MetricKind::{Counter, Gauge, Histogram};
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;

    fn exposition(metrics: &DefinedMetrics) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(metrics.clone()));
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn ids_tell_the_kind_and_stay() {
        let metrics = DefinedMetrics::default();
        let define = |kind, name| metrics.define(kind, name).unwrap();
        assert_eq!([define(Counter, "a"), define(Gauge, "a"), define(Histogram, "a")], [4, 5, 6]);
        assert_eq!([define(Counter, "b"), define(Counter, "a"), define(Histogram, "c")], [8, 4, 10]);
        for id in [0, 1, 2, 3, 7, 12, 9, u32::MAX] {
            let without_number = if id & 3 < 2 { MetricError::NotFound } else { MetricError::Unsuitable };
            assert_eq!(metrics.get(id), Err(without_number), "{id}");
            assert_eq!(metrics.record(id, 1), Err(MetricError::NotFound), "{id}");
            assert_eq!(metrics.increment(id, 1), Err(without_number), "{id}");
        }
    }

    #[test]
    fn each_kind_does_what_it_can() {
        let metrics = DefinedMetrics::default();
        let [counter, gauge, histogram] = MetricKind::ALL.map(|kind| metrics.define(kind, "m").unwrap());
        metrics.increment(counter, 3).unwrap();
        metrics.record(counter, 4).unwrap();
        assert_eq!(metrics.increment(counter, 0), Err(MetricError::Unsuitable));
        assert_eq!(metrics.increment(counter, -1), Err(MetricError::Unsuitable));
        assert_eq!(metrics.get(counter), Ok(7));

        metrics.record(gauge, 10).unwrap();
        metrics.increment(gauge, -4).unwrap();
        assert_eq!(metrics.get(gauge), Ok(6));
        metrics.increment(gauge, i64::MIN).unwrap();
        assert_eq!(metrics.get(gauge), Ok(0), "not below 0");
        metrics.record(gauge, u64::MAX).unwrap();
        metrics.increment(gauge, 1).unwrap();
        assert_eq!(metrics.get(gauge), Ok(u64::MAX));

        metrics.record(histogram, 7).unwrap();
        assert_eq!(metrics.increment(histogram, 1), Err(MetricError::Unsuitable));
        assert_eq!(metrics.get(histogram), Err(MetricError::Unsuitable));

        metrics.record(counter, u64::MAX).unwrap();
        assert_eq!(metrics.get(counter), Ok(6), "it goes round");
    }

    #[test]
    fn they_are_exported() {
        let metrics = DefinedMetrics::default();
        let [counter, gauge, histogram] = [(Counter, "hits_total"), (Gauge, "my.gauge-1"), (Histogram, "1.time")]
            .map(|(kind, name)| metrics.define(kind, name).unwrap());
        metrics.record(counter, 2).unwrap();
        metrics.record(gauge, u64::MAX).unwrap();
        [1, 7, 5_000_000].into_iter().for_each(|value| metrics.record(histogram, value).unwrap());
        let text = exposition(&metrics);
        for line in [
            "# HELP hits Defined by a filter as hits_total",
            "# TYPE hits counter",
            "hits_total 2",
            "# HELP my_gauge_1 Defined by a filter as my.gauge-1",
            "# TYPE my_gauge_1 gauge",
            "# TYPE _1_time histogram",
            "_1_time_sum 5000008.0",
            "_1_time_count 3",
            "_1_time_bucket{le=\"0.5\"} 0",
            "_1_time_bucket{le=\"1.0\"} 1",
            "_1_time_bucket{le=\"10.0\"} 2",
            "_1_time_bucket{le=\"3600000.0\"} 2",
            "_1_time_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let gauge = text.lines().find_map(|line| line.strip_prefix("my_gauge_1 ")).unwrap();
        assert_eq!(gauge.parse(), Ok(u64::MAX as f64), "{gauge}");
    }

    #[test]
    fn names_that_look_the_same_do_not_break_the_exposition() {
        let metrics = DefinedMetrics::default();
        let mut defined = 0;
        let mut define = |kind, name| {
            metrics.record(metrics.define(kind, name).unwrap(), 1).unwrap();
            defined += 1;
        };
        // Samples that have the names of others' families.
        define(Gauge, "y_total");
        define(Counter, "y");
        define(Gauge, "z_count");
        define(Histogram, "z");
        let alike = ["a", "a.b", "a-b", "a_b", "a_b_total", "a_b_count", "a_b_total_total"];
        let odd = ["", "\n", "1", "_1", "é", "a\n# EOF", "a\\\"b", "phasegate_requests", "filter_phasegate_requests"];
        for name in alike.into_iter().chain(odd) {
            for kind in MetricKind::ALL {
                define(kind, name);
            }
        }
        let text = exposition(&metrics);
        let mut seen = HashSet::new();
        let mut types = 0;
        for line in text.lines() {
            let name = match line.split_once("# TYPE ") {
                Some((_, rest)) => {
                    types += 1;
                    rest.split(' ').next().unwrap()
                }
                None if line.starts_with('#') => continue,
                // A gauge has its family's name.
                None => line.rsplit_once(' ').unwrap().0,
            };
            let valid = |c: char| c.is_ascii_alphanumeric() || "_:".contains(c);
            assert!(name.split('{').next().unwrap().chars().all(valid), "{line}");
            assert!(!name.starts_with("phasegate") && !name.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            let gauge = text.contains(&format!("# TYPE {name} gauge\n"));
            assert!(seen.insert((name.to_owned(), gauge && line.starts_with('#'))), "{line} twice in\n{text}");
        }
        assert_eq!(types, defined);
        assert_eq!(text.lines().filter(|line| *line == "# EOF").count(), 1);
    }

    #[test]
    fn there_is_a_bound() {
        let metrics = DefinedMetrics::default();
        for n in 0..MOST_METRICS {
            // All look the same in the exposition.
            metrics.define(Gauge, &char::from_u32(0x1000 + n as u32).unwrap().to_string()).unwrap();
        }
        assert_eq!(metrics.define(Gauge, "one more"), Err(MetricError::TooMany));
        assert!(metrics.define(Gauge, "\u{1000}").is_ok(), "what is there stays");
        let long = "x".repeat(LONGEST_NAME + 1);
        assert_eq!(metrics.define(Gauge, &long), Err(MetricError::LongName(LONGEST_NAME + 1)));
    }
}
