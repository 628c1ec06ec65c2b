//! What an elector promises: to help nobody else while it is bound to a super-peer, and to accept
//! nothing that is older than what it has promised.

use std::time::Duration;

use phantom_model::NodeId;

use super::message::Body;
use super::synod::{Ballot, Founding};
use super::{Group, Mandate, SuperPeer};

impl Group {
    pub(super) fn handle_beat(
        &mut self,
        from: NodeId,
        (mandate, office): (Mandate, Ballot),
        sent: u64,
        now: Duration,
    ) {
        if mandate.generation != self.generation()
            || self.heard.is_some_and(|(last, _)| {
                mandate < last.mandate || (mandate == last.mandate && last.node != from)
            })
        {
            return;
        }
        self.heard = Some((SuperPeer { node: from, mandate }, now));
        if let Some(state) = self.orphan.clone() {
            self.tell(from, 1, Body::Merge(state), now);
        }
        // Who has accepted another generation may have founded it.
        if self.acceptor.accepted.is_none() {
            if office.is_beyond(self.acceptor.promised) {
                return self.complain(from, "a ballot out of all proportion");
            }
            self.bind(from, now);
            self.promise(office);
            let promised = self.acceptor.promised;
            self.send(from, Body::Heard { mandate, promised, sent });
        }
    }

    /// Until a lease is over nobody else is helped.
    pub(super) fn bind(&mut self, to: NodeId, now: Duration) {
        if let Some(founding) = &self.founding {
            self.bound = (Some(to), now + founding.view.lease());
        }
    }

    /// Whether this elector may help `node` to found a generation.
    pub(super) fn is_free_for(&self, node: NodeId, now: Duration) -> bool {
        let (bound, until) = self.bound;
        now >= self.blind_until && (now >= until || bound == Some(node))
    }

    /// To accept nothing older.
    pub(super) fn promise(&mut self, ballot: Ballot) {
        let seated = self.view().is_some_and(|view| view.seats(self.own, self.life));
        if seated && ballot > self.acceptor.promised && self.acceptor.prepare(ballot).is_ok() {
            let change = self.founding_change();
            self.save(vec![change]);
        }
    }

    pub(super) fn handle_prepare(&mut self, from: NodeId, ballot: Ballot, now: Duration) {
        if !self.view().is_some_and(|view| view.seats(self.own, self.life)) {
            return;
        }
        if ballot.is_beyond(self.acceptor.promised) {
            return self.complain(from, "a ballot out of all proportion");
        }
        if !self.is_free_for(from, now) {
            return self.send(from, Body::Refuse(self.acceptor.promised));
        }
        match self.acceptor.prepare(ballot) {
            Ok(()) => {
                let change = self.founding_change();
                self.save(vec![change]);
                let accepted = self.acceptor.accepted.clone();
                let progress = Box::new(self.progress());
                self.send(from, Body::Promise { ballot, accepted, progress });
            }
            Err(promised) => self.send(from, Body::Refuse(promised)),
        }
    }

    pub(super) fn handle_accept(
        &mut self,
        from: NodeId,
        ballot: Ballot,
        founding: Founding,
        now: Duration,
    ) {
        let seated = self.view().is_some_and(|view| view.seats(self.own, self.life));
        if !seated || founding.view.generation != self.generation() + 1 {
            return;
        }
        if !founding.is_sound() {
            return self.complain(from, "a founding that makes no sense");
        }
        if !self.is_free_for(from, now) {
            return self.send(from, Body::Refuse(self.acceptor.promised));
        }
        match self.acceptor.accept(ballot, founding) {
            Ok(()) => {
                let change = self.founding_change();
                self.save(vec![change]);
                self.send(from, Body::Accepted(ballot));
            }
            Err(promised) => self.send(from, Body::Refuse(promised)),
        }
    }
}
