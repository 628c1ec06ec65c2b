//! Apps of other homes that run here, and the id ranges of all capsules on this node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};

use anyhow::Context;
use phantom_model::{AppId, Epoch, MoveId, NodeId};

use crate::shim::control::ShimClient;

/// Capsules use ids nobody else does: above those of containers, below the sign bit.
const FIRST_ID: u32 = 0x7001_0000;
/// One past the last of them.
const END_ID: u32 = 0x7FFE_0000;
/// Ids of one capsule.
const IDS_PER_CAPSULE: u32 = 0x2_0000;

/// One app of another home.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its home.
    pub home: NodeId,
    /// The epoch its copy here has or would have.
    pub epoch: Epoch,
    /// Its shim.
    pub shim: ShimClient,
    /// The move that brings or brought it, where that is known.
    pub brought_by: Option<MoveId>,
    /// Whether it has been let run here.
    pub running: bool,
}

/// All of them.
pub struct Guests {
    seed: u32,
    ids: Mutex<BTreeMap<u32, AppId>>,
    table: Mutex<HashMap<AppId, Guest>>,
}

impl Guests {
    /// None yet. Nodes that share a kernel start their ranges at different places.
    pub fn new(node: NodeId) -> Self {
        let seed = u32::from_le_bytes([node.0[0], node.0[1], node.0[2], node.0[3]]);
        Self { seed, ids: Mutex::default(), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<AppId, Guest>> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn ids(&self) -> MutexGuard<'_, BTreeMap<u32, AppId>> {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The first id of the app's range, reserved until [`Guests::free_ids`].
    pub fn reserve_ids(&self, app: AppId) -> anyhow::Result<u32> {
        let mut ids = self.ids();
        if let Some((base, _)) = ids.iter().find(|(_, owner)| **owner == app) {
            return Ok(*base);
        }
        let slots = (END_ID - FIRST_ID) / IDS_PER_CAPSULE;
        let base = (0..slots)
            .map(|n| FIRST_ID + ((self.seed % slots + n) % slots) * IDS_PER_CAPSULE)
            .find(|base| !ids.contains_key(base))
            .with_context(|| format!("all {slots} id ranges are in use; end some apps"))?;
        ids.insert(base, app);
        Ok(base)
    }

    /// Takes back a range that was in use before a restart.
    pub fn adopt_ids(&self, app: AppId, base: u32) {
        self.ids().insert(base, app);
    }

    /// Gives the app's range back.
    pub fn free_ids(&self, app: AppId) {
        self.ids().retain(|_, owner| *owner != app);
    }

    /// Takes a guest in.
    pub fn insert(&self, app: AppId, guest: Guest) {
        self.table().insert(app, guest);
    }

    /// Works on one guest.
    pub fn with<R>(&self, app: AppId, work: impl FnOnce(&mut Guest) -> R) -> anyhow::Result<R> {
        self.table().get_mut(&app).map(work).with_context(|| format!("app {app} is no guest here"))
    }

    /// One guest as it stands.
    pub fn get(&self, app: AppId) -> anyhow::Result<Guest> {
        self.with(app, |guest| guest.clone())
    }

    /// The home of one of them, if there is one.
    pub fn first_home(&self) -> Option<NodeId> {
        self.table().values().next().map(|guest| guest.home)
    }

    /// Forgets a guest.
    pub fn remove(&self, app: AppId) -> Option<Guest> {
        self.free_ids(app);
        self.table().remove(&app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_ranges_never_overlap_and_run_out_with_a_word() {
        let guests = Guests::new(NodeId([0xff; 32]));
        let slots = (END_ID - FIRST_ID) / IDS_PER_CAPSULE;
        let mut bases: Vec<u32> =
            (0..slots).map(|n| guests.reserve_ids(AppId(n.into())).unwrap()).collect();
        bases.sort_unstable();
        assert!(bases.windows(2).all(|pair| pair[1] - pair[0] >= IDS_PER_CAPSULE));
        assert!(bases[0] >= FIRST_ID && bases[bases.len() - 1] + IDS_PER_CAPSULE <= END_ID);
        assert!(guests.reserve_ids(AppId(u64::MAX)).is_err());
        guests.free_ids(AppId(3));
        assert!(guests.reserve_ids(AppId(u64::MAX)).is_ok());
        assert_eq!(guests.reserve_ids(AppId(5)).unwrap(), guests.reserve_ids(AppId(5)).unwrap());
    }
}
