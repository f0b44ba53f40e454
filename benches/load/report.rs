//! The results as a table.

use std::fmt;

use crate::variant::Variant;

/// CPU time for a request, in microseconds, of every variant in every turn.
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

    /// The median of the differences within a turn to another variant: what disturbs one disturbs both.
    fn above(&self, results: &[f64], other: &str) -> Option<f64> {
        let (_, base) = self.0.iter().find(|(variant, _)| variant.name() == other)?;
        let [_, middle, _] = quartiles(results.iter().zip(base).map(|(result, base)| result - base).collect());
        Some(middle)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| proxy | CPU µs a request | middle half | above bare Pingora | above no plugin |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        for (variant, results) in &self.0 {
            let [low, middle, high] = quartiles(results.clone());
            let above_bare = match self.above(results, "bare") {
                Some(above) => format!("{above:+.2} µs, {:+.1} %", above / (middle - above) * 100.0),
                None => String::new(),
            };
            let plain = variant.plain().filter(|plain| *plain != variant.name());
            let above_plain = plain.and_then(|plain| self.above(results, plain));
            let above_plain = above_plain.map_or(String::new(), |above| format!("{above:+.2} µs"));
            let title = variant.title();
            writeln!(f, "| {title} | {middle:.2} | {low:.2} to {high:.2} | {above_bare} | {above_plain} |")?;
        }
        Ok(())
    }
}

/// The first, the second (which is the median) and the third.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN))
}
