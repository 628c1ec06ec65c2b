//! How far nodes are from each other: network coordinates, so that a distance is known to those
//! one has never measured.
//!
//! Vivaldi with heights and an adaptive timestep (Dabek, Cox, Kaashoek, Morris, SIGCOMM 2004); of
//! each peer a low one of its last few round trips counts, as what disturbs one only adds to it (the
//! moving percentile of Ledlie, Gardner, Seltzer, NSDI 2007).
//!
//! What holds:
//! - Every number is finite and bounded, whatever peers say.
//! - One sample moves a coordinate by at most a quarter of the round trip that was measured, so a
//!   peer that lies about where it is, or how sure it is, cannot throw this node far.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Dimensions beside the height.
const DIMENSIONS: usize = 3;
/// Nothing is further from the origin, in milliseconds.
const FAR: f64 = 10_000.0;
/// Round trips are taken to lie between these, in milliseconds.
const MIN_RTT: f64 = 0.05;
const MAX_RTT: f64 = 5_000.0;
/// Nobody is taken to be surer of itself than this, and nobody less sure.
const MIN_ERROR: f64 = 0.05;
const MAX_ERROR: f64 = 1.5;
/// The tuning constants c_c and c_e of the paper.
const STEP: f64 = 0.25;
const ERROR_STEP: f64 = 0.25;
/// Round trips to one peer that are kept, of which the second lowest counts once there are three.
const WINDOW: usize = 5;
/// Peers whose round trips are kept.
const MAX_PEERS: usize = 256;

/// A place in the network. Distances are round trips in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Coordinate {
    at: [f32; DIMENSIONS],
    height: f32,
    error: f32,
}

impl Default for Coordinate {
    /// The origin, of which nothing is known.
    fn default() -> Self {
        Self { at: [0.0; DIMENSIONS], height: 0.1, error: MAX_ERROR as f32 }
    }
}

impl Coordinate {
    /// From parts in milliseconds; `error` is relative. `None` when they are no place.
    pub fn new(at: [f32; DIMENSIONS], height: f32, error: f32) -> Option<Self> {
        Self { at, height, error }.checked()
    }

    /// What another node has said, if it can be a place; its error is put between bounds.
    pub fn checked(mut self) -> Option<Self> {
        let near = |part: f32| part.is_finite() && f64::from(part.abs()) <= FAR;
        let error = f64::from(self.error);
        let good = self.at.into_iter().all(near) && near(self.height) && self.height >= 0.0;
        if !good || !error.is_finite() || error < 0.0 {
            return None;
        }
        self.error = error.clamp(MIN_ERROR, MAX_ERROR) as f32;
        Some(self)
    }

    /// The round trip to another place, in milliseconds.
    pub fn distance(&self, other: &Self) -> f64 {
        self.flat(other) + f64::from(self.height) + f64::from(other.height)
    }

    /// How sure it is: the usual relative error of distances from here.
    pub fn error(&self) -> f64 {
        f64::from(self.error)
    }

    /// The place in the middle of several; `None` of none.
    pub fn middle<'a>(of: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let (mut sum, mut height, mut error, mut count) = ([0.0; DIMENSIONS], 0.0, 0.0, 0.0);
        for one in of {
            for (sum, part) in sum.iter_mut().zip(one.at) {
                *sum += f64::from(part);
            }
            height += f64::from(one.height);
            error += f64::from(one.error);
            count += 1.0;
        }
        let mean = |sum: f64| (sum / count) as f32;
        Self { at: sum.map(mean), height: mean(height), error: mean(error) }.checked()
    }

    /// The distance without heights.
    fn flat(&self, other: &Self) -> f64 {
        self.apart(other).iter().map(|part| part * part).sum::<f64>().sqrt()
    }

    fn apart(&self, other: &Self) -> [f64; DIMENSIONS] {
        let mut apart = [0.0; DIMENSIONS];
        for ((apart, one), other) in apart.iter_mut().zip(self.at).zip(other.at) {
            *apart = f64::from(one) - f64::from(other);
        }
        apart
    }
}

/// This node's coordinate, and what it is learnt from.
#[derive(Debug)]
pub struct Vivaldi {
    own: Coordinate,
    rng: StdRng,
    windows: BTreeMap<NodeId, Window>,
    turn: u64,
}

#[derive(Debug, Default)]
struct Window {
    last: VecDeque<f64>,
    used: u64,
}

impl Vivaldi {
    /// A node that knows nothing yet; `seed` is random.
    pub fn new(seed: [u8; 32]) -> Self {
        let rng = StdRng::from_seed(seed);
        Self { own: Coordinate::default(), rng, windows: BTreeMap::new(), turn: 0 }
    }

    /// Where this node is.
    pub fn coordinate(&self) -> Coordinate {
        self.own
    }

    /// A round trip to `peer` has been measured, which says to be at `theirs`. False when that is no
    /// place, which changes nothing.
    pub fn handle_sample(&mut self, peer: NodeId, theirs: Coordinate, rtt: Duration) -> bool {
        let Some(theirs) = theirs.checked() else { return false };
        let rtt = self.filtered(peer, rtt.as_secs_f64() * 1000.0);
        let expected = self.own.distance(&theirs);
        let (error, their_error) = (self.own.error(), theirs.error());
        let off = (expected - rtt).abs() / rtt;
        // Who says to be many times further than it is counts for little, however sure it says it is.
        let weight = error / (error + their_error) / off.max(1.0);
        let step = ERROR_STEP * weight;
        let error = off.min(MAX_ERROR) * step + error * (1.0 - step);
        let force = STEP * weight * (rtt - expected).clamp(-rtt, rtt);
        self.push(&theirs, force);
        self.own.error = error.clamp(MIN_ERROR, MAX_ERROR) as f32;
        true
    }

    /// Moves this node away from `theirs` by `force` milliseconds.
    fn push(&mut self, theirs: &Coordinate, force: f64) {
        let mut apart = self.own.apart(theirs);
        let mut flat = self.own.flat(theirs);
        if flat < MIN_RTT / 10.0 {
            // Two at the same place: any direction will do.
            apart = apart.map(|_| self.rng.random_range(-1.0..1.0));
            flat = apart.iter().map(|part| part * part).sum::<f64>().sqrt().max(1e-3);
            apart = apart.map(|part| part / flat * MIN_RTT);
            flat = MIN_RTT;
        }
        let heights = f64::from(self.own.height) + f64::from(theirs.height);
        let length = flat + heights;
        for (part, apart) in self.own.at.iter_mut().zip(apart) {
            *part = (f64::from(*part) + force * apart / length).clamp(-FAR, FAR) as f32;
        }
        let height = f64::from(self.own.height) + force * heights / length;
        self.own.height = height.clamp(MIN_RTT / 2.0, FAR) as f32;
    }

    /// The round trip to a peer without what disturbs single ones, in milliseconds.
    fn filtered(&mut self, peer: NodeId, rtt: f64) -> f64 {
        self.turn += 1;
        if self.windows.len() >= MAX_PEERS && !self.windows.contains_key(&peer) {
            let oldest = self.windows.iter().min_by_key(|(_, window)| window.used);
            let oldest = oldest.map(|(peer, _)| *peer);
            oldest.and_then(|peer| self.windows.remove(&peer));
        }
        let window = self.windows.entry(peer).or_default();
        window.used = self.turn;
        window.last.push_back(rtt.clamp(MIN_RTT, MAX_RTT));
        if window.last.len() > WINDOW {
            window.last.pop_front();
        }
        let mut sorted: Vec<f64> = window.last.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 3).copied().unwrap_or(rtt)
    }
}

/// A sub-grid that a joining node has found, and measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Which.
    pub subgrid: SubgridId,
    /// Round trips that were measured; none when nobody answered.
    pub rtts: Vec<Duration>,
    /// Whether this node may ask to enter it.
    pub may_enter: bool,
}

/// What a joining node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Asks this sub-grid first.
    Ask {
        /// Which.
        subgrid: SubgridId,
        /// How far it is.
        rtt: Duration,
        /// A nearer one, which this node may not enter.
        nearer: Option<(SubgridId, Duration)>,
    },
    /// Founds one of its own.
    Found(Reason),
}

/// Why a sub-grid is founded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nobody has answered.
    NobodyThere,
    /// Nobody near lets it in.
    MayEnterNone,
    /// The nearest that it may enter is too far away.
    TooFar {
        /// Which.
        subgrid: SubgridId,
        /// How far it is.
        rtt: Duration,
        /// What is near.
        near: Duration,
    },
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |rtt: &Duration| format!("{:.1} ms", rtt.as_secs_f64() * 1000.0);
        match self {
            Decision::Ask { subgrid, rtt, nearer } => {
                write!(f, "asks sub-grid {}, {} away", subgrid.short(), ms(rtt))?;
                match nearer {
                    Some((closed, rtt)) => {
                        write!(f, "; {} is nearer ({}) but closed", closed.short(), ms(rtt))
                    }
                    None => Ok(()),
                }
            }
            Decision::Found(Reason::NobodyThere) => f.write_str("founds one: nobody answered"),
            Decision::Found(Reason::MayEnterNone) => {
                f.write_str("founds one: it may enter none of those that answered")
            }
            Decision::Found(Reason::TooFar { subgrid, rtt, near }) => write!(
                f,
                "founds one: the nearest, {}, is {} away, and near is up to {}",
                subgrid.short(),
                ms(rtt),
                ms(near)
            ),
        }
    }
}

/// Which sub-grid a joining node asks first: the nearest that it may enter, if that is at most
/// `near` away. The least round trip of a probe counts, as queues only add to it; of two that are
/// equally far, to a tenth of a millisecond, the lower id goes first.
pub fn choose_subgrid(probes: &[Probe], near: Duration) -> Decision {
    let mut measured: Vec<_> = probes
        .iter()
        .filter_map(|probe| Some((*probe.rtts.iter().min()?, probe)))
        .map(|(rtt, probe)| (rtt.as_micros() / 100, probe.subgrid, rtt, probe.may_enter))
        .collect();
    measured.sort();
    let Some(first) = measured.first().map(|(_, subgrid, rtt, _)| (*subgrid, *rtt)) else {
        return Decision::Found(Reason::NobodyThere);
    };
    let open = measured.iter().find(|(.., may_enter)| *may_enter);
    match open.map(|(_, subgrid, rtt, _)| (*subgrid, *rtt)) {
        None => Decision::Found(Reason::MayEnterNone),
        Some((subgrid, rtt)) if rtt > near => {
            Decision::Found(Reason::TooFar { subgrid, rtt, near })
        }
        Some((subgrid, rtt)) => {
            Decision::Ask { subgrid, rtt, nearer: Some(first).filter(|first| first.0 != subgrid) }
        }
    }
}

#[cfg(test)]
mod tests;
