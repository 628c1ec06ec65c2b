//! What discovery needs of this node: its keys, members and connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use phantom_discovery::region::Region;
use phantom_discovery::{Contact, Fabric, Keep, Signed};
use phantom_model::{NodeId, SubgridId};
use phantom_net::member::{Note, NoteError};
use phantom_net::{Network, PeerAddr, ServiceId};
use tokio::sync::watch;

use super::availability::Availability;
use super::store::Store;

/// What secrets between two nodes are used for here.
const CONTEXT: &str = "phantom gossip between two members 1";
/// A payload that does not leave within this time is of no use any more.
const PASSING: Duration = Duration::from_secs(1);

/// A parcel that is longer goes behind the header.
const SHORT_PARCEL: usize = 32 << 10;
/// How long one of those may take.
const LONG: Duration = Duration::from_secs(10);

/// The network, as discovery sees it.
pub struct Near {
    /// Identity, members and connections.
    pub network: Network,
    /// The port on which this node takes connections.
    pub port: u16,
    /// Where the group's memory and shards of the registry are kept.
    pub store: Arc<Store>,
    /// How much this node can be counted on.
    pub availability: Arc<Availability>,
    /// This node's part in its region, once there is one.
    pub region: OnceLock<Region>,
}

#[async_trait]
impl Fabric for Near {
    fn node(&self) -> NodeId {
        self.network.id()
    }

    fn members(&self) -> Vec<NodeId> {
        self.network.members().iter().map(|member| member.node()).collect()
    }

    fn removed(&self) -> Vec<NodeId> {
        self.network.removed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.network.member_changes()
    }

    fn contact(&self, node: NodeId) -> Option<Contact> {
        let path = self.network.path(node)?;
        Some(Contact { ip: path.as_ref().and_then(ip) })
    }

    fn known_at(&self, node: NodeId) -> Vec<IpAddr> {
        let members = self.network.members();
        let member = members.iter().find(|member| member.node() == node);
        member.map(|member| member.addrs.iter().filter_map(ip).collect()).unwrap_or_default()
    }

    fn shared_key(&self, node: NodeId) -> Option<[u8; 32]> {
        self.network.shared_with(node, CONTEXT)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn may_accept(&self) -> bool {
        self.network.membership().is_some_and(|membership| membership.may_accept)
    }

    fn sign(&self, body: Vec<u8>) -> Option<Vec<u8>> {
        self.network.note(body).ok().map(|note| note.to_bytes())
    }

    fn read(&self, signed: &[u8]) -> Option<Signed> {
        let note = match Note::read(signed) {
            Ok(note) => note,
            Err(NoteError::Malformed) => return None,
            Err(error) => {
                tracing::debug!(%error, "an announcement is not genuine");
                return None;
            }
        };
        Some(Signed {
            subgrid: note.subgrid(),
            node: note.node(),
            name: note.name().to_owned(),
            is_member: self.network.vouch(&note).is_ok(),
            body: note.body().to_vec(),
        })
    }

    fn heard(&self, node: NodeId, addr: SocketAddr) {
        self.network.hint(node, PeerAddr::Ip(addr));
    }

    fn lost(&self, node: NodeId) {
        self.network.doubt(node);
    }

    async fn network_changed(&self) {
        self.network.network_changed().await;
    }

    async fn pass(&self, to: NodeId, payload: Vec<u8>) {
        // The header is all there is: the stream ends with it.
        if let Err(error) = self.network.tell(to, &ServiceId::GOSSIP, &payload, PASSING).await {
            tracing::trace!(%error, "gossip was not passed");
        }
    }

    fn subgrid(&self) -> Option<SubgridId> {
        self.network.membership().map(|membership| membership.subgrid())
    }

    fn is_founder(&self) -> bool {
        self.network.membership().is_some_and(|membership| membership.founder)
    }

    fn availability(&self) -> u16 {
        self.availability.now()
    }

    async fn deliver(&self, to: NodeId, parcel: Vec<u8>) {
        let sent = if parcel.len() <= SHORT_PARCEL {
            // The header is all there is.
            let header = Some(parcel);
            self.network.tell(to, &ServiceId::SUBGRID, &header, PASSING).await
        } else {
            self.network.deliver(to, &ServiceId::SUBGRID, &None::<Vec<u8>>, &parcel, LONG).await
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "a parcel was lost");
        }
    }

    fn query_abroad(&self, to: NodeId, message: Vec<u8>) {
        if let Some(region) = self.region.get() {
            region.query(to, message);
        }
    }

    async fn kept(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
        let (store, prefix) = (self.store.clone(), prefix.to_owned());
        let read = tokio::task::spawn_blocking(move || phantom_net::Store::list(&*store, &prefix));
        read.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn keep(&self, changes: Vec<Keep>) -> Result<(), String> {
        let store = self.store.clone();
        let kept = tokio::task::spawn_blocking(move || store.change(&changes));
        kept.await.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    }
}

fn ip(addr: &PeerAddr) -> Option<IpAddr> {
    match addr {
        PeerAddr::Ip(addr) => Some(addr.ip()),
        PeerAddr::Relay(_) => None,
    }
}
