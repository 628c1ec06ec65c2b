use data_encoding::HEXLOWER;
use thiserror::Error;

use super::MAX_REGIONS;
use crate::dns::found::FindError;
use crate::machine::Mandate;
use crate::uri::GridUri;

/// Why no entry may be taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Forged, or rotated without proof.
    #[error(
        "the DNS names key {} for {uri}, known is {}: forged, or changed without a statement of the \
         old key; ask the region's admin, and forget the region if the new key is right",
        HEXLOWER.encode(.offered), HEXLOWER.encode(.pinned)
    )]
    OtherKey {
        /// The region.
        uri: GridUri,
        /// The key that is pinned.
        pinned: [u8; 32],
        /// The key of the answer.
        offered: [u8; 32],
    },
    /// A deposed region-peer's, or an old answer played again.
    #[error(
        "the DNS has an entry of mandate {offered} for {uri}, known is {known}: it is out of date; \
         wait for the region-peer to write it anew"
    )]
    Older {
        /// The region.
        uri: GridUri,
        /// The mandate of the known entry.
        known: Mandate,
        /// The highest mandate of the answer.
        offered: Mandate,
    },
    /// No key is pinned, and the answer has several.
    #[error("the DNS names several keys for {uri}: ask the region's admin which one is right")]
    SeveralKeys {
        /// The region.
        uri: GridUri,
    },
    /// An answer without entries.
    #[error("the DNS has no entry for {uri}: let its region-peer write one")]
    Nothing {
        /// The region.
        uri: GridUri,
    },
}

/// Why there is no entry to try.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegionError {
    /// There is none.
    #[error(transparent)]
    Find(#[from] FindError),
    /// It may not be believed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why something cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CacheError {
    /// No room.
    #[error("{MAX_REGIONS} regions are known already: forget one before {uri} is added")]
    Full {
        /// The region that would be one more.
        uri: GridUri,
    },
    /// Another key than the pinned one, and no proof.
    #[error(
        "{uri} is known by key {}, not {}: forget the region if the new key is right",
        HEXLOWER.encode(.pinned), HEXLOWER.encode(.offered)
    )]
    OtherKey {
        /// The region.
        uri: GridUri,
        /// The key that is pinned.
        pinned: [u8; 32],
        /// The other.
        offered: [u8; 32],
    },
    /// The DNS says a later mandate than the node has.
    #[error(
        "the DNS says mandate {told} for {uri}, the node there has {proven}: forged, or the node has \
         been deposed; look again later"
    )]
    Mandate {
        /// The region.
        uri: GridUri,
        /// The mandate of the entry.
        told: Mandate,
        /// The mandate the node has proven.
        proven: Mandate,
    },
    /// A later mandate is known.
    #[error("the node of {uri} has mandate {offered}, known is {known}: it has been deposed")]
    Older {
        /// The region.
        uri: GridUri,
        /// The mandate of the known entry.
        known: Mandate,
        /// The mandate of the node.
        offered: Mandate,
    },
}
