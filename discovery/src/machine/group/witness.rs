//! What was decided is known to a majority of the electors before it is told to have happened.

use std::collections::BTreeSet;
use std::time::Duration;

use phantom_model::NodeId;

use super::durable::{Change, Key};
use super::message::Body;
use super::replica::Applied;
use super::state::{Outcome, State};
use super::synod::{Ballot, Progress};
use super::view::Life;
use super::{AGAIN, ANSWER, Group};

/// A decision that the electors are witnessing.
#[derive(Debug)]
pub struct Witnessing {
    by: Life,
    ticket: u64,
    outcome: Outcome,
    /// What, and in which office.
    decided: Progress,
    /// Who has witnessed it in that office.
    witnesses: BTreeSet<NodeId>,
    next: Duration,
    end: Duration,
}

impl Witnessing {
    pub fn due(&self) -> Duration {
        self.next.min(self.end)
    }
}

impl Group {
    /// An entry of the log has been applied.
    pub(super) fn handle_applied(&mut self, applied: Applied, now: Duration) {
        let Applied { by, ticket, at, outcome, fragment } = applied;
        if !self.leads() {
            return;
        }
        let Some(fragment) = fragment else {
            return self.tell_outcome(by, ticket, outcome, now);
        };
        self.witness_count += 1;
        let (number, witnesses) = (self.witness_count, BTreeSet::new());
        let (next, end) = (now, now + ANSWER);
        let decided = Progress { at, state: fragment, office: self.office };
        let witnessing = Witnessing { by, ticket, outcome, decided, witnesses, next, end };
        self.witnessing.insert(number, witnessing);
        self.drive_witnessing(now);
    }

    /// Tells who proposed it what came of it. Without the lease another generation may decide
    /// otherwise, so nothing can be told then.
    fn tell_outcome(&mut self, by: Life, ticket: u64, outcome: Outcome, now: Duration) {
        let outcome = self.may_decide(now).then_some(outcome);
        if by == self.life {
            self.settle(ticket, outcome);
        } else if let Some((node, _)) = self.lives.iter().find(|(_, life)| **life == by) {
            self.send(*node, Body::Outcome { ticket, outcome });
        }
    }

    pub(super) fn drive_witnessing(&mut self, now: Duration) {
        self.witnessing.retain(|_, it| it.end > now);
        let (is_in_office, office) = (self.is_in_office(), self.office);
        let Some(view) = self.view() else { return };
        let electors: Vec<NodeId> = view.electors.keys().copied().collect();
        let mut asked = Vec::new();
        for (number, it) in self.witnessing.iter_mut().filter(|(_, it)| it.next <= now) {
            it.next = now + AGAIN;
            if !is_in_office {
                continue;
            }
            if it.decided.office != office {
                (it.decided.office, it.witnesses) = (office, BTreeSet::new());
            }
            let open = electors.iter().filter(|node| !it.witnesses.contains(node));
            asked.extend(open.map(|node| (*node, *number, it.decided.clone())));
        }
        for (node, number, decided) in asked {
            if node != self.own {
                self.send(node, Body::Witness { number, decided: Box::new(decided) });
            } else if self.witness(decided) {
                self.handle_witnessed((node, self.life), number, office, now);
            }
        }
    }

    /// What waits for the office to begin is witnessed now.
    pub(super) fn witness_now(&mut self, now: Duration) {
        self.witnessing.values_mut().for_each(|it| it.next = now);
        self.drive_witnessing(now);
    }

    pub(super) fn handle_witness(&mut self, from: NodeId, number: u64, decided: Progress) {
        let leads = self.heard.is_some_and(|(last, _)| last.node == from);
        let seated = self.view().is_some_and(|view| view.seats(self.own, self.life));
        if !leads || !seated {
            return;
        }
        if !decided.state.is_sound() || decided.office.is_beyond(self.acceptor.promised) {
            return self.complain(from, "a state or a ballot out of bounds");
        }
        let office = decided.office;
        if self.witness(decided) {
            self.send(from, Body::Witnessed { number, office });
        }
    }

    /// Keeps what was decided, unless this elector has promised another a later ballot, or has
    /// accepted another generation and so no longer counts for this one.
    fn witness(&mut self, decided: Progress) -> bool {
        if self.acceptor.accepted.is_some() || self.acceptor.prepare(decided.office).is_err() {
            return false;
        }
        let before = self.witnessed.clone();
        self.witnessed.merge(decided);
        if before != self.witnessed
            && let Ok(bytes) = postcard::to_stdvec(&self.witnessed)
        {
            let change = self.founding_change();
            self.save(vec![Change::Put(Key::Witnessed, bytes), change]);
        }
        true
    }

    pub(super) fn handle_witnessed(
        &mut self,
        (from, life): (NodeId, Life),
        number: u64,
        office: Ballot,
        now: Duration,
    ) {
        let Some(founding) = &self.founding else { return };
        if !founding.view.seats(from, life) {
            return;
        }
        let it = self.witnessing.get_mut(&number).filter(|it| it.decided.office == office);
        let Some(it) = it else { return };
        it.witnesses.insert(from);
        if founding.view.is_quorum(it.witnesses.iter().chain(&self.removed))
            && let Some(it) = self.witnessing.remove(&number)
        {
            self.tell_outcome(it.by, it.ticket, it.outcome, now);
        }
    }

    /// What this node's generation had decided, as far as the next does not know it.
    pub(super) fn remember_former(&mut self, next: &State) {
        let mut former = std::mem::take(&mut self.witnessed).state;
        if let Some(replica) = self.replica.take() {
            former.merge(replica.state().clone());
        }
        if let Some(orphan) = self.orphan.take() {
            former.merge(*orphan);
        }
        let mut merged = next.clone();
        merged.merge(former.clone());
        self.orphan = (merged != *next).then(|| Box::new(former));
    }
}
