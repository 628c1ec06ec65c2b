//! Connections to members: which of several counts, how they are made and watched.

pub(crate) mod dial;
pub(crate) mod pause;
pub(crate) mod pulse;
pub(crate) mod refused;
pub(crate) mod session;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use phantom_model::NodeId;

use crate::link::PeerAddr;

/// How this node stands with a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerState {
    /// Nothing was tried yet.
    Unknown,
    /// A connection is being made.
    Connecting,
    /// A connection stands.
    Connected,
    /// The last attempt failed, or the connection was lost.
    Unreachable {
        /// Why, in words.
        reason: String,
    },
}

/// A member as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// How this node stands with it.
    pub state: PeerState,
    /// Why there is no connection, as far as is known, also while one is being made.
    pub trouble: Option<String>,
    /// Where it is known to be reachable, what worked last first.
    pub addrs: Vec<PeerAddr>,
    /// Over which address the connection goes.
    pub path: Option<PeerAddr>,
    /// Round-trip time of that path.
    pub rtt: Option<Duration>,
    /// UDP payload received over the present connection, in bytes.
    pub bytes_in: u64,
    /// UDP payload sent over the present connection, in bytes.
    pub bytes_out: u64,
    /// Bulk data received since start, in bytes.
    pub bulk_in: u64,
    /// Bulk data sent since start, in bytes.
    pub bulk_out: u64,
}
