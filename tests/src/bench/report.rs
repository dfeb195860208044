//! What a benchmark says: a table for people and, last, one JSON line.
//!
//! Invariant: a figure is made from samples (median or another quantile,
//! smallest, largest) or is a single count, and `met` is computed from the value
//! and the target, never stated. The JSON line is
//! `{"bench":NAME,"figures":{FIGURE:{"value":N,"min":N,"max":N,"target":N|null,"met":BOOL|null}}}`.

use std::io::Write;

use serde_json::{Map, Value, json};

/// What a figure should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// The value must be this or more.
    AtLeast(f64),
    /// The value must be this or less.
    AtMost(f64),
}

impl Target {
    const fn number(self) -> f64 {
        match self {
            Target::AtLeast(number) | Target::AtMost(number) => number,
        }
    }

    fn is_met(self, value: f64) -> bool {
        match self {
            Target::AtLeast(number) => value >= number,
            Target::AtMost(number) => value <= number,
        }
    }
}

/// One measured number with its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The median of the samples, or the quantile that the figure is named after.
    pub value: f64,
    /// The smallest sample.
    pub min: f64,
    /// The largest sample.
    pub max: f64,
    /// What it should reach, if anything.
    pub target: Option<Target>,
}

impl Figure {
    /// A figure over samples.
    ///
    /// # Errors
    /// When there is no sample, or one that is no finite number: such a figure
    /// would claim something nobody measured.
    pub fn of(samples: &[f64], target: Option<Target>) -> anyhow::Result<Self> {
        anyhow::ensure!(!samples.is_empty(), "a figure without samples");
        anyhow::ensure!(samples.iter().all(|sample| sample.is_finite()), "a sample is not finite: {samples:?}");
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let value =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Ok(Self { value, min: sorted[0], max: sorted[sorted.len() - 1], target })
    }

    /// A figure whose value is a quantile (0 to 1) of the samples, by nearest
    /// rank: a value that was measured, never one between two.
    ///
    /// # Errors
    /// As [`Figure::of`].
    pub fn quantile(samples: &[f64], quantile: f64, target: Option<Target>) -> anyhow::Result<Self> {
        let spread = Self::of(samples, target)?;
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = (quantile * sorted.len() as f64).ceil() as usize;
        let value = sorted[rank.clamp(1, sorted.len()) - 1];
        Ok(Self { value, ..spread })
    }

    /// Whether the target is met; `None` without a target.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.value))
    }

    fn json(&self) -> Value {
        json!({
            "value": rounded(self.value),
            "min": rounded(self.min),
            "max": rounded(self.max),
            "target": self.target.map(Target::number),
            "met": self.met(),
        })
    }
}

/// All figures of one benchmark, in the order they were added.
#[derive(Debug, Clone)]
pub struct Report {
    bench: &'static str,
    figures: Vec<(String, Figure)>,
    notes: Vec<String>,
}

impl Report {
    /// An empty report of the benchmark with that name.
    #[must_use]
    pub const fn new(bench: &'static str) -> Self {
        Self { bench, figures: Vec::new(), notes: Vec::new() }
    }

    /// Adds a figure over samples.
    ///
    /// # Errors
    /// As [`Figure::of`].
    pub fn add(&mut self, name: impl Into<String>, samples: &[f64], target: Option<Target>) -> anyhow::Result<()> {
        self.figures.push((name.into(), Figure::of(samples, target)?));
        Ok(())
    }

    /// Adds a figure whose value is a quantile of the samples.
    ///
    /// # Errors
    /// As [`Figure::of`].
    pub fn add_quantile(
        &mut self,
        name: impl Into<String>,
        samples: &[f64],
        quantile: f64,
        target: Option<Target>,
    ) -> anyhow::Result<()> {
        self.figures.push((name.into(), Figure::quantile(samples, quantile, target)?));
        Ok(())
    }

    /// Adds a line that is printed above the table: how it was measured.
    pub fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// The figures by name.
    #[must_use]
    pub fn figures(&self) -> &[(String, Figure)] {
        &self.figures
    }

    /// Whether every target is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.figures.iter().all(|(_, figure)| figure.met() != Some(false))
    }

    /// Prints notes, table and, last, the JSON line.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        for note in &self.notes {
            writeln!(out, "{note}")?;
        }
        let width = self.figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max("figure".len());
        writeln!(out, "{:width$}  {:>14} {:>14} {:>14} {:>12}  met", "figure", "value", "min", "max", "target")?;
        for (name, figure) in &self.figures {
            let target = match figure.target {
                Some(Target::AtLeast(number)) => format!(">= {number}"),
                Some(Target::AtMost(number)) => format!("<= {number}"),
                None => "-".to_owned(),
            };
            let met = match figure.met() {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "-",
            };
            let [value, min, max] = [figure.value, figure.min, figure.max].map(rounded);
            writeln!(out, "{name:width$}  {value:>14} {min:>14} {max:>14} {target:>12}  {met}")?;
        }
        let figures: Map<String, Value> =
            self.figures.iter().map(|(name, figure)| (name.clone(), figure.json())).collect();
        writeln!(out, "{}", json!({ "bench": self.bench, "figures": figures }))
    }
}

/// Four significant digits below a thousand, whole numbers above: more would
/// pretend to a precision that a shared machine does not have.
fn rounded(number: f64) -> f64 {
    if number == 0.0 || number.abs() >= 1000.0 {
        return number.round();
    }
    let digits = 10_f64.powf(3.0 - number.abs().log10().floor());
    (number * digits).round() / digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_with_its_spread_and_the_target_decides() {
        let figure = Figure::of(&[3.0, 1.0, 2.0], Some(Target::AtLeast(2.0))).unwrap();
        assert_eq!((figure.value, figure.min, figure.max, figure.met()), (2.0, 1.0, 3.0, Some(true)));
        assert_eq!(Figure::of(&[1.0, 2.0], Some(Target::AtMost(1.4))).unwrap().met(), Some(false));
        assert_eq!(Figure::of(&[1.0], None).unwrap().met(), None);
        assert!(Figure::of(&[], None).is_err());
        assert!(Figure::of(&[f64::NAN], None).is_err());
    }

    #[test]
    fn a_quantile_is_one_of_the_samples_and_is_judged_itself() {
        let samples: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let at = |quantile| Figure::quantile(&samples, quantile, Some(Target::AtMost(19.0))).unwrap();
        assert_eq!((at(0.5).value, at(0.95).value, at(0.99).value), (10.0, 19.0, 20.0));
        assert_eq!((at(0.95).met(), at(0.99).met()), (Some(true), Some(false)));
        assert_eq!(Figure::quantile(&[7.0], 0.0, None).unwrap().value, 7.0);
        assert!(Figure::quantile(&[], 0.5, None).is_err());
    }

    #[test]
    fn the_last_line_is_the_json_line() {
        let mut report = Report::new("x");
        report.note("measured on a test");
        report.add("rate", &[1234.56, 1.0, 99999.9], Some(Target::AtLeast(8.0))).unwrap();
        report.add("share", &[0.012_345], None).unwrap();
        let mut out = Vec::new();
        report.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            last,
            json!({"bench": "x", "figures": {
                "rate": {"value": 1235.0, "min": 1.0, "max": 100_000.0, "target": 8.0, "met": true},
                "share": {"value": 0.012_35, "min": 0.012_35, "max": 0.012_35, "target": null, "met": null},
            }})
        );
        assert!(report.is_met());
    }
}
