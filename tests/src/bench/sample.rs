//! Taking samples in turns.

use anyhow::{Context, ensure};

/// One of those that take turns: its name, and how it takes a sample.
pub type Side<'a> = (&'a str, Box<dyn FnMut() -> anyhow::Result<f64> + 'a>);

/// Medians of so many samples of Phantom and of a baseline, taken in turns.
///
/// # Errors
/// As [`all_in_turns`].
pub fn in_turns<'a>(
    rounds: usize,
    product: impl FnMut() -> anyhow::Result<f64> + 'a,
    baseline: impl FnMut() -> anyhow::Result<f64> + 'a,
) -> anyhow::Result<(f64, f64)> {
    let sides: [Side<'a>; 2] = [("product", Box::new(product)), ("baseline", Box::new(baseline))];
    let medians = all_in_turns(rounds, sides.into())?;
    Ok((medians[0], medians[1]))
}

/// Medians of so many samples of each side, taken in turns; who goes first changes every round, so
/// that nobody always finds the caches another has warmed.
///
/// # Errors
/// The first that a side reports, with the round it was in; no rounds.
pub fn all_in_turns(rounds: usize, mut sides: Vec<Side<'_>>) -> anyhow::Result<Vec<f64>> {
    let mut samples = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let at = (round + turn) % samples.len();
            let (name, sample) = &mut sides[at];
            samples[at].push(sample().with_context(|| format!("{name}, round {round}"))?);
        }
    }
    samples.iter().map(|of_one| median(of_one)).collect()
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
        assert_eq!(in_turns(3, side('p', 2.0), side('b', 1.0)).unwrap(), (2.0, 1.0));
        assert_eq!(order.take(), "pbbppb");
        let sides: Vec<Side<'_>> = [('p', 2.0), ('b', 1.0), ('c', 3.0)]
            .map(|(name, value)| ("", Box::new(side(name, value)) as _))
            .into();
        assert_eq!(all_in_turns(3, sides).unwrap(), [2.0, 1.0, 3.0]);
        assert_eq!(order.take(), "pbcbcpcpb");
    }

    #[test]
    fn a_failing_side_is_named() {
        let error = in_turns(2, || Ok(1.0), || anyhow::bail!("no criu")).unwrap_err();
        assert_eq!(format!("{error:#}"), "baseline, round 0: no criu");
    }
}
