//! Time and the network: what is sent arrives later, twice or never.
//!
//! What holds:
//! - The same seed gives the same run.
//! - Every datagram that is sent is counted where it is sent, with its headers, whether it arrives or
//!   not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// IPv4 and UDP (RFC 791, RFC 768).
pub const HEADERS: u64 = 28;
/// What wraps a payload: the kind of datagram and what it is for ([`crate::wire`]), and the seal
/// ([`crate::envelope`]).
pub const ENVELOPE: u64 = 4 + 1 + 32;
/// The most that one datagram carries.
const MAX_PAYLOAD: usize = 1100;

/// How far nodes are from each other, one way, and what the network does to datagrams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// Between two of a sub-grid.
    pub inside: Duration,
    /// Between sub-grids of a region.
    pub region: Duration,
    /// Between regions.
    pub far: Duration,
    /// By which part a latency is shorter or longer.
    pub jitter: f64,
    /// Which part of datagrams is lost.
    pub loss: f64,
    /// Which part arrives twice.
    pub duplicated: f64,
}

impl Default for Network {
    /// 1, 10 and 60 ms give or take a fifth, without losses.
    fn default() -> Self {
        Self {
            inside: Duration::from_millis(1),
            region: Duration::from_millis(10),
            far: Duration::from_millis(60),
            jitter: 0.2,
            loss: 0.0,
            duplicated: 0.0,
        }
    }
}

/// Where a node is: its region and its sub-grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the region.
    pub region: u16,
    /// Number of the sub-grid, over all regions.
    pub subgrid: u16,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<P> {
    /// A payload arrives.
    Arrival {
        /// At which node.
        to: usize,
        /// From which.
        from: usize,
        /// What.
        payload: P,
    },
    /// A node has asked to be woken.
    Wake(usize),
    /// Something that whoever runs the simulation has planned.
    Plan(u64),
}

#[derive(Debug)]
struct Queued<P> {
    at: Duration,
    turn: u64,
    event: Event<P>,
}

impl<P> PartialEq for Queued<P> {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl<P> Eq for Queued<P> {}

impl<P> Ord for Queued<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at).then(self.turn.cmp(&other.turn))
    }
}

impl<P> PartialOrd for Queued<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A node's own state in the simulation.
#[derive(Debug, Clone, Copy, Default)]
struct Host {
    dead: bool,
    /// Neither hears nor acts before this time; what comes meanwhile waits.
    frozen_until: Duration,
    /// How far its clock is ahead.
    ahead: Duration,
    /// For when it is to be woken, in the engine's time.
    wake: Option<Duration>,
}

/// Datagrams and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many datagrams.
    pub messages: u64,
    /// How many bytes, headers included.
    pub bytes: u64,
}

impl Traffic {
    /// So many bytes; what is longer than a datagram goes in several.
    pub fn of(bytes: usize) -> Self {
        let messages = bytes.div_ceil(MAX_PAYLOAD).max(1) as u64;
        Self { messages, bytes: bytes as u64 + messages * (HEADERS + ENVELOPE) }
    }

    /// With more.
    pub fn add(&mut self, other: Traffic) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// The engine: a queue of what happens, and a network.
#[derive(Debug)]
pub struct Engine<P> {
    network: Network,
    places: Vec<Place>,
    hosts: Vec<Host>,
    queue: BinaryHeap<Reverse<Queued<P>>>,
    now: Duration,
    turn: u64,
    rng: StdRng,
    /// Which of several sides each region or sub-grid is on, while the network is parted.
    sides: Option<BTreeMap<Place, u16>>,
}

impl<P: Clone> Engine<P> {
    /// Nodes at these places.
    pub fn new(network: Network, places: Vec<Place>, seed: u64) -> Self {
        Self {
            network,
            hosts: vec![Host::default(); places.len()],
            places,
            queue: BinaryHeap::new(),
            now: Duration::ZERO,
            turn: 0,
            rng: StdRng::seed_from_u64(seed),
            sides: None,
        }
    }

    /// What time it is.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What a node's own clock says.
    pub fn clock(&self, node: usize) -> Duration {
        self.now + self.hosts.get(node).map_or(Duration::ZERO, |host| host.ahead)
    }

    /// Randomness for whoever runs the simulation.
    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// Where a node is.
    pub fn place(&self, node: usize) -> Place {
        self.places.get(node).copied().unwrap_or(Place { region: 0, subgrid: 0 })
    }

    /// Parts the network: only nodes of places on the same side reach each other. `None` heals it.
    pub fn part(&mut self, sides: Option<BTreeMap<Place, u16>>) {
        self.sides = sides;
    }

    /// A node ends; what is on its way to it is lost.
    pub fn crash(&mut self, node: usize) {
        if let Some(host) = self.hosts.get_mut(node) {
            (host.dead, host.wake) = (true, None);
        }
    }

    /// A node begins again.
    pub fn restart(&mut self, node: usize) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.dead = false;
        }
    }

    /// Whether a node lives.
    pub fn is_alive(&self, node: usize) -> bool {
        self.hosts.get(node).is_some_and(|host| !host.dead)
    }

    /// A node is stopped for a while, as a process is.
    pub fn freeze(&mut self, node: usize, until: Duration) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.frozen_until = until;
        }
    }

    /// A node's clock jumps ahead.
    pub fn jump(&mut self, node: usize, by: Duration) {
        if let Some(host) = self.hosts.get_mut(node) {
            host.ahead += by;
            host.wake = None;
        }
        let now = self.now;
        self.push(now, Event::Wake(node));
    }

    /// Something happens at this time.
    pub fn plan(&mut self, at: Duration, what: u64) {
        self.push(at, Event::Plan(what));
    }

    /// Wakes a node when its own clock says `at`; a later wish for an earlier time counts.
    pub fn wake(&mut self, node: usize, at: Option<Duration>) {
        let Some((host, at)) = self.hosts.get_mut(node).zip(at) else { return };
        let at = at.saturating_sub(host.ahead).max(self.now);
        if host.wake.is_none_or(|wake| at < wake) {
            host.wake = Some(at);
            self.push(at, Event::Wake(node));
        }
    }

    /// Sends a payload of so many bytes, and says what that costs. A node sends itself nothing over
    /// the network.
    pub fn send(&mut self, from: usize, to: usize, payload: P, bytes: usize) -> Traffic {
        if from == to {
            let now = self.now;
            self.push(now, Event::Arrival { to, from, payload });
            return Traffic::default();
        }
        let traffic = Traffic::of(bytes);
        let copies = 1 + usize::from(self.rng.random_bool(self.network.duplicated));
        for _ in 0..copies {
            let lost = (0..traffic.messages).any(|_| self.rng.random_bool(self.network.loss));
            if lost {
                continue;
            }
            self.send_surely(from, to, payload.clone());
        }
        traffic
    }

    /// Sends a payload over a connection, which repeats what is lost: it is on its way as long as a
    /// datagram is, unless the network is parted. What that costs is not counted.
    pub fn send_surely(&mut self, from: usize, to: usize, payload: P) {
        let (one, other) = (self.place(from), self.place(to));
        let side = |place: Place| self.sides.as_ref().and_then(|sides| sides.get(&place));
        if side(one) != side(other) {
            return;
        }
        let base = match (one.region == other.region, one.subgrid == other.subgrid) {
            (_, true) => self.network.inside,
            (true, false) => self.network.region,
            (false, _) => self.network.far,
        };
        let jitter = self.network.jitter;
        let latency = base.mul_f64(self.rng.random_range(1.0 - jitter..=1.0 + jitter));
        let at = self.now + latency;
        self.push(at, Event::Arrival { to, from, payload });
    }

    /// What happens next, until `end`; then the time is `end`.
    pub fn next(&mut self, end: Duration) -> Option<Event<P>> {
        loop {
            if self.queue.peek().is_none_or(|Reverse(next)| next.at > end) {
                self.now = self.now.max(end);
                return None;
            }
            let Reverse(next) = self.queue.pop()?;
            self.now = self.now.max(next.at);
            let node = match &next.event {
                Event::Arrival { to, .. } => *to,
                Event::Wake(node) => *node,
                Event::Plan(_) => return Some(next.event),
            };
            let Some(host) = self.hosts.get_mut(node) else { continue };
            if host.dead {
                continue;
            }
            if host.frozen_until > self.now {
                let later = host.frozen_until;
                if host.wake.is_some_and(|at| at <= next.at) {
                    host.wake = Some(later);
                }
                self.queue.push(Reverse(Queued { at: later, ..next }));
                continue;
            }
            if let Event::Wake(_) = next.event {
                // An earlier wish has been met already, or this is a jump of the clock.
                if host.wake.is_some_and(|at| at > self.now) {
                    continue;
                }
                host.wake = None;
            }
            return Some(next.event);
        }
    }

    fn push(&mut self, at: Duration, event: Event<P>) {
        self.turn += 1;
        self.queue.push(Reverse(Queued { at, turn: self.turn, event }));
    }
}
