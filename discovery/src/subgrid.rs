//! The two tasks of this node's sub-grid: one owns the group and the registry, the other the queries.

mod complaints;
mod driver;
mod effort;
mod listing;
mod part;
mod query_driver;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::driver::{Discovery, Posted};
use crate::fabric::Fabric;
use crate::machine::Mandate;
use crate::machine::coordinates::Coordinate;
use crate::machine::group::{Declined, Lease, Op, Outcome, Stamp, State};
use crate::machine::query::{
    Answer, AskError, Directory, MAX_REMAINING_MS, Message, RegionLink, Request,
};
use crate::machine::region::power::Summary;
use crate::machine::registry::description::Attributes;
use driver::Driver;
pub(crate) use driver::boot_clock;
use query_driver::{QueryDriver, Question};

const MAX_ORDERS: usize = 1024;
const MAX_QUESTIONS: usize = 1024;
/// No query takes longer.
const MAX_PATIENCE: Duration = Duration::from_millis(MAX_REMAINING_MS as u64);
/// A query that has not ended so long after its deadline never does.
const OVERDUE: Duration = Duration::from_secs(1);
/// How available a member calls itself: an attribute of its description.
pub const AVAILABILITY: &str = "Availability";

/// How this node's sub-grid stands, as this node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// In which sub-grid this node takes part; `None` also while its disk fails.
    pub subgrid: Option<SubgridId>,
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

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// It makes no sense, or too many are under way.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Until its deadline nobody answered for the sub-grid.
    #[error("no super-peer answers for the sub-grid now: `phantom subgrid` tells why")]
    NoSuperPeer,
    /// This node belongs to no sub-grid, or its disk fails.
    #[error("this node takes no part in a sub-grid now")]
    NoGroup,
    /// This node has not come to it.
    #[error("this machine has too much to do: ask again later")]
    Overdue,
}

enum Order {
    Parcel {
        from: NodeId,
        bytes: Vec<u8>,
    },
    /// A message of a query from a node outside.
    Abroad {
        from: NodeId,
        bytes: Vec<u8>,
    },
    /// A message of a query from this node to itself.
    Home(Box<Message>),
    Listing(oneshot::Sender<Option<Arc<listing::Listing>>>),
    Vos(listing::Vos),
    Describe(Attributes),
    Propose {
        op: Op,
        done: oneshot::Sender<Result<Outcome, NotDone>>,
    },
    Entries(oneshot::Sender<Option<Vec<Entry>>>),
    State(oneshot::Sender<Option<State>>),
    Value {
        name: &'static str,
        answer: oneshot::Sender<Option<StampedValue>>,
    },
    Lease(oneshot::Sender<Option<Lease>>),
}

/// A value of the group with its stamp; `None` in the place of the bytes where there is none.
type StampedValue = (Stamp, Option<Vec<u8>>);

/// This node's part in its sub-grid. Clones are the same.
#[derive(Clone)]
pub struct SubGrid {
    orders: mpsc::Sender<Order>,
    questions: mpsc::Sender<Question>,
    status: watch::Receiver<Status>,
}

impl SubGrid {
    /// Begins. `posted` is what members send it by way of `discovery`.
    pub fn start(fabric: Arc<dyn Fabric>, discovery: Discovery, posted: Posted) -> Self {
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let (told, status) = watch::channel(Status::default());
        let (questions, asked) = mpsc::channel(MAX_QUESTIONS);
        let queries = QueryDriver::new(fabric.clone(), orders.downgrade());
        tokio::spawn(queries.run(status.clone(), asked));
        let driver = Driver::new(fabric, discovery, questions.clone(), told);
        tokio::spawn(driver.run(ordered, posted));
        Self { orders, questions, status }
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

    /// Asks which nodes match; ends by the request's deadline.
    ///
    /// # Errors
    /// The query makes no sense, or there is nobody to ask.
    pub async fn query(&self, request: Request) -> Result<Answer, QueryError> {
        let within = request.patience.min(MAX_PATIENCE) + OVERDUE;
        let asked = async {
            let (done, answer) = oneshot::channel();
            let question = Question::Ask { request, done };
            self.questions.send(question).await.map_err(|_| QueryError::NoGroup)?;
            answer.await.unwrap_or(Err(QueryError::NoGroup))
        };
        tokio::time::timeout(within, asked).await.unwrap_or(Err(QueryError::Overdue))
    }

    /// A node outside the sub-grid, which has proven its key, has sent this message of a query, or
    /// this node's own region-peer has.
    pub async fn take_query(&self, from: NodeId, message: Vec<u8>) {
        let _ = self.orders.send(Order::Abroad { from, bytes: message }).await;
    }

    /// What this sub-grid's super-peer knows of its region from now on, and where this node is. Until
    /// it is told, the sub-grid belongs to none.
    pub async fn link_region(&self, link: RegionLink, near: Option<Coordinate>) {
        let _ = self.questions.send(Question::Region { link, near }).await;
    }

    /// Who is in which virtual organisation from now on; in others nobody is.
    pub async fn set_vos(&self, vos: BTreeMap<String, BTreeSet<NodeId>>) {
        let _ = self.orders.send(Order::Vos(vos)).await;
    }

    /// What the members that are up have together, for reports to the region-peer. `None` where this
    /// node is not the super-peer, and while a new one has not heard of all of them yet.
    pub async fn summary(&self) -> Option<Summary> {
        let (answer, listing) = oneshot::channel();
        self.orders.send(Order::Listing(answer)).await.ok()?;
        let listing = listing.await.ok()??;
        listing.is_whole().then(|| listing.summary().clone())
    }

    /// A value that the group keeps, as far as this node knows; `None` where it knows of no group.
    pub async fn value(&self, name: &'static str) -> Option<StampedValue> {
        let (answer, value) = oneshot::channel();
        self.orders.send(Order::Value { name, answer }).await.ok()?;
        value.await.ok()?
    }

    /// What the group has decided, as far as this node knows.
    pub async fn state(&self) -> Option<State> {
        let (answer, state) = oneshot::channel();
        self.orders.send(Order::State(answer)).await.ok()?;
        state.await.ok()?
    }
    /// Until when this node decides for the sub-grid, as CLOCK_BOOTTIME counts; `None`: it may not
    /// now.
    pub async fn lease(&self) -> Option<Lease> {
        let (answer, lease) = oneshot::channel();
        self.orders.send(Order::Lease(answer)).await.ok()?;
        lease.await.ok()?
    }
}
