//! What the super-peer does: keeps its lease, decides, and sees to voters and electors.

use std::collections::BTreeMap;
use std::time::Duration;

use phantom_model::NodeId;

use super::message::Body;
use super::plan::{Situation, Step};
use super::state::{Op, State};
use super::synod::Ballot;
use super::view::Life;
use super::{Founding, Group, Replica};
use crate::machine::Mandate;

/// Changes of the electors wait for each other so long.
const TOGETHER: Duration = Duration::from_secs(3);
/// Where there are many electors, longer.
const TOGETHER_MANY: Duration = Duration::from_secs(60);
const MANY: usize = 16;

/// What a super-peer may count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// In whose name it decides.
    pub mandate: Mandate,
    /// Until when it decides if no elector answers it any more.
    pub until: Duration,
    /// How long an elector that has answered helps nobody else.
    pub length: Duration,
}

impl Group {
    pub(super) fn leads(&self) -> bool {
        self.replica.as_ref().is_some_and(Replica::leads)
    }

    /// Whether a majority of the electors has answered within a lease; a tenth of it is left to
    /// clocks that go wrong.
    pub(super) fn has_lease(&self, now: Duration) -> bool {
        let Some(founding) = &self.founding else { return false };
        let lease = founding.view.lease() * 9 / 10;
        let recent = self.answered.iter().filter(|(_, sent)| **sent + lease > now);
        self.acceptor.accepted.is_none() && self.is_quorum(recent.map(|(node, _)| node))
    }

    /// What this node may count on as the super-peer; `None`: it may not decide now.
    pub fn lease(&self, now: Duration) -> Option<Lease> {
        if !self.may_decide(now) {
            return None;
        }
        let (mandate, length) = (self.replica.as_ref()?.mandate(), self.view()?.lease());
        let mut sent: Vec<(Duration, NodeId)> =
            self.answered.iter().map(|(node, sent)| (*sent, *node)).collect();
        sent.sort_unstable_by(|a, b| b.cmp(a));
        // So many of those that answered last are a majority.
        let (mut few, mut enough) = (0, sent.len());
        while few < enough {
            let middle = few.midpoint(enough);
            match self.is_quorum(sent[..middle].iter().map(|(_, node)| node)) {
                true => enough = middle,
                false => few = middle + 1,
            }
        }
        let last = enough.checked_sub(1).and_then(|last| sent.get(last));
        let until = last.map_or(now, |(sent, _)| *sent) + length * 9 / 10;
        Some(Lease { mandate, until, length })
    }

    pub(super) fn begin_to_lead(&mut self, now: Duration) {
        self.answered.clear();
        self.take_office(now);
        self.differs_since = None;
        self.beat(now);
    }

    /// Under a ballot that is higher than all it knows of: what was prepared before, by this node
    /// as well, is over once a majority has promised it.
    fn take_office(&mut self, now: Duration) {
        self.office = self.acceptor.promised.max(self.office).next(self.life);
        self.promised.clear();
        self.next_beat = now;
    }

    /// Whether a majority of the electors has promised the ballot of this office, so that what is
    /// witnessed in it is the latest.
    pub(super) fn is_in_office(&self) -> bool {
        self.attempt.is_none() && self.is_quorum(self.promised.iter())
    }

    pub(super) fn beat(&mut self, now: Duration) {
        let is_overtaken = self.attempt.is_none() && self.acceptor.promised > self.office;
        if is_overtaken && self.leads() {
            self.take_office(now);
        }
        let Some(founding) = self.founding.as_ref().filter(|_| now >= self.next_beat) else {
            return;
        };
        let beat = founding.view.beat();
        let Some(mandate) = self.replica.as_ref().filter(|it| it.leads()).map(Replica::mandate)
        else {
            return;
        };
        self.next_beat = now + beat;
        let sent = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let office = self.office;
        let alive = self.members.iter().filter(|(_, standing)| standing.alive);
        for to in alive.map(|(node, _)| *node).collect::<Vec<_>>() {
            self.send(to, Body::Beat { mandate, office, sent });
        }
        // As an elector it hears its own beat like everybody else's.
        let seated = self.view().is_some_and(|view| view.seats(self.own, self.life));
        if self.acceptor.accepted.is_none() && seated {
            self.bind(self.own, now);
            self.promise(office);
            let promised = self.acceptor.promised;
            self.handle_heard((self.own, self.life), (mandate, promised), sent, now);
        }
    }

    pub(super) fn handle_heard(
        &mut self,
        (from, life): (NodeId, Life),
        (mandate, promised): (Mandate, Ballot),
        sent: u64,
        now: Duration,
    ) {
        let sent = Duration::from_micros(sent);
        let Some(replica) = self.replica.as_ref().filter(|it| it.leads()) else { return };
        let seated = self.view().is_some_and(|view| view.seats(from, life));
        if replica.mandate() != mandate || !seated || sent > now {
            return;
        }
        let last = self.answered.entry(from).or_insert(sent);
        *last = sent.max(*last);
        if promised == self.office {
            let before = self.is_in_office();
            self.promised.insert(from);
            if !before && self.is_in_office() {
                self.witness_now(now);
            }
        } else if self.attempt.is_none() && promised > self.office {
            if promised.is_beyond(self.office) {
                return self.complain(from, "a ballot out of all proportion");
            }
            // Others have tried to found a generation meanwhile.
            self.office = promised;
            self.take_office(now);
        }
    }

    pub(super) fn handle_proposal(
        &mut self,
        from: NodeId,
        life: Life,
        ticket: u64,
        op: Op,
        now: Duration,
    ) {
        let accepted = op.is_sound()
            && self.may_decide(now)
            && self.replica.as_mut().is_some_and(|it| it.propose(life, ticket, op));
        if !accepted {
            self.send(from, Body::Outcome { ticket, outcome: None });
        }
    }

    /// A former voter or learner brings what its group had decided.
    pub(super) fn handle_merge(&mut self, from: NodeId, life: Life, state: State, now: Duration) {
        if !state.is_sound() {
            return self.complain(from, "a state out of bounds");
        }
        if !self.leads() || !self.has_lease(now) {
            return;
        }
        let Some(replica) = &mut self.replica else { return };
        let mut merged = replica.state().clone();
        merged.merge(state.clone());
        if merged == *replica.state() {
            self.send(from, Body::Merged);
        } else {
            // When it comes again, there will be nothing new in it.
            replica.propose(life, 0, Op::Merge(Box::new(state)));
        }
    }

    /// Voters, learners, who leads, and who should be an elector.
    pub(super) fn upkeep(&mut self, now: Duration) {
        if !self.leads() {
            return;
        }
        if let Some(replica) = &mut self.replica {
            replica.free_snapshots();
        }
        let (Some(replica), Some(founding)) = (&self.replica, &self.founding) else { return };
        if self.attempt.is_some() || !self.has_lease(now) {
            return;
        }
        let situation = self.situation(replica, founding, now);
        let electors = situation.electors();
        let step = situation.step().filter(|_| !situation.conf.is_joint && replica.is_settled());
        if electors == founding.view.electors {
            self.differs_since = None;
        } else {
            let since = *self.differs_since.get_or_insert(now);
            let many = founding.view.electors.len().max(electors.len()) > MANY;
            let wait = if many { TOGETHER_MANY } else { TOGETHER };
            if now >= since + wait && now >= self.quiet_until {
                self.differs_since = None;
                return self.begin_attempt(now);
            }
        }
        match step {
            Some(Step::Reconfigure { voters, learners }) => {
                if let Some(replica) = &mut self.replica {
                    replica.reconfigure(&voters, &learners);
                }
            }
            Some(Step::Transfer(to)) => {
                let life = self.view().and_then(|view| view.electors.get(&to)).copied();
                if let (Some(replica), Some(life)) = (&mut self.replica, life) {
                    replica.transfer(life);
                }
            }
            None => {}
        }
    }

    /// The electors of the next generation, as the super-peer wants them.
    pub(super) fn wanted_electors(&self, now: Duration) -> Option<BTreeMap<NodeId, Life>> {
        let (replica, founding) = (self.replica.as_ref()?, self.founding.as_ref()?);
        Some(self.situation(replica, founding, now).electors())
    }

    fn situation<'a>(
        &'a self,
        replica: &'a Replica,
        founding: &'a Founding,
        now: Duration,
    ) -> Situation<'a> {
        Situation {
            own: self.own,
            now,
            view: &founding.view,
            conf: replica.conf(),
            members: &self.members,
            availability: self.availability,
            lives: &self.lives,
            replica,
        }
    }
}
