//! The results as a table.

use std::fmt;

use crate::variant::Variant;

/// CPU time for a request, in microseconds, of every variant in every round.
pub struct Report(Vec<(Variant, Vec<f64>)>);

impl Report {
    pub fn new(variants: &[Variant]) -> Report {
        Report(variants.iter().map(|variant| (*variant, Vec::new())).collect())
    }

    pub fn add(&mut self, variant: Variant, micros: f64) {
        if let Some((_, results)) = self.0.iter_mut().find(|(found, _)| *found == variant) {
            results.push(micros);
        }
    }

    /// The median of the differences within a round to another variant: what disturbs a round disturbs both.
    fn above(&self, results: &[f64], other: &str) -> Option<f64> {
        let (_, base) = self.0.iter().find(|(variant, _)| variant.name() == other)?;
        Some(median(results.iter().zip(base).map(|(result, base)| result - base).collect()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| proxy | CPU µs a request | lowest to highest | above bare Pingora | above no script |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (variant, results) in &self.0 {
            let middle = median(results.clone());
            let (lowest, highest) =
                results.iter().fold((f64::MAX, 0_f64), |(low, high), r| (low.min(*r), high.max(*r)));
            let above_bare = match self.above(results, "bare") {
                Some(above) => format!("{above:+.2} µs, {:+.1} %", above / (middle - above) * 100.0),
                None => String::new(),
            };
            let above_none = self.above(results, "none").map_or(String::new(), |above| format!("{above:+.2} µs"));
            let title = variant.title();
            writeln!(f, "| {title} | {middle:.2} | {lowest:.2} to {highest:.2} | {above_bare} | {above_none} |")?;
        }
        Ok(())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}
