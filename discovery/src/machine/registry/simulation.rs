//! Whole sub-grids in virtual time, over a network that loses, repeats, delays and overtakes, with
//! nodes that crash, disks that are wiped, and members that lie. What always holds is checked after
//! every event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use phantom_erasure::{Assembly, Shard};
use phantom_model::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::description::Version;
use super::*;
use crate::machine::Mandate;

mod scenarios;

/// What a node does besides what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    /// Turns a bit in every shard that it gives out.
    Corrupts,
    /// Gives out shards under the version before.
    Stale,
    /// Says that it has stored what it has thrown away.
    Forgets,
}

struct Node {
    member: Option<Member>,
    super_peer: Option<SuperPeer>,
    /// Counts starts, so that what was meant for an earlier one goes nowhere.
    start: u64,
    boot: u64,
    disk: BTreeMap<ShardName, Vec<u8>>,
    /// What is being written.
    writing: BTreeSet<ShardName>,
    attributes: Attributes,
    /// Whom the node takes for super-peer.
    told: Option<(NodeId, Mandate)>,
    vice: Vice,
}

enum Event {
    Letter {
        to: usize,
        from: usize,
        bytes: Vec<u8>,
    },
    Written {
        node: usize,
        start: u64,
        kept: Kept,
        ok: bool,
    },
    Propose {
        node: usize,
        mandate: Mandate,
        placement: Vec<u8>,
    },
    Committed {
        node: usize,
        start: u64,
        placement: Placement,
    },
    /// A node hears who is super-peer.
    Told {
        node: usize,
        super_peer: (NodeId, Mandate),
    },
    /// The one with this mandate learns that it is super-peer no more.
    Deposed {
        node: usize,
        mandate: Mandate,
    },
    /// The super-peer learns that a node lives, or is gone.
    Seen {
        node: usize,
        up: bool,
    },
    Restart {
        node: usize,
        wiped: bool,
    },
}

/// What is due at one time; of several things the first that was scheduled.
struct Due(Duration, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct Net {
    rng: StdRng,
    now: Duration,
    events: BinaryHeap<Reverse<Due>>,
    count: u64,
    nodes: Vec<Node>,
    roster: BTreeSet<NodeId>,
    mandate: Mandate,
    /// Who has it.
    leader: usize,
    committed: Option<Placement>,
    /// How often a message is lost, and how often it comes twice.
    loss: f64,
    twice: f64,
    /// How often a disk does not take a shard.
    bad_disk: f64,
    /// Messages and bytes that each node has sent.
    sent: Vec<(u64, u64)>,
    /// Every version that a member ever had.
    history: BTreeMap<NodeId, BTreeMap<Version, Attributes>>,
    /// The latest version of each member in the registry of each mandate.
    seen: BTreeMap<(Mandate, NodeId), Version>,
    /// Every shard that ever was on a disk.
    written: BTreeMap<(NodeId, ShardName), Vec<u8>>,
    complaints: Vec<(NodeId, Offence)>,
}

fn id(number: usize) -> NodeId {
    let mut id = [5; 32];
    id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId(id)
}

fn number(node: NodeId) -> usize {
    u64::from_be_bytes(*node.0.first_chunk().unwrap()) as usize - 1
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn attributes(rng: &mut StdRng) -> Attributes {
    let count = rng.random_range(1..12);
    let one = |_| {
        let long = if rng.random_bool(0.05) { 4000 } else { 20 };
        let text = format!("\"{}{}\"", rng.random::<u32>(), "x".repeat(rng.random_range(0..long)));
        (format!("A{}", rng.random_range(0..20)), text)
    };
    Attributes::new((0..count).map(one).collect()).unwrap()
}

impl Net {
    /// So many nodes, of which the first is super-peer.
    fn new(count: usize, seed: u64) -> Self {
        eprintln!("PHANTOM_SEED={seed}");
        let mut net = Self {
            rng: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            count: 0,
            nodes: Vec::new(),
            roster: (0..count).map(id).collect(),
            mandate: Mandate { generation: 1, term: 0 },
            leader: 0,
            committed: None,
            loss: 0.0,
            twice: 0.0,
            bad_disk: 0.0,
            sent: vec![(0, 0); count],
            history: BTreeMap::new(),
            seen: BTreeMap::new(),
            written: BTreeMap::new(),
            complaints: Vec::new(),
        };
        for at in 0..count {
            let attributes = attributes(&mut net.rng);
            net.nodes.push(Node {
                member: None,
                super_peer: None,
                start: 0,
                boot: 1000,
                disk: BTreeMap::new(),
                writing: BTreeSet::new(),
                attributes,
                told: None,
                vice: Vice::None,
            });
            net.start(at);
        }
        net.elect(0);
        net
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Due(self.now + after, self.count, event)));
    }

    fn after(&mut self, from: f64, to: f64, event: Event) {
        let after = secs(self.rng.random_range(from..to));
        self.at(after, event);
    }

    fn lives(&self, at: usize) -> bool {
        self.nodes[at].member.is_some()
    }

    fn start(&mut self, at: usize) {
        let (seed, now) = (self.rng.random(), self.now);
        let node = &mut self.nodes[at];
        node.start += 1;
        node.boot += 1;
        let disk = node.disk.values().filter_map(|bytes| Kept::decode(bytes));
        let mut member = Member::new(node.boot, disk.collect::<Vec<_>>(), seed);
        member.handle_attributes(node.attributes.clone(), now);
        member.handle_super_peer(node.told, now);
        node.member = Some(member);
        self.note(at);
        self.flush(at);
    }

    /// Writes down which version a member has now, which stands for one thing ever.
    fn note(&mut self, at: usize) {
        if let Some(member) = &self.nodes[at].member {
            let description = member.registrant().description();
            let history = self.history.entry(id(at)).or_default();
            let attributes = || description.attributes.clone();
            let noted = history.entry(description.version).or_insert_with(attributes);
            assert_eq!(*noted, description.attributes, "{} of node {at}", description.version);
        }
    }

    fn change(&mut self, at: usize) {
        self.nodes[at].attributes = attributes(&mut self.rng);
        let (attributes, now) = (self.nodes[at].attributes.clone(), self.now);
        if let Some(member) = &mut self.nodes[at].member {
            member.handle_attributes(attributes, now);
        }
        self.note(at);
        self.flush(at);
    }

    fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        (node.member, node.super_peer) = (None, None);
        node.writing.clear();
        self.after(1.5, 4.0, Event::Seen { node: at, up: false });
    }

    fn wipe(&mut self, at: usize) {
        self.nodes[at].disk.clear();
    }

    /// The mandate moves on to a node; the one before does not know at once.
    fn elect(&mut self, at: usize) {
        let before = (self.leader, self.mandate);
        if before.0 == at && self.mandate.term > 0 && self.nodes[at].super_peer.is_some() {
            self.nodes[at].super_peer = None;
        }
        self.mandate.term += 1;
        self.leader = at;
        let (committed, now, mandate) = (self.committed.clone(), self.now, self.mandate);
        let mut super_peer = SuperPeer::new(id(at), mandate, Settings::default(), committed, now);
        super_peer.handle_roster(self.roster.clone(), now);
        self.nodes[at].super_peer = Some(super_peer);
        for node in 0..self.nodes.len() {
            if node != before.0 {
                self.after(0.0, 2.0, Event::Told { node, super_peer: (id(at), mandate) });
            } else {
                self.after(0.0, 8.0, Event::Told { node, super_peer: (id(at), mandate) });
            }
            if self.lives(node) {
                self.after(0.0, 1.0, Event::Seen { node, up: true });
            }
        }
        self.after(2.0, 6.0, Event::Deposed { node: before.0, mandate: before.1 });
        self.flush(at);
    }

    /// Does what the machines of a node want done.
    fn flush(&mut self, at: usize) {
        loop {
            let node = &mut self.nodes[at];
            let member = node.member.as_mut().and_then(Member::poll_command);
            let mandate = node.super_peer.as_ref().map(SuperPeer::mandate);
            let command = member.or_else(|| node.super_peer.as_mut()?.poll_command());
            let start = node.start;
            match command {
                None => break,
                Some(Command::Send { to, message }) => self.send(at, number(to), message),
                Some(Command::Complain { member, what }) => self.complaints.push((member, what)),
                Some(Command::Commit(placement)) => {
                    let mandate = mandate.unwrap();
                    self.after(0.001, 0.2, Event::Propose { node: at, mandate, placement });
                }
                Some(Command::Persist(kept)) => {
                    node.writing.insert(kept.shard);
                    let ok = !self.rng.random_bool(self.bad_disk);
                    self.after(0.001, 0.1, Event::Written { node: at, start, kept, ok });
                }
                Some(Command::Discard(shard)) => {
                    node.writing.remove(&shard);
                    node.disk.remove(&shard);
                    let committed = self.committed.as_ref().map(Placement::version);
                    assert_ne!(Some(shard.version), committed, "what is committed is kept");
                }
            }
        }
        self.note(at);
        self.check(at);
    }

    fn send(&mut self, from: usize, to: usize, mut message: Message) {
        match (&mut message, self.nodes[from].vice) {
            (Message::Piece { bytes, .. }, Vice::Corrupts) => {
                let mut turned = bytes.0.to_vec();
                turned[0] ^= 1;
                bytes.0 = turned.into();
            }
            (Message::Piece { shard, .. }, Vice::Stale) => shard.version.change -= 1,
            _ => {}
        }
        let bytes = message.encode();
        assert!(bytes.len() <= message::MAX_MESSAGE);
        if from == to {
            self.at(Duration::ZERO, Event::Letter { to, from, bytes });
            return;
        }
        self.sent[from].0 += 1;
        self.sent[from].1 += bytes.len() as u64;
        for copy in 0..2 {
            let comes = if copy == 0 { 1.0 - self.loss } else { self.twice };
            if self.rng.random_bool(comes) {
                let late = if self.rng.random_bool(self.loss / 2.0) { 5.0 } else { 0.03 };
                self.after(0.001, late, Event::Letter { to, from, bytes: bytes.clone() });
            }
        }
    }

    /// What always holds of the registry at a node.
    fn check(&mut self, at: usize) {
        let Some(super_peer) = &self.nodes[at].super_peer else { return };
        let mandate = super_peer.mandate();
        for entry in super_peer.entries(self.now) {
            let version = entry.description.version;
            let seen = self.seen.entry((mandate, entry.member)).or_default();
            assert!(*seen <= version, "{} went back from {seen} to {version}", entry.member);
            if *seen != version {
                let had = self.history.get(&entry.member).and_then(|had| had.get(&version));
                assert_eq!(had, Some(&entry.description.attributes), "what it never had");
                *seen = version;
            }
        }
    }

    /// Lets the time pass.
    fn run(&mut self, until: Duration) {
        let mut turns = 0;
        loop {
            let machines = (0..self.nodes.len()).filter_map(|at| Some((self.due(at)?, at))).min();
            let event = self.events.peek().map(|Reverse(due)| due.0);
            let next = [event, machines.map(|(at, _)| at)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            turns = if next > self.now { 0 } else { turns + 1 };
            assert!(turns < 100_000, "the time stands still");
            self.now = self.now.max(next);
            if event == Some(next)
                && let Some(Reverse(Due(_, _, event))) = self.events.pop()
            {
                self.handle(event);
            } else if let Some((_, at)) = machines {
                let (node, now) = (&mut self.nodes[at], self.now);
                node.member.iter_mut().for_each(|member| member.handle_timeout(now));
                node.super_peer.iter_mut().for_each(|it| it.handle_timeout(now));
                self.flush(at);
            }
        }
        self.now = until;
    }

    fn due(&self, at: usize) -> Option<Duration> {
        let node = &self.nodes[at];
        let member = node.member.as_ref().and_then(Member::poll_timeout);
        let super_peer = node.super_peer.as_ref().and_then(SuperPeer::poll_timeout);
        [member, super_peer].into_iter().flatten().min()
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Letter { to, from, bytes } => {
                let message = Message::decode(&bytes);
                let node = &mut self.nodes[to];
                if let Some(super_peer) = &mut node.super_peer {
                    match &message {
                        Ok(message) => super_peer.handle_message(id(from), message, now),
                        Err(_) => super_peer.handle_malformed(id(from), now),
                    }
                }
                if let (Some(member), Ok(message)) = (&mut node.member, message) {
                    member.handle_message(id(from), message, now);
                }
                self.flush(to);
            }
            Event::Written { node: at, start, kept, ok } => {
                let node = &mut self.nodes[at];
                if node.start != start || !node.writing.remove(&kept.shard) {
                    return;
                }
                let forgets = node.vice == Vice::Forgets;
                if ok && !forgets {
                    node.disk.insert(kept.shard, kept.encode());
                    self.written.insert((id(at), kept.shard), kept.bytes.to_vec());
                }
                let member = node.member.as_mut().unwrap();
                member.handle_persisted(kept.shard, ok);
                self.flush(at);
            }
            Event::Propose { node, mandate, placement } => {
                self.propose(node, mandate, &placement);
            }
            Event::Committed { node: at, start, placement } => {
                let node = &mut self.nodes[at];
                if node.start == start {
                    node.member.iter_mut().for_each(|member| member.handle_committed(&placement));
                    let super_peer = node.super_peer.iter_mut();
                    super_peer.for_each(|it| it.handle_committed(&placement, now));
                    self.flush(at);
                }
            }
            Event::Told { node: at, super_peer } => {
                let node = &mut self.nodes[at];
                let later = node.told.is_none_or(|(_, mandate)| mandate < super_peer.1);
                if later {
                    node.told = Some(super_peer);
                    let member = node.member.iter_mut();
                    member.for_each(|it| it.handle_super_peer(Some(super_peer), now));
                    self.flush(at);
                }
            }
            Event::Deposed { node, mandate } => {
                let node = &mut self.nodes[node];
                node.super_peer.take_if(|it| it.mandate() == mandate);
            }
            Event::Seen { node, up } => {
                let up = up && self.lives(node);
                if up == self.lives(node) {
                    for at in 0..self.nodes.len() {
                        if let Some(super_peer) = &mut self.nodes[at].super_peer {
                            match up {
                                true => super_peer.handle_up(id(node), now),
                                false => super_peer.handle_down(id(node), now),
                            }
                        }
                        self.flush(at);
                    }
                }
            }
            Event::Restart { node, wiped } => {
                if !self.lives(node) {
                    if wiped {
                        self.wipe(node);
                    }
                    self.start(node);
                    self.after(0.1, 2.0, Event::Seen { node, up: true });
                }
            }
        }
    }

    /// A super-peer asks the group to commit an archive.
    fn propose(&mut self, at: usize, mandate: Mandate, bytes: &[u8]) {
        if mandate != self.mandate || self.nodes[at].super_peer.is_none() {
            return;
        }
        let placement = Placement::decode(bytes).unwrap();
        assert!(is_of(placement.version(), mandate));
        let before = self.committed.as_ref().map(Placement::version);
        if Some(placement.version()) < before {
            return;
        }
        let disks = self.shards(&placement, |at| self.nodes[at].vice == Vice::Forgets).count();
        assert!(disks >= placement.enough(), "{disks} disks are too few to commit");
        self.committed = Some(placement.clone());
        for node in 0..self.nodes.len() {
            // The group is some of the members, and the super-peer hears it.
            if node == at || self.rng.random_bool(0.4) {
                let (start, placement) = (self.nodes[node].start, placement.clone());
                self.after(0.001, 0.5, Event::Committed { node, start, placement });
            }
        }
    }

    /// The shards of a placement that were on disks of holders at any time, those of liars that
    /// only say so among them.
    fn shards(
        &self,
        placement: &Placement,
        lies: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = Shard> {
        let version = placement.version();
        placement.holders.iter().zip(0u8..).filter_map(move |(holder, index)| {
            let bytes = self.written.get(&(*holder, ShardName { version, index })).cloned();
            let bytes = bytes.or_else(|| lies(number(*holder)).then(Vec::new))?;
            Some(Shard { version, index, bytes })
        })
    }

    /// What is archived in the placement that is committed.
    fn archived(&self) -> Option<Snapshot> {
        let placement = self.committed.as_ref()?;
        let mut assembly = Assembly::new(placement.manifest.clone()).unwrap();
        for shard in self.shards(placement, |_| false) {
            assembly.offer(shard).unwrap();
        }
        Some(Snapshot::decode(&assembly.bytes().unwrap()).unwrap())
    }

    fn super_peer(&self) -> &SuperPeer {
        self.nodes[self.leader].super_peer.as_ref().unwrap()
    }

    fn entries(&self) -> BTreeMap<NodeId, Description> {
        let entries = self.super_peer().entries(self.now);
        entries.map(|entry| (entry.member, entry.description.clone())).collect()
    }

    /// After it has been quiet: all that live are registered as they are, and archived so.
    fn settled(&self) {
        let entries = self.entries();
        for (at, node) in self.nodes.iter().enumerate() {
            let member = self.roster.contains(&id(at));
            let Some(machine) = node.member.as_ref().filter(|_| member) else { continue };
            let own = machine.registrant().description();
            assert_eq!(entries.get(&id(at)), Some(own), "node {at} is not registered as it is");
            assert!(machine.registrant().is_registered(), "node {at} was not told");
            assert_eq!(own.attributes, node.attributes);
        }
        assert!(entries.keys().all(|node| self.roster.contains(node)));
        assert_eq!(self.archived().unwrap().into_descriptions(), entries);
        // Whatever happened to disks meanwhile.
        let placement = self.committed.as_ref().unwrap();
        let has = |(holder, index): (&NodeId, u8)| {
            let shard = ShardName { version: placement.version(), index };
            self.nodes[number(*holder)].disk.contains_key(&shard)
        };
        let disks = placement.holders.iter().zip(0u8..).filter(|it| has(*it)).count();
        // An answer may have been lost until a holder was given up; more is never believed.
        let believed = self.super_peer().archive().safety().unwrap().0;
        assert!(believed <= disks, "{believed} of {disks}");
        let named = |(_, what): &(_, _)| matches!(what, Offence::NotStored { .. });
        assert!(believed == disks || self.complaints.iter().any(named), "{believed} of {disks}");
        assert!(disks >= placement.enough());
    }
}
