//! Taking samples in turns.

use anyhow::{Context, ensure};

/// Samples of both sides, in the order they were taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Phantom's.
    pub product: Vec<f64>,
    /// The baseline's.
    pub baseline: Vec<f64>,
}

impl Pair {
    /// The medians of product and baseline.
    ///
    /// # Errors
    /// When there are no samples.
    pub fn medians(&self) -> anyhow::Result<(f64, f64)> {
        Ok((median(&self.product)?, median(&self.baseline)?))
    }
}

/// Takes `rounds` samples of each side, in turns; who goes first changes every round, so that
/// neither always finds the caches the other has warmed.
///
/// # Errors
/// The first that a side reports, with the round it was in.
pub fn in_turns(
    rounds: usize,
    mut product: impl FnMut() -> anyhow::Result<f64>,
    mut baseline: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Pair> {
    let mut pair = Pair { product: Vec::new(), baseline: Vec::new() };
    for round in 0..rounds {
        let mut one = |of_product: bool| -> anyhow::Result<()> {
            if of_product {
                let sample = product().with_context(|| format!("product, round {round}"))?;
                pair.product.push(sample);
            } else {
                let sample = baseline().with_context(|| format!("baseline, round {round}"))?;
                pair.baseline.push(sample);
            }
            Ok(())
        };
        let product_first = round % 2 == 0;
        one(product_first)?;
        one(!product_first)?;
    }
    Ok(pair)
}

/// The median; of an even number of samples the mean of the two in the middle.
///
/// # Errors
/// When there are no samples, or one is no number.
pub fn median(samples: &[f64]) -> anyhow::Result<f64> {
    ensure!(!samples.is_empty(), "no samples");
    ensure!(samples.iter().all(|sample| sample.is_finite()), "a sample is no number: {samples:?}");
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    let lower = (sorted.len() - 1) / 2;
    Ok((sorted[lower] + sorted[upper]) / 2.0)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0]).unwrap(), 3.0);
        assert_eq!(median(&[9.0, 1.0, 2.0]).unwrap(), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5);
        assert!(median(&[]).is_err());
        assert!(median(&[1.0, f64::NAN]).is_err());
    }

    #[test]
    fn sides_take_turns() {
        let order = RefCell::new(String::new());
        let side = |name: char, value: f64| {
            let order = &order;
            move || {
                order.borrow_mut().push(name);
                Ok(value)
            }
        };
        let pair = in_turns(3, side('p', 2.0), side('b', 1.0)).unwrap();
        assert_eq!(order.into_inner(), "pbbppb");
        assert_eq!(pair.medians().unwrap(), (2.0, 1.0));
    }

    #[test]
    fn a_failing_side_is_named() {
        let error = in_turns(2, || Ok(1.0), || anyhow::bail!("no criu")).unwrap_err();
        assert_eq!(format!("{error:#}"), "baseline, round 0: no criu");
    }
}
