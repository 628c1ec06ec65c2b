//! The node that answers for a sub-grid: from its own members, and for them from elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::answerer::Answerer;
use super::limit::{Limiter, Verdict};
use super::{
    Answer, Command, Directory, Errand, Hop, MAX_HOPS, MAX_REGIONS_TRIED, MAX_REMAINING_MS,
    MAX_TRIED, Match, Message, Outcome, Query, QueryId, Referral, Role, Scope, Ticket, Tried,
    Wanted,
};
use crate::machine::coordinates::Coordinate;
use crate::machine::region::RegionId;

/// Questions of one member a second, and at once; repetitions count.
const RATE: f64 = 20.0;
const BURST: f64 = 60.0;
const MEMBERS: usize = 4096;
/// Queries that are kept, of all members and of one.
const MAX_PENDING: usize = 512;
const MAX_OF_ONE: usize = 16;
/// Answers that are kept for those who ask again, and for how long.
const MAX_DONE: usize = 512;
const DONE: Duration = Duration::from_secs(30);
/// When the region-peer is asked again at first; each time after twice as long, up to [`SELDOM`].
const RETRY: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(1);
/// How long answers are waited for: so many times what the region-peer took, between bounds. Other
/// regions are further.
const PATIENCE: (u32, Duration, Duration) = (5, Duration::from_millis(150), Duration::from_secs(2));
const PATIENCE_FAR: (u32, Duration, Duration) =
    (15, Duration::from_millis(500), Duration::from_secs(4));
/// Sub-grids that one query may have been put to, whatever a region-peer says.
const MAX_ASKED: usize = 256;
/// A region-peer that is new is asked again after so long.
const SETTLES: Duration = Duration::from_millis(500);
/// A sub-grid or region that was asked so often and has not answered is given up.
const GIVEN_UP: u8 = 5;
/// So long before its deadline a query ends, so that the answer comes in time.
const MARGIN: Duration = Duration::from_millis(200);

/// What a super-peer knows of its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionLink {
    /// The sub-grid belongs to none.
    Alone,
    /// It belongs to one whose region-peer is not known at the moment.
    Unknown,
    /// Who answers for the region.
    Peer(NodeId),
}

/// A sub-grid that was asked.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    region: Option<RegionId>,
    times: u8,
    /// It is waited for.
    open: bool,
    answered: bool,
}

/// A region that was asked.
#[derive(Debug, Clone, Copy, Default)]
struct Crossed {
    times: u8,
    /// The last attempt about which it was heard.
    heard: u16,
    open: bool,
    more: bool,
    done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The region-peer was asked.
    Referring { since: Duration, until: Duration, pause: Duration },
    /// Sub-grids are asked.
    Waiting { until: Duration },
    /// The region-peer does not know everybody yet.
    Pausing { until: Duration },
}

#[derive(Debug)]
struct Pending {
    query: Query,
    ends: Duration,
    ticket: Ticket,
    attempt: u16,
    stage: Stage,
    found: Vec<Match>,
    asked: BTreeMap<SubgridId, Asked>,
    regions: BTreeMap<RegionId, Crossed>,
    /// Whether the last referral has led to anybody.
    led: bool,
    more: bool,
    /// Somebody was given up.
    missed: bool,
    rtt: Duration,
    route: Vec<Hop>,
    steps: u8,
    /// Steps of this round.
    round: u8,
    messages: u16,
}

/// The machine of a super-peer.
#[derive(Debug)]
pub struct SuperPeer {
    own: NodeId,
    subgrid: SubgridId,
    region: RegionLink,
    near: Option<Coordinate>,
    rng: StdRng,
    members: Limiter,
    answerer: Answerer,
    pending: BTreeMap<QueryId, Pending>,
    done: VecDeque<(Duration, NodeId, Answer)>,
    commands: VecDeque<Command>,
}

impl SuperPeer {
    /// Answers for `subgrid`; `seed` is random.
    pub fn new(own: NodeId, subgrid: SubgridId, seed: [u8; 32]) -> Self {
        Self {
            own,
            subgrid,
            region: RegionLink::Unknown,
            near: None,
            rng: StdRng::from_seed(seed),
            members: Limiter::new(RATE, BURST, MEMBERS),
            answerer: Answerer::new(),
            pending: BTreeMap::new(),
            done: VecDeque::new(),
            commands: VecDeque::new(),
        }
    }

    /// What is known of the region now. A new region-peer is asked at once.
    pub fn handle_region(&mut self, region: RegionLink, now: Duration) {
        if region == self.region {
            return;
        }
        self.region = region;
        let ids: Vec<_> = self.pending.keys().copied().collect();
        for id in ids {
            match region {
                RegionLink::Alone => self.finish(id, Outcome::Alone, now),
                RegionLink::Unknown => {}
                RegionLink::Peer(_) => self.refer(id, RETRY, now),
            }
        }
    }

    /// Where this node is, so that near sub-grids are asked first.
    pub fn handle_coordinate(&mut self, near: Coordinate) {
        self.near = Some(near);
    }

    /// How many queries are kept.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// A node has sent this; `directory` is what is registered now.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: Message,
        directory: &dyn Directory,
        now: Duration,
    ) {
        match message {
            Message::Ask(query) => self.handle_ask(from, query, directory, now),
            Message::Forward(query, forward) if self.region == RegionLink::Peer(from) => {
                let own = (self.own, self.subgrid);
                let asked = (&query, forward);
                let answer = self.answerer.handle_forward(own, from, asked, directory, now);
                self.commands.extend(answer);
            }
            Message::Answer(answer) => self.handle_answer(from, answer, now),
            Message::Referral(referral) => self.handle_referral(from, referral, now),
            Message::Forward(..) | Message::Refer(..) => {}
        }
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = |pending: &Pending| match pending.stage {
            Stage::Referring { until, .. }
            | Stage::Waiting { until }
            | Stage::Pausing { until } => until.min(pending.ends),
        };
        self.pending.values().map(due).min()
    }

    /// Does what is due: asks again, goes on to others, ends what is too late.
    pub fn handle_timeout(&mut self, now: Duration) {
        let ids: Vec<_> = self.pending.keys().copied().collect();
        for id in ids {
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            if pending.ends <= now {
                self.finish(id, Outcome::Late, now);
                continue;
            }
            match pending.stage {
                Stage::Referring { until, pause, .. } if until <= now => {
                    self.refer(id, (pause * 2).min(SELDOM), now);
                }
                Stage::Waiting { until } if until <= now => {
                    pending.give_up_late();
                    self.next_round(id, now);
                }
                Stage::Pausing { until } if until <= now => self.refer(id, RETRY, now),
                _ => {}
            }
        }
        while self.done.front().is_some_and(|(at, ..)| *at + DONE <= now) {
            self.done.pop_front();
        }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn handle_ask(&mut self, from: NodeId, query: Query, directory: &dyn Directory, now: Duration) {
        match self.members.check(from, now) {
            Verdict::Pass => {}
            Verdict::Drop => return,
            Verdict::Name(dropped) => {
                return self.commands.push_back(Command::Flooding { node: from, dropped });
            }
        }
        let alive = query.remaining_ms > 0 && query.route.len() < MAX_HOPS;
        if query.origin != from || !alive || self.pending.contains_key(&query.id) {
            return;
        }
        let known = self.done.iter().find(|(_, to, answer)| *to == from && answer.id == query.id);
        if let Some((_, _, answer)) = known {
            let answer = answer.clone();
            return self.send(from, Message::Answer(answer));
        }
        let Ok(wanted) = Wanted::of(&query) else {
            return self.refuse(from, &query, Outcome::Refused);
        };
        let found = wanted.find(query.vo.as_deref(), directory, self.subgrid);
        if !wanted.is_settled(&found, directory) {
            // It asks again.
            return;
        }
        let id = query.id;
        let mut route = query.route.clone();
        route.push(Hop::new(self.own, Role::SuperPeer));
        let remaining = Duration::from_millis(query.remaining_ms.into());
        let met = found.len() >= usize::from(query.wanted);
        let pending = Pending {
            ends: now + remaining - MARGIN.min(remaining / 4),
            ticket: Ticket(self.rng.random()),
            attempt: 0,
            stage: Stage::Pausing { until: now + remaining },
            found,
            asked: BTreeMap::new(),
            regions: BTreeMap::new(),
            led: false,
            more: false,
            missed: false,
            rtt: Duration::ZERO,
            route,
            steps: 1,
            round: 0,
            messages: u16::from(from != self.own),
            query,
        };
        let inside = pending.query.scope == Scope::SubGrid;
        if met || inside || self.region == RegionLink::Alone {
            let outcome = match met {
                true => Outcome::Met,
                false if inside => Outcome::Short,
                false => Outcome::Alone,
            };
            return self.answer(pending, outcome, now);
        }
        let of_one = self.pending.values().filter(|other| other.query.origin == from).count();
        if self.pending.len() >= MAX_PENDING || of_one >= MAX_OF_ONE {
            return self.refuse(from, &pending.query, Outcome::Busy);
        }
        self.pending.insert(id, pending);
        self.refer(id, RETRY, now);
    }

    /// Asks the region-peer, as soon as there is one.
    fn refer(&mut self, id: QueryId, pause: Duration, now: Duration) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.stage = Stage::Referring { since: now, until: now + pause, pause };
        let RegionLink::Peer(to) = self.region else { return };
        pending.attempt = pending.attempt.saturating_add(1);
        if to != self.own {
            pending.messages = pending.messages.saturating_add(1);
        }
        let message = pending.refer(self.own, self.near, now);
        self.send(to, message);
    }

    fn handle_referral(&mut self, from: NodeId, referral: Referral, now: Duration) {
        let Some(pending) = self.pending.get_mut(&referral.id) else { return };
        if referral.ticket != pending.ticket.of(from, None) || referral.attempt > pending.attempt {
            return;
        }
        if !pending.has_room(&referral) {
            return;
        }
        let region = pending.regions.entry(referral.region).or_default();
        if referral.attempt <= region.heard {
            return;
        }
        (region.heard, region.open, region.more) = (referral.attempt, false, referral.more);
        pending.messages = pending.messages.saturating_add(referral.messages.into());
        pending.round = pending.round.max(2);
        for subgrid in &referral.asked {
            let asked = pending.asked.entry(*subgrid).or_default();
            asked.region = Some(referral.region);
            asked.times = asked.times.saturating_add(1);
            asked.open = !asked.answered;
        }
        for region in &referral.crossed {
            let crossed = pending.regions.entry(*region).or_default();
            // Its own referral may have been faster.
            crossed.open = crossed.heard < referral.attempt;
            crossed.times = crossed.times.saturating_add(1);
        }
        if self.region == RegionLink::Peer(from) {
            pending.led = !referral.asked.is_empty() || !referral.crossed.is_empty();
            pending.more = referral.more;
            if let Stage::Referring { since, .. } = pending.stage {
                pending.rtt = now.saturating_sub(since);
                let (times, least, most) =
                    if referral.crossed.is_empty() { PATIENCE } else { PATIENCE_FAR };
                let patience = (pending.rtt * times).clamp(least, most);
                pending.stage = Stage::Waiting { until: now + patience };
            }
        }
        self.advance(referral.id, now);
    }

    fn handle_answer(&mut self, from: NodeId, answer: Answer, now: Duration) {
        let Some(pending) = self.pending.get_mut(&answer.id) else { return };
        if answer.ticket != pending.ticket.of(from, Some(answer.subgrid)) {
            return;
        }
        if pending.asked.len() >= MAX_ASKED && !pending.asked.contains_key(&answer.subgrid) {
            return;
        }
        pending.messages = pending.messages.saturating_add(u16::from(from != self.own));
        let asked = pending.asked.entry(answer.subgrid).or_default();
        (asked.open, asked.answered) = (false, true);
        pending.round = pending.round.max(answer.steps.saturating_sub(1));
        let mut useful = false;
        for one in answer.matches {
            let known = pending.found.iter().any(|found| found.node == one.node);
            // Each speaks for its own sub-grid only.
            if one.subgrid == answer.subgrid && !known && pending.missing() > 0 {
                pending.found.push(one);
                useful = true;
            }
        }
        if useful {
            pending.route = answer.route;
        }
        self.advance(answer.id, now);
    }

    /// Ends what is met, and goes on when nobody is waited for any more.
    fn advance(&mut self, id: QueryId, now: Duration) {
        let Some(pending) = self.pending.get(&id) else { return };
        if pending.missing() == 0 {
            return self.finish(id, Outcome::Met, now);
        }
        let open = pending.asked.values().any(|asked| asked.open)
            || pending.regions.values().any(|region| region.open);
        if matches!(pending.stage, Stage::Waiting { .. }) && !open {
            self.next_round(id, now);
        }
    }

    fn next_round(&mut self, id: QueryId, now: Duration) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.close_regions();
        let more = pending.more || pending.regions.values().any(|region| region.more);
        // In a region that has nobody left there is nobody to ask where else to go.
        let done =
            pending.query.scope == Scope::Region && pending.regions.values().all(|it| it.done);
        let full = pending.is_full();
        if !pending.led && !more || done || full {
            let outcome = if pending.missed || full { Outcome::Late } else { Outcome::Short };
            return self.finish(id, outcome, now);
        }
        pending.steps = pending.steps.saturating_add(pending.round);
        pending.round = 0;
        if pending.led {
            self.refer(id, RETRY, now);
        } else {
            pending.stage = Stage::Pausing { until: now + SETTLES };
        }
    }

    fn finish(&mut self, id: QueryId, outcome: Outcome, now: Duration) {
        if let Some(pending) = self.pending.remove(&id) {
            self.answer(pending, outcome, now);
        }
    }

    fn answer(&mut self, mut pending: Pending, outcome: Outcome, now: Duration) {
        // Stable: those of equal rank stay in the order in which they came.
        pending.found.sort_by(|one, other| other.rank.total_cmp(&one.rank));
        let to = pending.query.origin;
        let answer = Answer {
            id: pending.query.id,
            subgrid: self.subgrid,
            ticket: Ticket([0; 16]),
            outcome,
            matches: pending.found,
            route: pending.route,
            steps: pending.steps.saturating_add(pending.round).saturating_add(1),
            messages: pending.messages.saturating_add(u16::from(to != self.own)),
        };
        if self.done.len() >= MAX_DONE {
            self.done.pop_front();
        }
        self.done.push_back((now, to, answer.clone()));
        self.send(to, Message::Answer(answer));
    }

    fn refuse(&mut self, to: NodeId, query: &Query, outcome: Outcome) {
        let answer = Answer {
            id: query.id,
            subgrid: self.subgrid,
            ticket: Ticket([0; 16]),
            outcome,
            matches: Vec::new(),
            route: query.route.clone(),
            steps: 2,
            messages: 2,
        };
        self.send(to, Message::Answer(answer));
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send { to, message: Box::new(message) });
    }
}

impl Pending {
    fn missing(&self) -> u8 {
        let found = u8::try_from(self.found.len()).unwrap_or(u8::MAX);
        self.query.wanted.saturating_sub(found)
    }

    /// Whether what a region-peer says still fits: one that lies could name others for ever.
    fn has_room(&self, referral: &Referral) -> bool {
        let regions = self.regions.len() + referral.crossed.len();
        let asked = self.asked.len() + referral.asked.len();
        regions <= 2 * MAX_REGIONS_TRIED && asked <= MAX_ASKED
    }

    /// Whether so many were asked that they cannot all be named.
    fn is_full(&self) -> bool {
        self.to_name().count() >= MAX_TRIED || self.regions.len() >= MAX_REGIONS_TRIED
    }

    fn is_done(&self, region: &RegionId) -> bool {
        self.regions.get(region).is_some_and(|it| it.done)
    }

    /// Who was asked, without those of regions that are done.
    fn to_name(&self) -> impl Iterator<Item = (&SubgridId, &Asked)> {
        self.asked.iter().filter(|(_, it)| !it.region.is_some_and(|region| self.is_done(&region)))
    }

    /// The question as it is put to the region-peer now.
    fn refer(&self, own: NodeId, near: Option<Coordinate>, now: Duration) -> Message {
        let remaining_ms = self.ends.saturating_sub(now).as_millis();
        let mut route = self.query.route.clone();
        route.push(Hop::new(own, Role::SuperPeer));
        let query = Query {
            wanted: self.missing(),
            remaining_ms: u32::try_from(remaining_ms).unwrap_or(MAX_REMAINING_MS),
            attempt: self.attempt,
            route,
            ..self.query.clone()
        };
        let tried = self.to_name().map(|(subgrid, asked)| {
            Tried::new(*subgrid, asked.answered || asked.times >= GIVEN_UP)
        });
        let regions = self.regions.keys().filter(|region| self.is_done(region));
        let errand = Errand {
            ticket: self.ticket,
            reply_to: own,
            tried: tried.take(MAX_TRIED).collect(),
            regions: regions.take(MAX_REGIONS_TRIED).copied().collect(),
            crossed: false,
            near,
        };
        Message::Refer(query, errand)
    }

    /// Nobody is waited for any more in this round.
    fn give_up_late(&mut self) {
        for asked in self.asked.values_mut().filter(|asked| asked.open) {
            asked.open = false;
            self.missed |= asked.times >= GIVEN_UP;
        }
        for region in self.regions.values_mut().filter(|region| region.open) {
            region.open = false;
            region.more = region.times < GIVEN_UP;
            self.missed |= region.times >= GIVEN_UP;
        }
    }

    /// Marks regions that have nobody left to ask.
    fn close_regions(&mut self) {
        let asked = &self.asked;
        for (id, region) in &mut self.regions {
            let of_it = || asked.values().filter(|asked| asked.region == Some(*id));
            let over = of_it().all(|asked| asked.answered || asked.times >= GIVEN_UP);
            region.done = over && !region.more;
        }
    }
}
