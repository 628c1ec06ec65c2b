//! What a region needs of this node: keys, and connections with nodes of other sub-grids.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use phantom_discovery::dns::Verify;
use phantom_discovery::machine::region::assembly::MAX_REACH;
use phantom_discovery::region::{
    Abroad, Charter, Letter, Parcel, Question, Reach, Reply, Seat, Word,
};
use phantom_discovery::uri::GridUri;
use phantom_model::{NodeId, SubgridId};
use phantom_net::abroad::{Contact, Foreign};
use phantom_net::member::Vo;
use phantom_net::region::{self, Registration, Rotation};
use phantom_net::{Network, PeerAddr};

use super::Daemon;
use super::availability::Availability;

/// What does not leave within this time is of no use any more.
const PASSING: Duration = Duration::from_secs(3);
/// How long an answer may take to be sent.
const ANSWER: Duration = Duration::from_secs(5);
/// So many addresses of one node are told.
const MAX_ADDRS: usize = 12;

/// The network, as a region sees it.
pub struct Outside {
    /// Identity, members and connections.
    pub network: Network,
    /// The port on which this node takes connections.
    pub port: u16,
    /// How much this node can be counted on.
    pub availability: Arc<Availability>,
}

/// Where to find a node of another sub-grid.
pub fn contact(reach: &Reach) -> Contact {
    let addrs: Vec<PeerAddr> = postcard::from_bytes(&reach.addrs).unwrap_or_default();
    Contact { node: reach.node, subgrid: reach.subgrid, addrs }
}

/// Addresses as they are told.
pub fn written(mut addrs: Vec<PeerAddr>) -> Vec<u8> {
    addrs.truncate(MAX_ADDRS);
    loop {
        // A list of addresses always serializes.
        let bytes = postcard::to_stdvec(&addrs).unwrap_or_default();
        // The URL of a relay may be long.
        if bytes.len() <= MAX_REACH || addrs.pop().is_none() {
            return bytes;
        }
    }
}

/// A charter as discovery wants it.
///
/// # Errors
/// It is none, in words.
pub fn charter(bytes: &[u8], now: u64) -> Result<Charter, String> {
    let charter = region::Charter::read(bytes, now).map_err(|error| error.to_string())?;
    let body = charter.body();
    let uri = |name: &str| GridUri::from_name(name).map_err(|error| error.to_string());
    let sites: BTreeMap<SubgridId, String> =
        body.sites.iter().map(|site| (site.subgrid, site.name.clone())).collect();
    let peers = body.peers.iter().map(|peer| Ok((uri(&peer.region)?, peer.key)));
    Ok(Charter {
        uri: uri(&body.region)?,
        keys: body.rotated.iter().map(|(old, _)| *old).chain([body.key]).collect(),
        // The DNS tells what the key before has signed.
        proofs: body.rotated.last().map(|(_, proof)| proof.clone()).into_iter().collect(),
        version: body.version,
        sites,
        peers: peers.collect::<Result<_, String>>()?,
        bytes: bytes.to_vec(),
    })
}

impl Verify for Outside {
    fn rotated(&self, old: &[u8; 32], new: &[u8; 32], proof: &[u8]) -> bool {
        Rotation::is_genuine(old, new, proof)
    }
}

#[async_trait]
impl Abroad for Outside {
    fn node(&self) -> NodeId {
        self.network.id()
    }

    fn subgrid(&self) -> Option<SubgridId> {
        self.network.membership().map(|membership| membership.subgrid())
    }

    async fn reach(&self) -> Vec<u8> {
        written(self.network.addrs().await)
    }

    async fn addresses(&self) -> Vec<IpAddr> {
        let ip = |addr: PeerAddr| match addr {
            PeerAddr::Ip(addr) => Some(addr.ip()),
            PeerAddr::Relay(_) => None,
        };
        self.network.addrs().await.into_iter().filter_map(ip).collect()
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn written(&self, addresses: &[SocketAddr]) -> Vec<u8> {
        written(addresses.iter().copied().map(PeerAddr::Ip).collect())
    }

    fn availability(&self) -> u16 {
        self.availability.now()
    }

    async fn tell(&self, to: Reach, parcel: Vec<u8>) {
        if let Err(error) = self.network.tell_abroad(&contact(&to), parcel, PASSING).await {
            tracing::trace!(%error, "a letter to another sub-grid was lost");
        }
    }

    async fn ask(
        &self,
        to: Reach,
        parcel: Vec<u8>,
        within: Duration,
    ) -> Result<(Vec<u8>, SubgridId), String> {
        let answer = self.network.ask_abroad(&contact(&to), parcel, within).await;
        let (bytes, proven) = answer.map_err(|error| error.to_string())?;
        Ok((bytes, proven.subgrid))
    }

    fn charter(&self, bytes: &[u8]) -> Result<Charter, String> {
        charter(bytes, self.network.now())
    }

    fn replaces(&self, charter: &Charter, known: &Charter) -> bool {
        let now = self.network.now();
        let [charter, known] =
            [charter, known].map(|it| region::Charter::read(&it.bytes, now).ok());
        match (charter, known) {
            (Some(charter), Some(known)) => charter.replaces(&known),
            // The clock was put back: what was checked before counts.
            (charter, _) => charter.is_some(),
        }
    }

    fn organisations(&self) -> Vec<Vec<u8>> {
        self.network.vos().iter().map(|vo| vo.to_bytes()).collect()
    }

    async fn learn_organisation(
        &self,
        document: Vec<u8>,
        owners: &BTreeSet<SubgridId>,
    ) -> Result<bool, String> {
        let vo = Vo::from_bytes(&document).map_err(|error| error.to_string())?;
        if !owners.contains(&vo.owner()) {
            return Err(format!("{} belongs to no site of the region", vo.id()));
        }
        self.network.learn_vo(&document).await.map_err(|error| error.to_string())
    }

    fn registration(&self, bytes: &[u8], of: SubgridId, key: [u8; 32]) -> Result<bool, String> {
        if !Registration::may_be(bytes, of, &key) {
            return Err("it is that of another sub-grid, or for another region".to_owned());
        }
        let read = Registration::read(bytes, self.network.now());
        Ok(read.map_err(|error| error.to_string())?.leaves())
    }
}

impl Daemon {
    /// Takes what nodes of other sub-grids send, until the network ends.
    pub async fn answer_abroad(self: Arc<Self>) {
        while let Some(foreign) = self.network.accept_abroad().await {
            let daemon = self.clone();
            // The network bounds how many there are.
            tokio::spawn(async move { daemon.take_foreign(foreign).await });
        }
    }

    async fn take_foreign(&self, foreign: Foreign) {
        let Some(parcel) = Parcel::read(&foreign.payload) else {
            return tracing::debug!(peer = %foreign.peer.short(), "sends what nobody understands");
        };
        let (peer, subgrid) = (foreign.peer, foreign.subgrid);
        if let Some(seat) = self.moved_seat() {
            match parcel {
                Parcel::Question(_) => answer(foreign, &Reply::Moved(seat)).await,
                Parcel::Letter(Letter::Word(Word::Hail(_))) => {
                    let addrs = foreign.addr.into_iter().collect();
                    let to = Contact { node: peer, subgrid: Some(subgrid), addrs };
                    let word = Letter::Word(Word::Moved(Box::new(seat)));
                    let parcel = Parcel::Letter(word).to_bytes();
                    if let Err(error) = self.network.tell_abroad(&to, parcel, PASSING).await {
                        tracing::debug!(%error, "who the super-peer is now was not told");
                    }
                }
                Parcel::Letter(_) => {}
            }
            return;
        }
        let asks = matches!(parcel, Parcel::Question(Question::Who | Question::View));
        let reply = self.region.take(peer, subgrid, parcel).await;
        if let Some(reply) = reply.filter(|_| asks) {
            answer(foreign, &reply).await;
        }
    }

    /// Who answers for the sub-grid, where that is another node.
    fn moved_seat(&self) -> Option<Seat> {
        let (node, mandate) = self.subgrid.status().super_peer?;
        if node == self.node {
            return None;
        }
        let members = self.network.members();
        let member = members.into_iter().find(|member| member.node() == node)?;
        let subgrid = self.network.membership()?.subgrid();
        Some(Seat { subgrid, node, mandate, reach: written(member.addrs), availability: 0 })
    }
}

async fn answer(foreign: Foreign, reply: &Reply) {
    let peer = foreign.peer;
    if let Err(error) = foreign.reply(reply.to_bytes(), ANSWER).await {
        tracing::debug!(peer = %peer.short(), %error, "an answer was lost");
    }
}
