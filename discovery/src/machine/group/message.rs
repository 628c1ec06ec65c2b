use serde::{Deserialize, Serialize};

use super::state::{Op, Outcome, State};
use super::synod::{Ballot, Founding, Progress};
use super::view::Life;
use crate::machine::Mandate;

/// No message is longer: a founding carries the whole state.
pub const MAX_MESSAGE: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// The sender's; 0 if it knows of none.
    pub generation: u64,
    /// The sender's.
    pub life: Life,
    pub body: Body,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Body {
    /// Among voters and learners.
    Raft(Vec<u8>),
    /// The super-peer is there; `sent` by its own clock, microseconds. `office` is its ballot.
    Beat {
        mandate: Mandate,
        office: Ballot,
        sent: u64,
    },
    /// Heard. Who says so as an elector helps nobody else to found a group for a lease, and has
    /// promised to accept nothing older than `promised`.
    Heard {
        mandate: Mandate,
        promised: Ballot,
        sent: u64,
    },
    /// Which generation do you know?
    AskFounding,
    /// None.
    Blank,
    /// This one.
    Founded(Box<Founding>),
    /// To electors, about the next generation.
    Prepare(Ballot),
    Promise {
        ballot: Ballot,
        accepted: Option<(Ballot, Box<Founding>)>,
        progress: Box<Progress>,
    },
    Accept {
        ballot: Ballot,
        founding: Box<Founding>,
    },
    Accepted(Ballot),
    /// Not now; this has been promised.
    Refuse(Ballot),
    /// To the super-peer.
    Propose {
        ticket: u64,
        op: Op,
    },
    /// From it; `None`: it cannot tell whether that has happened or will.
    Outcome {
        ticket: u64,
        outcome: Option<Outcome>,
    },
    /// From the super-peer to electors: this was decided.
    Witness {
        number: u64,
        decided: Box<Progress>,
    },
    /// It is kept.
    Witnessed {
        number: u64,
        office: Ballot,
    },
    /// To the super-peer: what a former group had decided.
    Merge(Box<State>),
    /// From it: that is taken over.
    Merged,
}

impl Message {
    pub fn encode(&self) -> Vec<u8> {
        // Fails for types that cannot be written, which these are not.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_MESSAGE {
            return None;
        }
        postcard::from_bytes(bytes).ok()
    }
}
