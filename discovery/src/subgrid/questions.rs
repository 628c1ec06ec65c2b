//! What this node asks of others, and as super-peer answers: feeds the machines of queries.
//!
//! What holds:
//! - A question is taken from members and from this node only, never from outside the sub-grid.
//! - Who asks is told how it ended, or that this node takes no part any more.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;

use super::QueryError;
use super::listing::Listing;
use crate::machine::coordinates::Coordinate;
use crate::machine::query::{
    Answer, Asker, Command, Directory, Message, QueryId, RegionLink, Request, SuperPeer,
};

/// What is to be done for the machines.
#[derive(Debug, PartialEq)]
pub enum Deed {
    /// Send this to a member.
    Parcel(NodeId, Vec<u8>),
    /// Send this to a node that is none, or to the region-peer.
    Abroad(NodeId, Vec<u8>),
    /// A message of this node to itself that is about the registry: to be heard with a listing.
    Home(Box<Message>),
    /// This node asks more often than it may.
    Flooding(NodeId),
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a member, or from this node.
    Inside,
    /// From a node that has proven its key, whosever it is.
    Outside,
}

/// What becomes of a query.
pub type Asked = Result<Answer, QueryError>;

#[derive(Debug)]
struct Seat {
    subgrid: SubgridId,
    asker: Asker,
    super_peer: Option<SuperPeer>,
    waiting: HashMap<QueryId, oneshot::Sender<Asked>>,
}

/// The machines of queries in the sub-grid this node takes part in.
#[derive(Debug)]
pub struct Questions {
    own: NodeId,
    rng: StdRng,
    members: BTreeSet<NodeId>,
    region: RegionLink,
    near: Option<Coordinate>,
    seat: Option<Seat>,
}

impl Questions {
    /// Takes part in nothing yet; `seed` is random.
    pub fn new(own: NodeId, seed: [u8; 32]) -> Self {
        Self {
            own,
            rng: StdRng::from_seed(seed),
            members: BTreeSet::new(),
            region: RegionLink::Alone,
            near: None,
            seat: None,
        }
    }

    /// Who belongs to the sub-grid now.
    pub fn handle_members(&mut self, members: BTreeSet<NodeId>) {
        self.members = members;
    }

    /// In which sub-grid this node takes part now, and who answers for it.
    pub fn handle_standing(
        &mut self,
        subgrid: Option<SubgridId>,
        super_peer: Option<NodeId>,
        now: Duration,
    ) {
        let Some(subgrid) = subgrid else {
            self.seat = None;
            return;
        };
        let seat = match self.seat.take().filter(|seat| seat.subgrid == subgrid) {
            Some(seat) => self.seat.insert(seat),
            None => self.seat.insert(Seat {
                subgrid,
                asker: Asker::new(self.own, subgrid, self.rng.random()),
                super_peer: None,
                waiting: HashMap::new(),
            }),
        };
        if super_peer != Some(self.own) {
            seat.super_peer = None;
        } else if seat.super_peer.is_none() {
            let mut new = SuperPeer::new(self.own, subgrid, self.rng.random());
            new.handle_region(self.region, now);
            if let Some(near) = self.near {
                new.handle_coordinate(near);
            }
            seat.super_peer = Some(new);
        }
        seat.asker.handle_super_peer(super_peer, now);
    }

    /// What is known of the region from now on, and where this node is.
    pub fn handle_region(&mut self, region: RegionLink, near: Option<Coordinate>, now: Duration) {
        self.region = region;
        self.near = near.or(self.near);
        if let Some(super_peer) = self.seat.as_mut().and_then(|seat| seat.super_peer.as_mut()) {
            super_peer.handle_region(region, now);
            if let Some(near) = near {
                super_peer.handle_coordinate(near);
            }
        }
    }

    /// Begins to ask; `done` is told how it ended.
    pub fn handle_request(
        &mut self,
        request: Request,
        done: oneshot::Sender<Asked>,
        now: Duration,
    ) {
        let asked = match &mut self.seat {
            Some(seat) => seat.asker.handle_request(request, now).map_err(QueryError::from),
            None => Err(QueryError::NoGroup),
        };
        match (asked, &mut self.seat) {
            (Ok(id), Some(seat)) => drop(seat.waiting.insert(id, done)),
            // Whoever asked may have gone.
            (Err(error), _) => drop(done.send(Err(error))),
            (Ok(_), None) => {}
        }
    }

    /// A node has sent this. What the members say goes with what is about them.
    pub fn handle_message(
        &mut self,
        from: NodeId,
        message: Message,
        origin: Origin,
        listing: Option<&Listing>,
        now: Duration,
    ) {
        let Some(seat) = &mut self.seat else { return };
        let nobody = Listing::default();
        let directory: &dyn Directory = match (&message, listing) {
            (Message::Ask(_), _) if origin == Origin::Outside => return,
            (_, Some(listing)) => listing,
            (Message::Ask(_) | Message::Forward(..), None) => return,
            (_, None) => &nobody,
        };
        if let Message::Answer(_) = &message {
            seat.asker.handle_message(from, message.clone(), now);
        }
        if let Some(super_peer) = &mut seat.super_peer {
            super_peer.handle_message(from, message, directory, now);
        }
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let seat = self.seat.as_ref()?;
        let super_peer = seat.super_peer.as_ref().and_then(SuperPeer::poll_timeout);
        [seat.asker.poll_timeout(), super_peer].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        let Some(seat) = &mut self.seat else { return };
        seat.asker.handle_timeout(now);
        if let Some(super_peer) = &mut seat.super_peer {
            super_peer.handle_timeout(now);
        }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_deed(&mut self, now: Duration) -> Option<Deed> {
        loop {
            let seat = self.seat.as_mut()?;
            let of_super = || seat.super_peer.as_mut().and_then(SuperPeer::poll_command);
            let (to, message) = match seat.asker.poll_command().or_else(of_super)? {
                Command::Send { to, message } => (to, message),
                Command::Flooding { node, .. } => return Some(Deed::Flooding(node)),
                Command::Done(answer) => {
                    seat.finish(*answer);
                    continue;
                }
            };
            return Some(match *message {
                // The region-peer's part is elsewhere, on this node too.
                Message::Refer(..) => Deed::Abroad(to, message.to_bytes()),
                Message::Ask(_) | Message::Forward(..) if to == self.own => Deed::Home(message),
                _ if to == self.own => {
                    self.handle_message(to, *message, Origin::Inside, None, now);
                    continue;
                }
                _ if self.members.contains(&to) => Deed::Parcel(to, message.to_bytes()),
                _ => Deed::Abroad(to, message.to_bytes()),
            });
        }
    }
}

impl Seat {
    fn finish(&mut self, answer: Answer) {
        let Some(done) = self.waiting.remove(&answer.id) else { return };
        // Nobody was asked.
        let unasked = answer.steps == 0 && answer.messages == 0;
        // Whoever asked may have gone.
        let _ = done.send(if unasked { Err(QueryError::NoSuperPeer) } else { Ok(answer) });
    }
}

#[cfg(test)]
mod tests;
