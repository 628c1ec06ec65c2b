//! A large sub-grid whose members watch each other: the [`Membership`] machine.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;

use super::engine::{Engine, Event, Network, Place, Traffic};
use super::workload::{node_id, number_of};
use crate::machine::{Command, Membership};

/// What such a sub-grid costs, and how fast it notices.
#[derive(Debug, Clone, PartialEq)]
pub struct SwimFigures {
    /// Members.
    pub nodes: usize,
    /// How long nothing happened to them, in seconds.
    pub idle_s: f64,
    /// What each has sent meanwhile, headers included, in kilobits a second.
    pub idle_kbit_s: f64,
    /// Datagrams that each has sent meanwhile, a second.
    pub idle_messages_s: f64,
    /// How often a member that lived was taken for gone by another.
    pub wrongly_gone: u64,
    /// How long it took until all knew each other, in seconds.
    pub joined_s: f64,
    /// For each member that ended, how long it took until 99 % of the others knew, in seconds,
    /// sorted.
    pub known_s: Vec<f64>,
}

impl SwimFigures {
    /// The time within which so many of a hundred ends were known to 99 %.
    pub fn known(&self, percent: usize) -> f64 {
        let at = (self.known_s.len() * percent).div_ceil(100).max(1) - 1;
        self.known_s.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Members that watch each other.
#[derive(Debug)]
struct Subgrid {
    engine: Engine<Bytes>,
    members: Vec<Member>,
    sent: Traffic,
    wrongly_gone: u64,
    /// Pairs of which one is known to the other to live.
    up: usize,
    /// Members that do not believe any more that the one in question lives.
    doubters: usize,
    ended: Option<usize>,
}

struct Member(Membership);

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Member")
    }
}

impl Subgrid {
    fn new(nodes: usize, network: Network, seed: u64) -> Self {
        let places = vec![Place { region: 0, subgrid: 0 }; nodes];
        let mut engine = Engine::new(network, places, seed);
        let members = (0..nodes).map(|number| {
            let seed = engine.rng().random();
            Member(Membership::new(node_id(number), 1 << 20, seed, Duration::ZERO))
        });
        let members = members.collect();
        let (sent, wrongly_gone, up) = (Traffic::default(), 0, 0);
        let mut subgrid =
            Self { engine, members, sent, wrongly_gone, up, doubters: 0, ended: None };
        for number in 0..nodes {
            let machine = &mut subgrid.members[number].0;
            machine.handle_roster((0..nodes).map(node_id), Duration::ZERO);
            subgrid.flush(number);
        }
        subgrid
    }

    /// Lets the time pass until `end`, or until `enough` says so after an event.
    fn run(&mut self, end: Duration, enough: impl Fn(&Self) -> bool) -> bool {
        while let Some(event) = self.engine.next(end) {
            let now = self.engine.now();
            let number = match event {
                Event::Arrival { to, from, payload } => {
                    self.members[to].0.handle_payload(node_id(from), &payload, now);
                    to
                }
                Event::Wake(number) => {
                    self.members[number].0.handle_timeout(now);
                    number
                }
                Event::Plan(_) => continue,
            };
            self.flush(number);
            if enough(self) {
                return true;
            }
        }
        false
    }

    fn flush(&mut self, number: usize) {
        let now = self.engine.now();
        while let Some(command) = self.members[number].0.poll_command(now) {
            match command {
                Command::Send { to, payload } => {
                    let length = payload.len();
                    if let Some(to) = number_of(to) {
                        let sent = self.engine.send(number, to, payload, length);
                        self.sent.add(sent);
                    }
                }
                Command::Up(_) => self.up += 1,
                Command::Down(node) => {
                    self.up = self.up.saturating_sub(1);
                    let gone = number_of(node);
                    self.doubters += usize::from(gone.is_some() && gone == self.ended);
                    let alive = gone.is_some_and(|gone| self.engine.is_alive(gone));
                    self.wrongly_gone += u64::from(alive);
                }
            }
        }
        let due = self.members[number].0.poll_timeout();
        self.engine.wake(number, due);
    }
}

/// Runs a sub-grid of so many for `idle`, then ends `ends` members one after the other.
pub fn swim_figures(
    nodes: usize,
    network: Network,
    idle: Duration,
    ends: usize,
    seed: u64,
) -> SwimFigures {
    let mut subgrid = Subgrid::new(nodes, network, seed);
    let all = nodes * nodes.saturating_sub(1);
    subgrid.run(Duration::from_secs(120), |subgrid| subgrid.up >= all);
    let joined_s = subgrid.engine.now().as_secs_f64();
    // What news there was has been told.
    let settled = subgrid.engine.now() + Duration::from_secs(30);
    subgrid.run(settled, |_| false);
    (subgrid.sent, subgrid.wrongly_gone) = (Traffic::default(), 0);
    subgrid.run(settled + idle, |_| false);
    let each = nodes as f64 * idle.as_secs_f64();
    let (sent, wrongly_gone) = (subgrid.sent, subgrid.wrongly_gone);
    let mut known_s = Vec::new();
    for end in 0..ends.min(nodes / 2) {
        let at = subgrid.engine.now();
        subgrid.engine.crash(end);
        (subgrid.ended, subgrid.doubters) = (Some(end), 0);
        let others = nodes - end - 1;
        let most = (others * 99).div_ceil(100);
        let known = subgrid.run(at + Duration::from_secs(120), |subgrid| subgrid.doubters >= most);
        let took = (subgrid.engine.now() - at).as_secs_f64();
        known_s.push(if known { took } else { f64::INFINITY });
        let pause = Duration::from_millis(subgrid.engine.rng().random_range(10_000..20_000));
        let next = subgrid.engine.now() + pause;
        subgrid.run(next, |_| false);
    }
    known_s.sort_by(f64::total_cmp);
    SwimFigures {
        nodes,
        idle_s: idle.as_secs_f64(),
        idle_kbit_s: sent.bytes as f64 * 8.0 / each / 1000.0,
        idle_messages_s: sent.messages as f64 / each,
        wrongly_gone,
        joined_s,
        known_s,
    }
}
