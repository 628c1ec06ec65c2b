use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

/// No sub-grid has more electors. Members beyond them are served like all others; only in the
/// founding of groups they have no say.
pub const MAX_ELECTORS: usize = 1024;
/// A super-peer that cannot reach a majority of the electors for so many beats has lost its lease.
const BEATS_IN_LEASE: u32 = 5;
/// How often a super-peer beats at least.
const BEAT: Duration = Duration::from_secs(2);

/// One life of a node's memory of the group. A node that has lost it has promised things it no
/// longer knows: it comes back with another life, as somebody who has promised nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Life(pub u64);

/// Who makes up a group. Fixed for a generation; the next generation's is agreed on by a majority
/// of this one's electors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Grows with each founding, from 1.
    pub generation: u64,
    /// Whose majority decides about the next generation, and without whose majority nothing is
    /// granted in this one.
    pub electors: BTreeMap<NodeId, Life>,
    /// The elector with whom half of them are a majority: of two machines one can go on alone.
    pub tie: NodeId,
    /// Those that elect the super-peer at first, and replicate what it decides.
    pub voters: BTreeSet<NodeId>,
}

impl View {
    /// Whether these electors are a majority; strangers among them do not count. Any two majorities
    /// have an elector in common.
    pub fn is_quorum<'a>(&self, present: impl IntoIterator<Item = &'a NodeId>) -> bool {
        let present: BTreeSet<&NodeId> =
            present.into_iter().filter(|node| self.electors.contains_key(node)).collect();
        let twice = 2 * present.len();
        twice > self.electors.len() || (twice == self.electors.len() && present.contains(&self.tie))
    }

    /// Whether this seat is one of an elector.
    pub fn seats(&self, node: NodeId, life: Life) -> bool {
        self.electors.get(&node) == Some(&life)
    }

    /// How often the super-peer tells everybody that it is there. Less often where there are many,
    /// so that what a member hears and sends stays the same.
    pub fn beat(&self) -> Duration {
        BEAT * (self.electors.len() as u32 / 50).clamp(1, 5)
    }

    /// An elector that has answered the super-peer helps nobody else to found a group for so long,
    /// and so long the super-peer may count on it.
    pub fn lease(&self) -> Duration {
        self.beat() * BEATS_IN_LEASE
    }

    /// Whether it makes sense; from another node it may not.
    pub fn is_sound(&self) -> bool {
        let lives: BTreeSet<&Life> = self.electors.values().collect();
        (1..=MAX_ELECTORS).contains(&self.electors.len())
            && lives.len() == self.electors.len()
            && !lives.contains(&Life(0))
            && self.electors.contains_key(&self.tie)
            && !self.voters.is_empty()
            && self.voters.len() <= super::MAX_VOTERS
            && self.voters.iter().all(|voter| self.electors.contains_key(voter))
            && self.generation > 0
    }
}
