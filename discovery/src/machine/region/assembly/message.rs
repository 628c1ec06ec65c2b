use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use crate::machine::Mandate;
use crate::machine::coordinates::Coordinate;
use crate::machine::region::catalogue::MAX_SUBGRIDS;

/// Addresses are no longer as the node's network writes them, in bytes.
pub const MAX_REACH: usize = 1024;
/// No registration is longer, in bytes.
pub const MAX_REGISTRATION: usize = 2048;
/// No longer message of the region's group is taken, in bytes.
const MAX_GROUP: usize = 256 << 10;

/// Where a node of another sub-grid is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Which node.
    pub node: NodeId,
    /// Of which sub-grid it must prove to be a member; `None`: of any.
    pub subgrid: Option<SubgridId>,
    /// Its addresses, as the node's network writes them.
    pub addrs: Vec<u8>,
}

/// Who answers for a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Which site.
    pub subgrid: SubgridId,
    /// Its super-peer.
    pub node: NodeId,
    /// In which name: a later mandate outranks an earlier one.
    pub mandate: Mandate,
    /// Its addresses, as the node's network writes them.
    pub reach: Vec<u8>,
    /// How much it can be counted on, of 1000.
    pub availability: u16,
}

impl Seat {
    /// Where its node is.
    pub fn to_reach(&self) -> Reach {
        Reach { node: self.node, subgrid: Some(self.subgrid), addrs: self.reach.clone() }
    }

    fn is_sound(&self) -> bool {
        self.reach.len() <= MAX_REACH && self.availability <= 1000
    }
}

/// A line of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who answers for the site.
    pub seat: Seat,
    /// Whether it was heard lately.
    pub alive: bool,
}

/// A super-peer says that it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hail {
    /// Who.
    pub seat: Seat,
    /// The charter it knows; 0: none.
    pub charter: u64,
    /// Digest of the directory it was told last.
    pub directory: [u8; 8],
    /// What its sub-grid has signed to be let in, or go; empty when it asks for nothing.
    pub registration: Vec<u8>,
    /// When, in microseconds of its own clock.
    pub sent: u64,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Who answers.
    pub seat: Seat,
    /// The charter it knows; 0: none.
    pub charter: u64,
    /// The region-peer, as far as it knows.
    pub region_peer: Option<(Seat, Mandate)>,
    /// The directory, if it is another than the one that was told last.
    pub directory: Option<Vec<Row>>,
    /// Where it is.
    pub coordinate: Coordinate,
    /// [`Hail::sent`].
    pub echo: u64,
}

/// What super-peers of a region tell each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Word {
    /// Somebody is there.
    Hail(Box<Hail>),
    /// The answer.
    Welcome(Box<Welcome>),
    /// Of the region's group.
    Group(Vec<u8>),
    /// Who was asked is a member of the site, and no longer its super-peer: this one is.
    Moved(Box<Seat>),
}

impl Hail {
    /// Whether it is within bounds.
    pub fn is_sound(&self) -> bool {
        self.seat.is_sound() && self.registration.len() <= MAX_REGISTRATION
    }
}

impl Welcome {
    /// Whether it is within bounds.
    pub fn is_sound(&self) -> bool {
        let rows = self.directory.iter().flatten();
        self.seat.is_sound()
            && self.coordinate.checked().is_some()
            && self.region_peer.as_ref().is_none_or(|(seat, _)| seat.is_sound())
            && self.directory.as_ref().is_none_or(|rows| rows.len() <= MAX_SUBGRIDS)
            && rows.map(|row| &row.seat).all(Seat::is_sound)
    }
}

impl Word {
    /// Whether it is within bounds.
    pub fn is_sound(&self) -> bool {
        match self {
            Word::Hail(hail) => hail.is_sound(),
            Word::Welcome(welcome) => welcome.is_sound(),
            Word::Group(payload) => payload.len() <= MAX_GROUP,
            Word::Moved(seat) => seat.is_sound(),
        }
    }
}
