//! How a generation begins: the first one, those that survivors found, and those that the
//! super-peer founds because the electors are others now.

use std::collections::BTreeMap;
use std::time::Duration;

use phantom_model::NodeId;
use rand::RngExt;

use super::durable::{Change, Key};
use super::message::Body;
use super::plan::first_voters;
use super::state::State;
use super::synod::{Acceptor, Attempt, Ballot, Choice, Founding, Progress};
use super::view::{Life, View};
use super::{AGAIN, Group, Replica};

/// An attempt that has no majority by then is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Who is the next most available waits for the one before.
const TURN: Duration = Duration::from_millis(300);

impl Group {
    /// The node that founded the sub-grid begins the first generation, when most members say that
    /// they know of none.
    pub(super) fn begin_first(&mut self, now: Duration) {
        if self.founding.is_some() || !self.is_founder {
            return;
        }
        let known: usize = 1 + self.blank.len();
        if 2 * known > 1 + self.members.len() {
            let electors = BTreeMap::from([(self.own, self.life)]);
            let voters = [self.own].into_iter().collect();
            let view = View { generation: 1, electors, tie: self.own, voters };
            return self
                .adopt(Founding { view, state: State::default(), is_refounded: false }, now);
        }
        for to in self.members.keys().copied().collect::<Vec<_>>() {
            self.tell(to, 0, Body::AskFounding, now);
        }
    }

    /// A generation has begun.
    pub(super) fn adopt(&mut self, founding: Founding, now: Duration) {
        self.remember_former(&founding.state);
        let view = founding.view.clone();
        self.acceptor = Acceptor::default();
        self.attempt = None;
        self.heard = None;
        self.witnessing.clear();
        // No super-peer of this generation can have been answered by this node.
        (self.bound, self.blind_until) = ((None, now), now);
        self.quiet_until = now + view.lease();
        self.grace_until = if founding.is_refounded { now + view.lease() } else { now };
        self.next_tick = now;
        let mut changes = vec![Change::DropLog];
        if view.voters.contains(&self.own) && view.seats(self.own, self.life) {
            let voters = view.voters.iter().filter_map(|node| view.electors.get(node)).copied();
            let rng = self.fork();
            let begun = Some((&voters.collect(), &founding.state));
            self.replica = Replica::begin(view.generation, self.life, begun, rng);
            changes.extend(self.replica.as_mut().map(Replica::take_changes).unwrap_or_default());
        }
        self.founding = Some(founding);
        changes.push(self.founding_change());
        self.save(changes);
        if view.tie == self.own
            && let Some(replica) = &mut self.replica
        {
            replica.campaign();
        }
        self.flush(now);
    }

    pub(super) fn founding_change(&self) -> Change {
        let bytes = self
            .founding
            .as_ref()
            .and_then(|founding| postcard::to_stdvec(&(founding, &self.acceptor)).ok());
        bytes.map_or(Change::Drop(Key::Founding), |bytes| Change::Put(Key::Founding, bytes))
    }

    pub(super) fn progress(&self) -> Progress {
        let mut progress = self.witnessed.clone();
        if let Some(replica) = &self.replica {
            let (at, state) = (replica.stamp(), replica.state().clone());
            progress.merge(Progress { at, state, office: Ballot::default() });
        }
        progress
    }

    /// Survivors found the next generation when no super-peer has been heard for a lease and a
    /// majority of the electors lives; the most available one tries first.
    pub(super) fn consider_founding(&mut self, now: Duration) {
        let Some(founding) = &self.founding else { return };
        let view = &founding.view;
        if self.attempt.is_some()
            || now < self.quiet_until
            || !view.seats(self.own, self.life)
            || (self.leads() && self.has_lease(now))
        {
            return;
        }
        let is_alive =
            |node: &NodeId| *node == self.own || self.members.get(node).is_some_and(|it| it.alive);
        let alive = || view.electors.keys().filter(|node| is_alive(node));
        let lease = view.lease();
        let silent_since = self.heard.map_or(Duration::ZERO, |(_, at)| at);
        if now < silent_since + lease
            || !self.is_free_for(self.own, now)
            || !self.is_quorum(alive())
        {
            return;
        }
        let rank = |node: NodeId| {
            let availability = match self.members.get(&node) {
                Some(standing) => standing.availability,
                None => self.availability,
            };
            (availability, std::cmp::Reverse(node))
        };
        let before = alive().filter(|node| rank(**node) > rank(self.own)).count() as u32;
        let turn = silent_since + lease + lease / 10 + TURN * before.min(16);
        if now >= turn {
            self.begin_attempt(now);
        }
    }

    pub(super) fn begin_attempt(&mut self, now: Duration) {
        let ballot = self.acceptor.promised.max(self.office).next(self.life);
        self.attempt = Some(Attempt::new(ballot));
        self.attempt_due = (now, now + PATIENCE);
        self.drive_attempt(now);
    }

    /// Asks those that have not answered, itself first.
    pub(super) fn drive_attempt(&mut self, now: Duration) {
        let (Some(attempt), Some(founding)) = (&self.attempt, &self.founding) else { return };
        if now < self.attempt_due.0 {
            return;
        }
        if now >= self.attempt_due.1 {
            return self.give_up(now);
        }
        self.attempt_due.0 = now + AGAIN;
        let ballot = attempt.ballot;
        let body = match attempt.proposal.clone() {
            None => Body::Prepare(ballot),
            Some(founding) => Body::Accept { ballot, founding: Box::new(founding) },
        };
        let electors = founding.view.electors.keys();
        let mut asked: Vec<NodeId> =
            electors.filter(|node| !attempt.has_answered(node)).copied().collect();
        // What this node itself does not accept, nobody else is to.
        if asked.contains(&self.own) {
            asked.retain(|node| *node != self.own);
            let goes_on = match body.clone() {
                Body::Accept { ballot, founding } => self.accept_self(ballot, *founding, now),
                _ => self.prepare_self(ballot, now),
            };
            if !goes_on {
                return;
            }
        }
        asked.into_iter().for_each(|to| self.send(to, body.clone()));
    }

    /// Whether others are to be asked as well.
    fn prepare_self(&mut self, ballot: Ballot, now: Duration) -> bool {
        if !self.is_free_for(self.own, now) || self.acceptor.prepare(ballot).is_err() {
            self.give_up(now);
            return false;
        }
        let change = self.founding_change();
        self.save(vec![change]);
        let (accepted, progress) = (self.acceptor.accepted.clone(), self.progress());
        self.handle_promise(self.own, self.life, ballot, accepted, progress, now);
        self.attempt.as_ref().is_some_and(|it| it.ballot == ballot && it.proposal.is_none())
    }

    fn accept_self(&mut self, ballot: Ballot, founding: Founding, now: Duration) -> bool {
        if !self.is_free_for(self.own, now) || self.acceptor.accept(ballot, founding).is_err() {
            self.give_up(now);
            return false;
        }
        let change = self.founding_change();
        self.save(vec![change]);
        self.handle_accepted(self.own, self.life, ballot, now);
        self.attempt.as_ref().is_some_and(|it| it.ballot == ballot)
    }

    fn give_up(&mut self, now: Duration) {
        self.attempt = None;
        let pause = self.rng.random_range(500..2500);
        self.quiet_until = self.quiet_until.max(now + Duration::from_millis(pause));
    }

    pub(super) fn handle_promise(
        &mut self,
        from: NodeId,
        life: Life,
        ballot: Ballot,
        accepted: Option<(Ballot, Box<Founding>)>,
        progress: Progress,
        now: Duration,
    ) {
        let (Some(attempt), Some(founding)) = (&mut self.attempt, &self.founding) else { return };
        let sound = progress.state.is_sound()
            && accepted.as_ref().is_none_or(|(_, it)| {
                it.is_sound() && it.view.generation == founding.view.generation + 1
            });
        if !sound {
            return self.complain(from, "a promise that makes no sense");
        }
        if attempt.ballot != ballot
            || !founding.view.seats(from, life)
            || attempt.proposal.is_some()
        {
            return;
        }
        attempt.promised(from, accepted, progress);
        let Some(choice) = attempt.choice(&founding.view, &self.removed) else { return };
        let proposal = match choice {
            Choice::Bound(value) => Some(*value),
            Choice::Free => self.own_proposal(now),
        };
        let Some(proposal) = proposal else { return self.give_up(now) };
        if let Some(attempt) = &mut self.attempt {
            attempt.proposal = Some(proposal);
        }
        self.attempt_due.0 = now;
        self.drive_attempt(now);
    }

    /// What this node would found: as the super-peer what it wants, else with those that live.
    fn own_proposal(&self, now: Duration) -> Option<Founding> {
        let (attempt, founding) = (self.attempt.as_ref()?, self.founding.as_ref()?);
        let leads = self.leads() && self.has_lease(now);
        let replica = self.replica.as_ref();
        // A former super-peer that a later one has followed does not know what that one decided;
        // and what is on its way may yet be decided.
        let is_current = |it: &Replica| it.is_settled() && attempt.known.at <= it.stamp();
        if leads && !replica.is_some_and(is_current) {
            return None;
        }
        // Who has come back without its memory cannot take the seat it had.
        let has_forgotten =
            |node: &NodeId, life: &Life| self.lives.get(node).is_some_and(|known| known != life);
        let is_alive = |node: &NodeId, life: &Life| {
            let lives = self.members.get(node).is_some_and(|it| it.alive);
            *node == self.own || attempt.has_promise(node) || lives && !has_forgotten(node, life)
        };
        let electors: BTreeMap<NodeId, Life> = if leads {
            self.wanted_electors(now)?
        } else {
            let alive = founding.view.electors.iter().filter(|(node, life)| is_alive(node, life));
            alive.map(|(node, life)| (*node, *life)).collect()
        };
        let state = match replica.filter(|_| leads) {
            Some(replica) => replica.state().clone(),
            None => {
                let mut state = founding.state.clone();
                state.merge(attempt.known.state.clone());
                state
            }
        };
        let rank = |node: NodeId| {
            let standing = self.members.get(&node);
            let promised = attempt.has_promise(&node);
            (
                promised || standing.is_some_and(|it| it.alive),
                standing.map_or(self.availability, |it| it.availability),
            )
        };
        let voters = first_voters(&electors, self.own, rank);
        let generation = founding.view.generation + 1;
        let view = View { generation, electors, tie: self.own, voters };
        Some(Founding { view, state, is_refounded: !leads })
    }

    pub(super) fn handle_accepted(
        &mut self,
        from: NodeId,
        life: Life,
        ballot: Ballot,
        now: Duration,
    ) {
        let (Some(attempt), Some(founding)) = (&mut self.attempt, &self.founding) else { return };
        if attempt.ballot != ballot || !founding.view.seats(from, life) {
            return;
        }
        if !attempt.accepted(from, &founding.view, &self.removed) {
            return;
        }
        let Some(decided) = attempt.proposal.clone() else { return };
        self.adopt(decided.clone(), now);
        for to in self.members.keys().copied().collect::<Vec<_>>() {
            self.tell(to, 2, Body::Founded(Box::new(decided.clone())), now);
        }
    }

    /// Somebody has promised another more, or is bound.
    pub(super) fn handle_refusal(&mut self, promised: Ballot, now: Duration) {
        let is_ahead =
            |attempt: &Attempt| promised > attempt.ballot && !promised.is_beyond(attempt.ballot);
        if self.attempt.as_ref().is_some_and(is_ahead) {
            // The next attempt goes beyond that.
            self.promise(promised);
            self.give_up(now);
        }
    }
}
