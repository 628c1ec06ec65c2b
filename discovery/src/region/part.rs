//! A super-peer's part in one region: its machines and what it knows.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};

use super::office::Office;
use super::record::Record;
use super::zone::{Found, Search};
use super::{Abroad, Charter, Membership, Reach, SiteView, View};
use crate::dns::RegionCache;
use crate::machine::Mandate;
use crate::machine::group::{Kept, Stamp};
use crate::machine::region::assembly::{Assembly, Seat, Sites};
use crate::machine::region::report::Reporter;

/// Where so many nodes of other regions are is remembered, for answers to their queries.
const MAX_HINTS: usize = 512;

/// This super-peer's part.
pub struct Part {
    pub subgrid: SubgridId,
    /// In which name this node is super-peer.
    pub mandate: Mandate,
    pub record: Record,
    /// The record this node has read.
    pub record_stamp: Stamp,
    pub charter: Option<Charter>,
    pub assembly: Assembly,
    /// What the site has promised in the region's group, and what was read of it last.
    pub kept: Kept,
    pub kept_stamp: Stamp,
    pub reporter: Reporter,
    pub office: Option<Office>,
    pub hints: Hints,
    pub cache: RegionCache,
    /// Whether it was said that the sub-grid is out.
    pub is_told_out: bool,
    /// How the region-peer was found last.
    pub found: String,
    pub last_found: Option<Found>,
    pub search: Option<Search>,
    pub next_search: Duration,
    /// Documents of virtual organisations that were told, by whom to and their digest.
    pub told: BTreeSet<(NodeId, [u8; 32])>,
    pub next_tell: Duration,
    pub tell_anew: Duration,
    /// Seats to be remembered, and not before then.
    pub seats: Option<Vec<Seat>>,
    pub next_remember: Duration,
}

/// Where nodes of other regions are, by who has passed their queries on.
#[derive(Default)]
pub struct Hints(VecDeque<Reach>);

impl Hints {
    pub fn learn(&mut self, reach: Reach) {
        self.0.retain(|known| known.node != reach.node);
        self.0.push_back(reach);
        if self.0.len() > MAX_HINTS {
            self.0.pop_front();
        }
    }

    fn get(&self, node: NodeId) -> Option<&Reach> {
        self.0.iter().rev().find(|reach| reach.node == node)
    }
}

impl Part {
    /// How the sub-grid stands with the region.
    pub fn membership(&self) -> Membership {
        match &self.charter {
            Some(charter) if charter.sites.contains_key(&self.subgrid) => Membership::Site,
            // Asking again is asking.
            Some(_) if self.record.registration.is_empty() => Membership::PutOut,
            _ => Membership::Asks,
        }
    }

    /// Takes over a charter.
    pub fn follow(&mut self, charter: Charter, now: Duration) {
        let of = charter.sites.keys().copied().collect();
        self.assembly.handle_charter(Sites { version: charter.version, of }, now);
        if let Some(office) = &mut self.office {
            office.handle_charter(&charter, now);
        }
        self.charter = Some(charter);
    }

    /// Whether it takes the place of the known one.
    pub fn is_newer(&self, charter: &Charter, abroad: &dyn Abroad) -> Result<bool, String> {
        if charter.uri != self.record.uri {
            return Err(format!(
                "the charter is that of {}, not of {}",
                charter.uri, self.record.uri
            ));
        }
        if !charter.is_under(self.record.key) {
            return Err(format!(
                "the charter of {} is signed by another key than the one that is known here, and \
                 that one has not signed for it: if the region was founded anew, run `phantom site \
                 remove {}` and register again",
                charter.uri, charter.uri
            ));
        }
        Ok(self.charter.as_ref().is_none_or(|known| abroad.replaces(charter, known)))
    }

    /// Where a node is to which something is to be sent.
    pub fn reach(&self, node: NodeId) -> Option<Reach> {
        self.reach_of_known(node).or_else(|| self.hints.get(node).cloned())
    }

    /// Whether a node speaks for a site, or for another region that the charter names.
    pub fn knows(&self, node: NodeId) -> bool {
        self.reach_of_known(node).is_some()
    }

    fn reach_of_known(&self, node: NodeId) -> Option<Reach> {
        let neighbour = || self.office.as_ref().and_then(|office| office.neighbours.reach(node));
        self.assembly.reach(node).or_else(neighbour)
    }

    /// How the region stands, as far as is known here.
    pub fn view(&self, abroad: &dyn Abroad, now: Duration) -> View {
        let rows = self.assembly.directory(now);
        let sites = self.charter.iter().flat_map(|charter| &charter.sites);
        let sites = sites.map(|(subgrid, name)| {
            let row = rows.iter().find(|row| row.seat.subgrid == *subgrid);
            let entry = self.office.as_ref().and_then(|office| office.catalogue.entry(*subgrid));
            SiteView {
                subgrid: *subgrid,
                name: name.clone(),
                node: row.map(|row| row.seat.node),
                alive: row.is_some_and(|row| row.alive),
                power: entry.map(|entry| *entry.summary.power()),
            }
        });
        let key = self.charter.as_ref().map_or(self.record.key, Charter::key);
        let genuine = self.assembly.asking().filter(|(subgrid, asking)| {
            let keys = self.charter.as_ref().map(|charter| charter.keys.clone());
            let keys = keys.unwrap_or_else(|| vec![key]);
            let read = |key| abroad.registration(&asking.registration, *subgrid, key).is_ok();
            keys.into_iter().any(read)
        });
        View {
            uri: self.record.uri.clone(),
            record: self.record.clone(),
            key,
            membership: self.membership(),
            charter: self.charter.as_ref().map(|it| it.bytes.clone()).unwrap_or_default(),
            region_peer: self.assembly.region_peer().map(|(seat, at)| (seat.clone(), at)),
            electors: self.assembly.electors().1,
            decides: self.office.is_some(),
            sites: sites.collect(),
            asking: genuine.map(|(_, asking)| asking.registration.clone()).collect(),
            zone: self.office.as_ref().map(Office::zone).unwrap_or_default(),
            found: self.found.clone(),
            peers: match &self.office {
                Some(office) => office.neighbours.view(now),
                None => Vec::new(),
            },
        }
    }
}
