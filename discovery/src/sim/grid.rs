//! A grid of nodes, super-peers and region-peers that ask each other: the query machines, the
//! catalogues and the reports that fill them, over the network of the engine.
//!
//! Elections and the registry are other machines: here whoever is next is elected after
//! [`ELECTION`], and every member's description is registered.

mod elections;
mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use phantom_model::NodeId;
use rand::RngExt;

use super::engine::{Engine, Event, Network, Place, Traffic};
use super::workload::{self, Kind, Registry, node_id, number_of, subgrid_id};
use crate::machine::query::{
    AskError, Asker, Command, Message, QueryId, RegionPeer, Request, Scope, SuperPeer,
};
use crate::machine::region::RegionId;
use crate::machine::region::catalogue::{Catalogue, REGION_REFRESH, RegionReport};
use crate::machine::region::report::{Receipt, Report, Reporter};

pub use record::Record;

/// How long it takes to elect another super-peer or region-peer.
pub const ELECTION: Duration = Duration::from_secs(3);
/// How often a part of a sub-grid's members has another load.
const LOAD: Duration = Duration::from_secs(10);

/// How large a grid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Regions.
    pub regions: usize,
    /// Sub-grids, spread over the regions.
    pub subgrids: usize,
    /// Members of each.
    pub members: usize,
}

/// What is sent.
#[derive(Debug, Clone)]
enum Letter {
    Query(Bytes),
    Report(Bytes),
    Receipt(Bytes),
    Region(Bytes),
}

#[derive(Debug)]
enum Plan {
    Ask(usize, Request),
    Load(usize),
    Elect(usize),
    ElectRegion(usize),
    TellRegions(usize),
    Crash(usize),
    Restart(usize),
    Freeze(usize, Duration),
    Jump(usize, Duration),
    Part(Option<BTreeMap<Place, u16>>),
}

#[derive(Debug)]
struct SuperRole {
    machine: SuperPeer,
    reporter: Reporter,
}

#[derive(Debug)]
struct RegionRole {
    machine: RegionPeer,
    catalogue: Catalogue,
    region: usize,
}

#[derive(Debug)]
struct Node {
    asker: Asker,
    super_role: Option<Box<SuperRole>>,
    region_role: Option<Box<RegionRole>>,
}

#[derive(Debug)]
struct Subgrid {
    region: usize,
    registry: Registry,
    /// Number of its first member.
    first: usize,
    super_peer: usize,
    term: u64,
}

/// A grid.
#[derive(Debug)]
pub struct Grid {
    engine: Engine<Letter>,
    shape: Shape,
    nodes: Vec<Node>,
    subgrids: Vec<Subgrid>,
    region_peers: Vec<usize>,
    plans: Vec<Option<Plan>>,
    records: Vec<Record>,
    by_id: BTreeMap<QueryId, usize>,
    /// Reports, receipts and what regions tell each other.
    pub reporting: Traffic,
    /// Nodes that were named for flooding.
    pub named: Vec<usize>,
    /// Events that were handled.
    pub events: u64,
}

impl Grid {
    /// A grid in which everybody knows who answers for him, and region-peers know nothing yet.
    pub fn new(shape: Shape, network: Network, seed: u64, changing: bool) -> Self {
        let places = (0..shape.subgrids * shape.members).map(|number| {
            let subgrid = number / shape.members;
            Place { region: (subgrid % shape.regions) as u16, subgrid: subgrid as u16 }
        });
        let mut engine = Engine::new(network, places.collect(), seed);
        let mut subgrids = Vec::new();
        for number in 0..shape.subgrids {
            let first = number * shape.members;
            let ads = (first..first + shape.members).map(|member| {
                let ad = workload::ad(Kind::of(number), &format!("n{member}"), engine.rng());
                (node_id(member), ad)
            });
            let registry = Registry { ads: ads.collect(), vo: format!("vo{}", number % 7) };
            let region = number % shape.regions;
            subgrids.push(Subgrid { region, registry, first, super_peer: first, term: 0 });
        }
        let nodes = (0..shape.subgrids * shape.members).map(|number| Node {
            asker: Asker::new(
                node_id(number),
                subgrid_id(number / shape.members),
                engine.rng().random(),
            ),
            super_role: None,
            region_role: None,
        });
        let mut grid = Self {
            nodes: nodes.collect(),
            engine,
            shape,
            subgrids,
            region_peers: vec![usize::MAX; shape.regions],
            plans: Vec::new(),
            records: Vec::new(),
            by_id: BTreeMap::new(),
            reporting: Traffic::default(),
            named: Vec::new(),
            events: 0,
        };
        (0..shape.subgrids).for_each(|subgrid| grid.elect(subgrid));
        (0..shape.regions).for_each(|region| grid.elect_region(region));
        for region in 0..shape.regions {
            grid.plan(Duration::from_secs(8), Plan::TellRegions(region));
        }
        for subgrid in (0..shape.subgrids).filter(|_| changing) {
            let at = LOAD.mul_f64(grid.engine.rng().random_range(0.0..1.0));
            grid.plan(at, Plan::Load(subgrid));
        }
        grid
    }

    /// The engine's time.
    pub fn now(&self) -> Duration {
        self.engine.now()
    }

    /// What became of the queries, in the order in which they were asked.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Randomness of this run.
    pub fn random(&mut self, below: usize) -> usize {
        self.engine.rng().random_range(0..below)
    }

    /// The node that answers for a sub-grid, and the one that answers for a region.
    pub fn super_peer(&self, subgrid: usize) -> usize {
        self.subgrids[subgrid].super_peer
    }

    /// The node that answers for a region.
    pub fn region_peer(&self, region: usize) -> usize {
        self.region_peers[region]
    }

    /// How many queries super-peers still keep.
    pub fn pending(&self) -> usize {
        let roles = self.nodes.iter().filter_map(|node| node.super_role.as_ref());
        roles.map(|role| role.machine.pending()).sum()
    }

    /// The registry of a sub-grid.
    pub fn registry(&self, subgrid: usize) -> &Registry {
        &self.subgrids[subgrid].registry
    }

    /// How the grid is shaped.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// A node asks at this time.
    pub fn ask_at(&mut self, at: Duration, node: usize, request: Request) {
        self.plan(at, Plan::Ask(node, request));
    }

    /// A node asks a random thing at this time.
    pub fn ask_anything_at(&mut self, at: Duration, node: usize, scope: Scope) {
        let request = workload::request(scope, self.engine.rng());
        self.ask_at(at, node, request);
    }

    /// A node ends at this time, for good or until another.
    pub fn crash_at(&mut self, at: Duration, node: usize, back: Option<Duration>) {
        self.plan(at, Plan::Crash(node));
        if let Some(back) = back {
            self.plan(back, Plan::Restart(node));
        }
    }

    /// A node is stopped at this time for so long.
    pub fn freeze_at(&mut self, at: Duration, node: usize, length: Duration) {
        self.plan(at, Plan::Freeze(node, length));
    }

    /// A node's clock jumps at this time.
    pub fn jump_at(&mut self, at: Duration, node: usize, by: Duration) {
        self.plan(at, Plan::Jump(node, by));
    }

    /// A region is cut off from the others for a while.
    pub fn part_at(&mut self, at: Duration, region: u16, until: Duration) {
        let places = (0..self.shape.subgrids).map(|subgrid| {
            let of = (subgrid % self.shape.regions) as u16;
            (Place { region: of, subgrid: subgrid as u16 }, u16::from(of == region))
        });
        let sides = places.collect();
        self.plan(at, Plan::Part(Some(sides)));
        self.plan(until, Plan::Part(None));
    }

    fn plan(&mut self, at: Duration, plan: Plan) {
        self.plans.push(Some(plan));
        self.engine.plan(at, self.plans.len() as u64 - 1);
    }

    /// Lets the time pass.
    pub fn run(&mut self, end: Duration) {
        while let Some(event) = self.engine.next(end) {
            self.events += 1;
            match event {
                Event::Arrival { to, from, payload } => self.arrive(to, node_id(from), payload),
                Event::Wake(node) => self.wake(node),
                Event::Plan(number) => {
                    let plan = self.plans.get_mut(number as usize).and_then(Option::take);
                    plan.into_iter().for_each(|plan| self.carry_out(plan));
                }
            }
        }
    }

    fn carry_out(&mut self, plan: Plan) {
        let now = self.engine.now();
        match plan {
            Plan::Ask(node, request) => _ = self.ask(node, request),
            Plan::Load(number) => {
                for _ in 0..self.shape.members.div_ceil(20) {
                    let member = self.random(self.shape.members);
                    let ads = &mut self.subgrids[number].registry.ads;
                    workload::change(&mut ads[member].1, self.engine.rng());
                }
                self.summarise(number);
                self.plan(now + LOAD, Plan::Load(number));
            }
            Plan::Elect(subgrid) => self.elect(subgrid),
            Plan::ElectRegion(region) => self.elect_region(region),
            Plan::TellRegions(region) => {
                self.tell_regions(region);
                self.plan(now + REGION_REFRESH, Plan::TellRegions(region));
            }
            Plan::Crash(node) => self.crash(node),
            Plan::Restart(node) => {
                self.engine.restart(node);
                let subgrid = node / self.shape.members;
                let seed = self.engine.rng().random();
                let clock = self.engine.clock(node);
                let mut asker = Asker::new(node_id(node), subgrid_id(subgrid), seed);
                asker.handle_super_peer(Some(node_id(self.subgrids[subgrid].super_peer)), clock);
                self.nodes[node] = Node { asker, super_role: None, region_role: None };
            }
            Plan::Freeze(node, length) => self.engine.freeze(node, now + length),
            Plan::Jump(node, by) => self.engine.jump(node, by),
            Plan::Part(sides) => self.engine.part(sides),
        }
    }

    /// A node asks now.
    pub fn ask(&mut self, node: usize, request: Request) -> Option<Result<QueryId, AskError>> {
        if !self.engine.is_alive(node) {
            return None;
        }
        let (now, clock) = (self.engine.now(), self.engine.clock(node));
        let record = self.record(node, &request, now);
        let asked = self.nodes[node].asker.handle_request(request, clock);
        if let Ok(id) = &asked {
            self.by_id.insert(*id, self.records.len());
            self.records.push(record);
        }
        self.flush(node);
        Some(asked)
    }

    fn arrive(&mut self, to: usize, from: NodeId, letter: Letter) {
        let now = self.engine.clock(to);
        let node = &mut self.nodes[to];
        match letter {
            Letter::Query(bytes) => {
                let Some(message) = Message::read(&bytes) else { return };
                let directory = &self.subgrids[to / self.shape.members].registry;
                if let (Message::Refer(..), Some(role)) = (&message, &mut node.region_role) {
                    role.machine.handle_message(from, message, &mut role.catalogue, now);
                } else {
                    if let Message::Answer(_) = &message {
                        node.asker.handle_message(from, message.clone(), now);
                    }
                    if let Some(role) = &mut node.super_role {
                        role.machine.handle_message(from, message, directory, now);
                    }
                }
            }
            Letter::Report(bytes) => {
                let Some((report, role)) = Report::read(&bytes).zip(node.region_role.as_mut())
                else {
                    return;
                };
                if let Ok(receipt) = role.catalogue.handle_report(from, &report, now) {
                    let bytes = Bytes::from(receipt.to_bytes());
                    let length = bytes.len();
                    let Some(back) = number_of(from) else { return };
                    let sent = self.engine.send(to, back, Letter::Receipt(bytes), length);
                    self.reporting.add(sent);
                }
            }
            Letter::Receipt(bytes) => {
                if let Some((receipt, role)) = Receipt::read(&bytes).zip(node.super_role.as_mut()) {
                    role.reporter.handle_receipt(from, &receipt, now);
                }
            }
            Letter::Region(bytes) => {
                if let Some((report, role)) =
                    RegionReport::read(&bytes).zip(node.region_role.as_mut())
                {
                    role.catalogue.handle_region(from, &report, now);
                }
            }
        }
        self.flush(to);
    }

    fn wake(&mut self, number: usize) {
        let now = self.engine.clock(number);
        let node = &mut self.nodes[number];
        node.asker.handle_timeout(now);
        if let Some(role) = &mut node.super_role {
            role.machine.handle_timeout(now);
        }
        if let Some(role) = &mut node.region_role {
            role.catalogue.handle_timeout(now);
        }
        self.flush(number);
    }

    /// Carries out what a node's machines want, and asks when they are to be woken.
    fn flush(&mut self, number: usize) {
        let now = self.engine.clock(number);
        if !self.engine.is_alive(number) {
            return;
        }
        loop {
            let node = &mut self.nodes[number];
            let command = node
                .asker
                .poll_command()
                .or_else(|| node.super_role.as_mut().and_then(|role| role.machine.poll_command()))
                .or_else(|| node.region_role.as_mut().and_then(|role| role.machine.poll_command()));
            let Some(command) = command else { break };
            self.command(number, command);
        }
        let node = &mut self.nodes[number];
        let role = node.super_role.as_mut();
        if let Some((to, report)) = role.and_then(|role| role.reporter.handle_timeout(now)) {
            let bytes = Bytes::from(report.to_bytes());
            let length = bytes.len();
            if let Some(to) = number_of(to) {
                let sent = self.engine.send(number, to, Letter::Report(bytes), length);
                self.reporting.add(sent);
            }
        }
        let node = &self.nodes[number];
        let of_super = node.super_role.as_ref().and_then(|role| {
            [role.machine.poll_timeout(), role.reporter.poll_timeout()].into_iter().flatten().min()
        });
        let of_region = node.region_role.as_ref().and_then(|role| role.catalogue.poll_timeout());
        let due = [node.asker.poll_timeout(), of_super, of_region].into_iter().flatten().min();
        self.engine.wake(number, due);
    }

    fn command(&mut self, number: usize, command: Command) {
        match command {
            Command::Send { to, message } => {
                let Some(to) = number_of(to) else { return };
                let record = self.by_id.get(&message.id()).copied();
                let bytes = Bytes::from(message.to_bytes());
                let length = bytes.len();
                let sent = self.engine.send(number, to, Letter::Query(bytes), length);
                if let Some(record) = record.and_then(|at| self.records.get_mut(at)) {
                    record.traffic.add(sent);
                    record.left |= matches!(*message, Message::Refer(..));
                }
            }
            Command::Done(answer) => {
                let now = self.engine.now();
                let Some(at) = self.by_id.get(&answer.id).copied() else { return };
                let wrong = answer.matches.iter().find(|one| !self.is_right(at, one.node));
                let wrong = wrong.map(|one| one.node);
                if let Some(record) = self.records.get_mut(at) {
                    record.first_wrong = wrong;
                    record.ended = Some((now - record.began, *answer));
                }
            }
            Command::Flooding { node, .. } => self.named.extend(number_of(node)),
        }
    }
}

fn region_id(number: usize) -> RegionId {
    RegionId::named(&format!("r{number}"))
}
