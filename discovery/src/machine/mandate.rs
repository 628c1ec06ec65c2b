use std::fmt;

use serde::{Deserialize, Serialize};

/// In whose name a super-peer acts: at most one node ever has a given mandate, and a later one
/// outranks every earlier one. What a super-peer commands carries its mandate; who has seen a later
/// one refuses.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Mandate {
    /// Counts foundings of the sub-grid's group.
    pub generation: u64,
    /// Counts elections in that generation: raft's term.
    pub term: u64,
}

impl fmt::Display for Mandate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.term)
    }
}
