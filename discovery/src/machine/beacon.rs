//! A member tells where it is: unasked when it comes, and to whoever asks.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

/// When it tells unasked, after it came or its network has changed.
const AFTER_CHANGE: [Duration; 3] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(4)];
/// How often it tells unasked after that.
const EVERY: Duration = Duration::from_secs(300);
/// So many queries are answered within [`SPAN`], over all and to one address.
const MAX_ANSWERS: usize = 50;
const MAX_TO_ONE: usize = 10;
const SPAN: Duration = Duration::from_secs(10);

/// When a member tells.
#[derive(Debug, Default)]
pub struct Beacon {
    due: VecDeque<Duration>,
    answered: VecDeque<(Duration, IpAddr)>,
}

impl Beacon {
    /// It came, or its network has changed.
    pub fn handle_change(&mut self, now: Duration) {
        self.due = AFTER_CHANGE.iter().map(|after| now + *after).collect();
    }

    /// It is a member no more.
    pub fn handle_leave(&mut self) {
        self.due.clear();
    }

    /// When it tells next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.due.front().copied()
    }

    /// Whether to tell everybody now.
    pub fn handle_timeout(&mut self, now: Duration) -> bool {
        if self.due.front().is_none_or(|due| *due > now) {
            return false;
        }
        self.due.pop_front();
        if self.due.is_empty() {
            self.due.push_back(now + EVERY);
        }
        true
    }

    /// Whether to answer a query from `ip`.
    pub fn handle_query(&mut self, ip: IpAddr, now: Duration) -> bool {
        self.answered.retain(|(at, _)| *at + SPAN > now);
        let to_it = self.answered.iter().filter(|(_, other)| *other == ip).count();
        let answers = self.answered.len() < MAX_ANSWERS && to_it < MAX_TO_ONE;
        if answers {
            self.answered.push_back((now, ip));
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tells_a_few_times_and_then_seldom() {
        let mut beacon = Beacon::default();
        assert_eq!(beacon.poll_timeout(), None);
        beacon.handle_change(Duration::ZERO);
        let (mut now, mut told) = (Duration::ZERO, 0);
        while now < Duration::from_secs(3600) {
            told += usize::from(beacon.handle_timeout(now));
            now = beacon.poll_timeout().unwrap();
        }
        assert_eq!(told, 3 + 11);
        beacon.handle_leave();
        assert!(!beacon.handle_timeout(now + EVERY));
    }

    #[test]
    fn a_flood_of_queries_is_answered_seldom_and_others_still_are() {
        let mut beacon = Beacon::default();
        let (flood, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let now = Duration::from_secs(1);
        let answered = (0..1000).filter(|_| beacon.handle_query(flood, now)).count();
        assert_eq!(answered, MAX_TO_ONE);
        assert!(beacon.handle_query(other, now));
        assert!(beacon.handle_query(flood, now + SPAN));
    }
}
