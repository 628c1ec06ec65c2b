use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use phantom_model::{NodeId, SubgridId};
use tokio::sync::watch;

/// A connection that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// Where the other is, if not behind a relay.
    pub ip: Option<IpAddr>,
}

/// Something signed by a node that some sub-grid calls its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Which sub-grid.
    pub subgrid: SubgridId,
    /// Which node.
    pub node: NodeId,
    /// What it is called.
    pub name: String,
    /// Whether it is a member of this node's own sub-grid, now.
    pub is_member: bool,
    /// What it has signed.
    pub body: Vec<u8>,
}

/// A change of what the node keeps for this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Keep these bytes under this name.
    Put(String, Vec<u8>),
    /// Keep nothing under this name.
    Remove(String),
    /// Keep nothing under any name that begins so.
    RemoveAll(String),
}

/// What this crate needs of the node: keys, members, connections and a disk.
#[async_trait]
pub trait Fabric: Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;

    /// The members of its sub-grid, this node among them; none when it belongs to none.
    fn members(&self) -> Vec<NodeId>;

    /// Those that were members and were put out.
    fn removed(&self) -> Vec<NodeId>;

    /// Counts changes of [`Fabric::members`].
    fn changes(&self) -> watch::Receiver<u64>;

    /// The connection with a member, if one stands.
    fn contact(&self, node: NodeId) -> Option<Contact>;

    /// Where a member may be, the likeliest first.
    fn known_at(&self, node: NodeId) -> Vec<IpAddr>;

    /// The secret this node shares with a member.
    fn shared_key(&self, node: NodeId) -> Option<[u8; 32]>;

    /// The port on which this node takes connections.
    fn port(&self) -> u16;

    /// Whether this node may let others in.
    fn may_accept(&self) -> bool;

    /// Signs as a member; `None` when this node is none.
    fn sign(&self, body: Vec<u8>) -> Option<Vec<u8>>;

    /// Checks what some node has signed; `None` when it is not genuine.
    fn read(&self, signed: &[u8]) -> Option<Signed>;

    /// A member has just told that it takes connections at `addr`.
    fn heard(&self, node: NodeId, addr: SocketAddr);

    /// A member was found to be gone: a connection with it is to be looked into.
    fn lost(&self, node: NodeId);

    /// The machine has slept, or its network has changed.
    async fn network_changed(&self);

    /// Sends a payload to a member over the connection with it, if there is one.
    async fn pass(&self, to: NodeId, payload: Vec<u8>);

    /// The sub-grid this node is a member of.
    fn subgrid(&self) -> Option<SubgridId>;

    /// Whether this node has founded it: the first to answer for it.
    fn is_founder(&self) -> bool;

    /// How much this node can be counted on, of 1000.
    fn availability(&self) -> u16;

    /// Delivers a parcel of the group, the registry or a query, up to 2 MiB, to a member, connecting
    /// if need be. It may be lost.
    async fn deliver(&self, to: NodeId, parcel: Vec<u8>);

    /// Sends a message of a query to a node that is no member of this sub-grid, to its region-peer
    /// whoever that is, or to this node itself as region-peer. It may be lost.
    fn query_abroad(&self, to: NodeId, message: Vec<u8>);

    /// What is kept under names that begin so.
    async fn kept(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String>;

    /// Makes all of these changes, or none; on the disk when it returns.
    async fn keep(&self, changes: Vec<Keep>) -> Result<(), String>;

    /// Milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}
