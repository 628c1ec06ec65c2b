//! Who should vote, learn and lead, and who should be an elector: pure choices of the super-peer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phantom_model::NodeId;

use super::replica::{Conf, Replica};
use super::view::{Life, View};
use super::{MAX_VOTERS, Standing};

/// A member that has been there for so long may learn; and be an elector.
const SETTLED: Duration = Duration::from_secs(5);
/// A voter that has been away for so long is replaced.
const DEAD: Duration = Duration::from_secs(10);
/// An elector that has been away for so long is none in the next generation.
const GONE: Duration = Duration::from_secs(600);
/// Learners kept ready to take a voter's place.
const SPARES: usize = 2;
/// The lead is handed to a voter that is so much more available, of 1000,
const BETTER: u16 = 100;
/// and has been there for so long.
const STEADY: Duration = Duration::from_secs(60);

/// What the super-peer knows when it plans.
pub struct Situation<'a> {
    pub own: NodeId,
    pub now: Duration,
    pub view: &'a View,
    pub conf: Conf,
    /// Of all members, without this node.
    pub members: &'a BTreeMap<NodeId, Standing>,
    pub availability: u16,
    /// The lives in which members were last heard.
    pub lives: &'a BTreeMap<NodeId, Life>,
    /// The log, and which peers have it.
    pub replica: &'a Replica,
}

/// What to do next, if anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make these the voters and learners.
    Reconfigure { voters: BTreeSet<Life>, learners: BTreeSet<Life> },
    /// Hand over the lead.
    Transfer(NodeId),
}

/// How many voters so many electors need. Two cannot do better than one: either both are needed or
/// one is.
pub fn voters_for(electors: usize) -> usize {
    match electors {
        0..=2 => 1,
        3..=6 => 3,
        _ => MAX_VOTERS,
    }
}

impl Situation<'_> {
    fn standing(&self, node: NodeId) -> Option<Standing> {
        if node == self.own {
            let since = Duration::ZERO;
            return Some(Standing { alive: true, since, availability: self.availability });
        }
        self.members.get(&node).copied()
    }

    fn has_been_up(&self, node: NodeId, time: Duration) -> bool {
        let up = |it: Standing| it.alive && self.now.saturating_sub(it.since) >= time;
        node == self.own || self.standing(node).is_some_and(up)
    }

    fn has_been_away(&self, node: NodeId, time: Duration) -> bool {
        self.standing(node).is_none_or(|it| !it.alive && self.now.saturating_sub(it.since) >= time)
    }

    fn availability(&self, node: NodeId) -> u16 {
        self.standing(node).map_or(0, |it| it.availability)
    }

    /// Whether the node has lost the memory of the life it was seated with.
    fn has_forgotten(&self, node: NodeId, life: Life) -> bool {
        self.lives.get(&node).is_some_and(|known| *known != life) && node != self.own
    }

    /// The next change of voters and learners, or of the lead.
    pub fn step(&self) -> Option<Step> {
        let nodes: BTreeMap<Life, NodeId> =
            self.view.electors.iter().map(|(node, life)| (*life, *node)).collect();
        let is_dead = |life: &Life| {
            nodes.get(life).is_none_or(|node| {
                self.has_forgotten(*node, *life) || self.has_been_away(*node, DEAD)
            })
        };
        let mut fit: Vec<(NodeId, Life)> = self
            .view
            .electors
            .iter()
            .filter(|(node, life)| {
                self.has_been_up(**node, SETTLED) && !self.has_forgotten(**node, **life)
            })
            .map(|(node, life)| (*node, *life))
            .collect();
        fit.sort_by_key(|(node, _)| (std::cmp::Reverse(self.availability(*node)), *node));

        let mut voters = self.conf.voters.clone();
        let mut learners: BTreeSet<Life> =
            self.conf.learners.iter().copied().filter(|life| !is_dead(life)).collect();
        // One that can take a place has the log already.
        let ready = fit
            .iter()
            .map(|(_, life)| *life)
            .find(|life| learners.contains(life) && self.replica.keeps_up(*life));
        let dead = voters.iter().copied().find(is_dead);
        let wanted = voters_for(self.view.electors.len());
        match (ready, dead) {
            (Some(ready), Some(dead)) => {
                voters.remove(&dead);
                voters.insert(ready);
            }
            (Some(ready), None) if voters.len() < wanted => {
                voters.insert(ready);
            }
            (None, Some(dead)) if voters.len() > wanted => {
                voters.remove(&dead);
            }
            _ => {}
        }
        learners.retain(|life| !voters.contains(life));
        for (_, life) in &fit {
            if learners.len() < SPARES && !voters.contains(life) {
                learners.insert(*life);
            }
        }
        if voters != self.conf.voters || learners != self.conf.learners {
            return Some(Step::Reconfigure { voters, learners });
        }
        let better = fit.iter().find(|(node, life)| {
            *node != self.own
                && voters.contains(life)
                && self.replica.keeps_up(*life)
                && self.has_been_up(*node, STEADY)
                && self.availability(*node) >= self.availability.saturating_add(BETTER)
        });
        better.map(|(node, _)| Step::Transfer(*node))
    }

    /// The electors of the next generation: who has been there for a while, without those that have
    /// been away for long, were put out, or come back without memory.
    pub fn electors(&self) -> BTreeMap<NodeId, Life> {
        let stays = |(node, life): &(&NodeId, &Life)| {
            !self.has_been_away(**node, GONE) && !self.has_forgotten(**node, **life)
        };
        let kept = self.view.electors.iter().filter(stays);
        let mut electors: BTreeMap<NodeId, Life> =
            kept.map(|(node, life)| (*node, *life)).collect();
        for (node, life) in self.lives {
            if electors.len() >= super::MAX_ELECTORS {
                break;
            }
            if self.has_been_up(*node, SETTLED) {
                electors.entry(*node).or_insert(*life);
            }
        }
        electors
    }
}

/// The voters a generation begins with: the most available, `first` among them.
pub fn first_voters(
    electors: &BTreeMap<NodeId, Life>,
    first: NodeId,
    rank: impl Fn(NodeId) -> (bool, u16),
) -> BTreeSet<NodeId> {
    let mut others: Vec<NodeId> = electors.keys().copied().filter(|node| *node != first).collect();
    others.sort_by_key(|node| (std::cmp::Reverse(rank(*node)), *node));
    others.truncate(voters_for(electors.len()) - 1);
    others.push(first);
    others.into_iter().collect()
}
