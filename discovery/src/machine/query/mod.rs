//! Who has what is needed: a query goes from a node to its super-peer, from there to the region-peer,
//! which forwards it to the sub-grids whose cumulative power promises most, and to other regions when
//! its own has nothing (paper, 4.4.1 and 4.4.2).
//!
//! ```text
//!  node ── Ask ──▶ super-peer ── Refer ──▶ region-peer ── Forward ──▶ super-peer of a sub-grid
//!   ▲                │  ▲  ▲ ◀── Referral ──┘   └── Refer ──▶ region-peer of another region
//!   └──── Answer ────┘  └──┴────────────────── Answer ───────┘
//! ```
//!
//! What holds:
//! - What a sub-grid can meet stays inside, and costs a question and an answer.
//! - Who is asked answers the asking super-peer directly, with a ticket that is good for that one
//!   node and sub-grid only ([`Ticket::of`]); an answer without it, or that nobody waits for, changes
//!   nothing.
//! - The asking super-peer is the only one that keeps a query, until its deadline at the latest; it
//!   asks again what is lost and goes on to next-best sub-grids when the first do not suffice or are
//!   late. Region-peers keep nothing of it, so one that takes over simply goes on.
//! - A question and its repetitions are numbered, and each number is handled once; a query ends after
//!   [`MAX_HOPS`] hops, so no loop lives.
//! - Queries in flight, messages, matches, expressions and what evaluating them may take are bounded,
//!   and so is how often one node may ask: one that floods is named and not answered.
//! - An asker gets an answer, or is told that there is none, by its deadline.

mod answerer;
mod asker;
mod limit;
mod matching;
mod region_peer;
mod super_peer;
mod wire;

use std::fmt;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

pub use asker::{AskError, Asker, Request};
pub use matching::{BadQuery, Directory, Wanted};
pub use region_peer::RegionPeer;
pub use super_peer::{RegionLink, SuperPeer};

use super::coordinates::Coordinate;
use super::region::RegionId;
use crate::envelope::ShortId;

/// Requirements and rank together are no longer, in bytes.
pub const MAX_EXPRESSION: usize = 512;
/// Names of virtual organisations are no longer, in bytes.
pub const MAX_VO: usize = 64;
/// Nobody asks for more nodes at once.
pub const MAX_WANTED: u8 = 12;
/// A query crosses no more hops.
pub const MAX_HOPS: usize = 8;
/// No message is longer, in bytes; fits a datagram.
pub const MAX_MESSAGE: usize = 1100;
/// A query may take no longer, in milliseconds.
pub const MAX_REMAINING_MS: u32 = 60_000;
/// So many sub-grids are known to have been asked.
const MAX_TRIED: usize = 40;
const MAX_REGIONS_TRIED: usize = 12;
/// Sub-grids and regions that one region-peer asks at once, at most.
const MAX_FAN_OUT: usize = 4;
/// So many attributes are told of a match, each so long at most, in bytes.
const MAX_ATTRIBUTES: usize = 8;
const MAX_ATTRIBUTE: usize = 48;

/// A query, unique across the grid: random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct QueryId(pub [u8; 16]);

/// How far a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// The sub-grid of who asks.
    SubGrid,
    /// Its region as well.
    Region,
    /// Every region.
    Grid,
}

/// In what part a node has handled a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// It asks.
    Asker,
    /// It answers for the asker's sub-grid.
    SuperPeer,
    /// It answers for a region.
    RegionPeer,
    /// It answers for another sub-grid.
    Answerer,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Asker => "asker",
            Role::SuperPeer => "super-peer",
            Role::RegionPeer => "region-peer",
            Role::Answerer => "answering super-peer",
        })
    }
}

/// A node on a query's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    node: [u8; 8],
    /// What it did there.
    pub role: Role,
}

impl Hop {
    /// This node, in this role.
    pub fn new(node: NodeId, role: Role) -> Self {
        Self { node: ShortId::from(node).0, role }
    }

    /// Which node.
    pub fn node(&self) -> ShortId {
        ShortId(self.node)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Which query.
    pub id: QueryId,
    /// Who wants to know.
    pub origin: NodeId,
    /// A ClassAd expression that must be true of a node.
    pub requirements: String,
    /// A ClassAd expression by which nodes are ranked, the highest first.
    pub rank: Option<String>,
    /// How many nodes are wanted.
    pub wanted: u8,
    /// How far to ask.
    pub scope: Scope,
    /// Only nodes of this virtual organisation.
    pub vo: Option<String>,
    /// How long an answer is of use from now on; each hop takes off what it has used.
    pub remaining_ms: u32,
    /// Numbers repetitions of the question on each leg.
    pub attempt: u16,
    /// Who has handled it.
    pub route: Vec<Hop>,
}

/// What shows that somebody was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket(pub [u8; 16]);

impl Ticket {
    /// The ticket that is good for one node, which answers for one sub-grid or for a region (`None`).
    pub fn of(&self, node: NodeId, subgrid: Option<SubgridId>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("phantom query ticket");
        hasher.update(&self.0).update(&node.0);
        subgrid.map(|subgrid| hasher.update(&subgrid.0));
        let digest = *hasher.finalize().as_bytes();
        Self(digest.first_chunk().copied().unwrap_or_default())
    }
}

/// A sub-grid that was asked before, by the first bytes of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tried {
    subgrid: [u8; 4],
    /// Whether it need not be asked again; else it is late.
    pub answered: bool,
}

impl Tried {
    /// This sub-grid.
    pub fn new(subgrid: SubgridId, answered: bool) -> Self {
        Self { subgrid: key(subgrid), answered }
    }
}

fn key(subgrid: SubgridId) -> [u8; 4] {
    subgrid.0.first_chunk().copied().unwrap_or_default()
}

/// What a super-peer gives a region-peer along with a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errand {
    /// From which the tickets of those who are asked are derived.
    pub ticket: Ticket,
    /// Who waits for their answers.
    pub reply_to: NodeId,
    /// Sub-grids that need not be asked again.
    pub tried: Vec<Tried>,
    /// Regions that have nobody left to ask.
    pub regions: Vec<RegionId>,
    /// Whether it comes from another region, so that it is not passed to a third.
    pub crossed: bool,
    /// Where who waits is.
    pub near: Option<Coordinate>,
}

/// A node that matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// Which node.
    pub node: NodeId,
    /// Its sub-grid.
    pub subgrid: SubgridId,
    /// Its rank; 0 without one.
    pub rank: f64,
    /// The attributes that matter, with their values as ClassAd expressions.
    pub attributes: Vec<(String, String)>,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// As many as were wanted.
    Met,
    /// Fewer, or none: nobody else who could be asked has more.
    Short,
    /// Fewer, or none, by the deadline; somebody who might have more has not answered.
    Late,
    /// The super-peer has too much to do; to be asked again later.
    Busy,
    /// The query makes no sense; the super-peer has refused it.
    Refused,
    /// Fewer, or none: the sub-grid belongs to no region, so nobody else was asked.
    Alone,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Met => "met",
            Outcome::Short => "nobody else has what is needed",
            Outcome::Late => "not everybody has answered in time",
            Outcome::Busy => "the super-peer has too much to do: ask again later",
            Outcome::Refused => "the super-peer refuses the expression: check how it is written",
            Outcome::Alone => "the sub-grid belongs to no region, and has no more itself",
        })
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// To which query.
    pub id: QueryId,
    /// The sub-grid of who answers.
    pub subgrid: SubgridId,
    /// That it was asked; to an asker none is needed.
    pub ticket: Ticket,
    /// How it ended.
    pub outcome: Outcome,
    /// Who matches, best first, at most [`MAX_WANTED`].
    pub matches: Vec<Match>,
    /// The way to the last of them.
    pub route: Vec<Hop>,
    /// One-way steps, one after the other, that it has taken.
    pub steps: u8,
    /// Messages it has cost, as far as is known to who answers.
    pub messages: u16,
}

/// What a region-peer tells whom it has asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Referral {
    /// For which query.
    pub id: QueryId,
    /// The attempt it is about.
    pub attempt: u16,
    /// That the region-peer was asked.
    pub ticket: Ticket,
    /// Which region.
    pub region: RegionId,
    /// Sub-grids that it has asked.
    pub asked: Vec<SubgridId>,
    /// Regions that it has asked.
    pub crossed: Vec<RegionId>,
    /// Whether others in the region could be asked.
    pub more: bool,
    /// Messages that it has sent for this, this one included.
    pub messages: u8,
}

/// What nodes send each other.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// A node to its super-peer.
    Ask(Query),
    /// A super-peer to its region-peer, a region-peer to another.
    Refer(Query, Errand),
    /// A region-peer to the super-peer of a sub-grid.
    Forward(Query, Forward),
    /// To who has asked.
    Answer(Answer),
    /// A region-peer to who waits for answers.
    Referral(Referral),
}

/// What a region-peer gives a super-peer along with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// To be given back with the answer.
    pub ticket: Ticket,
    /// Whom to answer.
    pub reply_to: NodeId,
    /// The sub-grid that is asked.
    pub subgrid: SubgridId,
}

impl Message {
    /// Which query it is about.
    pub fn id(&self) -> QueryId {
        match self {
            Message::Ask(query) | Message::Refer(query, _) | Message::Forward(query, _) => query.id,
            Message::Answer(answer) => answer.id,
            Message::Referral(referral) => referral.id,
        }
    }
}

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Send this to a node; it may be this one.
    Send {
        /// To whom.
        to: NodeId,
        /// What; to be authenticated on the way.
        message: Box<Message>,
    },
    /// A query of this node has ended.
    Done(Box<Answer>),
    /// A node asks more often than it may; what it sends is not answered until it
    /// asks less.
    Flooding {
        /// Who.
        node: NodeId,
        /// How many of its messages were dropped so far.
        dropped: u64,
    },
}

#[cfg(test)]
mod tests;
