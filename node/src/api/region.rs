//! What the command line and the daemon say about regions.

use phantom_model::SubgridId;
use serde::{Deserialize, Serialize};

/// Which region, and what about it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RegionRequest {
    /// `grid://NAME`; of the region the sub-grid belongs to when absent.
    pub uri: Option<String>,
    /// Others beside it, of which the nearest is meant.
    #[serde(default)]
    pub others: Vec<String>,
    /// What a sub-grid shall be called there, or which site is meant.
    pub name: Option<String>,
    /// Takes back what the same without it does.
    pub withdraw: bool,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRow {
    /// What the region calls it.
    pub name: String,
    /// Which sub-grid.
    pub subgrid: SubgridId,
    /// Whether it is that of this node.
    pub this: bool,
    /// Whether it answers for the region as well.
    pub region_peer: bool,
    /// Whether its super-peer was heard lately.
    pub up: bool,
    /// Its members; absent while the region-peer does not know.
    pub nodes: Option<u32>,
    /// Their cores.
    pub cores: Option<u64>,
    /// Those that are idle.
    pub idle_centicores: Option<u64>,
    /// Theoretical peak in Mflop/s, and what of it is idle.
    pub peak_mflops: Option<(u64, u64)>,
    /// Memory in MiB, and what of it is free.
    pub memory_mib: Option<(u64, u64)>,
    /// Storage in MiB, and what of it is free.
    pub disk_mib: Option<(u64, u64)>,
}

/// A sub-grid that asks to be let in, or go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskingRow {
    /// What it wants to be called.
    pub name: String,
    /// Which.
    pub subgrid: SubgridId,
    /// Whether it wants to go.
    pub leaves: bool,
}

/// How a region stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionState {
    /// `grid://NAME`.
    pub uri: String,
    /// Its public key in hexadecimal.
    pub key: String,
    /// How this node's sub-grid stands with it: `site`, `asks` or `put out`.
    pub membership: String,
    /// Whether this machine holds its key.
    pub holds_key: bool,
    /// The version of its charter; 0: none is known.
    pub version: u64,
    /// The node that answers for it, and in which name.
    pub region_peer: Option<String>,
    /// In which name.
    pub mandate: Option<String>,
    /// Names of the sites whose majority it takes to elect another.
    pub electors: Vec<String>,
    /// Its sites.
    pub sites: Vec<SiteRow>,
    /// Who asks to be let in, or go.
    pub asking: Vec<AskingRow>,
    /// How its entry in the DNS stands, as its region-peer says; empty when that is not known.
    pub zone: String,
    /// How the region-peer was found last; empty when that was not necessary.
    pub found: String,
    /// Other regions that are asked, and whether they are heard.
    pub peers: Vec<(String, bool)>,
}

/// What was done, in a line for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReply {
    /// `grid://NAME`.
    pub uri: String,
    /// Its public key in hexadecimal.
    pub key: String,
    /// What was done.
    pub line: String,
}
