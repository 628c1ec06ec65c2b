//! What every member runs: its registrant and its holder.

use std::time::Duration;

use phantom_erasure::Version as ShardVersion;
use phantom_model::NodeId;

use super::description::Attributes;
use super::{Command, Holder, Kept, Message, Placement, Registrant, ShardName};
use crate::machine::Mandate;

/// The machine.
#[derive(Debug)]
pub struct Member {
    registrant: Registrant,
    holder: Holder,
}

impl Member {
    /// A member that has this on its disk. `boot` is higher than at every start before, as far as
    /// the node knows (milliseconds since 1970 will do); `seed` is random.
    pub fn new(boot: u64, disk: impl IntoIterator<Item = Kept>, seed: [u8; 32]) -> Self {
        Self { registrant: Registrant::new(boot, seed), holder: Holder::restore(disk) }
    }

    /// The member says this of itself from now on.
    pub fn handle_attributes(&mut self, attributes: Attributes, now: Duration) {
        self.registrant.handle_attributes(attributes, now);
    }

    /// This node is super-peer, or nobody is.
    pub fn handle_super_peer(&mut self, super_peer: Option<(NodeId, Mandate)>, now: Duration) {
        self.registrant.handle_super_peer(super_peer, now);
        self.holder.handle_super_peer(super_peer);
    }

    /// `from` has sent this; what is for a super-peer is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: Message, now: Duration) {
        self.registrant.handle_message(from, &message, now);
        self.holder.handle_message(from, message, now);
    }

    /// The elected group has committed this. Who is not of the group hears it from the super-peer.
    pub fn handle_committed(&mut self, placement: &Placement) {
        self.holder.handle_committed(placement.version());
    }

    /// A shard that was to be persisted is on the disk, or could not be brought there.
    pub fn handle_persisted(&mut self, shard: ShardName, durable: bool) {
        self.holder.handle_persisted(shard, durable);
    }

    /// When [`Member::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        [self.registrant.poll_timeout(), self.holder.poll_timeout()].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.registrant.handle_timeout(now);
        self.holder.handle_timeout(now);
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.registrant.poll_command().or_else(|| self.holder.poll_command())
    }

    /// The part that registers.
    pub fn registrant(&self) -> &Registrant {
        &self.registrant
    }

    /// The versions of which a shard is on the disk.
    pub fn kept(&self) -> impl Iterator<Item = ShardVersion> {
        self.holder.kept().map(|shard| shard.version)
    }
}
