//! One measured thing.

use std::fmt;

use serde::{Serialize, Serializer};

/// What a gate asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// The value is at most this many times the baseline's.
    Ratio(f64),
    /// The value is at least this many times the baseline's (throughput).
    RatioAtLeast(f64),
    /// The value itself is at most this, in the row's unit.
    Value(f64),
    /// The value is at most this much above the baseline's, in the row's unit.
    Excess(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ratio(most) => write!(f, "ratio <= {most}"),
            Self::RatioAtLeast(least) => write!(f, "ratio >= {least}"),
            Self::Value(most) => write!(f, "value <= {most}"),
            Self::Excess(most) => write!(f, "value - baseline <= {most}"),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One measured thing; serialises to the object of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The benchmark's name.
    pub bench: &'static str,
    /// Which of its cases: a size, a workload.
    pub case: String,
    /// What was measured: `downtime`, `throughput`.
    pub metric: String,
    /// The median of Phantom's own samples.
    pub value: f64,
    /// The unit of both values: `ms`, `MiB/s`, `%`.
    pub unit: &'static str,
    /// What it was measured against.
    pub baseline: Option<String>,
    /// The median of the baseline's samples.
    pub baseline_value: Option<f64>,
    /// `value / baseline_value`.
    pub ratio: Option<f64>,
    /// What the row must hold, when it is a gate.
    pub target: Option<Bound>,
    /// Whether it holds. A target that needs a baseline which is missing does not.
    pub met: Option<bool>,
}

impl Row {
    /// A value by itself.
    pub fn new(
        bench: &'static str,
        case: impl Into<String>,
        metric: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            bench,
            case: case.into(),
            metric: metric.into(),
            value,
            unit,
            baseline: None,
            baseline_value: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// Adds what it is compared with.
    #[must_use]
    pub fn against(mut self, baseline: impl Into<String>, value: f64) -> Self {
        self.baseline = Some(baseline.into());
        self.baseline_value = Some(value);
        self.ratio = Some(self.value / value).filter(|ratio| ratio.is_finite());
        self.judged()
    }

    /// Makes it a gate.
    #[must_use]
    pub fn must(mut self, target: Bound) -> Self {
        self.target = Some(target);
        self.judged()
    }

    fn judged(mut self) -> Self {
        self.met = self.target.map(|target| match target {
            Bound::Ratio(most) => self.ratio.is_some_and(|ratio| ratio <= most),
            Bound::RatioAtLeast(least) => self.ratio.is_some_and(|ratio| ratio >= least),
            Bound::Value(most) => self.value <= most,
            Bound::Excess(most) => {
                self.baseline_value.is_some_and(|base| self.value - base <= most)
            }
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: f64) -> Row {
        Row::new("migration", "16 MiB", "downtime", value, "ms")
    }

    #[test]
    fn gates() {
        let met = |row: Row| row.met;
        assert_eq!(met(row(97.5).against("criu", 39.0).must(Bound::Ratio(2.5))), Some(true));
        assert_eq!(met(row(98.0).must(Bound::Ratio(2.5)).against("criu", 39.0)), Some(false));
        assert_eq!(met(row(50.0).must(Bound::Value(50.0))), Some(true));
        assert_eq!(met(row(0.6).against("pty", 0.11).must(Bound::Excess(0.4))), Some(false));
        assert_eq!(
            met(row(90.0).against("disk", 100.0).must(Bound::RatioAtLeast(0.8))),
            Some(true)
        );
        assert_eq!(met(row(1.0).against("criu", 1.0)), None);
    }

    #[test]
    fn a_gate_without_its_baseline_is_missed() {
        assert_eq!(row(1.0).must(Bound::Ratio(2.0)).met, Some(false));
        let zero = row(1.0).against("nothing", 0.0).must(Bound::Ratio(2.0));
        assert_eq!((zero.ratio, zero.met), (None, Some(false)));
        assert_eq!(row(f64::NAN).must(Bound::Value(1.0)).met, Some(false));
    }

    #[test]
    fn json_has_the_documented_keys_in_order() {
        let row = row(78.0).against("criu", 39.0).must(Bound::Ratio(2.5));
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            r#"{"bench":"migration","case":"16 MiB","metric":"downtime","value":78.0,"unit":"ms","baseline":"criu","baseline_value":39.0,"ratio":2.0,"target":"ratio <= 2.5","met":true}"#
        );
    }
}
