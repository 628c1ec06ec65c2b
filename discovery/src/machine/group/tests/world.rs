//! A sub-grid in virtual time, in which everything goes wrong, and a ledger that nothing gets past.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;
use std::time::Duration;

use phantom_model::{AppId, Epoch, NodeId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::kept::{assert_kept, assert_kept_first};
use crate::machine::Mandate;
use crate::machine::group::message::{Body, Message};
use crate::machine::group::synod::Acceptor;
use crate::machine::group::{
    Command, Founding, Group, Kept, Key, Op, Outcome, Standing, SuperPeer,
};

/// How long others take to notice that a node is gone.
const NOTICE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(500);

pub fn id(number: usize) -> NodeId {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId(bytes)
}

pub struct Host {
    pub group: Option<Group>,
    pub kept: Kept,
    /// Its clock: where it began, and how fast it goes.
    origin: Duration,
    rate: f64,
    pub frozen_until: Duration,
    /// Only hosts in the same part hear each other.
    pub part: usize,
    pub availability: u16,
    /// When it could last talk to each other host.
    contact: Vec<Option<Duration>>,
    standing: BTreeMap<NodeId, Standing>,
    /// What wakes it is only of this start.
    pub start: u64,
    pub led: Option<SuperPeer>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver { from: usize, to: usize, payload: Vec<u8> },
    Wake { host: usize, start: u64 },
    Look,
}

/// How the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss: f64,
    pub twice: f64,
    pub delay_ms: (u64, u64),
    /// How often a host crashes between two of its commands.
    pub crash: f64,
}

pub const FAIR: Weather = Weather { loss: 0.0, twice: 0.0, delay_ms: (1, 4), crash: 0.0 };

struct Asked {
    app: AppId,
    after: Epoch,
    to: NodeId,
    /// The highest epoch that was told of by then.
    known: Epoch,
}

pub struct World {
    pub now: Duration,
    pub rng: StdRng,
    pub hosts: Vec<Host>,
    pub weather: Weather,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    turns: u64,
    starts: u64,
    // The ledger.
    foundings: BTreeMap<u64, Founding>,
    mandates: BTreeMap<Mandate, NodeId>,
    asked: BTreeMap<(usize, u64, u64), Asked>,
    granted: BTreeMap<(AppId, Epoch), NodeId>,
    highest: BTreeMap<AppId, Epoch>,
    pub grants: usize,
    /// Of what hosts accuse others, where somebody is to be accused.
    pub complaints: Option<Vec<&'static str>>,
    /// What came of what each host has proposed.
    pub outcomes: BTreeMap<(usize, u64), Option<Outcome>>,
    /// Put out of the sub-grid; they are down.
    pub removed: BTreeSet<NodeId>,
    pub sent: BTreeMap<usize, u64>,
    /// What came of proposals, by host, until somebody takes it.
    pub untaken: Vec<(usize, u64, Option<Outcome>)>,
}

impl World {
    pub fn new(hosts: usize, seed: u64) -> Self {
        Self::with_clocks(hosts, seed, 0.97..1.03)
    }

    /// With clocks that go so fast.
    pub fn with_clocks(hosts: usize, seed: u64, rates: Range<f64>) -> Self {
        let mut world = Self {
            now: Duration::from_secs(100),
            rng: StdRng::seed_from_u64(seed),
            hosts: Vec::new(),
            weather: FAIR,
            events: BinaryHeap::new(),
            turns: 0,
            starts: 0,
            foundings: BTreeMap::new(),
            mandates: BTreeMap::new(),
            asked: BTreeMap::new(),
            granted: BTreeMap::new(),
            highest: BTreeMap::new(),
            grants: 0,
            complaints: None,
            outcomes: BTreeMap::new(),
            removed: BTreeSet::new(),
            sent: BTreeMap::new(),
            untaken: Vec::new(),
        };
        for _ in 0..hosts {
            let origin = Duration::from_secs(world.rng.random_range(0..1_000_000));
            let rate = world.rng.random_range(rates.clone());
            world.hosts.push(Host {
                group: None,
                kept: Kept::default(),
                origin,
                rate,
                frozen_until: Duration::ZERO,
                part: 0,
                availability: 500,
                contact: vec![None; hosts],
                standing: BTreeMap::new(),
                start: 0,
                led: None,
            });
        }
        (0..hosts).for_each(|host| world.start(host));
        world.push(world.now, Event::Look);
        world
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.turns += 1;
        self.events.push(Reverse((at, self.turns, event)));
    }

    pub fn local(&self, host: usize) -> Duration {
        let host = &self.hosts[host];
        host.origin + self.now.mul_f64(host.rate)
    }

    pub fn is_up(&self, host: usize) -> bool {
        self.hosts[host].group.is_some() && self.hosts[host].frozen_until <= self.now
    }

    fn talk(&self, a: usize, b: usize) -> bool {
        self.is_up(a) && self.is_up(b) && self.hosts[a].part == self.hosts[b].part
    }

    pub fn start(&mut self, host: usize) {
        self.starts += 1;
        let (start, local, seed) = (self.starts, self.local(host), self.rng.random());
        let it = &mut self.hosts[host];
        it.start = start;
        it.frozen_until = Duration::ZERO;
        it.led = None;
        it.contact.fill(None);
        it.standing.clear();
        it.group = Some(Group::new(id(host), host == 0, &it.kept, seed, local));
        self.look_of(host);
        self.carry_out(host);
    }

    pub fn crash(&mut self, host: usize) {
        self.hosts[host].group = None;
    }

    pub fn wipe(&mut self, host: usize) {
        self.crash(host);
        self.hosts[host].kept = Kept::default();
    }

    fn look_of(&mut self, host: usize) {
        let local = self.local(host);
        for other in 0..self.hosts.len() {
            if other == host {
                continue;
            }
            if self.removed.contains(&id(other)) {
                self.hosts[host].standing.remove(&id(other));
                continue;
            }
            if self.talk(host, other) {
                self.hosts[host].contact[other] = Some(self.now);
            }
            let seen = self.hosts[host].contact[other];
            let alive = seen.is_some_and(|seen| self.now - seen < NOTICE);
            let availability = self.hosts[other].availability;
            let known = self.hosts[host].standing.get(&id(other)).copied();
            let since = known.filter(|it| it.alive == alive).map_or(local, |it| it.since);
            let standing = Standing { alive, since, availability };
            self.hosts[host].standing.insert(id(other), standing);
        }
        let removed = self.removed.clone();
        let it = &mut self.hosts[host];
        let (standing, availability) = (it.standing.clone(), it.availability);
        if let Some(group) = &mut it.group {
            group.handle_members(standing, removed, availability, local);
        }
    }

    /// One event; false when the time is over.
    fn step(&mut self, end: Duration) -> bool {
        if self.events.peek().is_none_or(|Reverse((at, ..))| *at > end) {
            self.now = end;
            return false;
        }
        let Some(Reverse((at, _, event))) = self.events.pop() else { return false };
        self.now = at;
        match event {
            Event::Look => {
                for host in 0..self.hosts.len() {
                    if self.is_up(host) {
                        self.look_of(host);
                    }
                }
                self.push(self.now + LOOK, Event::Look);
            }
            Event::Deliver { from, to, payload } => {
                let until = self.hosts[to].frozen_until;
                if self.hosts[to].group.is_some() && until > self.now {
                    self.push(until, Event::Deliver { from, to, payload });
                } else if self.is_up(to) && self.hosts[from].part == self.hosts[to].part {
                    let local = self.local(to);
                    self.hosts[to].contact[from] = Some(self.now);
                    if let Some(group) = &mut self.hosts[to].group {
                        group.handle_message(id(from), &payload, local);
                    }
                    self.carry_out(to);
                }
            }
            Event::Wake { host, start } if self.hosts[host].start == start => {
                let until = self.hosts[host].frozen_until;
                if until > self.now {
                    self.push(until, Event::Wake { host, start });
                } else if self.hosts[host].group.is_some() {
                    let local = self.local(host);
                    if let Some(group) = &mut self.hosts[host].group {
                        group.handle_timeout(local);
                    }
                    self.carry_out(host);
                    self.wake_again(host);
                }
            }
            Event::Wake { .. } => {}
        }
        true
    }

    fn wake_again(&mut self, host: usize) {
        let Some(due) = self.hosts[host].group.as_ref().map(Group::poll_timeout) else { return };
        let left = due.saturating_sub(self.local(host)).div_f64(self.hosts[host].rate);
        let start = self.hosts[host].start;
        self.push(self.now + left.max(Duration::from_millis(1)), Event::Wake { host, start });
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step(end) {}
    }

    /// Until it is so; panics when it is not within the time.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        so: impl Fn(&World) -> bool,
    ) -> Duration {
        let begin = self.now;
        let end = begin + limit;
        while !so(self) {
            assert!(self.step(end), "{what}: not within {limit:?}: {}", self.describe());
        }
        self.now - begin
    }

    fn carry_out(&mut self, host: usize) {
        let is_new = self.hosts[host].kept.0.is_empty();
        loop {
            if self.rng.random_bool(self.weather.crash) && !is_new {
                return self.crash(host);
            }
            let Some(command) = self.hosts[host].group.as_mut().and_then(Group::poll_command)
            else {
                break;
            };
            match command {
                Command::Save(changes) => {
                    changes.into_iter().for_each(|it| self.hosts[host].kept.apply(it));
                }
                Command::Send { to, payload, .. } => self.send(host, to, payload),
                Command::Led(led) => self.hosts[host].led = led,
                Command::Done { ticket, outcome } => self.note_outcome(host, ticket, outcome),
                Command::Complain { member, what } => match &mut self.complaints {
                    Some(complaints) => complaints.push(what),
                    None => panic!("{member} is accused: {what}"),
                },
            }
        }
        self.check(host);
        if self.hosts[host].group.is_some() && is_new {
            self.wake_again(host);
        } else if self.hosts[host].group.is_some() {
            // Something may be due sooner now.
            self.wake_if_sooner(host);
        }
    }

    fn wake_if_sooner(&mut self, host: usize) {
        let local = self.local(host);
        let due = self.hosts[host].group.as_ref().map(Group::poll_timeout);
        if due.is_some_and(|due| due <= local) {
            let start = self.hosts[host].start;
            self.push(self.now + Duration::from_millis(1), Event::Wake { host, start });
        }
    }

    fn send(&mut self, from: usize, to: NodeId, payload: Vec<u8>) {
        assert_kept_first(&self.hosts[from].kept, &payload);
        *self.sent.entry(from).or_default() += 1;
        let Some(to) = (0..self.hosts.len()).find(|host| id(*host) == to) else { return };
        let copies = 1 + usize::from(self.rng.random_bool(self.weather.twice));
        for _ in 0..copies {
            if self.rng.random_bool(self.weather.loss) {
                continue;
            }
            let (least, most) = self.weather.delay_ms;
            let delay = Duration::from_micros(self.rng.random_range(least * 1000..most * 1000));
            self.push(self.now + delay, Event::Deliver { from, to, payload: payload.clone() });
        }
    }

    /// Something is done to a host's group.
    pub fn with<T>(&mut self, host: usize, done: impl FnOnce(&mut Group, Duration) -> T) -> T {
        let local = self.local(host);
        let result = done(self.hosts[host].group.as_mut().unwrap(), local);
        self.carry_out(host);
        result
    }

    /// A host asks for the next epoch of an app, by what it knows of it.
    pub fn grant(&mut self, host: usize, app: AppId, to: NodeId) -> Option<u64> {
        let local = self.local(host);
        let group = self.hosts[host].group.as_mut()?;
        let after = group.state().and_then(|it| it.grant(app)).map_or(Epoch(0), |it| it.epoch);
        let ticket = group.propose(Op::Grant { app, after, host: to }, local).ok()?;
        let known = self.highest.get(&app).copied().unwrap_or_default();
        let start = self.hosts[host].start;
        self.asked.insert((host, start, ticket), Asked { app, after, to, known });
        self.carry_out(host);
        Some(ticket)
    }

    /// A host proposes any change; [`World::outcomes`] tells what came of it.
    pub fn propose(&mut self, host: usize, op: Op) -> Option<u64> {
        let local = self.local(host);
        let ticket = self.hosts[host].group.as_mut()?.propose(op, local).ok()?;
        self.carry_out(host);
        Some(ticket)
    }

    fn note_outcome(&mut self, host: usize, ticket: u64, outcome: Option<Outcome>) {
        self.outcomes.insert((host, ticket), outcome.clone());
        let start = self.hosts[host].start;
        let Some(asked) = self.asked.remove(&(host, start, ticket)) else {
            return self.untaken.push((host, ticket, outcome));
        };
        let Some(Outcome::Done(at)) = outcome else { return };
        let epoch = asked.after.next();
        for (generation, founding) in self.foundings.range(at.mandate.generation + 1..) {
            let known = founding.state.grant(asked.app).map(|it| it.epoch);
            assert!(known >= Some(epoch), "generation {generation} does not know {epoch}");
        }
        assert!(epoch > asked.known, "an epoch went back: {epoch} after {}", asked.known);
        let before = self.granted.insert((asked.app, epoch), asked.to);
        assert!(before.is_none_or(|to| to == asked.to), "{} {epoch} granted twice", asked.app);
        let highest = self.highest.entry(asked.app).or_default();
        *highest = epoch.max(*highest);
        self.grants += 1;
    }

    /// After every event.
    fn check(&mut self, host: usize) {
        let it = &self.hosts[host];
        let Some(group) = &it.group else { return };
        assert_kept(group, &it.kept);
        if let Some(founding) = &group.founding {
            let generation = founding.view.generation;
            match self.foundings.get(&generation) {
                None => {
                    for (app, epoch) in &self.highest {
                        let known = founding.state.grant(*app).map(|it| it.epoch);
                        assert!(
                            known >= Some(*epoch),
                            "generation {generation} does not know that {app} has epoch {epoch}"
                        );
                    }
                    self.foundings.insert(generation, founding.clone());
                }
                Some(known) => assert_eq!(known, founding, "a generation was founded twice"),
            }
        }
        if let Some(led) = it.led.filter(|led| led.node == id(host)) {
            let holder = self.mandates.entry(led.mandate).or_insert(led.node);
            assert_eq!(*holder, led.node, "two super-peers with one mandate");
            if group.may_decide(self.local(host)) {
                let view = group.view().unwrap();
                let lease = view.lease();
                let met = (0..self.hosts.len()).filter(|other| {
                    *other == host
                        || it.contact[*other].is_some_and(|at| self.now - at <= lease + LOOK)
                });
                let met: BTreeSet<NodeId> =
                    met.map(id).chain(self.removed.iter().copied()).collect();
                assert!(view.is_quorum(&met), "a minority may decide");
                let mut deciding: Vec<Mandate> = vec![led.mandate];
                for (number, other) in self.hosts.iter().enumerate() {
                    let other = other.group.as_ref();
                    let other = other.filter(|it| it.may_decide(self.local(number)));
                    deciding.extend(other.and_then(Group::super_peer).map(|led| led.mandate));
                }
                // In one generation nothing comes of what a super-peer does that raft has deposed.
                deciding.retain(|one| {
                    let others = self.mandates.keys();
                    !others.clone().any(|it| it.generation == one.generation && it.term > one.term)
                });
                deciding.dedup();
                assert!(deciding.len() < 2, "two generations may decide at once: {deciding:?}");
            }
        }
    }

    /// Whether the group can go on when a host loses its memory: a majority of what is founded, or
    /// being founded, remembers.
    pub fn can_spare(&self, host: usize) -> bool {
        let mut foundings: Vec<Founding> = self.newest().cloned().into_iter().collect();
        let mut lives = BTreeMap::new();
        for (number, other) in self.hosts.iter().enumerate() {
            if let Some(life) = other.kept.0.get(&Key::Life).filter(|_| number != host) {
                lives.insert(id(number), life.clone());
            }
            if let Some(bytes) = other.kept.0.get(&Key::Founding) {
                let (known, acceptor) =
                    postcard::from_bytes::<(Founding, Acceptor)>(bytes).unwrap();
                foundings.push(known);
                foundings.extend(acceptor.accepted.map(|(_, founding)| *founding));
            }
            let attempt = other.group.as_ref().and_then(|group| group.attempt.as_ref());
            foundings.extend(attempt.and_then(|attempt| attempt.proposal.clone()));
        }
        // What is on its way may yet be accepted.
        foundings.extend(self.events.iter().filter_map(|Reverse((.., event))| {
            let Event::Deliver { payload, .. } = event else { return None };
            match Message::decode(payload)?.body {
                Body::Accept { founding, .. } => Some(*founding),
                _ => None,
            }
        }));
        // Who is still taken for who it was before it lost its memory may be given a seat.
        let known = self.hosts.iter().filter_map(|it| it.group.as_ref()).flat_map(|group| {
            let seats = group.view().into_iter().flat_map(|view| &view.electors);
            seats.chain(&group.lives)
        });
        let stale = known.filter(|(node, life)| {
            **node != id(host) && lives.get(node) != Some(&life.0.to_le_bytes().to_vec())
        });
        let stale: BTreeSet<&NodeId> = stale.map(|(node, _)| node).collect();
        let electors = self.newest().map_or(0, |it| it.view.electors.len());
        if 1 + stale.len() > (electors / 4).max(1) {
            return false;
        }
        let newest = foundings.iter().map(|it| it.view.generation).max().unwrap_or(0);
        foundings.iter().filter(|it| it.view.generation + 1 >= newest).all(|founding| {
            let remembers = founding
                .view
                .electors
                .iter()
                .filter(|(node, life)| lives.get(node) == Some(&life.0.to_le_bytes().to_vec()));
            founding.view.is_quorum(remembers.map(|(node, _)| node))
        })
    }

    pub fn generation(&self) -> u64 {
        self.foundings.last_key_value().map_or(0, |(generation, _)| *generation)
    }

    pub fn newest(&self) -> Option<&Founding> {
        self.foundings.last_key_value().map(|(_, founding)| founding)
    }

    /// The one that all hosts that are up take for the super-peer, if they agree and it may decide.
    pub fn agreed(&self) -> Option<usize> {
        let up: Vec<usize> = (0..self.hosts.len()).filter(|host| self.is_up(*host)).collect();
        let led = self.hosts[*up.first()?].led?;
        let agree = up.iter().all(|host| self.hosts[*host].led == Some(led));
        let leader = (0..self.hosts.len()).find(|host| id(*host) == led.node)?;
        let group = self.hosts[leader].group.as_ref()?;
        (agree && group.may_decide(self.local(leader))).then_some(leader)
    }

    pub fn describe(&self) -> String {
        let mut lines = vec![format!("at {:?}", self.now)];
        for (number, host) in self.hosts.iter().enumerate() {
            let group = host.group.as_ref().map(|group| {
                let conf = group.replica.as_ref().map(|it| it.conf());
                format!(
                    "generation {} led {:?} bound {:?} accepted {} attempt {} conf {conf:?} life {:?}",
                    group.generation(),
                    host.led.map(|led| led.mandate.to_string()),
                    group.bound.1.saturating_sub(self.local(number)),
                    group.acceptor.accepted.is_some(),
                    group.attempt.is_some(),
                    group.life,
                )
            });
            lines.push(format!("{number} in part {}: {group:?}", host.part));
        }
        if let Some(founding) = self.newest() {
            lines.push(format!("{:?}", founding.view));
        }
        lines.join("\n")
    }
}
