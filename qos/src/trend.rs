use std::collections::VecDeque;
use std::time::Duration;

use phantom_model::{Limit, Resource};

use crate::Sample;

/// A history is a ladder: the last minutes finely, the last hours coarsely.
const RUNGS: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(60), Duration::from_secs(900)];
/// Points kept on each rung: two minutes, an hour, sixteen hours.
const KEPT: usize = 64;
/// A slope is of the newest points of the finest rung that has at least this many.
const LEAST: usize = 5;
/// A change over the points looked at that is smaller than one part in this many is none.
const NOTABLE: f64 = 10.0;
/// A line that explains less than this share of what the points do (R²) is no trend.
const FITS: f64 = 0.5;

/// Where a quantity is heading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It grows.
    Rising,
    /// It stays within a tenth, or goes up and down.
    Steady,
    /// It shrinks.
    Falling,
}

/// One quantity, in the unit of its limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantity {
    /// As it was last measured.
    pub level: f64,
    /// The highest.
    pub peak: f64,
    /// How fast it changes, a second, over the last minutes.
    pub slope_per_s: f64,
    /// The same over the last hours, once it is known.
    pub long_slope_per_s: Option<f64>,
    /// Where it is heading.
    pub course: Course,
}

impl Quantity {
    /// When it reaches `level` if it goes on like this; `None` if it does not, or has already.
    pub fn reaches(&self, level: f64) -> Option<Duration> {
        if self.course != Course::Rising || self.level >= level {
            return None;
        }
        Duration::try_from_secs_f64((level - self.level) / self.slope_per_s).ok()
    }
}

/// What an app uses, used at most, and where that is heading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// When the last sample was taken.
    pub at: Duration,
    quantities: [Quantity; Resource::OF_AN_APP.len()],
}

impl Trend {
    /// The trend of one resource, in the unit of its limits; nothing of what is not measured of an
    /// app.
    pub fn of(&self, resource: Resource) -> Option<&Quantity> {
        self.quantities.get(resource.index())
    }

    /// When a limit is reached if all goes on like this.
    pub fn reaches(&self, limit: Limit) -> Option<Duration> {
        self.of(limit.resource)?.reaches(limit.level as f64)
    }
}

/// The samples of one app over hours: at most 5 x 3 x 64 points of 32 bytes, 30 KiB.
#[derive(Debug, Default)]
pub(crate) struct History {
    last: Option<Sample>,
    ladders: [Ladder; Resource::OF_AN_APP.len()],
}

impl History {
    /// Keeps a sample, unless it is older than what is known.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.last.is_some_and(|last| sample.at < last.at) {
            return;
        }
        self.last = Some(sample);
        for (ladder, used) in self.ladders.iter_mut().zip(sample.uses) {
            ladder.push(sample.at, used.now as f64);
        }
    }

    pub(crate) fn last(&self) -> Option<&Sample> {
        self.last.as_ref()
    }

    pub(crate) fn trend(&self) -> Option<Trend> {
        let last = self.last?;
        let quantities = std::array::from_fn(|at| {
            self.ladders[at].quantity(last.uses[at].now as f64, last.uses[at].peak as f64)
        });
        Some(Trend { at: last.at, quantities })
    }
}

/// One quantity at three resolutions.
#[derive(Debug, Default)]
struct Ladder([VecDeque<Point>; RUNGS.len()]);

/// The mean of what was measured within one step of a rung.
#[derive(Debug, Clone, Copy)]
struct Point {
    begins: Duration,
    sum: f64,
    count: f64,
}

impl Ladder {
    fn push(&mut self, at: Duration, value: f64) {
        for (rung, step) in self.0.iter_mut().zip(RUNGS) {
            match rung.back_mut() {
                Some(point) if at - point.begins < step => {
                    point.sum += value;
                    point.count += 1.0;
                }
                _ => {
                    if rung.len() == KEPT {
                        rung.pop_front();
                    }
                    rung.push_back(Point { begins: at, sum: value, count: 1.0 });
                }
            }
        }
    }

    fn quantity(&self, level: f64, peak: f64) -> Quantity {
        let [fine, .., coarse] = &self.0;
        let line = Line::through(fine);
        let long = Line::through(coarse).filter(|_| coarse.len() >= LEAST);
        let course = match &line {
            Some(line) if line.is_notable() && line.slope > 0.0 => Course::Rising,
            Some(line) if line.is_notable() => Course::Falling,
            _ => Course::Steady,
        };
        Quantity {
            level,
            peak,
            slope_per_s: line.map_or(0.0, |line| line.slope),
            long_slope_per_s: long.map(|line| line.slope),
            course,
        }
    }
}

/// The straight line that fits points best (least squares).
#[derive(Debug, Clone, Copy)]
struct Line {
    slope: f64,
    mean: f64,
    span_s: f64,
    /// The share of the points' variance that the line explains (R²).
    fits: f64,
}

impl Line {
    fn through(points: &VecDeque<Point>) -> Option<Self> {
        let (first, count) = (points.front()?.begins, points.len() as f64);
        if points.len() < LEAST {
            return None;
        }
        let points = points
            .iter()
            .map(|point| ((point.begins - first).as_secs_f64(), point.sum / point.count));
        let (sum_x, sum_y) = points.clone().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x, sum.1 + y));
        let (mean_x, mean_y) = (sum_x / count, sum_y / count);
        let (mut xx, mut xy, mut yy, mut span_s) = (0.0, 0.0, 0.0, 0.0_f64);
        for (x, y) in points {
            let (dx, dy) = (x - mean_x, y - mean_y);
            xx += dx * dx;
            xy += dx * dy;
            yy += dy * dy;
            span_s = span_s.max(x);
        }
        let slope = xy / xx;
        let fits = if yy > 0.0 { xy * xy / (xx * yy) } else { 0.0 };
        slope.is_finite().then_some(Self { slope, mean: mean_y, span_s, fits })
    }

    fn is_notable(&self) -> bool {
        let change = (self.slope * self.span_s).abs();
        self.fits >= FITS && change * NOTABLE > self.mean.abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Use;
    use phantom_model::AppId;
    use proptest::prelude::*;

    fn sample(at_s: f64, cpu: u32, memory: u64) -> Sample {
        let used = |now: u64| Use { now, peak: now };
        let uses = [used(cpu.into()), used(memory), used(0), used(0), used(memory)];
        Sample { app: AppId(1), at: Duration::from_secs_f64(at_s), uses }
    }

    fn cpu_and_memory(trend: &Trend) -> (&Quantity, &Quantity) {
        (trend.of(Resource::Cpu).unwrap(), trend.of(Resource::Memory).unwrap())
    }

    #[test]
    fn a_leak_is_seen_and_when_it_reaches_the_limit() {
        let mut history = History::default();
        for step in 0..200u64 {
            // 1 MiB a second with some noise.
            let noise = (step * 7919 % 13) << 10;
            history.push(sample(step as f64 * 2.0, 50, (100 << 20) + (step << 21) + noise));
        }
        let trend = history.trend().unwrap();
        let (cpu, memory) = cpu_and_memory(&trend);
        assert_eq!((cpu.course, memory.course), (Course::Steady, Course::Rising));
        let mib = f64::from(1 << 20);
        assert!((memory.slope_per_s / mib - 1.0).abs() < 0.02, "{trend:?}");
        let limit: phantom_model::Limits = "memory=600MiB,cpu=60%".parse().unwrap();
        let reached: Vec<_> = limit.iter().map(|limit| trend.reaches(*limit)).collect();
        let left = reached[0].unwrap().as_secs_f64();
        assert!((left - 102.0).abs() < 5.0 && reached[1].is_none(), "{reached:?}");
    }

    #[test]
    fn ups_and_downs_are_no_trend_and_hours_are_kept_in_bounded_memory() {
        let mut history = History::default();
        for step in 0..40_000u32 {
            let cpu = if step % 7 < 3 { 100 } else { 20 };
            // A byte a second, all day long.
            history.push(sample(f64::from(step) * 2.0, cpu, 1_000 + u64::from(step) * 2));
        }
        let trend = history.trend().unwrap();
        let (cpu, memory) = cpu_and_memory(&trend);
        assert_eq!(cpu.course, Course::Steady);
        assert!((memory.long_slope_per_s.unwrap() - 1.0).abs() < 0.01, "{trend:?}");
        let rungs = history.ladders.iter().flat_map(|ladder| &ladder.0);
        let kept: usize = rungs.map(VecDeque::len).sum();
        assert!(kept <= Resource::OF_AN_APP.len() * RUNGS.len() * KEPT);
    }

    proptest! {
        #[test]
        fn any_samples_give_numbers(
            samples in proptest::collection::vec((0u64..1 << 40, any::<u32>(), any::<u64>()), 0..100)) {
            let mut history = History::default();
            for (at, cpu, memory) in samples {
                history.push(sample(at as f64 / 1e3, cpu, memory));
            }
            if let Some(trend) = history.trend() {
                for quantity in trend.quantities {
                    prop_assert!(quantity.slope_per_s.is_finite());
                    let _ = quantity.reaches(1e12);
                }
            }
        }
    }
}
