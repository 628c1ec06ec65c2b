//! What a region-peer keeps of its sub-grids and of the regions around.
//!
//! What holds:
//! - Only sub-grids that were approved are in it, each with the super-peer of the highest mandate
//!   that has reported. What is not refreshed for [`EXPIRES`] is out.
//! - Nothing in it grows with what others send: sub-grids and regions are bounded in number,
//!   summaries in size.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::RegionId;
use super::power::{Estimate, Need, Summary};
use super::report::{Content, MAX_REPORT, Receipt, Report};
use crate::machine::Mandate;
use crate::machine::coordinates::Coordinate;

/// Without a report for so long a sub-grid is out: three and a half are lost.
pub const EXPIRES: Duration = Duration::from_secs(35);
/// Without word for so long a region is out.
pub const REGION_EXPIRES: Duration = Duration::from_secs(120);
/// How often regions tell each other what they have.
pub const REGION_REFRESH: Duration = Duration::from_secs(10);
/// So many sub-grids a region has at most.
pub const MAX_SUBGRIDS: usize = 1024;
/// So many other regions are known.
pub const MAX_REGIONS: usize = 64;
/// For so long a sub-grid that was late is asked after others.
const LATE: Duration = Duration::from_secs(10);
/// How long a new region-peer waits for first reports before it takes nobody for nobody.
const SETTLES: Duration = Duration::from_secs(5);

/// Why a report changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// Nobody has approved it.
    #[error("sub-grid {0} is not approved in this region: approve it, or it cannot be found")]
    NotApproved(String),
    /// Its super-peer was replaced.
    #[error("sub-grid {subgrid} has a super-peer with mandate {known}: {given} is over")]
    Outdated {
        /// Whose.
        subgrid: String,
        /// The highest that was seen.
        known: Mandate,
        /// The one that came.
        given: Mandate,
    },
    /// It cannot be true.
    #[error(
        "the report of sub-grid {0} cannot be true: its super-peer runs another version, or lies"
    )]
    Impossible(String),
}

/// What is known of a sub-grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Who answers for it.
    pub super_peer: NodeId,
    /// Since which election.
    pub mandate: Mandate,
    /// What it has.
    pub summary: Summary,
    /// Where its super-peer is.
    pub coordinate: Coordinate,
    /// When it was last heard of.
    pub heard: Duration,
    late_until: Duration,
}

/// What a region-peer tells others of its region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionReport {
    /// Which.
    pub region: RegionId,
    /// What all its sub-grids have.
    pub summary: Summary,
}

impl RegionReport {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what another node has sent.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (read, rest) =
            postcard::take_from_bytes::<Self>(bytes.get(..MAX_REPORT.min(bytes.len()))?).ok()?;
        (rest.is_empty() && bytes.len() <= MAX_REPORT).then_some(read)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Neighbour {
    peer: NodeId,
    summary: Summary,
    heard: Duration,
}

/// A sub-grid that may meet a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which.
    pub subgrid: SubgridId,
    /// Whom to ask.
    pub super_peer: NodeId,
    /// How many of its members may match.
    pub estimate: Estimate,
}

/// What a region-peer keeps.
#[derive(Debug)]
pub struct Catalogue {
    approved: BTreeSet<SubgridId>,
    entries: BTreeMap<SubgridId, Entry>,
    /// Who answers for which sub-grid.
    super_peers: BTreeMap<NodeId, SubgridId>,
    neighbours: BTreeMap<RegionId, Neighbour>,
    began: Duration,
}

impl Catalogue {
    /// Nothing is known yet.
    pub fn new(now: Duration) -> Self {
        Self {
            approved: BTreeSet::new(),
            entries: BTreeMap::new(),
            super_peers: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            began: now,
        }
    }

    /// These sub-grids belong to the region; of others nothing is kept. Beyond [`MAX_SUBGRIDS`] those
    /// with the highest ids are left out.
    pub fn handle_approved(&mut self, approved: impl IntoIterator<Item = SubgridId>) {
        let approved: BTreeSet<_> = approved.into_iter().collect();
        self.approved = approved.into_iter().take(MAX_SUBGRIDS).collect();
        self.entries.retain(|subgrid, _| self.approved.contains(subgrid));
        self.super_peers.retain(|_, subgrid| self.approved.contains(subgrid));
    }

    /// The node `from` has sent this report. The receipt is for it.
    pub fn handle_report(
        &mut self,
        from: NodeId,
        report: &Report,
        now: Duration,
    ) -> Result<Receipt, Refused> {
        let subgrid = report.subgrid;
        if !self.approved.contains(&subgrid) {
            return Err(Refused::NotApproved(subgrid.short()));
        }
        let impossible = || Refused::Impossible(subgrid.short());
        let coordinate = report.coordinate.checked().ok_or_else(impossible)?;
        let known = self.entries.get(&subgrid);
        if let Some(known) = known {
            let same = known.mandate == report.mandate && known.super_peer == from;
            if !same && known.mandate >= report.mandate {
                let (known, given) = (known.mandate, report.mandate);
                return Err(Refused::Outdated { subgrid: subgrid.short(), known, given });
            }
        }
        let of_it = known.filter(|known| known.super_peer == from).map(|known| &known.summary);
        let summary = match &report.content {
            Content::Whole(summary) => {
                let read = Summary::read(&summary.to_bytes()).map_err(|_| impossible())?;
                Some(read)
            }
            Content::Changed(difference) => of_it.and_then(|base| base.apply(difference)),
            Content::Same => of_it.cloned(),
        };
        let Some(summary) = summary.filter(|summary| summary.digest() == report.digest) else {
            return Ok(Receipt { subgrid, digest: of_it.map(Summary::digest) });
        };
        if let Some(known) = known {
            self.super_peers.remove(&known.super_peer);
        }
        self.super_peers.insert(from, subgrid);
        let entry = Entry {
            super_peer: from,
            mandate: report.mandate,
            summary,
            coordinate,
            heard: now,
            late_until: now,
        };
        self.entries.insert(subgrid, entry);
        Ok(Receipt { subgrid, digest: Some(report.digest) })
    }

    /// The region-peer `from`, which the grid's directory names for its region, has sent this. False
    /// when it cannot be true or there is no room.
    pub fn handle_region(&mut self, from: NodeId, report: &RegionReport, now: Duration) -> bool {
        let room =
            self.neighbours.len() < MAX_REGIONS || self.neighbours.contains_key(&report.region);
        let Ok(summary) = Summary::read(&report.summary.to_bytes()) else { return false };
        if room {
            self.neighbours.insert(report.region, Neighbour { peer: from, summary, heard: now });
        }
        room
    }

    /// A sub-grid has not answered in time; others are asked before it for a while.
    pub fn handle_late(&mut self, subgrid: SubgridId, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&subgrid) {
            entry.late_until = now + LATE;
        }
    }

    /// When something expires next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let entries = self.entries.values().map(|entry| entry.heard + EXPIRES);
        entries.chain(self.neighbours.values().map(|it| it.heard + REGION_EXPIRES)).min()
    }

    /// Forgets what has expired.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.entries.retain(|_, entry| entry.heard + EXPIRES > now);
        let entries = &self.entries;
        self.super_peers.retain(|_, subgrid| entries.contains_key(subgrid));
        self.neighbours.retain(|_, neighbour| neighbour.heard + REGION_EXPIRES > now);
    }

    /// What is known of a sub-grid.
    pub fn entry(&self, subgrid: SubgridId) -> Option<&Entry> {
        self.entries.get(&subgrid)
    }

    /// Every sub-grid that is known.
    pub fn iter(&self) -> impl Iterator<Item = (SubgridId, &Entry)> {
        self.entries.iter().map(|(subgrid, entry)| (*subgrid, entry))
    }

    /// Which sub-grid this node answers for.
    pub fn subgrid_of(&self, super_peer: NodeId) -> Option<SubgridId> {
        self.super_peers.get(&super_peer).copied()
    }

    /// Whether this node answers for another region.
    pub fn is_region_peer(&self, node: NodeId) -> bool {
        self.neighbours.values().any(|neighbour| neighbour.peer == node)
    }

    /// Whether it may not have heard of all yet: it is new, and an approved sub-grid is missing.
    pub fn is_settling(&self, now: Duration) -> bool {
        now < self.began + SETTLES && self.entries.len() < self.approved.len()
    }

    /// What the region has.
    pub fn summary(&self) -> Summary {
        let mut all = Summary::default();
        self.entries.values().for_each(|entry| all.merge(&entry.summary));
        all
    }

    /// Sub-grids that may have what is needed, the best first: those that were not late; those where
    /// most of `wanted` are likely, with some to spare; of these the nearest to `near`; of these the
    /// one with the most free power.
    pub fn candidates(
        &self,
        need: &Need,
        wanted: u8,
        near: Option<&Coordinate>,
        now: Duration,
    ) -> Vec<Candidate> {
        let mut found: Vec<_> = self
            .entries
            .iter()
            .map(|(subgrid, entry)| (subgrid, entry, entry.summary.estimate(need)))
            .filter(|(.., estimate)| estimate.most > 0)
            .map(|(subgrid, entry, estimate)| {
                let plenty = f64::from(wanted) * 4.0;
                let likely = (estimate.likely.min(plenty) * 8.0) as u64;
                // To a tenth of a millisecond.
                let far = near.map_or(0.0, |near| entry.coordinate.distance(near)) * 10.0;
                let power = entry.summary.power().free_mflops;
                let order =
                    (entry.late_until > now, Reverse(likely), far as u64, Reverse(power), *subgrid);
                let super_peer = entry.super_peer;
                (order, Candidate { subgrid: *subgrid, super_peer, estimate })
            })
            .collect();
        found.sort_by_key(|(order, _)| *order);
        found.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// Other regions that may have what is needed, where most is likely first, with their
    /// region-peers.
    pub fn regions(&self, need: &Need) -> Vec<(RegionId, NodeId)> {
        let estimated = self.neighbours.iter().map(|(region, it)| {
            let estimate = it.summary.estimate(need);
            (Reverse((estimate.likely * 8.0) as u64), *region, it.peer, estimate.most)
        });
        let mut found: Vec<_> = estimated.filter(|(.., most)| *most > 0).collect();
        found.sort();
        found.into_iter().map(|(_, region, peer, _)| (region, peer)).collect()
    }
}

#[cfg(test)]
mod tests;
