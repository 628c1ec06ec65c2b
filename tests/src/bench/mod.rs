//! Benchmarks: product and baseline interleaved in one run, medians.

pub mod qos;

use serde::Serialize;

/// One result, one JSON object a line.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which benchmark.
    pub bench: &'static str,
    /// What was run.
    pub case: String,
    /// What was measured.
    pub metric: &'static str,
    /// The product's median.
    pub value: f64,
    /// Of `value` and `baseline_value`.
    pub unit: &'static str,
    /// What it is compared with.
    pub baseline: String,
    /// The baseline's median.
    pub baseline_value: f64,
    /// `value` over `baseline_value`.
    pub ratio: f64,
    /// The bound, `ratio <= 1.04`; empty for a report.
    pub target: String,
    /// Whether the bound holds; none for a report.
    pub met: Option<bool>,
}

/// The middle of the values, or the mean of the two in the middle; 0 without any.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}
