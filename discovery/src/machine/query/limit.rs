//! How often one node may ask, and what was handled already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use phantom_model::NodeId;

use super::QueryId;

/// A node that floods is named again after so long.
const NAMED_AGAIN: Duration = Duration::from_secs(10);

/// A token bucket for each node.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Tokens that come in a second, and how many there can be.
    rate: f64,
    burst: f64,
    most: usize,
    buckets: BTreeMap<NodeId, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
    dropped: u64,
    named: Option<Duration>,
}

/// Whether a message is handled.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// It is dropped, and the node that has sent so many too much should be named.
    Name(u64),
}

impl Limiter {
    /// `rate` messages a second from each, `burst` at once, for `most` nodes.
    pub(super) fn new(rate: f64, burst: f64, most: usize) -> Self {
        Self { rate, burst, most, buckets: BTreeMap::new() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// A message from `node`.
    pub(super) fn check(&mut self, node: NodeId, now: Duration) -> Verdict {
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&node) {
            // Who has been quiet longest has a full bucket anyway, unless all are busy.
            let quiet = self.buckets.iter().min_by_key(|(_, bucket)| bucket.at);
            let quiet = quiet.map(|(node, _)| *node);
            quiet.and_then(|node| self.buckets.remove(&node));
        }
        let fresh = Bucket { tokens: self.burst, at: now, dropped: 0, named: None };
        let bucket = self.buckets.entry(node).or_insert(fresh);
        let passed = now.saturating_sub(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * self.rate).min(self.burst);
        bucket.at = bucket.at.max(now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Verdict::Pass;
        }
        bucket.dropped = bucket.dropped.saturating_add(1);
        if bucket.named.is_some_and(|at| at + NAMED_AGAIN > now) {
            return Verdict::Drop;
        }
        bucket.named = Some(now);
        Verdict::Name(bucket.dropped)
    }
}

/// The last questions that were handled.
#[derive(Debug)]
pub(super) struct Handled {
    most: usize,
    order: VecDeque<(QueryId, u16)>,
    known: BTreeSet<(QueryId, u16)>,
}

impl Handled {
    pub(super) fn new(most: usize) -> Self {
        Self { most, order: VecDeque::new(), known: BTreeSet::new() }
    }

    /// Whether this one is new; from now on it is not.
    pub(super) fn is_new(&mut self, id: QueryId, attempt: u16) -> bool {
        if !self.known.insert((id, attempt)) {
            return false;
        }
        self.order.push_back((id, attempt));
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}
