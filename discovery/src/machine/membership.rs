//! Which members live: SWIM (Das, Gupta, Motivala, 2002) by the crate foca, among the nodes that
//! certificates have made members, and a ring in which each listens to one other (`ring.rs`), so
//! that no death waits for the next probe.
//!
//! A payload is foca's, which begins with its sender, or one of two short ones: nothing at all is a
//! sign of life, [`ASK`] asks for one.

mod ring;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, Identity, NoCustomBroadcast, OwnedNotification, Timer};
use phantom_model::NodeId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use ring::{Ring, Wish};
use serde::{Deserialize, Serialize};

use crate::envelope::ShortId;

/// Asks for a sign of life.
const ASK: &[u8] = &[1];
/// Nobody honest asks sooner again.
const ASKED_AGAIN: Duration = Duration::from_millis(200);
/// How often one member is probed, and how long until its silence makes it suspected.
const PROBE: Duration = Duration::from_millis(3000);
/// How long a probed member has to answer before others are asked to probe it.
const ANSWER: Duration = Duration::from_millis(350);
/// How long a member that is suspected has to object.
const OBJECTION: Duration = Duration::from_millis(1500);
/// How often news goes out while there is any. Without, it would wait for the next probes.
const GOSSIP: Duration = Duration::from_millis(150);
/// How often members that are not known to live are called, a few at a time: a join may be lost,
/// and a node that was off comes back.
const CALL: Duration = Duration::from_secs(4);
const CALLED: usize = 3;
/// No payload is longer.
pub(crate) const MAX_PAYLOAD: usize = 1100;

/// A member as foca knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Id {
    node: [u8; 8],
    /// Grows with each start of its daemon, and when it has to show that it is not gone.
    generation: u64,
}

impl Identity for Id {
    type Addr = [u8; 8];

    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.saturating_add(1), ..self.clone() })
    }

    fn addr(&self) -> [u8; 8] {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.generation > other.generation
    }
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this to a member.
    Send {
        /// To whom.
        to: NodeId,
        /// What; to be authenticated on the way.
        payload: Bytes,
        /// With how much care.
        care: Care,
    },
    /// A member was found to live.
    Up(NodeId),
    /// A member was found to be gone.
    Down(NodeId),
}

/// How sure it has to be that something arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Who misses it asks: a datagram will do, if any has ever arrived.
    Little,
    /// A datagram will do while they are known to arrive.
    Usual,
    /// Much hangs on it: in every way there is.
    Great,
}

/// What is known of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Whether it lives.
    pub up: bool,
    /// Since when that is known.
    pub since: Duration,
}

/// The machine. Feed it with datagrams that are known to come from members, and with the time.
pub struct Membership {
    own: NodeId,
    foca: Foca<Id, foca::PostcardCodec, StdRng, NoCustomBroadcast>,
    effects: AccumulatingRuntime<Id>,
    timers: BinaryHeap<Reverse<Due>>,
    turns: u64,
    rng: StdRng,
    roster: BTreeMap<ShortId, NodeId>,
    seen: BTreeMap<NodeId, Seen>,
    next_call: Duration,
    /// When news goes out, while there is any.
    next_gossip: Option<Duration>,
    /// Members under suspicion, in which incarnation, and how long they may object. In foca only
    /// who has begun a suspicion ends it; here everybody does, who may have heard of it first.
    suspects: BTreeMap<[u8; 8], (foca::Incarnation, Duration)>,
    /// New in the roster, and known to live before: others' word outran the certificate.
    known: VecDeque<NodeId>,
    ring: Ring,
    /// Signs of life that are given or asked for.
    signs: VecDeque<(NodeId, Bytes, Care)>,
    /// When each member was last given a sign because it had asked.
    answered: BTreeMap<ShortId, Duration>,
}

/// A timer of foca's; of two at the same time foca says which goes first.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    at: Duration,
    timer: Timer<Id>,
    turn: u64,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = self.at.cmp(&other.at).then_with(|| self.timer.cmp(&other.timer));
        order.then(self.turn.cmp(&other.turn))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Membership {
    /// This node, alone. `generation` is higher than at every start before, by room for the times
    /// it has to show that it lives; `seed` is random.
    pub fn new(own: NodeId, generation: u64, seed: [u8; 32], now: Duration) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let id = Id { node: ShortId::from(own).0, generation };
        let foca = Foca::new(id, config(), StdRng::from_rng(&mut rng), foca::PostcardCodec);
        Self {
            own,
            foca,
            effects: AccumulatingRuntime::new(),
            timers: BinaryHeap::new(),
            turns: 0,
            rng,
            roster: BTreeMap::new(),
            seen: BTreeMap::new(),
            next_call: now,
            next_gossip: None,
            suspects: BTreeMap::new(),
            known: VecDeque::new(),
            ring: Ring::new(own.into(), now),
            signs: VecDeque::new(),
            answered: BTreeMap::new(),
        }
    }

    /// These are the members now. New ones are called at once, others forgotten.
    pub fn handle_roster(&mut self, members: impl IntoIterator<Item = NodeId>, now: Duration) {
        let others = members.into_iter().filter(|node| *node != self.own);
        let roster: BTreeMap<_, _> = others.map(|node| (ShortId::from(node), node)).collect();
        let gone: BTreeSet<[u8; 8]> =
            self.roster.keys().filter(|short| !roster.contains_key(short)).map(|s| s.0).collect();
        let news = roster.keys().any(|short| !self.roster.contains_key(short));
        let alive: BTreeSet<_> = self.foca.iter_members().map(|it| it.id().node).collect();
        let known = roster
            .iter()
            .filter(|(short, _)| !self.roster.contains_key(short) && alive.contains(&short.0));
        self.known.extend(known.map(|(_, node)| *node));
        self.roster = roster;
        self.answered.retain(|short, _| self.roster.contains_key(short));
        if !gone.is_empty() {
            let left = self.foca.iter_members().filter(|member| gone.contains(&member.id().node));
            let left: Vec<_> = left
                .map(|member| {
                    foca::Member::new(member.id().clone(), member.incarnation(), foca::State::Down)
                })
                .collect();
            // Nothing that it sends is let in any more, so it cannot object.
            let _ = self.foca.apply_many(left.into_iter(), false, &mut self.effects);
            self.seen.retain(|node, _| !gone.contains(&ShortId::from(*node).0));
        }
        if news {
            self.next_call = now;
        }
        self.schedule(now);
    }

    /// The member `from` has sent this.
    pub fn handle_payload(&mut self, from: NodeId, payload: &[u8], now: Duration) {
        let short = ShortId::from(from);
        self.ring.handle_heard(short, now);
        if payload.is_empty() {
            self.ring.handle_sign(short, now);
        } else if Self::is_ask(payload) {
            let is_soon = |at: &Duration| now < *at + ASKED_AGAIN;
            if !self.answered.get(&short).is_some_and(is_soon) {
                self.answered.insert(short, now);
                self.signs.push_back((from, Bytes::new(), Care::Great));
            }
        } else if payload.first_chunk() == Some(&short.0) {
            // Each speaks for itself only. What does not decode, or is out of date, changes nothing.
            let _ = self.foca.handle_data(payload, &mut self.effects);
        }
        self.schedule(now);
    }

    /// Whether a payload asks for a sign of life: whoever sends it has missed one.
    pub fn is_ask(payload: &[u8]) -> bool {
        payload == ASK
    }

    /// What the ring wants.
    fn go_round(&mut self, now: Duration) {
        let alive = self.foca.iter_members().map(|member| ShortId(member.id().node));
        let alive: BTreeSet<ShortId> = alive.filter(|it| self.roster.contains_key(it)).collect();
        for wish in self.ring.handle_timeout(&alive, now) {
            let (to, payload, care) = match wish {
                Wish::Sign(to) => (to, Bytes::new(), Care::Little),
                Wish::Ask(to) => (to, Bytes::from_static(ASK), Care::Great),
                Wish::Suspect(of) => {
                    self.suspect(of);
                    continue;
                }
            };
            self.signs.extend(self.roster.get(&to).map(|node| (*node, payload, care)));
        }
    }

    /// This member is suspected without waiting for its turn to be probed, and may object as ever.
    fn suspect(&mut self, short: ShortId) {
        let known = self.foca.iter_members().find(|member| member.id().node == short.0);
        if let Some(member) = known {
            let (id, incarnation) = (member.id().clone(), member.incarnation());
            let suspect = foca::Member::new(id, incarnation, foca::State::Suspect);
            let _ = self.foca.apply_many([suspect].into_iter(), true, &mut self.effects);
        }
    }

    /// Looks who is under suspicion, and ends that of those who have not objected in time.
    fn judge(&mut self, now: Duration) {
        let mut suspects = BTreeMap::new();
        let mut gone = Vec::new();
        for member in self.foca.iter_members() {
            if member.state() != foca::State::Suspect {
                continue;
            }
            let (id, incarnation) = (member.id(), member.incarnation());
            let known = self.suspects.get(&id.node).filter(|(of, _)| *of == incarnation);
            let ends = known.map_or(now + OBJECTION, |(_, ends)| *ends);
            if ends <= now {
                gone.push(foca::Member::new(id.clone(), incarnation, foca::State::Down));
            } else {
                suspects.insert(id.node, (incarnation, ends));
            }
        }
        self.suspects = suspects;
        let _ = self.foca.apply_many(gone.into_iter(), true, &mut self.effects);
    }

    /// When [`Membership::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let call = (!self.roster.is_empty()).then_some(self.next_call);
        let timer = self.timers.peek().map(|Reverse(due)| due.at);
        let suspect = self.suspects.values().map(|(_, ends)| *ends).min();
        let ring = (!self.roster.is_empty()).then(|| self.ring.poll_timeout());
        [call, timer, suspect, ring, self.next_gossip].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(Reverse(due)) = self.timers.peek()
            && due.at <= now
        {
            let Some(Reverse(due)) = self.timers.pop() else { break };
            // It may be about a probe that is over.
            let _ = self.foca.handle_timer(due.timer, &mut self.effects);
            self.schedule(now);
        }
        if self.ring.poll_timeout() <= now {
            self.go_round(now);
        }
        self.judge(now);
        if now >= self.next_call {
            self.next_call = now + CALL;
            self.call();
        }
        if self.next_gossip.is_some_and(|at| at <= now) {
            self.next_gossip = None;
            let _ = self.foca.gossip(&mut self.effects);
        }
        self.schedule(now);
    }

    /// Calls a few of those that are not known to live.
    fn call(&mut self) {
        let alive: BTreeSet<_> = self.foca.iter_members().map(|member| member.id().node).collect();
        let missing = self.roster.keys().filter(|short| !alive.contains(&short.0));
        for short in missing.sample(&mut self.rng, CALLED) {
            let id = Id { node: short.0, generation: 0 };
            let _ = self.foca.announce(id, &mut self.effects);
        }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self, now: Duration) -> Option<Command> {
        while let Some(node) = self.known.pop_front() {
            if self.roster.contains_key(&ShortId::from(node)) {
                self.seen.insert(node, Seen { up: true, since: now });
                return Some(Command::Up(node));
            }
        }
        while let Some(notification) = self.effects.to_notify() {
            let (id, up) = match &notification {
                OwnedNotification::MemberUp(id) => (id, true),
                OwnedNotification::MemberDown(id) => (id, false),
                _ => continue,
            };
            // Members tell of each other; who is one, only certificates tell.
            let Some(node) = self.roster.get(&ShortId(id.node)).copied() else { continue };
            self.seen.insert(node, Seen { up, since: now });
            return Some(if up { Command::Up(node) } else { Command::Down(node) });
        }
        if let Some((to, payload, care)) = self.signs.pop_front() {
            return Some(Command::Send { to, payload, care });
        }
        while let Some((to, payload)) = self.effects.to_send() {
            if let Some(to) = self.roster.get(&ShortId(to.node)).copied() {
                return Some(Command::Send { to, payload, care: Care::Usual });
            }
        }
        None
    }

    /// What is known of a member; nothing before it was first heard.
    pub fn seen(&self, node: NodeId) -> Option<Seen> {
        self.seen.get(&node).copied()
    }

    fn schedule(&mut self, now: Duration) {
        while let Some((after, timer)) = self.effects.to_schedule() {
            self.turns += 1;
            self.timers.push(Reverse(Due { at: now + after, timer, turn: self.turns }));
        }
        if self.next_gossip.is_none() && self.foca.updates_backlog() > 0 {
            self.next_gossip = Some(now + GOSSIP);
        }
    }
}

fn config() -> foca::Config {
    const fn count(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }
    foca::Config {
        probe_period: PROBE,
        probe_rtt: ANSWER,
        num_indirect_probes: count(3),
        // So many that of twenty nodes one in millions misses what they tell each other.
        max_transmissions: const { NonZeroU8::new(15).unwrap() },
        suspect_to_down_after: OBJECTION,
        remove_down_after: None,
        max_packet_size: count(MAX_PAYLOAD),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

#[cfg(test)]
mod tests;
