//! How much may be under way for each node at once.

use std::collections::HashMap;
use std::sync::Arc;

use phantom_model::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One lane for each member.
#[derive(Debug)]
pub struct Lanes {
    places: usize,
    lanes: HashMap<NodeId, Arc<Semaphore>>,
}

impl Lanes {
    /// So many places in each.
    pub fn new(places: usize) -> Self {
        Self { places, lanes: HashMap::new() }
    }

    /// A place in the lane of this member, if there is one.
    pub fn place(&mut self, member: NodeId) -> Option<OwnedSemaphorePermit> {
        let lane = || Arc::new(Semaphore::new(self.places));
        self.lanes.entry(member).or_insert_with(lane).clone().try_acquire_owned().ok()
    }

    /// Forgets who is no member.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.lanes.retain(|node, _| is_member(node));
    }
}
