//! What a node tells the others about itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bytes, NodeId};

/// Something a node may or may not be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Watches limits in the kernel (eBPF with BTF).
    Monitor,
    /// Saves and restores capsules (CRIU, proven by a canary).
    Checkpoint,
    /// Shows a home's files (FUSE), so can host foreign apps.
    Files,
    /// Gives capsules a network (veth and nftables).
    Network,
    /// Runs sandboxes on real hardware virtualization.
    Sandbox,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::Monitor => "monitor",
            Capability::Checkpoint => "checkpoint",
            Capability::Files => "files",
            Capability::Network => "network",
            Capability::Sandbox => "sandbox",
        })
    }
}

/// A node's description of itself, sent on request and refreshed while a connection stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Which node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Phantom's version.
    pub version: String,
    /// Machine architecture as `uname -m` gives it.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU features programs can see (`flags` of /proc/cpuinfo), sorted.
    pub cpu_flags: Vec<String>,
    /// Cores online.
    pub cores: u32,
    /// Cores idle over the last seconds, in hundredths of a core.
    pub idle_centicores: u32,
    /// Speed of one core, in million floating-point operations a second; what the node says.
    pub mflops: u32,
    /// Programs that run or want to, over the last minute, in hundredths.
    pub load_centi: u32,
    /// All memory.
    pub memory_total: Bytes,
    /// Memory that can be had without swapping.
    pub memory_free: Bytes,
    /// What it can do.
    pub capabilities: Vec<Capability>,
    /// What became of a throw-away process that was saved and restored there; in words, also why
    /// it was not.
    pub canary: String,
    /// Version of its CRIU as `major * 10000 + minor * 100 + sublevel`, if any.
    pub criu_version: Option<u32>,
    /// Whether its CRIU gives running children their controlling terminal back.
    pub criu_restores_job_control: bool,
}

impl NodeFacts {
    /// Whether it can do `what`.
    pub fn can(&self, what: Capability) -> bool {
        self.capabilities.contains(&what)
    }
}
