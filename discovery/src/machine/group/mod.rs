//! The elected group of a sub-grid: who is its super-peer, and what that one may decide.
//!
//! ```text
//!  generation 1 ──────────────▶ generation 2 ──────────────▶ generation 3
//!  electors, voters             electors, voters             …
//!    │ raft among the voters      ▲
//!    │  term 1: super-peer A      │ founded: a majority of generation 1's electors agrees on who
//!    │  term 2: super-peer B      │ makes up the next and what it knows from the start (Paxos)
//!    ▼ the state: grants, values ─┘
//! ```
//!
//! Within a generation the voters elect the super-peer and replicate what it decides
//! (`replica.rs`); dead voters are replaced by joint consensus while a majority of them lives. When
//! it does not, or when the set of electors has to change, the electors found the next generation
//! (`synod.rs`). Most members are electors and only few are voters, so a sub-grid survives the loss
//! of all its voters.
//!
//! What holds, after any loss, repetition or reordering of messages, crash, freeze or partition:
//! - A [`Mandate`] (generation and term) belongs to one node at most.
//! - A generation is founded once. Any two majorities of electors have one in common; half of them
//!   count as one with the elector that breaks ties, so of two machines one can go on alone.
//! - The super-peer grants only while a majority of the electors has answered it within a lease, and
//!   an elector that has answered helps nobody else to found a generation before the lease is over.
//!   So no two super-peers grant at the same time, of whatever generations, and a minority grants
//!   nothing. The lease is counted by each node's own clock, which must go on while it sleeps
//!   (CLOCK_BOOTTIME) and may be wrong by a tenth in speed.
//! - What was granted, or set for sure, is told to have happened only when a majority of the electors
//!   has witnessed it, so every later generation knows it, even if all voters are lost, or if few
//!   had accepted another generation before: a super-peer's office has a ballot among those of
//!   foundings, and ends what is older (`synod.rs`). Of other values the last changes may be lost
//!   with the voters; when one comes back, what it knows is merged: of grants the highest epoch, of
//!   values the latest.
//! - A generation that survivors have founded grants nothing before another lease is over.
//! - Who was put out of the sub-grid is counted as agreeing: that is its admin's decision, who must
//!   not put out a majority that goes on elsewhere without hearing of it.
//! - A node that has lost its memory, or a part of it, comes back with another [`Life`]: to raft and
//!   to the electors it is somebody new, who has promised nothing.
//! - Everything promised is durable before it is sent ([`Command::Save`] precedes
//!   [`Command::Send`]).
//!
//! Not defended against: members that lie to their own group on purpose. Messages that would break a
//! node are refused and named ([`Command::Complain`]); a member that votes twice is believed.

mod durable;
mod elector;
mod founding;
mod lead;
mod log;
mod message;
mod plan;
mod replica;
mod state;
mod synod;
mod view;
mod witness;

#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use phantom_model::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;

use durable::Memory;
pub use durable::{Change, Kept, Key, UnknownKey};
pub use lead::Lease;
pub use message::MAX_MESSAGE;
use message::{Body, Message};
use replica::Replica;
pub use state::{Grant, Op, Outcome, Stamp, State, Value};
pub use synod::Founding;
use synod::{Acceptor, Attempt, Ballot, Progress};
pub use view::{Life, MAX_ELECTORS, View};
use witness::Witnessing;

use super::Mandate;

/// At most so many nodes vote.
pub const MAX_VOTERS: usize = 5;

/// The clock of elections.
const TICK: Duration = Duration::from_millis(100);
/// What was proposed elsewhere is given up after so long.
const ANSWER: Duration = Duration::from_secs(3);
/// So many proposals wait for their outcome at most.
const MAX_WAITING: usize = 256;
/// The same is not told to the same member more often.
const AGAIN: Duration = Duration::from_millis(500);

/// What is known of a member from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it lives.
    pub alive: bool,
    /// Since when that is known.
    pub since: Duration,
    /// How much it can be counted on, of 1000: by how long it usually runs, whether on mains power,
    /// by wire, and how busy.
    pub availability: u16,
}

/// Who answers for the sub-grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuperPeer {
    /// Which node.
    pub node: NodeId,
    /// In which name.
    pub mandate: Mandate,
}

/// What the machine wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Make all of these durable, together, before any later command is carried out.
    Save(Vec<Change>),
    /// Send this to a member.
    Send {
        /// To whom.
        to: NodeId,
        /// What; to be authenticated on the way.
        payload: Vec<u8>,
        /// Whether the same is said again before long, so that it may well be lost.
        repeats: bool,
    },
    /// Another node answers for the sub-grid, or none does.
    Led(Option<SuperPeer>),
    /// What came of [`Group::propose`]; `None`: it may have happened, or happen yet.
    Done {
        /// Its number.
        ticket: u64,
        /// What came of it.
        outcome: Option<Outcome>,
    },
    /// A member has sent what no honest member sends; nothing came of it.
    Complain {
        /// Which member.
        member: NodeId,
        /// What it did, in words.
        what: &'static str,
    },
}

/// Why nothing can be proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// Nobody answers for the sub-grid here.
    #[error("no super-peer is known here; most machines of the sub-grid are away or out of reach")]
    NoSuperPeer,
    /// The value is too long or has no name.
    #[error("it is too large for the group's memory")]
    TooLarge,
    /// Too much waits already.
    #[error("too many changes are under way; try again in a moment")]
    Busy,
}

/// A node's part in the group. Feed it with what members send, with who lives, and with the time.
pub struct Group {
    own: NodeId,
    life: Life,
    /// Holds the sub-grid's key: begins the first generation.
    is_founder: bool,
    availability: u16,
    rng: StdRng,
    founding: Option<Founding>,
    acceptor: Acceptor,
    replica: Option<Replica>,
    members: BTreeMap<NodeId, Standing>,
    /// Put out of the sub-grid.
    removed: BTreeSet<NodeId>,
    lives: BTreeMap<NodeId, Life>,
    /// Members that know of no generation.
    blank: BTreeSet<NodeId>,
    /// The last super-peer heard, and when.
    heard: Option<(SuperPeer, Duration)>,
    /// This elector helps nobody but that node to found a generation until then.
    bound: (Option<NodeId>, Duration),
    /// Until then it may be bound to somebody whom it has forgotten, and helps nobody.
    blind_until: Duration,
    /// As the super-peer: when it sent the beat that each elector has last answered.
    answered: BTreeMap<NodeId, Duration>,
    /// As the super-peer: the ballot of its office, and the electors that have promised it.
    office: Ballot,
    promised: BTreeSet<NodeId>,
    grace_until: Duration,
    attempt: Option<Attempt>,
    /// Of an attempt: when to send again, and when to give up.
    attempt_due: (Duration, Duration),
    /// No attempt before.
    quiet_until: Duration,
    /// The electors are not who they should be, since then.
    differs_since: Option<Duration>,
    /// What this elector has witnessed in its generation.
    witnessed: Progress,
    /// As the super-peer: what the electors are witnessing.
    witnessing: BTreeMap<u64, Witnessing>,
    witness_count: u64,
    /// What this node's former group had decided, until a super-peer has taken it over.
    orphan: Option<Box<State>>,
    next_tick: Duration,
    next_beat: Duration,
    next_plan: Duration,
    told: BTreeMap<(NodeId, u8), Duration>,
    tickets: u64,
    /// Proposals without an outcome, and when they are given up.
    waiting: BTreeMap<u64, Duration>,
    led: Option<SuperPeer>,
    commands: VecDeque<Command>,
}

impl Group {
    /// With what was kept. If any of it cannot be read all is as good as lost: who has forgotten a
    /// part of what it has promised is somebody new. `seed` is random.
    pub fn new(own: NodeId, is_founder: bool, kept: &Kept, seed: [u8; 32], now: Duration) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let memory = Memory::read(kept, &mut rng);
        let is_new = memory.is_none();
        let memory = memory.unwrap_or_else(|| Memory::of_somebody_new(&mut rng));
        let life = memory.life;
        let mut group = Self {
            own,
            life,
            is_founder,
            availability: 0,
            rng,
            founding: None,
            acceptor: Acceptor::default(),
            replica: None,
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            lives: BTreeMap::new(),
            blank: BTreeSet::new(),
            heard: None,
            bound: (None, now),
            blind_until: now,
            answered: BTreeMap::new(),
            office: Ballot::default(),
            promised: BTreeSet::new(),
            grace_until: Duration::ZERO,
            attempt: None,
            attempt_due: (now, now),
            quiet_until: now,
            differs_since: None,
            witnessed: Progress::default(),
            witnessing: BTreeMap::new(),
            witness_count: 0,
            orphan: None,
            next_tick: now,
            next_beat: now,
            next_plan: now + AGAIN,
            told: BTreeMap::new(),
            tickets: 0,
            waiting: BTreeMap::new(),
            led: None,
            commands: VecDeque::new(),
        };
        if is_new {
            let life = life.0.to_le_bytes().to_vec();
            group.save(vec![
                Change::DropLog,
                Change::Put(Key::Life, life),
                Change::Drop(Key::Founding),
            ]);
        } else if let Some((founding, acceptor)) = memory.founding {
            group.blind_until = now + founding.view.lease();
            group.quiet_until = now + founding.view.lease();
            if founding.is_refounded {
                group.grace_until = now + founding.view.lease();
            }
            group.founding = Some(founding);
            group.acceptor = acceptor;
            group.replica = memory.replica;
            group.witnessed = memory.witnessed;
        }
        group.flush(now);
        group
    }

    fn fork(&mut self) -> StdRng {
        StdRng::from_rng(&mut self.rng)
    }

    /// Who is a member, without this node, and who of them lives; and who was put out of the
    /// sub-grid by those who may.
    pub fn handle_members(
        &mut self,
        members: BTreeMap<NodeId, Standing>,
        removed: BTreeSet<NodeId>,
        availability: u16,
        now: Duration,
    ) {
        self.lives.retain(|node, _| members.contains_key(node));
        self.blank.retain(|node| members.contains_key(node));
        self.answered.retain(|node, _| members.contains_key(node) || *node == self.own);
        self.told.retain(|(node, _), at| members.contains_key(node) && *at + AGAIN > now);
        self.members = members;
        self.removed = removed;
        self.availability = availability;
    }

    /// Whether these electors are a majority. Who was put out does not stand in the way: it has no
    /// say any more.
    fn is_quorum<'a>(&'a self, present: impl Iterator<Item = &'a NodeId>) -> bool {
        self.view().is_some_and(|view| view.is_quorum(present.chain(&self.removed)))
    }

    /// A member has sent this. What is not for this generation, or makes no sense, has no effect.
    pub fn handle_message(&mut self, from: NodeId, payload: &[u8], now: Duration) {
        let Some(message) = Message::decode(payload) else {
            return self.complain(from, "a message that is none");
        };
        if !self.members.contains_key(&from) || message.life.0 == 0 {
            return;
        }
        self.lives.insert(from, message.life);
        let own = self.generation();
        if message.generation > 0 {
            self.blank.remove(&from);
        }
        match message.body {
            Body::AskFounding => match &self.founding {
                Some(_) => self.tell_founding(from, now),
                None => self.send(from, Body::Blank),
            },
            Body::Blank => drop(self.blank.insert(from)),
            Body::Founded(founding) => {
                let is_sound = founding.is_sound() && !founding.is_beyond(own);
                if founding.view.generation > own && is_sound {
                    self.adopt(*founding, now);
                }
            }
            _ if message.generation < own => self.tell_founding(from, now),
            _ if message.generation > own => self.tell(from, 0, Body::AskFounding, now),
            body => self.handle_body(from, message.life, body, now),
        }
        self.flush(now);
    }

    fn handle_body(&mut self, from: NodeId, life: Life, body: Body, now: Duration) {
        match body {
            Body::Raft(bytes) => self.handle_raft(from, life, &bytes),
            Body::Beat { mandate, office, sent } => {
                self.handle_beat(from, (mandate, office), sent, now);
            }
            Body::Heard { mandate, promised, sent } => {
                self.handle_heard((from, life), (mandate, promised), sent, now);
            }
            Body::Prepare(ballot) => self.handle_prepare(from, ballot, now),
            Body::Promise { ballot, accepted, progress } => {
                self.handle_promise(from, life, ballot, accepted, *progress, now);
            }
            Body::Accept { ballot, founding } => self.handle_accept(from, ballot, *founding, now),
            Body::Accepted(ballot) => self.handle_accepted(from, life, ballot, now),
            Body::Refuse(ballot) => self.handle_refusal(ballot, now),
            Body::Propose { ticket, op } => self.handle_proposal(from, life, ticket, op, now),
            Body::Outcome { ticket, outcome } => {
                if self.led.is_some_and(|led| led.node == from) {
                    self.settle(ticket, outcome);
                }
            }
            Body::Witness { number, decided } => self.handle_witness(from, number, *decided),
            Body::Witnessed { number, office } => {
                self.handle_witnessed((from, life), number, office, now);
            }
            Body::Merge(state) => self.handle_merge(from, life, *state, now),
            Body::Merged => self.orphan = None,
            Body::AskFounding | Body::Blank | Body::Founded(_) => {}
        }
    }

    fn handle_raft(&mut self, from: NodeId, life: Life, bytes: &[u8]) {
        let Some(founding) = &self.founding else { return };
        if !founding.view.seats(from, life) || !founding.view.seats(self.own, self.life) {
            return;
        }
        if self.replica.is_none() {
            let (generation, rng) = (founding.view.generation, self.fork());
            self.replica = Replica::begin(generation, self.life, None, rng);
        }
        if let Some(replica) = &mut self.replica
            && let Err(what) = replica.step(life, bytes)
        {
            self.complain(from, what);
        }
    }

    /// Who answers for the sub-grid, as far as this node knows.
    pub fn super_peer(&self) -> Option<SuperPeer> {
        self.led
    }

    /// Whether this node leads and may decide.
    pub fn may_decide(&self, now: Duration) -> bool {
        self.leads() && self.has_lease(now) && now >= self.grace_until && self.attempt.is_none()
    }

    /// Which generation this node knows; 0: none.
    pub fn generation(&self) -> u64 {
        self.founding.as_ref().map_or(0, |founding| founding.view.generation)
    }

    /// Who makes up the group.
    pub fn view(&self) -> Option<&View> {
        self.founding.as_ref().map(|founding| &founding.view)
    }

    /// Who votes, as far as this node knows.
    pub fn voters(&self) -> Vec<NodeId> {
        match (&self.replica, self.view()) {
            (Some(replica), _) if !replica.conf().voters.is_empty() => {
                replica.conf().voters.iter().filter_map(|life| self.node_of(*life)).collect()
            }
            (_, Some(view)) => view.voters.iter().copied().collect(),
            (_, None) => Vec::new(),
        }
    }

    /// What the group has decided, as far as this node knows: voters and learners know nearly all
    /// of it, others what their generation began with.
    pub fn state(&self) -> Option<&State> {
        let begun = self.founding.as_ref().map(|founding| &founding.state);
        self.replica.as_ref().map(Replica::state).or(begun)
    }

    /// Whether [`Group::state`] follows what is decided.
    pub fn replicates(&self) -> bool {
        self.replica.is_some()
    }

    /// Proposes a change; [`Command::Done`] tells what came of it.
    pub fn propose(&mut self, op: Op, now: Duration) -> Result<u64, Declined> {
        if !op.is_sound() {
            return Err(Declined::TooLarge);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Declined::Busy);
        }
        let led = self.led.ok_or(Declined::NoSuperPeer)?;
        self.tickets += 1;
        let ticket = self.tickets;
        if led.node != self.own {
            self.send(led.node, Body::Propose { ticket, op });
        } else if !self.may_decide(now) {
            return Err(Declined::NoSuperPeer);
        } else if !self.replica.as_mut().is_some_and(|it| it.propose(self.life, ticket, op)) {
            return Err(Declined::Busy);
        }
        self.waiting.insert(ticket, now + ANSWER);
        self.flush(now);
        Ok(ticket)
    }

    fn settle(&mut self, ticket: u64, outcome: Option<Outcome>) {
        if self.waiting.remove(&ticket).is_some() {
            self.commands.push_back(Command::Done { ticket, outcome });
        }
    }

    /// When [`Group::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Duration {
        let mut due = self.next_plan;
        if self.replica.is_some() {
            due = due.min(self.next_tick);
        }
        if self.leads() {
            due = due.min(self.next_beat);
        }
        if self.attempt.is_some() {
            due = due.min(self.attempt_due.0);
        }
        let witnessing = self.witnessing.values().map(Witnessing::due);
        self.waiting.values().copied().chain(witnessing).fold(due, Duration::min)
    }

    /// The time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        if now >= self.next_tick {
            // After a sleep one tick is enough to notice that others are silent.
            self.next_tick = now + TICK;
            if let Some(replica) = &mut self.replica {
                replica.tick();
            }
        }
        self.flush(now);
        self.beat(now);
        if now >= self.next_plan {
            self.next_plan = now + AGAIN;
            self.begin_first(now);
            self.upkeep(now);
            self.consider_founding(now);
        }
        self.drive_attempt(now);
        self.drive_witnessing(now);
        let late: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(ticket, _)| *ticket)
            .collect();
        late.into_iter().for_each(|ticket| self.settle(ticket, None));
        self.flush(now);
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Hands on what the replica wants, and tells who leads now.
    fn flush(&mut self, now: Duration) {
        if let Some(replica) = &mut self.replica {
            let changes = replica.take_changes();
            let messages: Vec<_> = replica.take_messages().collect();
            let done = replica.take_done();
            self.save(changes);
            for (life, bytes, repeats) in messages {
                if let Some(to) = self.node_of(life) {
                    self.post(to, Body::Raft(bytes), repeats);
                }
            }
            for applied in done {
                self.handle_applied(applied, now);
            }
        }
        let led = self.find_super_peer(now);
        if led != self.led {
            if led.is_some_and(|led| led.node == self.own) {
                self.begin_to_lead(now);
            }
            self.led = led;
            self.commands.push_back(Command::Led(led));
        }
    }

    fn find_super_peer(&self, now: Duration) -> Option<SuperPeer> {
        if let Some(replica) = self.replica.as_ref().filter(|replica| replica.leads()) {
            return Some(SuperPeer { node: self.own, mandate: replica.mandate() });
        }
        let lease = self.founding.as_ref()?.view.lease();
        let (led, at) = self.heard?;
        (now < at + lease).then_some(led)
    }

    fn node_of(&self, life: Life) -> Option<NodeId> {
        let electors = &self.founding.as_ref()?.view.electors;
        electors.iter().find(|(_, seat)| **seat == life).map(|(node, _)| *node)
    }

    fn save(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.commands.push_back(Command::Save(changes));
        }
    }

    fn send(&mut self, to: NodeId, body: Body) {
        let repeats = matches!(body, Body::Beat { .. } | Body::Heard { .. });
        self.post(to, body, repeats);
    }

    fn post(&mut self, to: NodeId, body: Body, repeats: bool) {
        let message = Message { generation: self.generation(), life: self.life, body };
        self.commands.push_back(Command::Send { to, payload: message.encode(), repeats });
    }

    /// Sends what need not be said twice in a row; `what` numbers such things.
    fn tell(&mut self, to: NodeId, what: u8, body: Body, now: Duration) {
        if self.told.get(&(to, what)).is_none_or(|at| *at + AGAIN <= now) {
            self.told.insert((to, what), now);
            self.send(to, body);
        }
    }

    fn tell_founding(&mut self, to: NodeId, now: Duration) {
        if let Some(founding) = self.founding.clone() {
            self.tell(to, 2, Body::Founded(Box::new(founding)), now);
        }
    }

    fn complain(&mut self, member: NodeId, what: &'static str) {
        self.commands.push_back(Command::Complain { member, what });
    }
}
