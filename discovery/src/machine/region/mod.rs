//! Regions: what a region-peer knows of its sub-grids, how it hears of it, and which sub-grids
//! belong together.
//!
//! ```text
//!  super-peer: members' ads ── Summary::of ──▶ Reporter ── Report ──▶ Catalogue :region-peer
//!                                                       ◀─ Receipt ──   │
//!                              sub-grids that may meet a query ◀── candidates
//! ```

pub mod assembly;
pub mod catalogue;
mod figures;
pub mod grouping;
pub mod power;
pub mod report;

use std::fmt;

use phantom_model::SubgridId;
use serde::{Deserialize, Serialize};

/// A region, by the first bytes of the BLAKE3 digest of its name or of the sub-grid it grew around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RegionId(pub [u8; 8]);

impl RegionId {
    /// The region that an admin has given this name.
    pub fn named(name: &str) -> Self {
        Self(first(blake3::derive_key("phantom region name", name.as_bytes())))
    }

    /// The region that has grown around this sub-grid.
    pub fn around(subgrid: SubgridId) -> Self {
        Self(first(blake3::derive_key("phantom region around", &subgrid.0)))
    }
}

fn first(digest: [u8; 32]) -> [u8; 8] {
    digest.first_chunk().copied().unwrap_or_default()
}

impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) use figures::is_plausible;
