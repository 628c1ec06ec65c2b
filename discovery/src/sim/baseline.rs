//! What the same questions cost without super-peers: every node knows a few others, and a question is
//! flooded, or walks at random (Lv, Cao, Cohen, Li, Shenker, ICS 2002).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use phantom_classad::{Expr, Scope};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::engine::{ENVELOPE, HEADERS, Network, Place, Traffic};
use super::grid::Grid;

/// How far a flood goes, in hops.
pub const FLOOD_HOPS: u32 = 7;
/// How many walkers a question has, and how many steps each takes at most.
pub const WALKERS: usize = 16;
/// How many steps each walker takes at most.
pub const STEPS: usize = 1024;
/// After so many steps a walker asks the origin whether to go on.
const CHECKS: usize = 4;
/// What a question and an answer have as payload: that of the query machines without a region.
const ASKED: u64 = 160;
const ANSWERED: u64 = 200;

/// What one question came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// What was sent.
    pub traffic: Traffic,
    /// Matching nodes that have answered, up to as many as were wanted.
    pub found: usize,
    /// When the last of these answers came.
    pub took: Duration,
}

/// Who knows whom: three in the own sub-grid and one elsewhere, mostly in the region; both ways.
#[derive(Debug)]
pub struct Overlay {
    links: Vec<Vec<usize>>,
    members: usize,
    regions: usize,
    network: Network,
    rng: StdRng,
}

impl Overlay {
    /// Over the nodes of a grid.
    pub fn new(grid: &Grid, network: Network, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let shape = grid.shape();
        let (members, nodes) = (shape.members, shape.members * shape.subgrids);
        let mut links = vec![Vec::new(); nodes];
        for node in 0..nodes {
            let subgrid = node / members;
            let inside: Vec<usize> =
                (0..3).map(|_| subgrid * members + rng.random_range(0..members)).collect();
            let far = rng.random_bool(0.3);
            let other = loop {
                let other = rng.random_range(0..shape.subgrids);
                let same = other % shape.regions == subgrid % shape.regions;
                if shape.subgrids <= shape.regions || same != far {
                    break other;
                }
            };
            let outside = other * members + rng.random_range(0..members);
            for peer in inside.into_iter().chain([outside]).filter(|peer| *peer != node) {
                links[node].push(peer);
                links[peer].push(node);
            }
        }
        for known in &mut links {
            known.sort_unstable();
            known.dedup();
        }
        Self { links, members, regions: shape.regions, network, rng }
    }

    fn place(&self, node: usize) -> Place {
        let subgrid = node / self.members;
        Place { region: (subgrid % self.regions) as u16, subgrid: subgrid as u16 }
    }

    fn latency(&mut self, one: usize, other: usize) -> Duration {
        let (one, other) = (self.place(one), self.place(other));
        let base = match (one.region == other.region, one.subgrid == other.subgrid) {
            (_, true) => self.network.inside,
            (true, false) => self.network.region,
            (false, _) => self.network.far,
        };
        let jitter = self.network.jitter;
        base.mul_f64(self.rng.random_range(1.0 - jitter..=1.0 + jitter))
    }

    fn matches(&self, grid: &Grid, node: usize, expr: &Expr) -> bool {
        let registry = grid.registry(node / self.members);
        let ad = registry.ads.get(node % self.members);
        ad.is_some_and(|(_, ad)| Scope::default().with_target(ad).eval(expr).is_true())
    }

    /// Every node passes the question on to all it knows, once; who matches answers the origin.
    pub fn flood(&mut self, grid: &Grid, origin: usize, expr: &Expr, wanted: usize) -> Cost {
        let mut cost = Sum::default();
        let mut arrivals: Vec<Duration> = Vec::new();
        let mut seen: HashMap<usize, ()> = HashMap::from([(origin, ())]);
        let mut queue = BinaryHeap::from([Reverse((Duration::ZERO, origin, origin, 0))]);
        while let Some(Reverse((at, node, from, hops))) = queue.pop() {
            if node != origin {
                if seen.insert(node, ()).is_some() {
                    continue;
                }
                if self.matches(grid, node, expr) {
                    cost.add(1, ANSWERED);
                    arrivals.push(at + self.latency(node, origin));
                }
            }
            if hops == FLOOD_HOPS {
                continue;
            }
            for peer in self.links[node].clone().into_iter().filter(|peer| *peer != from) {
                cost.add(1, ASKED);
                if !self.rng.random_bool(self.network.loss) {
                    queue.push(Reverse((at + self.latency(node, peer), peer, node, hops + 1)));
                }
            }
        }
        cost.ended(arrivals, wanted)
    }

    /// Walkers step from node to node at random, until enough have matched.
    pub fn walk(&mut self, grid: &Grid, origin: usize, expr: &Expr, wanted: usize) -> Cost {
        let mut cost = Sum::default();
        let mut arrivals: HashMap<usize, Duration> = HashMap::new();
        let mut walkers = vec![(origin, Duration::ZERO); WALKERS];
        for step in 1..=STEPS {
            for walker in &mut walkers {
                let (node, at) = *walker;
                let known = &self.links[node];
                let next = known[self.rng.random_range(0..known.len())];
                let at = at + self.latency(node, next);
                cost.add(1, ASKED);
                *walker = (next, at);
                if !arrivals.contains_key(&next) && self.matches(grid, next, expr) {
                    cost.add(1, ANSWERED);
                    arrivals.insert(next, at + self.latency(next, origin));
                }
                if step % CHECKS == 0 {
                    cost.add(2, ASKED / 4);
                    walker.1 += self.latency(next, origin) * 2;
                }
            }
            if step % CHECKS == 0 && arrivals.len() >= wanted {
                break;
            }
        }
        cost.ended(arrivals.into_values().collect(), wanted)
    }
}

#[derive(Default)]
struct Sum(Traffic);

impl Sum {
    fn add(&mut self, messages: u64, payload: u64) {
        let bytes = messages * (payload + HEADERS + ENVELOPE);
        self.0.add(Traffic { messages, bytes });
    }

    fn ended(self, mut arrivals: Vec<Duration>, wanted: usize) -> Cost {
        arrivals.sort();
        arrivals.truncate(wanted);
        let took = arrivals.last().copied().unwrap_or_default();
        Cost { traffic: self.0, found: arrivals.len(), took }
    }
}
