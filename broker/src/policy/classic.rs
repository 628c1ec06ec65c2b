//! The paper's policies. Each looks at all nodes for each job; of equals the first node wins.

use super::{News, Policy, Profile, State};
use crate::Grid;

/// Job after job to node after node.
#[derive(Debug, Clone)]
pub struct RoundRobin {
    nodes: Vec<u32>,
    next: usize,
}

impl RoundRobin {
    /// Of the sound nodes of a grid.
    pub fn new(grid: &Grid) -> Self {
        let sound = grid.nodes.iter().enumerate().filter(|(_, node)| node.is_sound());
        Self { nodes: sound.map(|(node, _)| node as u32).collect(), next: 0 }
    }
}

impl Policy for RoundRobin {
    fn told(&mut self, _: &News, _: f64) {}

    fn choose(&mut self, _: u32, _: &Profile, _: f64) -> Option<u32> {
        let node = self.nodes.get(self.next % self.nodes.len().max(1))?;
        self.next += 1;
        Some(*node)
    }
}

/// The node that computes fastest, with one more job.
#[derive(Debug, Clone)]
pub struct Flops(State);

impl Flops {
    /// On idle nodes.
    pub fn new(grid: &Grid) -> Self {
        Self(State::new(grid))
    }
}

impl Policy for Flops {
    fn told(&mut self, news: &News, _: f64) {
        self.0.apply(&news.event);
    }

    fn choose(&mut self, _: u32, _: &Profile, _: f64) -> Option<u32> {
        self.0.best(|node| self.0.flops_per_s(node))
    }
}

/// How [`Ncda`] makes one rank of compute and bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// Half by each, against the best node's.
    Weighted,
    /// Their product.
    Product,
    /// By the time that a job of 10^9 flop and 10^9 bytes would take.
    Harmonic,
}

/// Network and Compute Distance Aware: the node with the best of speed and bandwidth together, each
/// as one more job would find it.
#[derive(Debug, Clone)]
pub struct Ncda {
    state: State,
    sum: Sum,
    most_flops_per_s: f64,
    most_bytes_per_s: f64,
}

impl Ncda {
    /// On idle nodes.
    pub fn new(grid: &Grid, sum: Sum) -> Self {
        let sound = || grid.nodes.iter().filter(|node| node.is_sound());
        Self {
            sum,
            most_flops_per_s: sound().map(|node| node.flops_per_s).fold(0.0, f64::max),
            most_bytes_per_s: sound().map(|node| node.bytes_per_s).fold(0.0, f64::max),
            state: State::new(grid),
        }
    }

    fn rank(&self, node: usize) -> f64 {
        let (flops, bytes) = (self.state.flops_per_s(node), self.state.bytes_per_s(node));
        match self.sum {
            Sum::Weighted => {
                0.5 * flops / self.most_flops_per_s + 0.5 * bytes / self.most_bytes_per_s
            }
            Sum::Product => flops * bytes / (self.most_flops_per_s * self.most_bytes_per_s),
            Sum::Harmonic => 1.0 / (1e9 / flops + 1e9 / bytes),
        }
    }
}

impl Policy for Ncda {
    fn told(&mut self, news: &News, _: f64) {
        self.state.apply(&news.event);
    }

    fn choose(&mut self, _: u32, _: &Profile, _: f64) -> Option<u32> {
        self.state.best(|node| self.rank(node))
    }
}
