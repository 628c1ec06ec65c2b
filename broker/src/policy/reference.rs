//! Textbook policies, to compare with and to check the simulator by.

use std::collections::VecDeque;

use super::{Command, News, Policy, Profile, Random};
use crate::{Grid, Job};

/// When each node will be free, if nodes serve one after the other and all is as known.
#[derive(Debug, Clone)]
struct Plan {
    grid: Grid,
    sent: Vec<f64>,
    computed: Vec<f64>,
    trunks: Vec<f64>,
    /// Whether trunks are reckoned with.
    trunk_aware: bool,
}

impl Plan {
    fn new(grid: &Grid, trunk_aware: bool) -> Self {
        Self {
            grid: grid.clone(),
            sent: vec![0.0; grid.nodes.len()],
            computed: vec![0.0; grid.nodes.len()],
            trunks: vec![0.0; grid.trunks.len()],
            trunk_aware,
        }
    }

    fn site(&self, node: usize) -> Option<usize> {
        self.grid.nodes[node].site.map(|site| site as usize).filter(|_| self.trunk_aware)
    }

    /// When a job's data would be there, and when it would be done.
    fn ends(&self, node: usize, job: Job, now: f64) -> (f64, f64) {
        let one = &self.grid.nodes[node];
        if !one.is_sound() {
            return (f64::INFINITY, f64::INFINITY);
        }
        let mut sent = now;
        if job.bytes > 0.0 {
            sent = now.max(self.sent[node]) + one.latency_s + job.bytes / one.bytes_per_s;
            if let Some(site) = self.site(node) {
                sent = sent.max(now.max(self.trunks[site]) + job.bytes / self.grid.trunks[site]);
            }
        }
        let computed = match job.flops > 0.0 {
            true => sent.max(self.computed[node]) + job.flops / one.flops_per_s,
            false => sent,
        };
        (sent, computed)
    }

    fn take(&mut self, node: usize, job: Job, now: f64) {
        let (sent, computed) = self.ends(node, job, now);
        if job.bytes > 0.0 {
            self.sent[node] = sent;
            if let Some(site) = self.site(node) {
                self.trunks[site] = now.max(self.trunks[site]) + job.bytes / self.grid.trunks[site];
            }
        }
        if job.flops > 0.0 {
            self.computed[node] = computed;
        }
    }

    /// The two nodes that would be done first, and when.
    fn earliest(&self, job: Job, now: f64) -> [(usize, f64); 2] {
        let mut best = [(usize::MAX, f64::INFINITY); 2];
        for node in 0..self.grid.nodes.len() {
            let (_, end) = self.ends(node, job, now);
            if end < best[0].1 {
                best = [(node, end), best[0]];
            } else if end < best[1].1 {
                best[1] = (node, end);
            }
        }
        best
    }
}

/// The node that would be done first, by the jobs that were given to it (minimum completion time).
#[derive(Debug, Clone)]
pub struct Mct(Plan);

impl Mct {
    /// On idle nodes; with or without regard to sites' trunks.
    pub fn new(grid: &Grid, trunk_aware: bool) -> Self {
        Self(Plan::new(grid, trunk_aware))
    }
}

impl Policy for Mct {
    fn told(&mut self, _: &News, _: f64) {}

    fn choose(&mut self, _: u32, profile: &Profile, now: f64) -> Option<u32> {
        let [(node, _), _] = self.0.earliest(profile.job, now);
        if node == usize::MAX {
            return None;
        }
        self.0.take(node, profile.job, now);
        Some(node as u32)
    }
}

/// The same among a few nodes, drawn by how many jobs each can do.
#[derive(Debug, Clone)]
pub struct Drawn {
    plan: Plan,
    random: Random,
    draws: usize,
    sums: Vec<f64>,
}

impl Drawn {
    /// On idle nodes.
    pub fn new(grid: &Grid, draws: usize, seed: u64) -> Self {
        let (plan, random) = (Plan::new(grid, true), Random::new(seed));
        Self { plan, random, draws, sums: Vec::new() }
    }
}

impl Policy for Drawn {
    fn told(&mut self, _: &News, _: f64) {}

    fn choose(&mut self, _: u32, profile: &Profile, now: f64) -> Option<u32> {
        let job = profile.job;
        let mut sum = 0.0;
        self.sums.clear();
        self.sums.extend(self.plan.grid.nodes.iter().map(|node| {
            let alone = (job.flops / node.flops_per_s).max(job.bytes / node.bytes_per_s);
            sum += if node.is_sound() { 1.0 / alone } else { 0.0 };
            sum
        }));
        let mut best = (None, f64::INFINITY);
        for _ in 0..self.draws {
            let drawn = self.random.unit() * sum;
            let node = self.sums.partition_point(|one| *one < drawn);
            if node >= self.sums.len() {
                continue;
            }
            let (_, end) = self.plan.ends(node, job, now);
            if end < best.1 {
                best = (Some(node), end);
            }
        }
        let node = best.0?;
        self.plan.take(node, job, now);
        Some(node as u32)
    }
}

/// In which order a batch is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The job that can be done first (min-min).
    MinMin,
    /// The job that would lose most if it did not get its best node.
    Sufferage,
    /// The longest first, on the average node (as HEFT ranks independent tasks).
    Longest,
}

/// Places all jobs that came at once together, each where it is done first.
#[derive(Debug, Clone)]
pub struct Batch {
    plan: Plan,
    order: Order,
    waiting: Vec<(u32, Job)>,
    placed: VecDeque<Command>,
}

impl Batch {
    /// On idle nodes.
    pub fn new(grid: &Grid, order: Order) -> Self {
        let (waiting, placed) = (Vec::new(), VecDeque::new());
        Self { plan: Plan::new(grid, true), order, waiting, placed }
    }

    fn place(&mut self, id: u32, job: Job, node: usize, now: f64) {
        self.plan.take(node, job, now);
        self.placed.push_back(Command::Give { job: id, node: node as u32 });
    }

    fn longest_first(&mut self, now: f64) {
        let nodes = &self.plan.grid.nodes;
        let count = nodes.len() as f64;
        let flops: f64 = nodes.iter().map(|node| node.flops_per_s).sum();
        let bytes: f64 = nodes.iter().map(|node| node.bytes_per_s).sum();
        let rank = |job: &Job| job.flops * count / flops + job.bytes * count / bytes;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by(|(_, a), (_, b)| rank(b).total_cmp(&rank(a)));
        for (id, job) in waiting {
            let [(node, _), _] = self.plan.earliest(job, now);
            if node != usize::MAX {
                self.place(id, job, node, now);
            }
        }
    }

    fn one_by_one(&mut self, now: f64) {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut best: Vec<_> =
            waiting.iter().map(|(_, job)| self.plan.earliest(*job, now)).collect();
        while !waiting.is_empty() {
            let rank = |[first, second]: &[(usize, f64); 2]| match self.order {
                Order::Sufferage => first.1 - second.1,
                _ => first.1,
            };
            let Some(next) = (0..waiting.len())
                .min_by(|a, b| rank(&best[*a]).total_cmp(&rank(&best[*b])).then(a.cmp(b)))
            else {
                return;
            };
            let (id, job) = waiting.remove(next);
            let [(node, _), _] = best.remove(next);
            if node == usize::MAX {
                continue;
            }
            self.place(id, job, node, now);
            for (place, (_, job)) in waiting.iter().enumerate() {
                if best[place].iter().any(|(one, _)| *one == node) || self.plan.trunk_aware_at(node)
                {
                    best[place] = self.plan.earliest(*job, now);
                }
            }
        }
    }
}

impl Plan {
    /// Whether a job at `node` delays jobs at others.
    fn trunk_aware_at(&self, node: usize) -> bool {
        self.site(node).is_some()
    }
}

impl Policy for Batch {
    fn told(&mut self, _: &News, _: f64) {}

    fn choose(&mut self, id: u32, profile: &Profile, _: f64) -> Option<u32> {
        self.waiting.push((id, profile.job));
        None
    }

    fn release(&mut self, now: f64) -> Option<Command> {
        if !self.waiting.is_empty() {
            match self.order {
                Order::Longest => self.longest_first(now),
                Order::MinMin | Order::Sufferage => self.one_by_one(now),
            }
        }
        self.placed.pop_front()
    }
}
