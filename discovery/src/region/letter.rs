//! What nodes of different sub-grids write to each other for their region.

use serde::{Deserialize, Serialize};

use super::View;
use crate::machine::Mandate;
use crate::machine::region::assembly::{MAX_REACH, Reach, Seat, Word};

/// No letter is longer, in bytes.
pub const MAX_LETTER: usize = 512 << 10;
/// So many hints come with one query.
const MAX_HINTS: usize = 4;

/// What is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Letter {
    /// Of the assembly of super-peers.
    Word(Word),
    /// A charter, signed by the region's key.
    Charter(Vec<u8>),
    /// A super-peer's report to its region-peer.
    Report(Vec<u8>),
    /// What that one answers.
    Receipt(Vec<u8>),
    /// One region-peer to another.
    Region {
        /// What its region has.
        report: Vec<u8>,
        /// Its charter now and then, which shows that it is one; else empty.
        charter: Vec<u8>,
    },
    /// The document of a virtual organisation, sealed by the sub-grid that owns it.
    Organisation(Vec<u8>),
    /// Of a query.
    Query {
        /// The message.
        message: Vec<u8>,
        /// Where those are whom it may have to be answered to.
        hints: Vec<Reach>,
    },
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    /// Which region this is, and who answers for it.
    Who,
    /// How the region stands.
    View,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The charter, and the region-peer as far as it is known.
    Known {
        /// As its region's admin has signed it.
        charter: Vec<u8>,
        /// Who answers for the region.
        region_peer: Option<(Seat, Mandate)>,
    },
    /// Somebody else of that sub-grid knows.
    Moved(Seat),
    /// How the region stands.
    View(Box<View>),
    /// Nothing, and why, in words.
    Refused(String),
}

/// A letter or a question.
#[derive(Debug, Serialize, Deserialize)]
pub enum Parcel {
    /// Is not answered.
    Letter(Letter),
    /// Is answered.
    Question(Question),
}

impl Parcel {
    /// Reads what another node has sent.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let parcel: Self = read(bytes)?;
        let sound = match &parcel {
            Parcel::Letter(Letter::Query { hints, .. }) => {
                let is_short = |hint: &Reach| hint.addrs.len() <= MAX_REACH;
                hints.len() <= MAX_HINTS && hints.iter().all(is_short)
            }
            _ => true,
        };
        sound.then_some(parcel)
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain structs of numbers, strings and lists always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

impl Reply {
    /// Reads what another node has answered.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        read(bytes)
    }

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    if bytes.len() > MAX_LETTER {
        return None;
    }
    postcard::from_bytes(bytes).ok()
}
