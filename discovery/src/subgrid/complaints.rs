//! The same complaint about the same node is made once in a while only.

use std::collections::HashMap;
use std::time::Duration;

use phantom_model::NodeId;

/// After so long it is made again.
const AGAIN: Duration = Duration::from_secs(60);
/// So many are remembered; others are not made.
const MAX_COMPLAINTS: usize = 1024;

#[derive(Debug, Default)]
pub struct Complaints(HashMap<(NodeId, String), Duration>);

impl Complaints {
    /// Forgets those that may be made again.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.0.retain(|_, at| *at + AGAIN > now);
    }

    /// A member does what it should not.
    pub fn complain(&mut self, member: NodeId, what: String, now: Duration) {
        if self.0.len() >= MAX_COMPLAINTS {
            self.handle_timeout(now);
        }
        let key = (member, what);
        if self.0.get(&key).is_none_or(|at| *at + AGAIN <= now) && self.0.len() < MAX_COMPLAINTS {
            tracing::warn!(member = %member.short(), "a member {}", key.1);
            self.0.insert(key, now);
        }
    }
}
