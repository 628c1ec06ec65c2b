use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::{Limit, Pressure, Resource};

/// Marks kept for a window, at least.
const MARKS: u32 = 64;
/// Two looks are at least so far apart.
const GAP: Duration = Duration::from_millis(10);
/// And at most so far, or two marks.
const IDLE: Duration = Duration::from_secs(1);

/// Whether the machine stutters: one limit, for all apps that have it.
#[derive(Debug)]
pub(crate) struct Gauge {
    pub(crate) limit: Limit,
    marks: VecDeque<Pressure>,
    last: Option<Pressure>,
    full_at: Duration,
    pub(crate) stutter: Option<Stutter>,
}

/// An excursion of a [`Gauge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stutter {
    /// Percent of the window.
    pub(crate) measured: u64,
    /// What there is too little of.
    pub(crate) cause: Resource,
    /// When the level was crossed.
    pub(crate) crossed: Duration,
}

impl Gauge {
    pub(crate) fn new(limit: Limit) -> Self {
        Self { limit, marks: VecDeque::new(), last: None, full_at: Duration::MAX, stutter: None }
    }

    fn window(&self) -> Duration {
        self.limit.window.0
    }

    /// How long may be lost in a window.
    fn allowed(&self, level: u64) -> Duration {
        // All of the time is the most there is; a level from another node may be anything.
        self.window().mul_f64(level.min(100) as f64 / 100.0)
    }

    pub(crate) fn push(&mut self, now: Pressure) {
        let before = self.last.replace(now);
        let Some(before) = before else {
            self.full_at = now.at + self.window();
            self.marks.push_back(now);
            return;
        };
        let start = now.at.saturating_sub(self.window());
        while self.marks.get(1).is_some_and(|second| second.at <= start) {
            self.marks.pop_front();
        }
        let (lost, cause) = self.lost(now, start);
        if self
            .marks
            .back()
            .is_none_or(|mark| now.at.saturating_sub(mark.at) >= self.window() / MARKS)
        {
            self.marks.push_back(now);
        }
        if now.at < self.full_at {
            return;
        }
        let measured = percent_up(lost, self.window());
        if lost > self.allowed(self.limit.level) {
            let crossed = match self.stutter {
                Some(known) => known.crossed,
                // Since the last look no more than the time that passed can have been lost.
                None => {
                    let excess = lost.saturating_sub(self.allowed(self.limit.level));
                    now.at.saturating_sub(excess).max(before.at).max(self.full_at)
                }
            };
            self.stutter = Some(Stutter { measured, cause, crossed });
        } else if measured <= self.limit.level - self.limit.level / 10 {
            self.stutter = None;
        }
    }

    /// The most that was lost since `start`, and to what.
    fn lost(&self, now: Pressure, start: Duration) -> (Duration, Resource) {
        let from = self.marks.front().copied().unwrap_or(now);
        let to = self.marks.get(1).copied().unwrap_or(now);
        let share = match to.at.saturating_sub(from.at) {
            Duration::ZERO => 0.0,
            span => start.saturating_sub(from.at).as_secs_f64() / span.as_secs_f64(),
        };
        let ends = from.kinds().into_iter().zip(to.kinds()).zip(now.kinds());
        let lost = ends.map(|(((cause, from), (_, to)), (_, now))| {
            let at_start = from + to.saturating_sub(from).mul_f64(share.clamp(0.0, 1.0));
            (now.saturating_sub(at_start), cause)
        });
        lost.max_by_key(|(lost, _)| *lost).unwrap_or((Duration::ZERO, Resource::Cpu))
    }

    /// When to look again.
    pub(crate) fn due(&self) -> Duration {
        let Some(last) = self.last else { return Duration::ZERO };
        // What was lost is taken for even between two looks, so these may not be far apart.
        let idle = last.at + IDLE.min(self.window() / MARKS * 2).max(GAP);
        if last.at < self.full_at {
            return idle.min(self.full_at.max(last.at + GAP));
        }
        let (lost, _) = self.lost(last, last.at.saturating_sub(self.window()));
        // In a second a second can be lost at most.
        let left = self.allowed(self.limit.level).saturating_sub(lost);
        match self.stutter {
            Some(_) => idle,
            None => (last.at + left.max(GAP)).min(idle),
        }
    }
}

/// Rounded up: what exceeds a level never looks equal to it.
fn percent_up(lost: Duration, window: Duration) -> u64 {
    let share = (lost.as_nanos() * 100).div_ceil(window.as_nanos().max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gauge(limit: &str) -> Gauge {
        let limits: phantom_model::Limits = limit.parse().unwrap();
        Gauge::new(*limits.iter().next().unwrap())
    }

    /// Looks whenever a look is due until `end_ms`; `lost` says how much was lost by then.
    fn run(gauge: &mut Gauge, end_ms: u64, lost: impl Fn(u64) -> u64) -> Vec<(u64, bool)> {
        let (mut seen, mut looks) = (Vec::new(), 0);
        let mut now_ms = 0;
        while now_ms <= end_ms {
            let (zero, ms) = (Duration::ZERO, Duration::from_millis);
            gauge.push(Pressure {
                at: ms(now_ms),
                cpu: ms(lost(now_ms)),
                memory: zero,
                disk: zero,
            });
            if seen.last().is_some_and(|(_, over)| *over) != gauge.stutter.is_some() {
                seen.push((now_ms, gauge.stutter.is_some()));
            }
            looks += 1;
            now_ms = (gauge.due().as_nanos().div_ceil(1_000_000) as u64).max(now_ms + 1);
        }
        assert!(looks <= end_ms / 10 + 2, "{looks} looks in {end_ms} ms");
        seen
    }

    #[test]
    fn a_stutter_begins_when_the_window_is_full_of_it_and_ends() {
        let mut gauge = gauge("stutter=30%/2s");
        // Quiet for 10 s, half of the time lost for 5 s, quiet again.
        let lost = |now: u64| now.clamp(10_000, 15_000).saturating_sub(10_000) / 2;
        let seen = run(&mut gauge, 20_000, lost);
        let [(begin, true), (end, false)] = seen[..] else { panic!("{seen:?}") };
        // 0.6 s were lost 1.2 s after the beginning; 0.54 s still lie in the window 0.92 s after
        // the end.
        assert!((11_200..11_250).contains(&begin), "{seen:?}");
        assert!((15_900..16_200).contains(&end), "{seen:?}");
    }

    #[test]
    fn the_first_window_must_be_full() {
        let mut gauge = gauge("stutter=30%/2s");
        let seen = run(&mut gauge, 5_000, |now| now);
        assert!(matches!(seen[..], [(begin, true)] if (2_000..2_050).contains(&begin)), "{seen:?}");
        let found = gauge.stutter.unwrap();
        assert_eq!((found.measured, found.cause), (100, Resource::Cpu));
        assert_eq!(found.crossed, Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn it_is_judged_as_exact_arithmetic_would(
            parts in prop::collection::vec((100u64..3_000, 0u64..=100), 1..20), level in 1u64..99) {
            let mut gauge = gauge(&format!("stutter={level}%/2s"));
            let exact = |now: u64| {
                let mut start = 0;
                parts.iter().map(|(length, share)| {
                    let part = now.saturating_sub(start).min(*length) * share / 100;
                    start += length;
                    part
                }).sum::<u64>()
            };
            let end: u64 = parts.iter().map(|(length, _)| length).sum();
            let seen = run(&mut gauge, end, exact);
            for (at, over) in seen {
                let lost = exact(at) - exact(at.saturating_sub(2_000));
                // A mark stands for the time around it: 2 s / 64.
                if over {
                    prop_assert!(at >= 2_000 && lost + 40 >= level * 20, "over at {at}: {lost}");
                } else {
                    prop_assert!(lost <= (level - level / 10) * 20 + 60, "ended at {at}: {lost}");
                }
            }
        }
    }
}
