//! Whether a transfer under way has come to a crawl.

use std::collections::VecDeque;
use std::time::Duration;

/// The pace is that of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(5);
/// That of the last so many where what is left would be done within [`MOMENT`] at its best: giving up
/// would mean to send all of it again.
const LONG_WINDOW: Duration = Duration::from_secs(20);
const MOMENT: Duration = Duration::from_secs(1);
/// What the way has carried is the most within one of these.
const SPAN: Duration = Duration::from_secs(1);
/// A pace below one part in this of what the way has carried is a crawl.
const CRAWL: f64 = 5.0;
/// What is done within this time at the present pace is not worth giving up.
const SOON: Duration = Duration::from_secs(20);

/// The pace of one transfer. Feed it about twice a second.
#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Duration, u64)>,
    best: f64,
}

/// A transfer that has come to a crawl.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crawl {
    /// Bytes a second now.
    pub now: f64,
    /// Bytes a second at its best.
    pub best: f64,
}

impl Pace {
    /// So many bytes were sent by `now`. While `waiting` the sender has nothing to send, so that
    /// its pace says nothing of the way; `left` is what has still to be sent.
    pub fn observe(&mut self, sent: u64, left: u64, waiting: bool, now: Duration) -> Option<Crawl> {
        self.samples.push_back((now, sent));
        let rate_since = |at: &(Duration, u64)| {
            let seconds = now.saturating_sub(at.0).as_secs_f64();
            sent.saturating_sub(at.1) as f64 / seconds.max(1e-9)
        };
        let within =
            |span: Duration| move |(at, _): &&(Duration, u64)| now.saturating_sub(*at) >= span;
        if let Some(second_ago) = self.samples.iter().rev().find(within(SPAN)) {
            self.best = self.best.max(rate_since(second_ago));
        }
        if waiting {
            // What follows is judged by itself.
            self.samples.clear();
            self.samples.push_back((now, sent));
            return None;
        }
        let nearly_done = left as f64 <= self.best * MOMENT.as_secs_f64();
        let window = if nearly_done { LONG_WINDOW } else { WINDOW };
        let pace = rate_since(self.samples.iter().rev().find(within(window))?);
        while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) >= LONG_WINDOW {
            self.samples.pop_front();
        }
        let crawls = pace * CRAWL < self.best && left as f64 > pace * SOON.as_secs_f64();
        crawls.then_some(Crawl { now: pace, best: self.best })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends `total` bytes at what `rate` says of each half second; when it was given up.
    fn run(total: u64, rate: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut pace, mut sent) = (Pace::default(), 0);
        for half in 0..10_000 {
            let now = Duration::from_millis(500 * half);
            if pace.observe(sent, total - sent, false, now).is_some() {
                return Some(half / 2);
            }
            sent = (sent + rate(half) / 2).min(total);
            if sent == total {
                return None;
            }
        }
        panic!("it never ended");
    }

    #[test]
    fn a_slow_way_is_no_crawl_and_a_collapse_is_seen_in_seconds() {
        assert_eq!(run(20 << 20, |_| 125_000), None);
        assert_eq!(run(200 << 20, |half| if half < 8 { 5_000_000 } else { 12_000 }), Some(8));
        assert_eq!(run(200 << 20, |half| if half < 8 { 5_000_000 } else { 2_000_000 }), None);
        // Nearly done: it is finished.
        assert_eq!(run(20_200_000, |half| if half < 8 { 5_000_000 } else { 12_000 }), None);
        // A pause of a few seconds, as Wi-Fi makes them.
        let pauses = |half: u64| if half % 20 < 6 { 0 } else { 5_000_000 };
        assert_eq!(run(200 << 20, pauses), None);
    }

    #[test]
    fn at_its_end_a_transfer_is_waited_for() {
        // 100 KB are left when the other machine stops for a while.
        let stalls = |halves: u64| {
            move |half: u64| match half {
                half if (8..8 + halves).contains(&half) => 0,
                _ => 5_000_000,
            }
        };
        assert_eq!(run(20_100_000, stalls(30)), None);
        assert_eq!(run(20_100_000, stalls(10_000)), Some(24));
        // Much is left: that is seen soon.
        assert!(run(40_000_000, stalls(10_000)).is_some_and(|after| after < 10));
    }

    #[test]
    fn waiting_for_the_dump_is_no_crawl() {
        let mut pace = Pace::default();
        for half in 0..100 {
            let sent = if half < 10 { half * 1_000_000 } else { 10_000_000 };
            let crawl = pace.observe(sent, 100 << 20, true, Duration::from_millis(500 * half));
            assert_eq!(crawl, None);
        }
    }
}
