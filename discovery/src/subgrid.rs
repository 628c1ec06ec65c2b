//! The one task that owns the group and the registry of this node's sub-grid.

mod driver;
mod part;

use std::sync::Arc;
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::Discovery;
use crate::fabric::Fabric;
use crate::machine::Mandate;
use crate::machine::group::{Declined, Op, Outcome, State};
use crate::machine::registry::description::Attributes;
use driver::Driver;

const MAX_ORDERS: usize = 1024;
/// How available a member calls itself: an attribute of its description.
pub const AVAILABILITY: &str = "Availability";

/// How this node's sub-grid stands, as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Who answers for it.
    pub super_peer: Option<(NodeId, Mandate)>,
    /// Whether this is that node, and it may decide now.
    pub decides: bool,
    /// Which generation of its group this node knows; 0: none.
    pub generation: u64,
    /// Whose majority it takes.
    pub electors: Vec<NodeId>,
    /// Who votes, as far as this node knows.
    pub voters: Vec<NodeId>,
    /// Whether the super-peer has this node's description.
    pub registered: bool,
    /// Of a super-peer: members in the registry.
    pub registry: Option<usize>,
    /// Of a super-peer: members in its archive, shards of it that are stored, and that suffice.
    pub archive: Option<(usize, usize, usize)>,
    /// Of a super-peer: it still gathers what was archived.
    pub gathering: bool,
}

/// A member as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub node: NodeId,
    /// What it says of itself.
    pub attributes: Attributes,
    /// How long ago it last said so.
    pub age: Duration,
    /// Whether it has said so to this super-peer, not only to one before.
    pub confirmed: bool,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// It was not even tried.
    #[error("{0}")]
    Declined(#[from] Declined),
    /// Nobody can tell.
    #[error(
        "the super-peer changed meanwhile, or most machines are out of reach: look whether it happened before you try again"
    )]
    Unknown,
    /// This node belongs to no sub-grid, or its disk fails.
    #[error("this node takes no part in a sub-grid now")]
    NoGroup,
}

enum Order {
    Parcel { from: NodeId, bytes: Vec<u8> },
    Describe(Attributes),
    Propose { op: Op, done: oneshot::Sender<Result<Outcome, NotDone>> },
    Entries(oneshot::Sender<Option<Vec<Entry>>>),
    State(oneshot::Sender<Option<State>>),
}

/// This node's part in its sub-grid. Clones are the same.
#[derive(Clone)]
pub struct SubGrid {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
}

impl SubGrid {
    /// Begins.
    pub fn start(fabric: Arc<dyn Fabric>, discovery: Discovery) -> Self {
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let (told, status) = watch::channel(Status::default());
        let driver = Driver::new(fabric, discovery, told);
        tokio::spawn(driver.run(ordered));
        Self { orders, status }
    }

    /// A member has delivered this.
    pub async fn take(&self, from: NodeId, bytes: Vec<u8>) {
        let _ = self.orders.send(Order::Parcel { from, bytes }).await;
    }

    /// This node says this of itself from now on.
    pub async fn describe(&self, attributes: Attributes) {
        let _ = self.orders.send(Order::Describe(attributes)).await;
    }

    /// How the sub-grid stands.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Changes of [`SubGrid::status`].
    pub fn changes(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Has the group decide.
    ///
    /// # Errors
    /// It could not be tried, or nobody can tell what came of it.
    pub async fn propose(&self, op: Op) -> Result<Outcome, NotDone> {
        let (done, answer) = oneshot::channel();
        if self.orders.send(Order::Propose { op, done }).await.is_err() {
            return Err(NotDone::NoGroup);
        }
        answer.await.unwrap_or(Err(NotDone::Unknown))
    }

    /// What the members say of themselves; `None` where this node is not the super-peer.
    pub async fn entries(&self) -> Option<Vec<Entry>> {
        let (answer, entries) = oneshot::channel();
        self.orders.send(Order::Entries(answer)).await.ok()?;
        entries.await.ok()?
    }

    /// What the group has decided, as far as this node knows.
    pub async fn state(&self) -> Option<State> {
        let (answer, state) = oneshot::channel();
        self.orders.send(Order::State(answer)).await.ok()?;
        state.await.ok()?
    }
}
