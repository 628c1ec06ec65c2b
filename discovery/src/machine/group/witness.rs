//! What was decided is known to a majority of the electors before it is told to have happened.

use std::collections::BTreeSet;
use std::time::Duration;

use phantom_model::NodeId;

use super::durable::{Change, Key};
use super::message::Body;
use super::replica::Applied;
use super::state::{Outcome, State};
use super::view::Life;
use super::{AGAIN, ANSWER, Group};

/// A decision that the electors are witnessing.
#[derive(Debug)]
pub struct Witnessing {
    by: Life,
    ticket: u64,
    outcome: Outcome,
    fragment: State,
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
        let Applied { by, ticket, outcome, fragment } = applied;
        if !self.leads() {
            return;
        }
        let Some(fragment) = fragment else {
            return self.tell_outcome(by, ticket, outcome, now);
        };
        self.witness_count += 1;
        let (number, witnesses) = (self.witness_count, BTreeSet::new());
        let (next, end) = (now, now + ANSWER);
        let witnessing = Witnessing { by, ticket, outcome, fragment, witnesses, next, end };
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
        let Some(view) = self.view() else { return };
        let electors: Vec<NodeId> = view.electors.keys().copied().collect();
        let mut asked = Vec::new();
        for (number, it) in self.witnessing.iter_mut().filter(|(_, it)| it.next <= now) {
            it.next = now + AGAIN;
            let open = electors.iter().filter(|node| !it.witnesses.contains(node));
            asked.extend(open.map(|node| (*node, *number, it.fragment.clone())));
        }
        for (node, number, fragment) in asked {
            if node == self.own {
                self.keep_witnessed(fragment);
                self.handle_witnessed(node, self.life, number, now);
            } else {
                self.send(node, Body::Witness { number, fragment: Box::new(fragment) });
            }
        }
    }

    pub(super) fn handle_witness(
        &mut self,
        from: NodeId,
        number: u64,
        fragment: State,
        now: Duration,
    ) {
        let leads = self.heard.is_some_and(|(last, _)| last.node == from);
        let seated = self.view().is_some_and(|view| view.seats(self.own, self.life));
        // Who has accepted another generation no longer counts for this one.
        if !leads || !seated || self.acceptor.accepted.is_some() {
            return;
        }
        if !fragment.is_sound() {
            return self.complain(from, "a state out of bounds");
        }
        self.bind(from, now);
        self.keep_witnessed(fragment);
        self.send(from, Body::Witnessed(number));
    }

    fn keep_witnessed(&mut self, fragment: State) {
        let before = self.witnessed.clone();
        self.witnessed.merge(fragment);
        if before != self.witnessed
            && let Ok(bytes) = postcard::to_stdvec(&self.witnessed)
        {
            self.acceptor.void();
            let change = self.founding_change();
            self.save(vec![Change::Put(Key::Witnessed, bytes), change]);
        }
    }

    pub(super) fn handle_witnessed(
        &mut self,
        from: NodeId,
        life: Life,
        number: u64,
        now: Duration,
    ) {
        let Some(founding) = &self.founding else { return };
        if !founding.view.seats(from, life) {
            return;
        }
        let Some(it) = self.witnessing.get_mut(&number) else { return };
        it.witnesses.insert(from);
        if founding.view.is_quorum(it.witnesses.iter().chain(&self.removed))
            && let Some(it) = self.witnessing.remove(&number)
        {
            self.tell_outcome(it.by, it.ticket, it.outcome, now);
        }
    }

    /// What this node's generation had decided, as far as the next does not know it.
    pub(super) fn remember_former(&mut self, next: &State) {
        let mut former = std::mem::take(&mut self.witnessed);
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
