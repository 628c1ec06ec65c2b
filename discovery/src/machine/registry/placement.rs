//! What the elected group keeps of an archive: its manifest, and which member has which shard.

use std::collections::BTreeSet;

use phantom_erasure::{MAX_SHARDS, Manifest, Version as ShardVersion};
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::snapshot::MAX_SNAPSHOT;
use crate::machine::Mandate;

/// No shard is longer, in bytes.
pub const MAX_SHARD: u64 = 8 << 20;
/// No placement is longer, in bytes: a digest and a node for each shard, and what is around them.
pub const MAX_PLACEMENT: usize = MAX_SHARDS * 64 + 256;

/// Bytes that are no placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "what the elected group keeps of the registry's archive does not read, or contradicts itself: \
     the registry fills from the members instead"
)]
pub struct BadPlacement;

/// An archive that is, or is to be, committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Of the bytes.
    pub manifest: Manifest,
    /// Who has which shard, in the order of the shards.
    pub holders: Vec<NodeId>,
}

impl Placement {
    /// As bytes, at most [`MAX_PLACEMENT`].
    pub fn encode(&self) -> Vec<u8> {
        // Plain structs of numbers always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what [`Placement::encode`] wrote, if it agrees with itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadPlacement> {
        if bytes.len() > MAX_PLACEMENT {
            return Err(BadPlacement);
        }
        let (placement, rest): (Self, _) =
            postcard::take_from_bytes(bytes).map_err(|_| BadPlacement)?;
        let Self { manifest, holders } = &placement;
        let total = manifest.scheme.total();
        let distinct: BTreeSet<_> = holders.iter().collect();
        let fits = rest.is_empty()
            && manifest.shards.len() == total
            && holders.len() == total
            && distinct.len() == total
            && (1..=MAX_SNAPSHOT as u64).contains(&manifest.len)
            && manifest.shard_len() <= MAX_SHARD;
        if fits { Ok(placement) } else { Err(BadPlacement) }
    }

    /// Of the archive.
    pub fn version(&self) -> ShardVersion {
        self.manifest.version
    }

    /// Which shard this member has.
    pub fn index_of(&self, node: NodeId) -> Option<u8> {
        let at = self.holders.iter().position(|holder| *holder == node)?;
        u8::try_from(at).ok()
    }

    /// So many shards must be on disks before the placement is committed: those that suffice, and
    /// half of those besides, rounded up. In a household of two both members have it; of seven with
    /// four shards to spare, two may not have answered yet.
    pub fn enough(&self) -> usize {
        self.manifest.scheme.data() + self.manifest.scheme.parity().div_ceil(2)
    }
}

/// The version of the archive that is the `count`-th of a mandate: higher than all of every earlier
/// mandate, so two super-peers never give one version to different bytes.
pub fn version_of(mandate: Mandate, count: u32) -> ShardVersion {
    let term = mandate.term.min(u64::from(u32::MAX));
    ShardVersion { generation: mandate.generation, change: (term << 32) | u64::from(count) }
}

/// Whether a super-peer of this mandate gives this version.
pub fn is_of(version: ShardVersion, mandate: Mandate) -> bool {
    (version_of(mandate, 0)..=version_of(mandate, u32::MAX)).contains(&version)
}

#[cfg(test)]
mod tests;
