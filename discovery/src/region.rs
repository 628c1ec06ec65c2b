//! The one task that owns a super-peer's part in its region.
//!
//! ```text
//!  sub-grid's group: which region, its charter, what the site has promised
//!     │ while this node is super-peer and may decide
//!     ▼
//!  Assembly ── elects ──▶ region-peer: Catalogue, RegionPeer (queries), the entry in the DNS
//! ```
//!
//! What holds:
//! - Only a super-peer that may decide for its sub-grid takes part; what must not be forgotten is
//!   kept by the sub-grid's group before it is told, and written only over what this node has read.
//! - A region is its key. Its charter, signed by it, says which sub-grids are sites; a node is
//!   believed to speak for a site when it has proven to be a member of that sub-grid.
//! - The DNS is asked while no region-peer is known, and written by the region-peer only
//!   ([`crate::dns`]).

mod driver;
mod letter;
mod neighbours;
mod office;
mod part;
mod record;
mod zone;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::dns::{Servers, Verify};
use crate::machine::Mandate;
pub use crate::machine::region::assembly::{Reach, Seat, Word};
pub use crate::machine::region::power::Power;
use crate::subgrid::SubGrid;
use crate::uri::GridUri;
use driver::Driver;
pub use letter::{Letter, MAX_LETTER, Parcel, Question, Reply};
pub use record::{CHARTER, Record, SITE};
pub use zone::{Found, NOT_WRITTEN_YET, find};

const MAX_ORDERS: usize = 1024;

/// How regions are found and their entries kept.
#[derive(Debug, Clone)]
pub struct RegionConfig {
    /// Who is asked about names.
    pub servers: Servers,
    /// File of the key with which this node may write the region's entry (TSIG).
    pub key_file: Option<PathBuf>,
    /// Where it is written; the zone's primary by its SOA record otherwise.
    pub primary: Option<SocketAddr>,
    /// Under which names and addresses this node is reached from elsewhere; its own addresses when
    /// there are none.
    pub hosts: Vec<String>,
}

/// Who belongs to a region, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charter {
    /// Which region.
    pub uri: GridUri,
    /// Its key, and those before it that have signed for it.
    pub keys: Vec<[u8; 32]>,
    /// What earlier keys have signed, for the DNS.
    pub proofs: Vec<Vec<u8>>,
    /// The highest counts.
    pub version: u64,
    /// Its sites by name.
    pub sites: BTreeMap<SubgridId, String>,
    /// Other regions that are asked, and their keys.
    pub peers: Vec<(GridUri, [u8; 32])>,
    /// As it is passed on.
    pub bytes: Vec<u8>,
}

impl Charter {
    /// The region's key.
    pub fn key(&self) -> [u8; 32] {
        self.keys.last().copied().unwrap_or_default()
    }

    /// Whether who has pinned `key` may believe it.
    pub fn is_under(&self, key: [u8; 32]) -> bool {
        self.keys.contains(&key)
    }
}

/// What this task needs of the node: keys and connections.
#[async_trait]
pub trait Abroad: Verify + Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;

    /// The sub-grid it is a member of.
    fn subgrid(&self) -> Option<SubgridId>;

    /// Its addresses, as its network writes them.
    async fn reach(&self) -> Vec<u8>;

    /// Its addresses.
    async fn addresses(&self) -> Vec<IpAddr>;

    /// The port on which it takes connections.
    fn port(&self) -> u16;

    /// Addresses as the node's network writes them.
    fn written(&self, addresses: &[SocketAddr]) -> Vec<u8>;

    /// How much this node can be counted on, of 1000.
    fn availability(&self) -> u16;

    /// Tells a node of another sub-grid something. It may be lost.
    async fn tell(&self, to: Reach, parcel: Vec<u8>);

    /// Asks a node of another sub-grid; the answer, and the sub-grid whose member it has proven to be.
    async fn ask(
        &self,
        to: Reach,
        parcel: Vec<u8>,
        within: Duration,
    ) -> Result<(Vec<u8>, SubgridId), String>;

    /// Checks a charter; the error says what is wrong with it.
    fn charter(&self, bytes: &[u8]) -> Result<Charter, String>;

    /// Whether one checked charter takes the place of another of the same region.
    fn replaces(&self, charter: &Charter, known: &Charter) -> bool;

    /// The documents of virtual organisations that this node knows.
    fn organisations(&self) -> Vec<Vec<u8>>;

    /// Takes over one of these sub-grids', if it is genuine and newer; whether it was.
    async fn learn_organisation(
        &self,
        document: Vec<u8>,
        owners: &BTreeSet<SubgridId>,
    ) -> Result<bool, String>;

    /// Checks what a sub-grid has signed to be let into the region with this key, or go: whether it
    /// wants to go.
    fn registration(&self, bytes: &[u8], of: SubgridId, key: [u8; 32]) -> Result<bool, String>;
}

/// How a sub-grid stands with its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// It has asked to be let in.
    Asks,
    /// It is one of its sites.
    Site,
    /// It was one.
    PutOut,
}

/// A site as its region-peer knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    /// Which sub-grid.
    pub subgrid: SubgridId,
    /// What it is called.
    pub name: String,
    /// Its super-peer, where one is known.
    pub node: Option<NodeId>,
    /// Whether it was heard lately.
    pub alive: bool,
    /// What its members have together, by the region-peer's catalogue.
    pub power: Option<Power>,
}

/// How a region stands, as a super-peer or the region-peer knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Which region.
    pub uri: GridUri,
    /// What the sub-grid of who says so keeps of it.
    pub record: Record,
    /// Its key, as it is known.
    pub key: [u8; 32],
    /// How the sub-grid of who says so stands with it.
    pub membership: Membership,
    /// The newest charter; empty when none was seen.
    pub charter: Vec<u8>,
    /// Who answers for it.
    pub region_peer: Option<(Seat, Mandate)>,
    /// Sites whose majority it takes to elect another.
    pub electors: Vec<SubgridId>,
    /// Whether who says so is the region-peer and may decide now.
    pub decides: bool,
    /// Its sites.
    pub sites: Vec<SiteView>,
    /// What sub-grids have signed that ask to be let in, or go.
    pub asking: Vec<Vec<u8>>,
    /// Of the region-peer: how its entry in the DNS stands, in words.
    pub zone: String,
    /// How the region-peer was found last, in words.
    pub found: String,
    /// Other regions, and whether their region-peers were heard lately.
    pub peers: Vec<(GridUri, bool)>,
}

enum Order {
    Parcel { from: NodeId, subgrid: SubgridId, parcel: Parcel, answer: oneshot::Sender<Reply> },
    Query { to: NodeId, message: Vec<u8> },
    Charter { bytes: Vec<u8>, done: oneshot::Sender<Result<(), String>> },
    View(oneshot::Sender<Option<View>>),
    Look,
}

/// This node's part in its region. Clones are the same.
#[derive(Clone)]
pub struct Region {
    orders: mpsc::Sender<Order>,
    link: watch::Receiver<Option<Reach>>,
}

impl Region {
    /// Begins.
    pub fn start(config: RegionConfig, abroad: Arc<dyn Abroad>, subgrid: SubGrid) -> Self {
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let (linked, link) = watch::channel(None);
        tokio::spawn(Driver::new(config, abroad, subgrid, linked).run(ordered));
        Self { orders, link }
    }

    /// A node of another sub-grid has sent this; the answer, if it has asked. Lost when there is too
    /// much to do.
    pub async fn take(&self, from: NodeId, subgrid: SubgridId, parcel: Parcel) -> Option<Reply> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Parcel { from, subgrid, parcel, answer };
        self.orders.try_send(order).ok()?;
        answered.await.ok()
    }

    /// Sends a message of a query to a node that is no member of this sub-grid, or to this node as
    /// region-peer. It may be lost.
    pub fn query(&self, to: NodeId, message: Vec<u8>) {
        // Lost when there is too much to do.
        let _ = self.orders.try_send(Order::Query { to, message });
    }

    /// The region's admin has signed another charter: it is kept, and told to all sites.
    ///
    /// # Errors
    /// It is none, the known one counts over it, or this node does not answer for its sub-grid.
    pub async fn adopt(&self, bytes: Vec<u8>) -> Result<(), String> {
        let gone = || "this node is shutting down".to_owned();
        let (done, result) = oneshot::channel();
        self.orders.send(Order::Charter { bytes, done }).await.map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// How the region stands as far as this node knows; `None` where it is not the super-peer of a
    /// sub-grid that has to do with one.
    pub async fn view(&self) -> Option<View> {
        let (answer, view) = oneshot::channel();
        self.orders.send(Order::View(answer)).await.ok()?;
        view.await.ok()?
    }

    /// Where the region-peer is, while that is another node.
    pub fn region_peer(&self) -> Option<Reach> {
        self.link.borrow().clone()
    }

    /// What the sub-grid's group knows of the region has changed.
    pub async fn look(&self) {
        let _ = self.orders.send(Order::Look).await;
    }
}
