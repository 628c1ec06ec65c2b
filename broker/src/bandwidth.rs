//! How many bytes a second a way carries: from what was sent anyway, and from short probes where
//! nothing was.

use std::time::Duration;

/// A figure older than this is measured again before it is relied on.
const FRESH: Duration = Duration::from_secs(600);
/// Smaller transfers tell more of the round trip than of the way.
const LEAST_BYTES: u64 = 64 << 10;
/// A probe takes no more than one part in this of the time: 1 % of the way.
const SHARE: u32 = 100;
/// How much the newest figure counts, against all before.
const NEWEST: f64 = 0.5;
/// Bytes of the parts of a probe, one after the other.
pub const PROBE_BYTES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];
/// Where a part, but the first, takes longer than this, the rest is spared.
pub const SLOW_PROBE: Duration = Duration::from_millis(300);

/// What is known of the way to one node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bandwidth {
    /// The logarithm of bytes a second, smoothed: a way is faster or slower by factors.
    log: Option<f64>,
    measured: Duration,
    /// No probe before this time.
    quiet_until: Duration,
}

impl Bandwidth {
    /// Bytes that were sent in that time; what says nothing is passed over.
    pub fn observe(&mut self, bytes: u64, took: Duration, now: Duration) {
        let seconds = took.as_secs_f64();
        if bytes < LEAST_BYTES || seconds <= 0.0 {
            return;
        }
        self.learn(bytes as f64 / seconds, now);
    }

    /// So many bytes were sent in that time, but perhaps nobody had more to send: the way carries at
    /// least as much.
    pub fn observe_at_least(&mut self, bytes: u64, took: Duration, now: Duration) {
        let rate = bytes as f64 / took.as_secs_f64().max(1e-9);
        if self.bytes_per_s().is_none_or(|known| rate > known) {
            self.observe(bytes, took, now);
        }
    }

    /// The parts of a probe took so long, as far as they were sent. The difference of the last two
    /// is free of the round trip and of whatever the other side does before it answers.
    pub fn observe_probe(&mut self, took: &[Duration], now: Duration) {
        self.quiet_until = now + took.iter().sum::<Duration>() * SHARE;
        let [.., (less, before), (more, after)] =
            PROBE_BYTES.into_iter().zip(took).collect::<Vec<_>>()[..]
        else {
            return;
        };
        let difference = after.saturating_sub(*before).as_secs_f64();
        // On a way so fast that the difference drowns, the larger part is a lower bound.
        let (bytes, seconds) = match difference {
            0.0002.. => (more - less, difference),
            _ => (more, after.as_secs_f64()),
        };
        if seconds > 0.0 {
            self.learn(bytes as f64 / seconds, now);
        }
    }

    /// A part of a probe got no answer within that time: the way carries no more than it then, and
    /// is not tried again at once.
    pub fn probe_failed(&mut self, bytes: usize, took: Duration, now: Duration) {
        self.quiet_until = now + took * SHARE;
        let most = bytes as f64 / took.as_secs_f64().max(1e-9);
        if self.bytes_per_s().is_none_or(|known| known > most) {
            self.log = None;
            self.learn(most, now);
        }
    }

    fn learn(&mut self, bytes_per_s: f64, now: Duration) {
        let new = bytes_per_s.ln();
        if !new.is_finite() {
            return;
        }
        let is_old = now.saturating_sub(self.measured) > FRESH;
        self.log = Some(match self.log {
            Some(known) if !is_old => known + NEWEST * (new - known),
            _ => new,
        });
        self.measured = now;
    }

    /// Bytes a second, as far as known.
    pub fn bytes_per_s(&self) -> Option<f64> {
        self.log.map(f64::exp)
    }

    /// Whether it is worth a probe now.
    pub fn wants_probe(&self, now: Duration) -> bool {
        let is_old = self.log.is_none() || now.saturating_sub(self.measured) > FRESH;
        is_old && now >= self.quiet_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn what_is_sent_anyway_saves_a_probe() {
        let mut way = Bandwidth::default();
        assert!(way.wants_probe(secs(0.0)) && way.bytes_per_s().is_none());
        way.observe(1000, secs(0.001), secs(1.0));
        assert!(way.wants_probe(secs(1.0)), "too small to tell");
        way.observe(10 << 20, secs(1.0), secs(1.0));
        assert!(!way.wants_probe(secs(600.0)) && way.wants_probe(secs(602.0)));
        assert!((way.bytes_per_s().unwrap() - f64::from(10 << 20)).abs() < 1.0);
    }

    #[test]
    fn a_probe_is_free_of_the_round_trip_and_takes_one_percent() {
        let mut way = Bandwidth::default();
        // 1 MB/s and 50 ms there and back.
        let took = PROBE_BYTES.map(|bytes| secs(0.05 + bytes as f64 / 1e6));
        way.observe_probe(&took, secs(0.0));
        assert!((way.bytes_per_s().unwrap() / 1e6 - 1.0).abs() < 0.01);
        // Probed as often as it may be, a day long, it takes one part in a hundred.
        let (mut now, mut busy) = (secs(0.0), secs(0.0));
        while now < secs(86400.0) {
            if way.wants_probe(now) {
                way.observe_probe(&took, now);
                busy += took.iter().sum::<Duration>();
            }
            now += secs(0.5);
        }
        assert!(busy.as_secs_f64() / 86400.0 < 0.01);
    }

    #[test]
    fn a_slow_machine_is_not_taken_for_a_slow_way_and_a_slow_way_is_found_with_little() {
        let mut way = Bandwidth::default();
        // A fifth of a second to answer, 20 MB/s.
        let took = PROBE_BYTES.map(|bytes| secs(0.2 + bytes as f64 / 20e6));
        way.observe_probe(&took, secs(0.0));
        assert!((way.bytes_per_s().unwrap() / 20e6 - 1.0).abs() < 0.01);
        let mut way = Bandwidth::default();
        let took = PROBE_BYTES.map(|bytes| secs(bytes as f64 / 75e3));
        way.observe_probe(&took[..2], secs(0.0));
        assert!((way.bytes_per_s().unwrap() / 75e3 - 1.0).abs() < 0.01);
        way.probe_failed(PROBE_BYTES[1], secs(3.0), secs(1.0));
        assert!(way.bytes_per_s().unwrap() < 22e3);
    }

    #[test]
    fn a_way_that_collapses_is_believed_soon() {
        let mut way = Bandwidth::default();
        way.observe(100 << 20, secs(1.0), secs(1.0));
        for at in 2..6 {
            way.observe(1 << 20, secs(1.0), secs(f64::from(at)));
        }
        assert!(way.bytes_per_s().unwrap() < 2e6);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_anything_but_a_number(
            samples in proptest::collection::vec((any::<u64>(), 0u64..1 << 40, 0u64..1 << 40), 0..20)) {
            let mut way = Bandwidth::default();
            for (bytes, micros, now) in samples {
                way.observe(bytes, Duration::from_micros(micros), Duration::from_micros(now));
                if let Some(rate) = way.bytes_per_s() {
                    prop_assert!(rate.is_finite() && rate > 0.0);
                }
            }
        }
    }
}
