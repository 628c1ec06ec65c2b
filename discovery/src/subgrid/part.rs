//! A node's part in one sub-grid: its machines, and under which names it keeps what they keep.

use std::collections::HashMap;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::oneshot;

use super::{NotDone, Status};
use crate::fabric::Keep;
use crate::machine::group::{self, Change, Group, Key, Lease, Outcome, State};
use crate::machine::registry::{self, Member, Message, Placement, Snapshot, SuperPeer};

/// No longer registry is handed over, in bytes.
const MAX_HANDOVER: usize = 1 << 20;
/// One node hands over no more often.
const HANDOVERS: Duration = Duration::from_secs(10);
/// Where the group keeps who has the shards of the registry.
pub const PLACEMENT: &str = "registry/placement";

/// This node's part in one sub-grid.
pub struct Part {
    pub subgrid: SubgridId,
    pub group: Group,
    pub member: Member,
    pub super_peer: Option<SuperPeer>,
    /// What this node had registered as super-peer, for the next one.
    pub handover: Option<Snapshot>,
    /// Who has handed something over lately.
    pub handovers: HashMap<NodeId, Duration>,
    /// The placement that the machines know of.
    pub placed: group::Stamp,
    pub waiting: HashMap<u64, oneshot::Sender<Result<Outcome, NotDone>>>,
}

impl Part {
    /// What this node has registered as super-peer, for another that has taken over, and for whom.
    /// It is kept until there is one.
    pub fn hand_over(&mut self, led: Option<NodeId>, own: NodeId) -> Option<(NodeId, Vec<u8>)> {
        if let Some(deposed) = &self.super_peer {
            self.handover = Some(deposed.snapshot());
        }
        let successor = led.filter(|node| *node != own)?;
        let snapshot = self.handover.take()?.encode();
        // A longer one its members tell anew, and it is archived.
        (snapshot.len() <= MAX_HANDOVER).then_some((successor, snapshot))
    }

    /// A former super-peer has told what it had registered.
    pub fn take_over(&mut self, from: NodeId, bytes: &[u8], now: Duration) {
        let Some(super_peer) = &mut self.super_peer else { return };
        let is_soon = |at: &Duration| *at + HANDOVERS > now;
        if self.handovers.get(&from).is_some_and(is_soon) {
            return;
        }
        self.handovers.retain(|_, at| *at + HANDOVERS > now);
        self.handovers.insert(from, now);
        match Snapshot::decode(bytes) {
            Ok(snapshot) => super_peer.handle_handover(snapshot, now),
            Err(_) => super_peer.handle_malformed(from, now),
        }
    }

    /// Something of the registry for this node, from whomever.
    pub fn hear(&mut self, from: NodeId, message: Message, now: Duration) {
        if let Some(super_peer) = &mut self.super_peer {
            super_peer.handle_message(from, &message, now);
        }
        self.member.handle_message(from, message, now);
    }

    /// Hands on where the registry lies when the group has committed it.
    pub fn follow_placement(&mut self, now: Duration) {
        let Some(state) = self.group.state() else { return };
        let stamp = state.stamp(PLACEMENT);
        if stamp == self.placed {
            return;
        }
        self.placed = stamp;
        if let Some(placement) = placement(state) {
            self.member.handle_committed(&placement);
            if let Some(super_peer) = &mut self.super_peer {
                super_peer.handle_committed(&placement, now);
            }
        }
    }

    /// What this node may count on as the super-peer; `began` is when its clock was 0.
    pub fn lease(&self, now: Duration, began: Duration) -> Option<Lease> {
        let lease = self.group.lease(now)?;
        Some(Lease { until: began + lease.until, ..lease })
    }

    pub fn status(&self, now: Duration) -> Status {
        let view = self.group.view();
        Status {
            subgrid: Some(self.subgrid),
            super_peer: self.group.super_peer().map(|led| (led.node, led.mandate)),
            decides: self.group.may_decide(now),
            generation: self.group.generation(),
            electors: view.map(|view| view.electors.keys().copied().collect()).unwrap_or_default(),
            voters: self.group.voters(),
            registered: self.member.registrant().is_registered(),
            registry: self.super_peer.as_ref().map(|super_peer| super_peer.entries(now).count()),
            archive: self.super_peer.as_ref().map(SuperPeer::archive).and_then(|archive| {
                let (stored, enough) = archive.safety()?;
                Some((archive.covers(), stored, enough))
            }),
            gathering: self.super_peer.as_ref().is_some_and(|super_peer| {
                super_peer.progress().is_some_and(|it| it.outcome == registry::Outcome::Underway)
            }),
        }
    }
}

pub fn placement(state: &State) -> Option<Placement> {
    Placement::decode(state.get(PLACEMENT)?).ok()
}

pub fn name(subgrid: SubgridId, rest: &str) -> String {
    format!("subgrid/{subgrid}/{rest}")
}

pub fn shard_name(subgrid: SubgridId, shard: registry::ShardName) -> String {
    let version = shard.version;
    let rest = format!("shard/{}/{}/{}", version.generation, version.change, shard.index);
    name(subgrid, &rest)
}

/// A change of the group's memory as changes of the node's.
pub fn keeps(subgrid: SubgridId, change: Change) -> Vec<Keep> {
    let name = |key: &str| name(subgrid, &format!("group/{key}"));
    match change {
        Change::Put(key, bytes) => vec![Keep::Put(name(&key.to_string()), bytes)],
        Change::Drop(key) => vec![Keep::Remove(name(&key.to_string()))],
        Change::DropLog => {
            let single = [Key::Hard, Key::Snapshot, Key::Witnessed];
            let singles = single.map(|key| Keep::Remove(name(&key.to_string())));
            singles.into_iter().chain([Keep::RemoveAll(name("entry/"))]).collect()
        }
    }
}
