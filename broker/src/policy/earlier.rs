//! What programs took when they ran before, for when they are to run again.

use std::collections::BTreeMap;

use super::Profile;
use crate::Job;

/// Programs that are remembered; of more, those that were not seen for the longest time are forgotten.
pub const MOST_PROGRAMS: usize = 4096;
/// How much the newest run counts: what programs are given to do changes.
const NEWEST: f64 = 0.3;
/// What the runs of a program differ by before it has run: to half or double is one standard deviation
/// (variance of the logarithm, ln(2)^2). It counts as one run.
const PRIOR: f64 = 0.48;
/// A doubt is so many standard deviations wide: one run in twenty is further off.
const WIDE: f64 = 2.0;
/// Larger figures cannot be.
const MOST_SIZE: f64 = 1e24;

/// Earlier runs by program; `K` is what tells one from another: a command, or a digest of it.
#[derive(Debug, Clone)]
pub struct Earlier<K> {
    programs: BTreeMap<K, Runs>,
    /// Programs by when they were last seen.
    order: BTreeMap<u64, K>,
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Runs {
    flops: Size,
    bytes: Size,
    count: u32,
    seen: u64,
}

/// The logarithm of a size of at least 1: runs differ by factors.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    mean: f64,
    variance: f64,
}

impl Size {
    fn observe(&mut self, size: f64, is_first: bool) {
        let log = size.max(1.0).ln();
        if is_first {
            self.mean = log;
            return;
        }
        let off = log - self.mean;
        self.mean += NEWEST * off;
        self.variance = (1.0 - NEWEST) * (self.variance + NEWEST * off * off);
    }

    /// What it is expected to be: none where it was hardly anything.
    fn expected(&self) -> f64 {
        let size = self.mean.exp();
        if size < 2.0 { 0.0 } else { size }
    }

    fn doubt(&self, count: u32) -> f64 {
        let runs = f64::from(count);
        let variance = (runs * self.variance + PRIOR) / (runs + 1.0);
        (WIDE * variance.sqrt()).exp()
    }
}

impl<K: Ord + Clone> Default for Earlier<K> {
    fn default() -> Self {
        Self { programs: BTreeMap::new(), order: BTreeMap::new(), turn: 0 }
    }
}

impl<K: Ord + Clone> Earlier<K> {
    /// A program has run and took this; figures that cannot be say nothing.
    pub fn observe(&mut self, program: &K, took: Job) {
        let can_be = |size: f64| (0.0..=MOST_SIZE).contains(&size);
        if !can_be(took.flops) || !can_be(took.bytes) {
            return;
        }
        self.turn += 1;
        let nothing = Runs { flops: Size::default(), bytes: Size::default(), count: 0, seen: 0 };
        let runs = self.programs.entry(program.clone()).or_insert(nothing);
        self.order.remove(&runs.seen);
        runs.flops.observe(took.flops, runs.count == 0);
        runs.bytes.observe(took.bytes, runs.count == 0);
        (runs.count, runs.seen) = (runs.count.saturating_add(1), self.turn);
        self.order.insert(self.turn, program.clone());
        if self.programs.len() > MOST_PROGRAMS
            && let Some((_, forgotten)) = self.order.pop_first()
        {
            self.programs.remove(&forgotten);
        }
    }

    /// What a program is expected to take: as its runs tell, or as who hands it in says, whichever is
    /// less in doubt. `None` where nobody knows anything.
    pub fn profile(&self, program: &K, said: Option<Profile>) -> Option<Profile> {
        let told = self.programs.get(program).map(|runs| {
            let job = Job { flops: runs.flops.expected(), bytes: runs.bytes.expected() };
            let of = |size: &Size, expected: f64| {
                if expected > 0.0 { size.doubt(runs.count) } else { 1.0 }
            };
            let doubt = of(&runs.flops, job.flops).max(of(&runs.bytes, job.bytes));
            Profile { job, doubt, data_at: said.and_then(|said| said.data_at) }
        });
        match (told, said) {
            (Some(told), Some(said)) if said.doubt.max(1.0) <= told.doubt => Some(said),
            (told, said) => told.or(said),
        }
    }

    /// How many programs are remembered.
    pub fn len(&self) -> usize {
        self.programs.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(flops: f64, bytes: f64) -> Job {
        Job { flops, bytes }
    }

    #[test]
    fn runs_alike_leave_less_and_less_doubt() {
        let mut earlier = Earlier::default();
        assert_eq!(earlier.profile(&"cc", None), None);
        let mut before = f64::INFINITY;
        for _ in 0..50 {
            earlier.observe(&"cc", job(4e9, 0.0));
            let profile = earlier.profile(&"cc", None).unwrap();
            assert!((profile.job.flops / 4e9 - 1.0).abs() < 1e-9 && profile.job.bytes == 0.0);
            assert!(profile.doubt < before && profile.doubt > 1.0, "{}", profile.doubt);
            before = profile.doubt;
        }
        assert!(before < 1.25, "{before}");
    }

    #[test]
    fn runs_that_differ_leave_as_much_doubt_as_they_differ_by() {
        let mut earlier = Earlier::default();
        for run in 0..200 {
            earlier.observe(&"cc", job(if run % 2 == 0 { 1e9 } else { 4e9 }, 1e6));
        }
        let profile = earlier.profile(&"cc", None).unwrap();
        // Each lies a factor of 2 from their mean.
        assert!((1.5e9..2.7e9).contains(&profile.job.flops), "{}", profile.job.flops);
        assert!((2.0..6.0).contains(&profile.doubt), "{}", profile.doubt);
        // It changes for good: soon forgotten what was.
        for _ in 0..20 {
            earlier.observe(&"cc", job(1e12, 1e6));
        }
        assert!(earlier.profile(&"cc", None).unwrap().job.flops > 0.9e12);
    }

    #[test]
    fn what_is_said_counts_until_runs_tell_better() {
        let mut earlier = Earlier::default();
        let said = Profile { job: job(1e9, 1e6), doubt: 2.5, data_at: Some(4) };
        assert_eq!(earlier.profile(&"cc", Some(said)), Some(said));
        earlier.observe(&"cc", job(8e9, 1e6));
        assert_eq!(earlier.profile(&"cc", Some(said)).unwrap().job, said.job);
        earlier.observe(&"cc", job(8e9, 1e6));
        let told = earlier.profile(&"cc", Some(said)).unwrap();
        assert!(told.job.flops > 7.9e9 && told.data_at == Some(4));
        // Who knows exactly is believed.
        let exact = Profile { doubt: 1.0, ..said };
        assert_eq!(earlier.profile(&"cc", Some(exact)), Some(exact));
    }

    #[test]
    fn so_many_are_remembered_those_seen_last() {
        let mut earlier = Earlier::default();
        for program in 0..MOST_PROGRAMS {
            earlier.observe(&program, job(1e9, 0.0));
        }
        earlier.observe(&0, job(1e9, 0.0));
        for program in 0..100 {
            earlier.observe(&(MOST_PROGRAMS + program), job(1e9, 0.0));
        }
        assert_eq!((earlier.len(), earlier.order.len()), (MOST_PROGRAMS, MOST_PROGRAMS));
        assert!(earlier.profile(&0, None).is_some() && earlier.profile(&1, None).is_none());
    }

    proptest! {
        #[test]
        fn whatever_ran_figures_are_figures(
            runs in proptest::collection::vec((0u8..4, any::<f64>(), any::<f64>()), 0..60),
        ) {
            let mut earlier = Earlier::default();
            for (program, flops, bytes) in runs {
                earlier.observe(&program, job(flops, bytes));
            }
            for program in 0..4 {
                let Some(profile) = earlier.profile(&program, None) else { continue };
                for size in [profile.job.flops, profile.job.bytes] {
                    prop_assert!((0.0..=1.01 * MOST_SIZE).contains(&size), "{size}");
                }
                prop_assert!(profile.doubt >= 1.0, "{}", profile.doubt);
            }
        }
    }
}
