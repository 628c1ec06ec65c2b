//! How many bytes a second a way carries: from what was sent anyway, and from short probes where
//! nothing was. How far off it may be is kept with it, and grows with its age.

use std::time::Duration;

/// Variances of the logarithm of bytes a second. What a transfer tells is off by a tenth or so, what a
/// probe tells by three tenths.
const OF_TRANSFER: f64 = 0.014;
const OF_PROBE: f64 = 0.09;
/// What a probe that got no answer tells.
const OF_FAILURE: f64 = 1.0;
/// A figure this far off is measured again before it is relied on: one and a half times.
const DOUBTED: f64 = 0.164;
/// Ways change: so much is added each second. What a transfer told is doubted after ten minutes.
const DRIFT: f64 = (DOUBTED - OF_TRANSFER) / 600.0;
/// No figure is further off.
const MOST: f64 = 4.0;
/// A figure so many standard deviations from what was known: the way has changed.
const CHANGED: f64 = 3.0;
/// Smaller transfers tell more of the round trip than of the way.
const LEAST_BYTES: u64 = 64 << 10;
/// A probe takes no more than one part in this of the time: 1 % of the way.
const SHARE: u32 = 100;
/// Probes of all ways together take no more than that part of the time either, this much of it at
/// once: what comes together in ten minutes.
const AT_ONCE: Duration = Duration::from_secs(6);
/// Bytes of the parts of a probe, one after the other.
pub const PROBE_BYTES: [usize; 3] = [16 << 10, 64 << 10, 256 << 10];
/// Where a part, but the first, takes longer than this, the rest is spared.
pub const SLOW_PROBE: Duration = Duration::from_millis(300);

/// What is known of the way to one node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bandwidth {
    known: Option<Known>,
    /// No probe before this time.
    quiet_until: Duration,
}

/// A way is faster or slower by factors: what is kept is the logarithm of bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    log: f64,
    /// That of the logarithm, when it was measured.
    variance: f64,
    measured: Duration,
}

impl Known {
    fn variance(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.measured).as_secs_f64();
        (self.variance + DRIFT * age).min(MOST)
    }
}

/// How fast a way is, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// By which factor that may be off, this way or the other (one standard deviation); at least 1.
    pub doubt: f64,
    /// How long ago it was measured.
    pub age: Duration,
}

impl Estimate {
    /// What can be relied on.
    fn at_least(&self) -> f64 {
        self.bytes_per_s / self.doubt
    }
}

impl Bandwidth {
    /// Bytes that were sent in that time; what says nothing is passed over.
    pub fn observe(&mut self, bytes: u64, took: Duration, now: Duration) {
        let seconds = took.as_secs_f64();
        if bytes < LEAST_BYTES || seconds <= 0.0 {
            return;
        }
        self.learn(bytes as f64 / seconds, OF_TRANSFER, now);
    }

    /// So many bytes were sent in that time, but perhaps nobody had more to send: the way carries at
    /// least as much. That it still does what was known of it is news as well.
    pub fn observe_at_least(&mut self, bytes: u64, took: Duration, now: Duration) {
        let rate = bytes as f64 / took.as_secs_f64().max(1e-9);
        if self.estimate(now).is_none_or(|known| rate > known.at_least()) {
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
            self.learn(bytes as f64 / seconds, OF_PROBE, now);
        }
    }

    /// After parts that took so long one of `bytes` got no answer within `waited`: the way carries no
    /// more than it then, or somebody had too much to do to answer. Lies what the other parts tell
    /// above that, so it is taken for half way between. It is not tried again at once.
    pub fn probe_failed(
        &mut self,
        took: &[Duration],
        bytes: usize,
        waited: Duration,
        now: Duration,
    ) {
        self.quiet_until = now + (took.iter().sum::<Duration>() + waited) * SHARE;
        let mut most = bytes as f64 / waited.as_secs_f64().max(1e-9);
        if let Some((sent, took)) = PROBE_BYTES.into_iter().zip(took).next_back() {
            let told = sent as f64 / took.as_secs_f64().max(1e-9);
            most = most.max((most * told).sqrt());
        }
        if self.estimate(now).is_none_or(|known| known.bytes_per_s > most) {
            self.known = None;
            self.learn(most, OF_FAILURE, now);
        }
    }

    /// Forgets what was known: the way has changed.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// A measurement with its variance is weighed against what was known, by how far off that may be
    /// (a Kalman filter of one dimension).
    fn learn(&mut self, bytes_per_s: f64, of: f64, now: Duration) {
        let log = bytes_per_s.ln();
        if !log.is_finite() {
            return;
        }
        self.known = Some(match self.known {
            Some(known) => {
                let (off, mut variance) = (log - known.log, known.variance(now));
                if off * off > CHANGED * CHANGED * (variance + of) {
                    variance = (off * off).min(MOST);
                }
                let gain = variance / (variance + of);
                let variance = (1.0 - gain) * variance;
                Known { log: known.log + gain * off, variance, measured: now }
            }
            None => Known { log, variance: of, measured: now },
        });
    }

    /// How fast it is, as far as known.
    pub fn estimate(&self, now: Duration) -> Option<Estimate> {
        let known = self.known?;
        Some(Estimate {
            bytes_per_s: known.log.exp(),
            doubt: known.variance(now).sqrt().exp(),
            age: now.saturating_sub(known.measured),
        })
    }

    /// Whether it is worth a probe now.
    pub fn wants_probe(&self, now: Duration) -> bool {
        let doubted = self.known.is_none_or(|known| known.variance(now) > DOUBTED);
        doubted && now >= self.quiet_until
    }
}

/// What probes of all ways together may take of the own line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProbeBudget {
    /// Until when what was spent keeps others from being sent.
    paid_until: Duration,
}

impl ProbeBudget {
    /// Whether another probe may be sent.
    pub fn may(&self, now: Duration) -> bool {
        self.paid_until <= now + AT_ONCE * SHARE
    }

    /// One took so long.
    pub fn spend(&mut self, took: Duration, now: Duration) {
        self.paid_until = self.paid_until.max(now) + took * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn rate(way: &Bandwidth) -> f64 {
        way.estimate(Duration::ZERO).unwrap().bytes_per_s
    }

    #[test]
    fn what_is_sent_anyway_saves_a_probe() {
        let mut way = Bandwidth::default();
        assert!(way.wants_probe(secs(0.0)) && way.estimate(secs(0.0)).is_none());
        way.observe(1000, secs(0.001), secs(1.0));
        assert!(way.wants_probe(secs(1.0)), "too small to tell");
        way.observe(10 << 20, secs(1.0), secs(1.0));
        assert!(!way.wants_probe(secs(600.0)) && way.wants_probe(secs(602.0)));
        assert!((rate(&way) - f64::from(10 << 20)).abs() < 1.0);
        // At least as much as was known is news, much less is none: nobody had more to send.
        way.observe_at_least(9 << 20, secs(1.0), secs(500.0));
        assert!(!way.wants_probe(secs(1000.0)) && rate(&way) < f64::from(10 << 20));
        let before = way;
        way.observe_at_least(1 << 20, secs(1.0), secs(510.0));
        assert_eq!(way, before);
    }

    #[test]
    fn what_is_known_is_doubted_more_as_it_grows_old() {
        let mut way = Bandwidth::default();
        way.observe(10 << 20, secs(1.0), secs(0.0));
        let doubt = |way: &Bandwidth, at| way.estimate(secs(at)).unwrap().doubt;
        assert!(doubt(&way, 0.0) < 1.13 && (1.49..1.51).contains(&doubt(&way, 600.0)));
        assert_eq!(way.estimate(secs(60.0)).unwrap().age, secs(60.0));
        assert!(doubt(&way, 1e9) < 7.4, "bounded");
        // Two that agree leave less doubt than one.
        let once = doubt(&way, 1.0);
        way.observe(10 << 20, secs(1.0), secs(1.0));
        assert!(doubt(&way, 1.0) < once);
        // A probe counts less than a transfer just before it, and more than one of last week.
        for (age, least, most) in [(0.0, 9.0, 10.0), (600_000.0, 2.5, 3.5)] {
            let mut way = Bandwidth::default();
            way.observe(10_000_000, secs(1.0), secs(0.0));
            way.learn(3e6, OF_PROBE, secs(age));
            let now = rate(&way) / 1e6;
            let changed = (10.0f64 / 3.0).ln().powi(2) > 9.0 * (OF_TRANSFER + OF_PROBE);
            let least = if age == 0.0 && changed { 2.5 } else { least };
            assert!((least..=most).contains(&now), "{age}: {now}");
        }
    }

    #[test]
    fn probes_of_all_ways_take_one_percent_of_the_line() {
        let mut budget = ProbeBudget::default();
        let (mut now, mut spent) = (secs(1000.0), secs(0.0));
        let began = now;
        // A hundred ways are asked for all the time, each takes a third of a second.
        while now < secs(87_400.0) {
            for _ in 0..100 {
                if budget.may(now) {
                    budget.spend(secs(0.3), now);
                    spent += secs(0.3);
                }
            }
            let window = now - began + AT_ONCE * SHARE;
            assert!(spent.as_secs_f64() < 0.01 * window.as_secs_f64() + 0.301, "{now:?}");
            now += secs(1.0);
        }
        assert!(spent > secs(800.0), "what is there is used");
    }

    #[test]
    fn a_probe_is_free_of_the_round_trip_and_takes_one_percent() {
        let mut way = Bandwidth::default();
        // 1 MB/s and 50 ms there and back.
        let took = PROBE_BYTES.map(|bytes| secs(0.05 + bytes as f64 / 1e6));
        way.observe_probe(&took, secs(0.0));
        assert!((rate(&way) / 1e6 - 1.0).abs() < 0.01);
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
        assert!((rate(&way) / 20e6 - 1.0).abs() < 0.01);
        let mut way = Bandwidth::default();
        let took = PROBE_BYTES.map(|bytes| secs(bytes as f64 / 75e3));
        way.observe_probe(&took[..2], secs(0.0));
        assert!((rate(&way) / 75e3 - 1.0).abs() < 0.01);
        way.probe_failed(&[], PROBE_BYTES[1], secs(3.0), secs(1.0));
        assert!(rate(&way) < 22e3);
        // The other machine was busy: the parts before say something too.
        let mut way = Bandwidth::default();
        way.probe_failed(&[secs(0.1), secs(0.2)], PROBE_BYTES[2], secs(3.0), secs(1.0));
        assert!((150e3..200e3).contains(&rate(&way)), "{}", rate(&way));
        let doubt = way.estimate(secs(1.0)).unwrap().doubt;
        assert!(doubt > 2.5, "{doubt}");
    }

    #[test]
    fn a_way_that_collapses_is_believed_soon() {
        let mut way = Bandwidth::default();
        way.observe(100 << 20, secs(1.0), secs(1.0));
        for at in 2..6 {
            way.observe(1 << 20, secs(1.0), secs(f64::from(at)));
        }
        assert!(rate(&way) < 2e6);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_anything_but_a_number(
            samples in proptest::collection::vec((any::<u64>(), 0u64..1 << 40, 0u64..1 << 40), 0..20)) {
            let mut way = Bandwidth::default();
            for (bytes, micros, now) in samples {
                way.observe(bytes, Duration::from_micros(micros), Duration::from_micros(now));
                if let Some(known) = way.estimate(Duration::from_micros(now)) {
                    prop_assert!(known.bytes_per_s.is_finite() && known.bytes_per_s > 0.0);
                    prop_assert!((1.0..7.4).contains(&known.doubt) && known.at_least() > 0.0);
                }
            }
        }
    }
}
