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
    /// sorted; with datagrams alone.
    pub known_s: Vec<f64>,
    /// The same where one of them, as a super-peer, has a connection to each, which falls silent.
    pub connected_s: Vec<f64>,
}

/// The time within which so many of a hundred ends were known; `of` is sorted.
pub fn known(of: &[f64], percent: usize) -> f64 {
    let at = (of.len() * percent).div_ceil(100).max(1) - 1;
    of.get(at).copied().unwrap_or(f64::NAN)
}

/// When a silent connection is noticed: it is looked at twice a second, and silent after two.
const SILENT_MS: std::ops::Range<u64> = 2000..2500;

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
                Event::Plan(silent) => {
                    let super_peer = self.members.len() - 1;
                    let silent = node_id(silent as usize);
                    self.members[super_peer].0.handle_silence(silent, now);
                    super_peer
                }
            };
            self.flush(number);
            if enough(self) {
                return true;
            }
        }
        false
    }

    /// Ends a member, those before it having ended already, and says after how many seconds 99 % of
    /// the others know.
    fn end(&mut self, end: usize, connected: bool) -> f64 {
        let at = self.engine.now();
        self.engine.crash(end);
        (self.ended, self.doubters) = (Some(end), 0);
        if connected {
            let noticed = self.engine.rng().random_range(SILENT_MS);
            self.engine.plan(at + Duration::from_millis(noticed), end as u64);
        }
        let most = ((self.members.len() - end - 1) * 99).div_ceil(100);
        let known = self.run(at + Duration::from_secs(120), |it| it.doubters >= most);
        let took = (self.engine.now() - at).as_secs_f64();
        let pause = Duration::from_millis(self.engine.rng().random_range(10_000..20_000));
        let next = self.engine.now() + pause;
        self.run(next, |_| false);
        if known { took } else { f64::INFINITY }
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

/// Runs a sub-grid of so many for `idle`, then ends `ends` members one after the other, and as many
/// again with connections.
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
    let ends = ends.min(nodes / 4);
    let known_s = (0..ends).map(|end| subgrid.end(end, false)).collect();
    let connected_s = (ends..2 * ends).map(|end| subgrid.end(end, true)).collect();
    let [known_s, connected_s] = [known_s, connected_s].map(|mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times
    });
    SwimFigures {
        nodes,
        idle_s: idle.as_secs_f64(),
        idle_kbit_s: sent.bytes as f64 * 8.0 / each / 1000.0,
        idle_messages_s: sent.messages as f64 / each,
        wrongly_gone,
        joined_s,
        known_s,
        connected_s,
    }
}
