//! What is shared: a link or a processor, by equal parts among those that use it at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Discipline;

/// How much each user has had since the share was last idle orders who is done first: all users
/// have the same rate.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Due {
    at: f64,
    job: u32,
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.job.cmp(&other.job))
    }
}

/// A link or a processor and who uses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Share {
    /// What each user gets, a second.
    rate: f64,
    /// What each user has had since it was last idle.
    had: f64,
    /// When `had` was last reckoned.
    since: f64,
    users: BinaryHeap<Reverse<Due>>,
}

impl Share {
    pub fn users(&self) -> usize {
        self.users.len()
    }

    /// Reckons up to `now`.
    fn catch_up(&mut self, now: f64) {
        if self.users.is_empty() {
            self.had = 0.0;
        } else {
            self.had += self.rate * (now - self.since);
        }
        self.since = now;
    }

    /// One more user that needs so much.
    pub fn add(&mut self, now: f64, job: u32, amount: f64) {
        self.catch_up(now);
        self.users.push(Reverse(Due { at: self.had + amount, job }));
    }

    /// From now on each user gets so much a second; nothing where that is no rate.
    pub fn set_rate(&mut self, now: f64, rate: f64) {
        let rate = if rate > 0.0 { rate.min(f64::MAX / 1e200) } else { 0.0 };
        if rate != self.rate {
            self.catch_up(now);
            self.rate = rate;
        }
    }

    /// When the first is done, if nothing changes.
    pub fn due(&self) -> f64 {
        match self.users.peek() {
            Some(Reverse(due)) => self.since + ((due.at - self.had) / self.rate).max(0.0),
            None => f64::INFINITY,
        }
    }

    /// The first is done, by its timer.
    pub fn pop(&mut self, now: f64) -> Option<u32> {
        let Reverse(due) = self.users.pop()?;
        (self.had, self.since) = (due.at, now);
        Some(due.job)
    }

    /// What a user still needs at `now`.
    pub fn left(&self, now: f64, job: u32) -> Option<f64> {
        let Reverse(due) = self.users.iter().find(|Reverse(due)| due.job == job)?;
        Some((due.at - self.had - self.rate * (now - self.since)).max(0.0))
    }

    /// Takes a user away before it is done; gives what it still needs.
    pub fn take(&mut self, now: f64, job: u32) -> Option<f64> {
        self.catch_up(now);
        let found = self.users.iter().find(|Reverse(due)| due.job == job)?.0.at;
        self.users.retain(|Reverse(due)| due.job != job);
        Some((found - self.had).max(0.0))
    }
}

/// A stage of a node: those it serves, and in a queue those that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Stage {
    pub share: Share,
    pub waiting: VecDeque<u32>,
}

impl Stage {
    /// Who may begin now.
    pub fn admit(&mut self, discipline: Discipline, busy: bool) -> Option<u32> {
        let free = discipline == Discipline::Shared || !busy;
        if free { self.waiting.pop_front() } else { None }
    }
}
