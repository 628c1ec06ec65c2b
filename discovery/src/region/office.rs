//! What a region-peer has beside a super-peer: the catalogue, queries, the entry in the DNS, other
//! regions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::mpsc;

use super::neighbours::Neighbours;
use super::zone::{Found, Keeper, hosts};
use super::{Abroad, Charter, RegionConfig};
use crate::dns::Entry;
use crate::machine::Mandate;
use crate::machine::query::RegionPeer;
use crate::machine::region::RegionId;
use crate::machine::region::catalogue::{Catalogue, RegionReport};
use crate::uri::GridUri;

/// So many sub-grids are asked at once.
const FAN_OUT: usize = 4;

/// A region-peer's office.
pub struct Office {
    /// In whose name.
    pub mandate: Mandate,
    /// What the sites have.
    pub catalogue: Catalogue,
    /// Passes queries on.
    pub queries: RegionPeer,
    /// Other regions.
    pub neighbours: Neighbours,
    keeper: Keeper,
    /// Why there is nothing to write.
    trouble: Option<String>,
    region: RegionId,
    hosts: Vec<IpAddr>,
}

impl Office {
    /// Takes office for the region of this charter.
    pub fn new(
        config: &RegionConfig,
        abroad: &Arc<dyn Abroad>,
        charter: &Charter,
        mandate: Mandate,
        found: mpsc::Sender<(GridUri, Result<Found, String>)>,
        now: Duration,
    ) -> Self {
        let region = RegionId::named(charter.uri.name());
        let mut office = Self {
            mandate,
            catalogue: Catalogue::new(now),
            queries: RegionPeer::new(abroad.node(), region, FAN_OUT),
            neighbours: Neighbours::new(found),
            keeper: Keeper::start(config.clone(), charter.uri.clone(), abroad.clone()),
            trouble: None,
            region,
            hosts: Vec::new(),
        };
        office.handle_charter(charter, now);
        office
    }

    /// The charter has changed.
    pub fn handle_charter(&mut self, charter: &Charter, now: Duration) {
        self.catalogue.handle_approved(charter.sites.keys().copied());
        self.neighbours.handle_charter(&charter.peers, now);
    }

    /// This node has these addresses.
    pub fn handle_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.hosts = addresses;
    }

    /// Has the entry say what is so.
    pub fn publish(&mut self, config: &RegionConfig, charter: &Charter, node: NodeId, port: u16) {
        let hosts = hosts(config, self.hosts.clone());
        let entry =
            Entry::new(hosts, port, charter.key(), node, self.mandate, charter.proofs.clone());
        match entry {
            Ok(entry) => {
                self.trouble = None;
                self.keeper.want(entry);
            }
            Err(error) => self.trouble = Some(format!("no entry can be made: {error}")),
        }
    }

    /// How the entry stands, in words.
    pub fn zone(&self) -> String {
        self.trouble.clone().unwrap_or_else(|| self.keeper.words())
    }

    /// What other regions are told.
    pub fn report(&self) -> Vec<u8> {
        RegionReport { region: self.region, summary: self.catalogue.summary() }.to_bytes()
    }
}
