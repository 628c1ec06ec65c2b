//! How much of a super-peer's time each node takes with what it asks.
//!
//! How often one may ask is limited by the machines. What an expression takes is not known before it
//! was evaluated for a thousand members: one that takes long costs who asks more of its share.

use std::collections::HashMap;
use std::time::Duration;

use phantom_model::NodeId;

/// Of its time a super-peer gives each node one part in so many.
const SHARE: u32 = 5;
/// So much one may take ahead.
const AHEAD: Duration = Duration::from_millis(500);
/// No more is counted for one question: the machine may have slept meanwhile.
const MOST: Duration = Duration::from_secs(2);
/// So many nodes are remembered.
const MAX_NODES: usize = 4096;

/// What each node has taken ahead of its share, and when that was counted.
#[derive(Debug, Default)]
pub struct Effort(HashMap<NodeId, (Duration, Duration)>);

impl Effort {
    /// Whether something of this node may be handled now.
    pub fn may(&self, node: NodeId, now: Duration) -> bool {
        self.ahead(node, now) < AHEAD
    }

    /// What this node has asked took so long.
    pub fn spend(&mut self, node: NodeId, took: Duration, now: Duration) {
        let ahead = self.ahead(node, now) + took.min(MOST);
        if self.0.len() >= MAX_NODES {
            self.0.retain(|_, (ahead, at)| left(*ahead, *at, now) > Duration::ZERO);
        }
        if self.0.len() < MAX_NODES || self.0.contains_key(&node) {
            self.0.insert(node, (ahead, now));
        }
    }

    fn ahead(&self, node: NodeId, now: Duration) -> Duration {
        self.0.get(&node).map_or(Duration::ZERO, |(ahead, at)| left(*ahead, *at, now))
    }
}

fn left(ahead: Duration, at: Duration, now: Duration) -> Duration {
    ahead.saturating_sub(now.saturating_sub(at) / SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(number: u16) -> NodeId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&number.to_be_bytes());
        NodeId(id)
    }

    proptest! {
        /// Whatever one asks, it takes its share and what it may take ahead, and no more than one
        /// question beyond; others are not touched.
        #[test]
        fn nobody_takes_more_than_its_share(
            asked in proptest::collection::vec((0u64..200, 0u64..400), 1..200),
        ) {
            let mut effort = Effort::default();
            let (mut now, mut taken, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            for (pause, takes) in asked {
                now += Duration::from_millis(pause);
                let takes = Duration::from_millis(takes);
                if effort.may(node(1), now) {
                    now += takes;
                    effort.spend(node(1), takes, now);
                    taken += takes;
                    longest = longest.max(takes);
                }
                prop_assert!(taken <= AHEAD + longest + now / SHARE);
                prop_assert!(effort.may(node(2), now));
            }
            prop_assert!(effort.may(node(1), now + (AHEAD + longest) * SHARE));
        }
    }

    #[test]
    fn who_is_not_remembered_any_more_was_quiet() {
        let mut effort = Effort::default();
        let now = Duration::from_secs(50);
        effort.spend(node(0), 2 * AHEAD, now);
        for number in 1..=u16::MAX {
            effort.spend(node(number), Duration::from_micros(1), now);
        }
        assert!(effort.0.len() <= MAX_NODES && !effort.may(node(0), now));
        let later = now + Duration::from_secs(1);
        effort.spend(node(u16::MAX), AHEAD, later);
        assert!(!effort.may(node(u16::MAX), later) && !effort.may(node(0), later));
        assert_eq!(effort.0.len(), 2);
    }
}
