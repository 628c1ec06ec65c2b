//! When something that was not answered is sent again.

use std::time::Duration;

/// Doubles the wait from one time to the next, up to a longest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// So often it was sent.
    times: u32,
    /// When it is sent again.
    pub(super) at: Duration,
}

impl Retry {
    /// It is sent first at `at`.
    pub(super) fn new(at: Duration) -> Self {
        Self { times: 0, at }
    }

    /// It is sent now; the wait grows from `first` to `longest`.
    pub(super) fn again(&mut self, first: Duration, longest: Duration, now: Duration) {
        let wait = first.saturating_mul(1 << self.times.min(16)).min(longest);
        self.times = self.times.saturating_add(1);
        self.at = now + wait;
    }

    /// So often it was sent.
    pub(super) fn times(&self) -> u32 {
        self.times
    }
}
