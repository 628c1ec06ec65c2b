//! Everything that is measured, as numbers.

use std::time::Duration;

use phantom_classad::Expr;
use rand::RngExt;

use super::baseline::{Cost, Overlay};
use super::engine::Network;
use super::grid::{Grid, Record, Shape};
use super::subgrid::{SubgridFigures, subgrid_figures};
use crate::machine::query::Scope;

/// What questions of one kind came to. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueryFigures {
    /// Questions.
    pub asked: usize,
    /// As many were found as were wanted, or as there are.
    pub met: usize,
    /// Some were found, fewer than there are.
    pub partly: usize,
    /// None was found though there are.
    pub missed: usize,
    /// There is none, and that was answered.
    pub none: usize,
    /// Messages for one question: mean, median, 99th percentile, most.
    pub messages: [f64; 4],
    /// Bytes for one question, headers included: mean, median, 99th percentile, most.
    pub bytes: [f64; 4],
    /// Time to the answer: mean, median, 99th percentile, most.
    pub took_ms: [f64; 4],
    /// Round trips, one after the other, to the answer: mean, median, 99th percentile, most.
    pub round_trips: [f64; 4],
}

/// What one way of asking without super-peers came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BaselineFigures {
    /// Questions.
    pub asked: usize,
    /// As many were found as were wanted, or as there are.
    pub met: usize,
    /// Messages for one question: mean, median, 99th percentile, most.
    pub messages: [f64; 4],
    /// Bytes for one question, headers included: mean, median, 99th percentile, most.
    pub bytes: [f64; 4],
    /// Time to the last answer that was wanted, in milliseconds: mean, median, 99th percentile, most.
    pub took_ms: [f64; 4],
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// By which it can be had again.
    pub seed: u64,
    /// Nodes, sub-grids and regions.
    pub nodes: usize,
    /// Sub-grids.
    pub subgrids: usize,
    /// Regions.
    pub regions: usize,
    /// Simulated seconds.
    pub simulated_s: f64,
    /// Which part of datagrams is lost.
    pub loss: f64,
    /// Questions that the asker's own sub-grid could meet.
    pub inside: QueryFigures,
    /// Of these, those that have left it all the same.
    pub inside_left: usize,
    /// Questions that the region could meet, and the sub-grid could not.
    pub region: QueryFigures,
    /// Questions that only the grid could meet.
    pub grid: QueryFigures,
    /// Questions that could be met by nobody, or only in part.
    pub short: QueryFigures,
    /// Nodes that were named as matches and were none when the answer came: a load has changed.
    pub outdated: usize,
    /// What super-peers and region-peers tell each other, per sub-grid, in kilobits a second.
    pub reporting_kbit_s: f64,
    /// Flooding over the same nodes.
    pub flooding: BaselineFigures,
    /// Random walks over the same nodes.
    pub walking: BaselineFigures,
    /// A large sub-grid at rest, and its members ending, at 1 % loss.
    pub subgrid: SubgridFigures,
    /// Events of the query simulation.
    pub events: u64,
}

/// How much is simulated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extent {
    /// The grid.
    pub shape: Shape,
    /// Questions, spread over the time.
    pub queries: usize,
    /// How long.
    pub simulated: Duration,
    /// Which part of datagrams is lost.
    pub loss: f64,
    /// Questions of each baseline.
    pub baseline: usize,
    /// Members of the sub-grid that is watched; 0: none is.
    pub members: usize,
    /// How long nothing happens to them.
    pub idle: Duration,
    /// How many of them end after that.
    pub ends: usize,
}

impl Default for Extent {
    /// 10,000 nodes in 100 sub-grids and 5 regions, 1,000 questions in ten minutes; a sub-grid of 200
    /// for an hour.
    fn default() -> Self {
        Self {
            shape: Shape { regions: 5, subgrids: 100, members: 100 },
            queries: 1000,
            simulated: Duration::from_secs(600),
            loss: 0.01,
            baseline: 100,
            members: 200,
            idle: Duration::from_secs(3600),
            ends: 40,
        }
    }
}

/// Runs all of it.
pub fn discovery_figures(seed: u64, extent: &Extent) -> Figures {
    let network = Network { loss: extent.loss, ..Network::default() };
    let grid = asked(seed, extent, network);
    let records = grid.records();
    let inside = |record: &&Record| record.is_inside();
    let possible = |record: &&Record| !record.is_inside() && record.possible() >= record.wanted;
    let region = |record: &&Record| possible(record) && record.there[1] >= record.wanted;
    let far = |record: &&Record| possible(record) && record.there[1] < record.wanted;
    let short = |record: &&Record| record.possible() < record.wanted;
    let subgrid_s = extent.shape.subgrids as f64 * extent.simulated.as_secs_f64();
    let (flooding, walking) = baselines(seed, extent, network, &grid);
    let watched = Network { loss: 0.01, ..Network::default() };
    Figures {
        seed,
        nodes: extent.shape.subgrids * extent.shape.members,
        subgrids: extent.shape.subgrids,
        regions: extent.shape.regions,
        simulated_s: extent.simulated.as_secs_f64(),
        loss: extent.loss,
        inside: figures(records.iter().filter(inside)),
        inside_left: records.iter().filter(inside).filter(|record| record.left).count(),
        region: figures(records.iter().filter(region)),
        grid: figures(records.iter().filter(far)),
        short: figures(records.iter().filter(short)),
        outdated: records.iter().filter(|record| record.wrong().is_some()).count(),
        reporting_kbit_s: grid.reporting.bytes as f64 * 8.0 / 1000.0 / subgrid_s,
        flooding,
        walking,
        subgrid: subgrid_figures(extent.members, watched, extent.idle, extent.ends, seed),
        events: grid.events,
    }
}

fn asked(seed: u64, extent: &Extent, network: Network) -> Grid {
    let mut grid = Grid::new(extent.shape, network, seed, true);
    let nodes = extent.shape.subgrids * extent.shape.members;
    // From when region-peers know of each other until all can have ended.
    let begin = Duration::from_secs(15);
    let length = extent.simulated.saturating_sub(Duration::from_secs(30));
    for number in 0..extent.queries {
        let at = begin + length.mul_f64(number as f64 / extent.queries as f64);
        let node = grid.random(nodes);
        grid.ask_anything_at(at, node, Scope::Grid);
    }
    grid.run(extent.simulated);
    grid
}

fn figures<'a>(records: impl Iterator<Item = &'a Record>) -> QueryFigures {
    let records: Vec<&Record> = records.collect();
    let answered = || records.iter().filter_map(|record| record.ended.as_ref());
    let count =
        |wanted: &dyn Fn(&Record) -> bool| records.iter().filter(|record| wanted(record)).count();
    QueryFigures {
        asked: records.len(),
        met: count(&|it| it.possible() > 0 && it.found() >= it.possible()),
        partly: count(&|it| it.found() > 0 && it.found() < it.possible()),
        missed: count(&|it| it.possible() > 0 && it.found() == 0),
        none: count(&|it| it.possible() == 0 && it.ended.is_some()),
        messages: spread(records.iter().map(|record| record.traffic.messages as f64)),
        bytes: spread(records.iter().map(|record| record.traffic.bytes as f64)),
        took_ms: spread(answered().map(|(took, _)| took.as_secs_f64() * 1000.0)),
        round_trips: spread(answered().map(|(_, answer)| f64::from(answer.steps) / 2.0)),
    }
}

fn baselines(
    seed: u64,
    extent: &Extent,
    network: Network,
    grid: &Grid,
) -> (BaselineFigures, BaselineFigures) {
    let mut overlay = Overlay::new(grid, network, seed);
    let (mut floods, mut walks) = (Vec::new(), Vec::new());
    let stride = grid.records().len().div_ceil(extent.baseline.max(1)).max(1);
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(seed);
    for record in grid.records().iter().step_by(stride).filter(|_| extent.baseline > 0) {
        let Ok(expr) = Expr::parse(record.text()) else { continue };
        let origin = rng.random_range(0..extent.shape.subgrids * extent.shape.members);
        floods.push((record.possible(), overlay.flood(grid, origin, &expr, record.wanted)));
        walks.push((record.possible(), overlay.walk(grid, origin, &expr, record.wanted)));
    }
    (baseline(&floods), baseline(&walks))
}

fn baseline(costs: &[(usize, Cost)]) -> BaselineFigures {
    BaselineFigures {
        asked: costs.len(),
        met: costs.iter().filter(|(possible, cost)| cost.found >= *possible).count(),
        messages: spread(costs.iter().map(|(_, cost)| cost.traffic.messages as f64)),
        bytes: spread(costs.iter().map(|(_, cost)| cost.traffic.bytes as f64)),
        took_ms: spread(costs.iter().map(|(_, cost)| cost.took.as_secs_f64() * 1000.0)),
    }
}

/// Mean, median, 99th percentile and the most.
fn spread(of: impl Iterator<Item = f64>) -> [f64; 4] {
    let mut of: Vec<f64> = of.collect();
    of.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let at = ((of.len() as f64 * part).ceil() as usize).saturating_sub(1);
        of.get(at).copied().unwrap_or(0.0)
    };
    let mean = of.iter().sum::<f64>() / of.len().max(1) as f64;
    [mean, at(0.5), at(0.99), at(1.0)]
}
