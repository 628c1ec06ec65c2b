//! Batches of jobs whose sizes are in doubt: they wait in one line and go where room is.
//!
//! A plan for all of them would be wrong before half of it was done. So each time something ends the
//! line is gone through in its order: each job is planned where it would be done first if it were as
//! large as it may be, while what is before it is as large as is expected; until all that has room
//! has a job.

use std::collections::HashSet;

use super::jobs::{Entry, NONE};
use super::{Adaptive, plan};
use crate::Job;

/// Of jobs that may take as long the less certain goes first: so much of what a job is expected to
/// take counts against it.
const CERTAIN: f64 = 0.1;

/// How much of the line has gone when nodes that were passed over are asked again.
const GONE: f64 = 0.02;

/// What a size may be that is known up to a factor.
#[derive(Debug, Clone, Copy)]
struct Range {
    least: f64,
    most: f64,
}

impl Range {
    /// Of a told size that may be off by `doubt`; none is larger than `cap`, unless it must be.
    fn new(told: f64, doubt: f64, cap: f64) -> Self {
        let least = told / doubt;
        Self { least, most: (told * doubt).min(cap.max(least)) }
    }

    /// The mean, if each order of magnitude is as likely.
    fn mean(self) -> f64 {
        let Self { least, most } = self;
        let ratio = (most / least).ln();
        if ratio > 1e-6 { (most - least) / ratio } else { most }
    }
}

/// The largest of many sizes of which each is told up to a factor of `doubt`, given `(told, doubt)`
/// of all that are more than nothing: at least as large as each must be, and a little larger, since
/// that of the largest is not told as large as it could be.
fn largest(sizes: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let must = sizes.clone().map(|(told, doubt)| told / doubt).fold(0.0, f64::max);
    let (mut count, mut least, mut most, mut doubts) = (0.0f64, f64::INFINITY, 0.0f64, 0.0);
    for (told, doubt) in sizes {
        (count, least, most) = (count + 1.0, least.min(told), most.max(told));
        doubts += doubt.ln();
    }
    if count < 1.0 {
        return 0.0;
    }
    let off = 4.0 * doubts / count * (most / least).ln() / count;
    must * off.sqrt().exp()
}

/// Nodes that could begin something.
#[derive(Debug, Clone, Default)]
struct Room {
    links: HashSet<u32>,
    processors: HashSet<u32>,
}

impl Adaptive {
    /// Sizes that differ no more than they may be off differ by chance: they are set to their mean.
    /// Gives whether they do differ, and are in doubt.
    pub(super) fn level(&mut self, came: &[u32], size: impl Fn(&mut Job) -> &mut f64) -> bool {
        let (mut count, mut sum, mut squares, mut noise) = (0.0, 0.0, 0.0, 0.0);
        for slot in came {
            let entry = self.jobs.get_mut(*slot);
            let size = *size(&mut entry.job);
            if size > 0.0 {
                let log = size.ln();
                (count, sum, squares) = (count + 1.0, sum + log, squares + log * log);
                noise += entry.doubt.ln().powi(2);
            }
        }
        if noise <= 0.0 {
            return false;
        }
        let mean = sum / count;
        if squares / count - mean * mean > 1.1 * noise / count {
            return true;
        }
        for slot in came {
            let entry = self.jobs.get_mut(*slot);
            let size = size(&mut entry.job);
            if *size > 0.0 && entry.doubt > 1.0 {
                *size = mean.exp();
            }
        }
        false
    }

    /// Puts jobs of a batch whose sizes are in doubt into the line.
    pub(super) fn queue_up(&mut self, came: &[u32]) {
        let cap = |size: fn(&Job) -> f64| {
            let told = came.iter().map(|slot| self.jobs.get(*slot));
            largest(told.map(|one| (size(&one.job), one.doubt)).filter(|one| one.0 > 0.0))
        };
        let caps = Job { flops: cap(|job| job.flops), bytes: cap(|job| job.bytes) };
        let sound = || {
            let nodes = self.nodes.iter().enumerate();
            nodes.filter(|(node, _)| self.index.has(*node as u32)).map(|(_, node)| node)
        };
        let together =
            sound().fold((0.0, 0.0), |sum, node| (sum.0 + node.speed, sum.1 + node.link));
        let quickest = sound().fold((0.0, 0.0), |most: (f64, f64), node| {
            (most.0.max(node.speed), most.1.max(node.link))
        });
        let count = self.index.len() as f64;
        let takes = |job: &Job| count * (job.flops / together.0 + job.bytes / together.1);
        let (mut flops, mut bytes, mut longest) = (0.0, 0.0, 0.0f64);
        for slot in came {
            let entry = self.jobs.get_mut(*slot);
            let Entry { job: told, doubt, .. } = *entry;
            let ranges = (
                Range::new(told.flops, doubt, caps.flops),
                Range::new(told.bytes, doubt, caps.bytes),
            );
            let job = Job { flops: ranges.0.mean(), bytes: ranges.1.mean() };
            let most = Job { flops: ranges.0.most, bytes: ranges.1.most };
            entry.job = job;
            entry.risk = (takes(&most) / takes(&job)).max(1.0);
            entry.most = 1.05 * entry.risk;
            entry.batch = true;
            (flops, bytes) = (flops + job.flops, bytes + job.bytes);
            longest = longest.max(job.flops / quickest.0 + job.bytes / quickest.1);
        }
        let work = f64::max(flops / together.0, bytes / together.1);
        for slot in came {
            let entry = self.jobs.get_mut(*slot);
            let mean = takes(&entry.job);
            // Where all nodes have work to the end, those that may turn out to be long or short are
            // tried early; where the longest jobs are the end, those that surely are so go first.
            entry.rank = if work > longest { (entry.risk - CERTAIN) * mean } else { mean };
        }
        self.horizon_s = work.max(longest);
        self.join_line(came);
    }

    /// Puts jobs that were ranked into the line.
    pub(super) fn join_line(&mut self, jobs: &[u32]) {
        // Those that left it first: their slots may be used again.
        self.line.retain(|slot| self.jobs.get(*slot).in_line);
        for slot in jobs {
            self.jobs.get_mut(*slot).in_line = true;
        }
        self.line.extend(jobs);
        let rank = |slot: &u32| self.jobs.get(*slot).rank;
        self.line.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    }

    /// Those of some nodes that could begin something if nothing were planned for them.
    fn room(&self, nodes: impl Iterator<Item = u32> + Clone) -> Room {
        let one = |node: &u32| &self.nodes[*node as usize];
        let sound = nodes.filter(|node| self.index.has(*node));
        let link = |node: &u32| one(node).sending == 0 && one(node).queued < plan::MOST_AT_ONCE;
        Room {
            links: sound.clone().filter(link).collect(),
            processors: sound.filter(|node| one(node).queued == one(node).sending).collect(),
        }
    }

    /// Plans jobs of the line until all nodes with room have one: those where something ended, and
    /// from time to time all.
    pub(super) fn serve_line(&mut self, all: bool, now: f64) {
        self.line.retain(|slot| self.jobs.get(*slot).in_line);
        if self.line.is_empty() {
            return;
        }
        let idle = self.line.len() == self.jobs.len();
        let all = all || idle || (self.line.len() as f64) < (1.0 - GONE) * self.line_before as f64;
        let mut room = match all {
            true => self.room(0..self.nodes.len() as u32),
            false => self.room(self.touched.iter().copied()),
        };
        if all {
            self.line_before = self.line.len();
        }
        let line = std::mem::take(&mut self.line);
        let with_data = |this: &Self, slot: &u32| this.jobs.get(*slot).job.bytes > 0.0;
        let mut left = [0; 2];
        for slot in &line {
            left[usize::from(with_data(self, slot))] += 1;
            if self.jobs.get(*slot).node != NONE {
                self.unplan(*slot, now);
            }
        }
        for slot in &line {
            let data = with_data(self, slot);
            let asked = [left[0] * room.processors.len(), left[1] * room.links.len()];
            if asked == [0; 2] {
                break;
            }
            left[usize::from(data)] -= 1;
            if asked[usize::from(data)] == 0 {
                continue;
            }
            self.plan(*slot, now);
            let entry = self.jobs.get(*slot);
            // The first that is planned for it takes its room.
            match entry.here().bytes > 0.0 {
                true => room.links.remove(&entry.node),
                false => room.processors.remove(&entry.node),
            };
        }
        self.line = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Random;

    #[test]
    fn a_size_is_no_larger_than_any_may_be() {
        let range = Range::new(5.0, 2.0, 8.0);
        assert_eq!((range.least, range.most), (2.5, 8.0));
        assert!((range.mean() - 5.5 / 3.2f64.ln()).abs() < 1e-9);
        // What must be larger than any other may be, is.
        let range = Range::new(50.0, 2.0, 8.0);
        assert_eq!((range.least, range.most, range.mean()), (25.0, 25.0, 25.0));
        assert_eq!(Range::new(5.0, 1.0, 8.0).mean(), 5.0);
        assert_eq!(Range::new(0.0, 2.0, 8.0).mean(), 0.0);
    }

    #[test]
    fn the_largest_is_told_from_all() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let mut told = || {
                let size = 10f64.powf(random.between(-1.0, 1.0));
                (size * 2f64.powf(random.between(-1.0, 1.0)), 2.0)
            };
            let sizes: Vec<_> = (0..1000).map(|_| told()).collect();
            let cap = largest(sizes.iter().copied());
            assert!((8.5..12.5).contains(&cap), "seed {seed}: {cap} instead of 10");
        }
        assert_eq!(largest([].into_iter()), 0.0);
        assert_eq!(largest([(3.0, 1.0), (4.0, 1.0)].into_iter()), 4.0);
    }
}
