//! Who answers for whom, as if elections and the grid's directory had said so.

use bytes::Bytes;
use phantom_model::SubgridId;
use rand::RngExt;

use super::{ELECTION, Grid, Letter, Plan, RegionRole, SuperRole, region_id};
use crate::machine::Mandate;
use crate::machine::query::{RegionLink, RegionPeer, SuperPeer};
use crate::machine::region::catalogue::{Catalogue, RegionReport};
use crate::machine::region::power::Summary;
use crate::machine::region::report::Reporter;
use crate::sim::engine::Traffic;
use crate::sim::workload::{node_id, subgrid_id};

impl Grid {
    pub(super) fn crash(&mut self, node: usize) {
        let now = self.engine.now();
        self.engine.crash(node);
        let subgrid = node / self.shape.members;
        if self.nodes[node].super_role.take().is_some() {
            self.plan(now + ELECTION, Plan::Elect(subgrid));
        }
        if let Some(role) = self.nodes[node].region_role.take() {
            // After its sub-grid has another super-peer.
            self.plan(now + ELECTION, Plan::ElectRegion(role.region));
        }
    }

    pub(super) fn elect(&mut self, number: usize) {
        let now = self.engine.now();
        let subgrid = &mut self.subgrids[number];
        let members = subgrid.first..subgrid.first + self.shape.members;
        let Some(elected) = members.clone().find(|member| self.engine.is_alive(*member)) else {
            return self.plan(now + ELECTION, Plan::Elect(number));
        };
        subgrid.super_peer = elected;
        subgrid.term += 1;
        let mandate = Mandate { generation: 1, term: subgrid.term };
        let (id, own) = (subgrid_id(number), node_id(elected));
        let clock = self.engine.clock(elected);
        let reporter = Reporter::new(id, mandate, self.engine.rng().random(), clock);
        let machine = SuperPeer::new(own, id, self.engine.rng().random());
        self.nodes[elected].super_role = Some(Box::new(SuperRole { machine, reporter }));
        self.summarise(number);
        let region_peer = self.region_peers[self.subgrids[number].region];
        if region_peer != usize::MAX {
            self.tell_region_peer(elected, region_peer);
        }
        for member in members {
            let clock = self.engine.clock(member);
            self.nodes[member].asker.handle_super_peer(Some(own), clock);
            self.flush(member);
        }
    }

    pub(super) fn elect_region(&mut self, region: usize) {
        let now = self.engine.now();
        let of_it = || self.subgrids.iter().filter(|subgrid| subgrid.region == region);
        let alive = of_it().map(|subgrid| subgrid.super_peer);
        let elected = alive
            .into_iter()
            .find(|node| self.engine.is_alive(*node) && self.nodes[*node].super_role.is_some());
        let Some(elected) = elected else {
            return self.plan(now + ELECTION, Plan::ElectRegion(region));
        };
        let clock = self.engine.clock(elected);
        let mut catalogue = Catalogue::new(clock);
        catalogue.handle_approved(self.ids(region));
        let machine = RegionPeer::new(node_id(elected), region_id(region), 4);
        let role = RegionRole { machine, catalogue, region };
        self.nodes[elected].region_role = Some(Box::new(role));
        self.region_peers[region] = elected;
        let super_peers: Vec<_> = of_it().map(|subgrid| subgrid.super_peer).collect();
        for super_peer in super_peers {
            self.tell_region_peer(super_peer, elected);
        }
        // Region-peers know each other by the grid's directory.
        (0..self.shape.regions).for_each(|other| self.tell_regions(other));
    }

    fn ids(&self, region: usize) -> Vec<SubgridId> {
        let of_it = (0..self.subgrids.len()).filter(|it| self.subgrids[*it].region == region);
        of_it.map(subgrid_id).collect()
    }

    fn tell_region_peer(&mut self, super_peer: usize, region_peer: usize) {
        let (clock, peer) = (self.engine.clock(super_peer), node_id(region_peer));
        if let Some(role) = &mut self.nodes[super_peer].super_role {
            role.machine.handle_region(RegionLink::Peer(peer), clock);
            role.reporter.handle_region_peer(Some(peer), clock);
            self.flush(super_peer);
        }
    }

    pub(super) fn tell_regions(&mut self, region: usize) {
        let from = self.region_peers[region];
        let Some(role) = self.nodes.get(from).and_then(|node| node.region_role.as_ref()) else {
            return;
        };
        let report = RegionReport { region: region_id(region), summary: role.catalogue.summary() };
        let bytes = Bytes::from(report.to_bytes());
        for to in self.region_peers.clone() {
            if to != from && to != usize::MAX {
                self.engine.send_surely(from, to, Letter::Region(bytes.clone()));
                self.reporting.add(Traffic::of(bytes.len()));
            }
        }
    }

    pub(super) fn summarise(&mut self, number: usize) {
        let subgrid = &self.subgrids[number];
        let node = subgrid.super_peer;
        let summary = Summary::of(subgrid.registry.ads.iter().map(|(node, ad)| (*node, ad)));
        let clock = self.engine.clock(node);
        if let Some(role) = &mut self.nodes[node].super_role {
            role.reporter.handle_summary(summary, clock);
            self.flush(node);
        }
    }
}
