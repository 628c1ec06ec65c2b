//! How the electors of one generation agree on the next: Paxos (Lamport, "The Part-Time
//! Parliament", 1998), one decree for each generation.
//!
//! An elector that is bound to a super-peer by its lease takes no part, except for that super-peer.
//! So nothing is agreed on behind the back of one that may still grant.
//!
//! A super-peer's office has a ballot as well, promised by the electors that answer it. Once a
//! majority has, nothing that was prepared before can be decided any more, and what they witness in
//! its name counts as the latest that was accepted: the next generation knows it, and is not the one
//! that few may have accepted before.

use std::collections::{BTreeMap, BTreeSet};

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

use super::state::{Stamp, State};
use super::view::{Life, View};

/// The beginning of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Who makes it up.
    pub view: View,
    /// What it knows from the start.
    pub state: State,
    /// Founded by survivors: its super-peer grants nothing before the longest lease is over.
    pub is_refounded: bool,
}

impl Founding {
    pub(super) fn is_sound(&self) -> bool {
        self.view.is_sound() && self.state.is_sound()
    }

    /// Whether it is so far ahead of the generation `own` that it does not come from counting. Taken
    /// over, the highest number would end all foundings.
    pub(super) fn is_beyond(&self, own: u64) -> bool {
        self.view.generation > own.saturating_add(MAX_GENERATIONS_AHEAD)
    }
}

/// How far an elector has got in its generation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub at: Stamp,
    pub state: State,
    /// The super-peer's for which it has witnessed last.
    pub office: Ballot,
}

impl Progress {
    pub fn merge(&mut self, other: Progress) {
        self.at = self.at.max(other.at);
        self.state.merge(other.state);
        self.office = self.office.max(other.office);
    }
}

/// Orders attempts and offices; no two nodes have the same.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Ballot {
    /// Grows with each attempt.
    pub round: u64,
    /// Of whom.
    pub life: u64,
}

/// No generation is further ahead of another: of who has slept through them.
const MAX_GENERATIONS_AHEAD: u64 = 1 << 32;
/// No ballot is further ahead of another.
const MAX_ROUNDS_AHEAD: u64 = 1_000_000;

impl Ballot {
    /// Whether it is so far ahead that it does not come from counting.
    pub fn is_beyond(self, other: Self) -> bool {
        self.round > other.round.saturating_add(MAX_ROUNDS_AHEAD)
    }

    pub fn next(self, life: Life) -> Self {
        Self { round: self.round.saturating_add(1), life: life.0 }
    }
}

/// What an elector has promised and accepted for the generation after the one it knows. Durable
/// before it is told to anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptor {
    pub promised: Ballot,
    pub accepted: Option<(Ballot, Box<Founding>)>,
}

impl Acceptor {
    /// Promises to accept nothing older; or the ballot that was promised to another.
    pub fn prepare(&mut self, ballot: Ballot) -> Result<(), Ballot> {
        if ballot < self.promised {
            return Err(self.promised);
        }
        self.promised = ballot;
        Ok(())
    }

    /// Accepts, if nothing newer was promised.
    pub fn accept(&mut self, ballot: Ballot, founding: Founding) -> Result<(), Ballot> {
        self.prepare(ballot)?;
        self.accepted = Some((ballot, Box::new(founding)));
        Ok(())
    }
}

/// One attempt to found the next generation.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub ballot: Ballot,
    promises: BTreeMap<NodeId, Option<(Ballot, Box<Founding>)>>,
    /// The furthest that any of those has got in this generation, and what they know between them.
    pub known: Progress,
    pub proposal: Option<Founding>,
    accepts: BTreeSet<NodeId>,
}

/// What may be proposed once a majority has promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Something of one's own: nothing else can have been decided.
    Free,
    /// This may have been decided, so it must be this.
    Bound(Box<Founding>),
}

impl Attempt {
    pub fn new(ballot: Ballot) -> Self {
        Self {
            ballot,
            promises: BTreeMap::new(),
            known: Progress::default(),
            proposal: None,
            accepts: BTreeSet::new(),
        }
    }

    pub fn promised(
        &mut self,
        from: NodeId,
        accepted: Option<(Ballot, Box<Founding>)>,
        progress: Progress,
    ) {
        self.promises.insert(from, accepted);
        self.known.merge(progress);
    }

    pub fn has_promise(&self, node: &NodeId) -> bool {
        self.promises.contains_key(node)
    }

    /// What to propose; `None` before a majority has promised. What was accepted somewhere must be
    /// proposed again unless so many have not accepted it that it cannot have been decided: who had
    /// accepted a decided value would still have it, as every later proposal repeats it. What was
    /// accepted before an office in which something was witnessed was not decided by then, and a
    /// majority has promised that it never will be.
    pub fn choice(&self, view: &View, removed: &BTreeSet<NodeId>) -> Option<Choice> {
        if !view.is_quorum(self.promises.keys().chain(removed)) {
            return None;
        }
        let accepted = self.promises.values().flatten();
        let accepted = accepted.filter(|(ballot, _)| *ballot > self.known.office);
        let Some((_, latest)) = accepted.max_by_key(|(ballot, _)| *ballot) else {
            return Some(Choice::Free);
        };
        let may_have_it = view.electors.keys().filter(|node| {
            self.promises
                .get(node)
                .is_none_or(|found| found.as_ref().is_some_and(|(_, value)| value == latest))
        });
        let decided = view.is_quorum(may_have_it);
        Some(if decided { Choice::Bound(latest.clone()) } else { Choice::Free })
    }

    /// Somebody has accepted the proposal; whether that decides it.
    pub fn accepted(&mut self, from: NodeId, view: &View, removed: &BTreeSet<NodeId>) -> bool {
        if self.proposal.is_none() {
            return false;
        }
        self.accepts.insert(from);
        view.is_quorum(self.accepts.iter().chain(removed))
    }

    /// Whether a node has answered what is asked now.
    pub fn has_answered(&self, node: &NodeId) -> bool {
        if self.proposal.is_some() { self.accepts.contains(node) } else { self.has_promise(node) }
    }
}
