use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::{Bytes, Percent};

use crate::Sample;

/// How many samples a trend looks back on.
const KEPT: usize = 16;
/// A change smaller than one part in this many is none.
const NOTABLE: u64 = 10;

/// Where a quantity is heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It grows.
    Rising,
    /// It stays within a tenth.
    Steady,
    /// It shrinks.
    Falling,
}

/// What an app uses, used at most, and where that is heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trend {
    /// When the last sample was taken.
    pub at: Duration,
    /// Mean CPU use over the window of its limit.
    pub cpu: Percent,
    /// Highest such mean.
    pub cpu_peak: Percent,
    /// Where its CPU use is heading.
    pub cpu_course: Course,
    /// Resident memory.
    pub memory: Bytes,
    /// Highest resident memory.
    pub memory_peak: Bytes,
    /// Where its memory is heading.
    pub memory_course: Course,
}

/// The last samples of one app, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Keeps a sample, unless it is older than what is known.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.samples.back().is_some_and(|last| sample.at < last.at) {
            return;
        }
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(crate) fn trend(&self) -> Option<Trend> {
        let last = self.samples.back()?;
        Some(Trend {
            at: last.at,
            cpu: last.cpu,
            cpu_peak: last.cpu_peak,
            cpu_course: self.course(|sample| u64::from(sample.cpu.0)),
            memory: last.memory,
            memory_peak: last.memory_peak,
            memory_course: self.course(|sample| sample.memory.0),
        })
    }

    /// Compares the mean of the older half with that of the newer one.
    fn course(&self, value: impl Fn(&Sample) -> u64) -> Course {
        let half = self.samples.len() / 2;
        if half == 0 {
            return Course::Steady;
        }
        let sum = |range: &mut dyn Iterator<Item = &Sample>| -> u128 {
            range.map(|sample| u128::from(value(sample))).sum()
        };
        let older = sum(&mut self.samples.iter().take(half));
        let newer = sum(&mut self.samples.iter().rev().take(half));
        let notable = older / u128::from(NOTABLE);
        if newer > older + notable {
            Course::Rising
        } else if newer + notable < older {
            Course::Falling
        } else {
            Course::Steady
        }
    }
}
