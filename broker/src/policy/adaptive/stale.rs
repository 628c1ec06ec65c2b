//! When news are old: nodes drawn at random, and of few that were drawn the best.

use super::Adaptive;
use crate::policy::Random;
use crate::{Grid, Job};

/// Nodes drawn for one that is taken, at most.
const TRIES: usize = 16;

/// How old news are when they come.
#[derive(Debug, Clone, Default)]
pub(super) struct Age {
    /// How old the last ones were, on average; `None` before there were any.
    heard_s: Option<f64>,
    /// When the first job was dispatched.
    began: Option<f64>,
}

impl Age {
    /// News came, of what this broker did not do itself just now, that were so old.
    pub fn heard(&mut self, age_s: f64) {
        if age_s.is_finite() {
            let heard_s = self.heard_s.unwrap_or(age_s);
            self.heard_s = Some(heard_s + 0.1 * (age_s.max(0.0) - heard_s));
        }
    }

    /// This broker dispatched a job.
    pub fn dispatched(&mut self, now: f64) {
        self.began.get_or_insert(now);
    }

    /// How old what is known is likely to be: before any news, as old as what they should tell of.
    pub fn age_s(&self, now: f64) -> f64 {
        self.heard_s.unwrap_or_else(|| self.began.map_or(0.0, |began| now - began))
    }
}

/// A node as nodes are on average.
#[derive(Debug, Clone, Copy)]
pub(super) struct Average {
    flop: f64,
    byte: f64,
}

impl Average {
    pub fn new(grid: &Grid) -> Self {
        let sound = || grid.nodes.iter().filter(|node| node.is_sound());
        let count = sound().count() as f64;
        let flops: f64 = sound().map(|node| node.flops_per_s).sum();
        let bytes: f64 = sound().map(|node| node.bytes_per_s).sum();
        Self { flop: count / flops, byte: count / bytes }
    }

    /// Seconds that a job takes there.
    pub fn takes(&self, job: &Job) -> f64 {
        job.flops * self.flop + job.bytes * self.byte
    }
}

/// Draws nodes by how many jobs each can do.
#[derive(Debug, Clone)]
pub(super) struct Drawing {
    random: Random,
    /// Sums of speeds and of bandwidths of all nodes up to each, as they said.
    flops: Vec<f64>,
    bytes: Vec<f64>,
}

impl Drawing {
    pub fn new(grid: &Grid, seed: u64) -> Self {
        let sums = |rate: fn(&crate::GridNode) -> f64| {
            let mut sum = 0.0;
            let add = |node| {
                sum += if crate::GridNode::is_sound(node) { rate(node) } else { 0.0 };
                sum
            };
            grid.nodes.iter().map(add).collect()
        };
        Self {
            random: Random::new(seed),
            flops: sums(|node| node.flops_per_s),
            bytes: sums(|node| node.bytes_per_s),
        }
    }
}

impl Adaptive {
    /// The best of a few nodes that are drawn, and of the one that has the data: the older the news,
    /// the fewer.
    pub(super) fn draw(&mut self, job: &Job, data_at: Option<u32>, now: f64) -> Option<u32> {
        let old = self.news.age_s(now) / self.average.takes(job);
        let draws = match old {
            old if old < 1.0 => 8,
            old if old < 3.0 => 4,
            _ => 2,
        };
        let mut best: Option<(u32, f64)> = None;
        for _ in 0..draws {
            let Some(node) = self.draw_one(job) else { continue };
            let cost = self.shared(node, job);
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((node, cost));
            }
        }
        if let Some(node) = data_at {
            let cost = self.shared(node, &Job { bytes: 0.0, ..*job });
            if best.is_none_or(|(_, least)| cost <= least) {
                best = Some((node, cost));
            }
        }
        let (node, _) = best?;
        self.news.dispatched(now);
        self.count_queued(node, 1);
        if job.bytes > 0.0 && data_at != Some(node) {
            self.count_sending(node, 1, now);
        }
        self.reindex(node);
        Some(node)
    }

    /// A node, drawn by how many such jobs it can do a second: by speed or by bandwidth alone,
    /// whichever all nodes together have less of, and taken as often as the other one allows.
    fn draw_one(&mut self, job: &Job) -> Option<u32> {
        let Drawing { random, flops, bytes } = &mut self.drawing;
        let jobs = |sums: &[f64], size: f64| match size > 0.0 {
            true => sums.last().copied().unwrap_or(0.0) / size,
            false => f64::INFINITY,
        };
        let by_speed = jobs(flops, job.flops) < jobs(bytes, job.bytes);
        let sums = if by_speed { flops } else { bytes };
        let all = *sums.last()?;
        let mut drawn = None;
        for _ in 0..TRIES {
            let point = random.unit() * all;
            let node = sums.partition_point(|sum| *sum <= point);
            if !self.index.has(node as u32) {
                continue;
            }
            drawn = Some(node as u32);
            // What was measured counts, not what it said.
            let one = &self.nodes[node];
            let rate = (one.speed / job.flops).min(one.link / job.bytes);
            if random.unit() * one.said_rate(job, by_speed) < rate {
                break;
            }
        }
        drawn
    }
}
