//! A large sub-grid whose members watch each other, elect who answers for them and register with it:
//! the machines [`Membership`], [`Group`], and those of the registry, as the driver puts them
//! together. Nothing is ever lost from their disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use phantom_model::NodeId;
use rand::RngExt;

use super::connection::{self, FULL_MESH};
use super::engine::{Engine, Event, Network, Place, Traffic};
use super::workload::{self, Kind, node_id, number_of};
use crate::machine::group::{self, Group, Op, Standing};
use crate::machine::registry::{self, Attributes, Member, Message, Placement, Settings, SuperPeer};
use crate::machine::{Command, Membership};

/// Where the group keeps who has the shards of the registry.
const PLACEMENT: &str = "registry/placement";
/// Of all members.
const AVAILABILITY: u16 = 500;

/// What such a sub-grid costs, and how fast it notices.
#[derive(Debug, Clone, PartialEq)]
pub struct SubgridFigures {
    /// Members.
    pub nodes: usize,
    /// How long nothing happened to them, in seconds.
    pub idle_s: f64,
    /// What each has sent meanwhile, with headers and acknowledgements, in kilobits a second.
    pub idle: Idle,
    /// How often a member that lived was taken for gone by another.
    pub wrongly_gone: u64,
    /// How often the super-peer changed meanwhile.
    pub deposed: u64,
    /// How long it took until all knew each other and had registered, in seconds.
    pub joined_s: f64,
    /// For each member that ended, how long it took until 99 % of the others knew, in seconds,
    /// sorted.
    pub known_s: Vec<f64>,
}

/// What a node at rest sends, in kilobits a second; the mean over all members.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Idle {
    /// To know which members live.
    pub watching: f64,
    /// To elect who answers for them, and to keep it in office.
    pub group: f64,
    /// To register, and to keep the registry.
    pub registry: f64,
    /// To keep connections, and to make them.
    pub connections: f64,
}

impl Idle {
    /// All of it.
    pub fn sum(&self) -> f64 {
        self.watching + self.group + self.registry + self.connections
    }
}

/// The time within which so many of a hundred ends were known; `of` is sorted.
pub fn known(of: &[f64], percent: usize) -> f64 {
    let at = (of.len() * percent).div_ceil(100).max(1) - 1;
    of.get(at).copied().unwrap_or(f64::NAN)
}

/// What members send each other.
#[derive(Debug, Clone)]
enum Parcel {
    Gossip(Bytes),
    Group(Vec<u8>),
    Registry(Vec<u8>),
}

#[derive(Debug, Default)]
struct Sent {
    watching: Traffic,
    group: Traffic,
    registry: Traffic,
    handshakes: Traffic,
}

/// A member's machines.
struct Node {
    membership: Membership,
    group: Group,
    member: Member,
    super_peer: Option<SuperPeer>,
    standings: BTreeMap<NodeId, Standing>,
    placed: group::Stamp,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node")
    }
}

/// The members.
#[derive(Debug)]
struct Subgrid {
    engine: Engine<Parcel>,
    nodes: Vec<Node>,
    sent: Sent,
    connections: BTreeSet<(usize, usize)>,
    wrongly_gone: u64,
    led: u64,
    /// Pairs of which one is known to the other to live.
    up: usize,
    /// Members that do not believe any more that the one in question lives.
    doubters: usize,
    ended: Option<usize>,
}

impl Subgrid {
    fn new(nodes: usize, network: Network, seed: u64) -> Self {
        let places = vec![Place { region: 0, subgrid: 0 }; nodes];
        let mut engine = Engine::new(network, places, seed);
        let others = |of: usize| {
            let standing =
                Standing { alive: false, since: Duration::ZERO, availability: AVAILABILITY };
            (0..nodes).filter(move |it| *it != of).map(move |it| (node_id(it), standing))
        };
        let nodes: Vec<Node> = (0..nodes)
            .map(|number| {
                let (own, now, rng) = (node_id(number), Duration::ZERO, engine.rng());
                let kept = group::Kept::default();
                let mut group = Group::new(own, number == 0, &kept, rng.random(), now);
                let mut member = Member::new(1 << 40, [], rng.random());
                let membership = Membership::new(own, 1 << 50, rng.random(), now);
                let ad = workload::ad(Kind::Office, &format!("desk-{number}"), rng);
                let texts = ad.iter().map(|(name, expr)| (name.to_owned(), expr.to_string()));
                member.handle_attributes(Attributes::new(texts.collect()).unwrap_or_default(), now);
                let standings: BTreeMap<_, _> = others(number).collect();
                group.handle_members(standings.clone(), BTreeSet::new(), AVAILABILITY, now);
                let placed = group::Stamp::default();
                Node { membership, group, member, super_peer: None, standings, placed }
            })
            .collect();
        let count = nodes.len();
        let mut subgrid = Self {
            engine,
            nodes,
            sent: Sent::default(),
            connections: BTreeSet::new(),
            wrongly_gone: 0,
            led: 0,
            up: 0,
            doubters: 0,
            ended: None,
        };
        for number in 0..count {
            if count <= FULL_MESH {
                (0..number).for_each(|other| subgrid.connect(number, other));
            }
            let machine = &mut subgrid.nodes[number].membership;
            machine.handle_roster((0..count).map(node_id), Duration::ZERO);
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
                    self.nodes[to].hear(node_id(from), payload, now);
                    to
                }
                Event::Wake(number) => {
                    self.nodes[number].handle_timeout(now);
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

    fn is_settled(&self) -> bool {
        let all = self.nodes.len() * self.nodes.len().saturating_sub(1);
        self.up >= all && self.nodes.iter().all(|node| node.member.registrant().is_registered())
    }

    /// Ends a member, those before it having ended already, and says after how many seconds 99 % of
    /// the others know.
    fn end(&mut self, end: usize, before: usize) -> f64 {
        let at = self.engine.now();
        self.engine.crash(end);
        (self.ended, self.doubters) = (Some(end), 0);
        let most = ((self.nodes.len() - before - 1) * 99).div_ceil(100);
        let known = self.run(at + Duration::from_secs(120), |it| it.doubters >= most);
        let took = (self.engine.now() - at).as_secs_f64();
        let pause = Duration::from_millis(self.engine.rng().random_range(10_000..20_000));
        let next = self.engine.now() + pause;
        self.run(next, |_| false);
        if known { took } else { f64::INFINITY }
    }

    /// Does what a node's machines want done.
    fn flush(&mut self, number: usize) {
        let now = self.engine.now();
        loop {
            let node = &mut self.nodes[number];
            if let Some(command) = node.membership.poll_command(now) {
                self.do_for_membership(number, command);
                continue;
            }
            node.follow_placement(now);
            if let Some(command) = node.group.poll_command() {
                self.do_for_group(number, command);
                continue;
            }
            let own = node.member.poll_command();
            let Some(command) =
                own.or_else(|| node.super_peer.as_mut().and_then(SuperPeer::poll_command))
            else {
                break;
            };
            self.do_for_registry(number, command);
        }
        let due = self.nodes[number].poll_timeout();
        self.engine.wake(number, due);
    }

    fn do_for_membership(&mut self, number: usize, command: Command) {
        let (node, up) = match command {
            Command::Send { to, payload, .. } => {
                if let Some(to) = number_of(to) {
                    let length = payload.len();
                    let sent = self.engine.send(number, to, Parcel::Gossip(payload), length);
                    self.sent.watching.add(sent);
                }
                return;
            }
            Command::Up(node) => (node, true),
            Command::Down(node) => (node, false),
        };
        if up {
            self.up += 1;
        } else {
            self.up = self.up.saturating_sub(1);
            let gone = number_of(node);
            self.doubters += usize::from(gone.is_some() && gone == self.ended);
            let alive = gone.is_some_and(|gone| self.engine.is_alive(gone));
            self.wrongly_gone += u64::from(alive);
        }
        let now = self.engine.now();
        self.nodes[number].note(node, up, now);
    }

    fn do_for_group(&mut self, number: usize, command: group::Command) {
        let now = self.engine.now();
        match command {
            group::Command::Send { to, payload, repeats } => {
                let Some(to) = number_of(to) else { return };
                // With the kind and the length before it.
                let length = payload.len() + 3;
                if repeats {
                    let sent = self.engine.send(number, to, Parcel::Group(payload), length);
                    self.sent.group.add(sent);
                } else {
                    self.connect(number, to);
                    self.engine.send_surely(number, to, Parcel::Group(payload));
                    self.sent.group.add(connection::message(length));
                }
            }
            group::Command::Led(led) => {
                self.led += u64::from(led.is_some_and(|led| led.node == node_id(number)));
                self.nodes[number].follow(led, node_id(number), now);
            }
            group::Command::Save(_)
            | group::Command::Done { .. }
            | group::Command::Complain { .. } => {}
        }
    }

    fn do_for_registry(&mut self, number: usize, command: registry::Command) {
        let (now, own) = (self.engine.now(), node_id(number));
        let node = &mut self.nodes[number];
        match command {
            registry::Command::Send { to, message } if to == own => {
                node.hear_registry(own, message, now);
            }
            registry::Command::Send { to, message } => {
                let Some(to) = number_of(to) else { return };
                let bytes = message.encode();
                let length = bytes.len() + 3;
                self.connect(number, to);
                self.engine.send_surely(number, to, Parcel::Registry(bytes));
                self.sent.registry.add(connection::message(length));
            }
            registry::Command::Commit(bytes) => {
                let name = PLACEMENT.to_owned();
                let op = Op::Set { name, expect: None, bytes: Some(bytes), sure: false };
                // When nothing comes of it, the archive asks again.
                let _ = node.group.propose(op, now);
            }
            registry::Command::Persist(kept) => node.member.handle_persisted(kept.shard, true),
            registry::Command::Discard(_) | registry::Command::Complain { .. } => {}
        }
    }

    fn connect(&mut self, one: usize, other: usize) {
        if self.connections.insert((one.min(other), one.max(other))) {
            self.sent.handshakes.add(connection::HANDSHAKE);
        }
    }
}

impl Node {
    fn hear(&mut self, from: NodeId, parcel: Parcel, now: Duration) {
        match parcel {
            Parcel::Gossip(payload) => self.membership.handle_payload(from, &payload, now),
            Parcel::Group(payload) => self.group.handle_message(from, &payload, now),
            Parcel::Registry(bytes) => {
                if let Ok(message) = Message::decode(&bytes) {
                    self.hear_registry(from, message, now);
                }
            }
        }
    }

    fn hear_registry(&mut self, from: NodeId, message: Message, now: Duration) {
        if let Some(super_peer) = &mut self.super_peer {
            super_peer.handle_message(from, &message, now);
        }
        self.member.handle_message(from, message, now);
    }

    /// A member was found to live, or to be gone.
    fn note(&mut self, node: NodeId, up: bool, now: Duration) {
        let standing = Standing { alive: up, since: now, availability: AVAILABILITY };
        self.standings.insert(node, standing);
        self.group.handle_members(self.standings.clone(), BTreeSet::new(), AVAILABILITY, now);
        match (&mut self.super_peer, up) {
            (Some(super_peer), true) => super_peer.handle_up(node, now),
            (Some(super_peer), false) => super_peer.handle_down(node, now),
            (None, _) => {}
        }
    }

    fn follow(&mut self, led: Option<group::SuperPeer>, own: NodeId, now: Duration) {
        self.member.handle_super_peer(led.map(|led| (led.node, led.mandate)), now);
        self.super_peer = led.filter(|led| led.node == own).map(|led| {
            let placement = self.group.state().and_then(placement);
            let mut new = SuperPeer::new(own, led.mandate, Settings::default(), placement, now);
            new.handle_roster(self.standings.keys().copied(), now);
            for (node, standing) in &self.standings {
                if standing.alive {
                    new.handle_up(*node, now);
                }
            }
            new
        });
    }

    fn follow_placement(&mut self, now: Duration) {
        let Some(state) = self.group.state() else { return };
        let stamp = state.stamp(PLACEMENT);
        if stamp == self.placed {
            return;
        }
        self.placed = stamp;
        if let Some(placement) = placement(state) {
            self.member.handle_committed(&placement);
            if let Some(super_peer) = &mut self.super_peer {
                super_peer.handle_committed(&placement, now);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Duration> {
        let super_peer = self.super_peer.as_ref().and_then(SuperPeer::poll_timeout);
        let machines = [self.membership.poll_timeout(), self.member.poll_timeout(), super_peer];
        machines.into_iter().flatten().chain([self.group.poll_timeout()]).min()
    }

    fn handle_timeout(&mut self, now: Duration) {
        let is_due = |due: Option<Duration>| due.is_some_and(|due| due <= now);
        if is_due(self.membership.poll_timeout()) {
            self.membership.handle_timeout(now);
        }
        if is_due(Some(self.group.poll_timeout())) {
            self.group.handle_timeout(now);
        }
        if is_due(self.member.poll_timeout()) {
            self.member.handle_timeout(now);
        }
        if let Some(super_peer) = &mut self.super_peer
            && is_due(super_peer.poll_timeout())
        {
            super_peer.handle_timeout(now);
        }
    }
}

fn placement(state: &group::State) -> Option<Placement> {
    Placement::decode(state.get(PLACEMENT)?).ok()
}

/// Runs a sub-grid of so many for `idle`, then ends `ends` members one after the other.
pub fn subgrid_figures(
    nodes: usize,
    network: Network,
    idle: Duration,
    ends: usize,
    seed: u64,
) -> SubgridFigures {
    let mut subgrid = Subgrid::new(nodes, network, seed);
    subgrid.run(Duration::from_secs(300), Subgrid::is_settled);
    let joined_s = subgrid.engine.now().as_secs_f64();
    // What news there was has been told, electors are found, the registry is archived.
    let settled = subgrid.engine.now() + Duration::from_secs(240);
    subgrid.run(settled, |_| false);
    (subgrid.sent, subgrid.wrongly_gone, subgrid.led) = (Sent::default(), 0, 0);
    subgrid.run(settled + idle, |_| false);
    let (sent, wrongly_gone) = (&subgrid.sent, subgrid.wrongly_gone);
    let each = nodes as f64 * idle.as_secs_f64();
    let rate = |of: Traffic| of.bytes as f64 * 8.0 / each / 1000.0;
    let resting = subgrid.connections.len() as f64 / nodes as f64 * connection::AT_REST;
    // What is lost on a connection is sent again.
    let again = 1.0 + network.loss;
    let idle_rates = Idle {
        watching: rate(sent.watching),
        group: rate(sent.group),
        registry: rate(sent.registry) * again,
        connections: rate(sent.handshakes) + resting * 8.0 / 1000.0 * again,
    };
    let deposed = subgrid.led;
    // The super-peer stays: who ends is drawn from the others.
    let leads = (0..nodes).find(|number| subgrid.nodes[*number].super_peer.is_some());
    let ending = (0..nodes).filter(|number| Some(*number) != leads).take(ends.min(nodes / 4));
    let ending: Vec<usize> = ending.collect();
    let known_s = ending.into_iter().enumerate().map(|(before, end)| subgrid.end(end, before));
    let mut known_s: Vec<f64> = known_s.collect();
    known_s.sort_by(f64::total_cmp);
    SubgridFigures {
        nodes,
        idle_s: idle.as_secs_f64(),
        idle: idle_rates,
        wrongly_gone,
        deposed,
        joined_s,
        known_s,
    }
}
