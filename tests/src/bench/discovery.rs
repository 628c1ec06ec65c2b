//! `bench discovery`: what queries cost in a grid of ten thousand nodes, and what it costs two
//! hundred to know who lives, in virtual time, by the machines the daemon runs. Bytes are counted
//! with IPv4 and UDP headers and this protocol's own envelope.

use std::time::Instant;

use phantom_discovery::sim::{
    BaselineFigures, Extent, QueryFigures, SubgridFigures, discovery_figures, known,
};

use super::{Bound, Report, Row};

const BENCH: &str = "discovery";
const SEED: u64 = 1;
/// The query simulation must not take longer, in seconds.
const RUN_S: f64 = 120.0;

/// Runs it.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let seed = std::env::var("PHANTOM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(SEED);
    report.progress(format!("PHANTOM_SEED={seed}"));
    let nothing = Extent { members: 0, ends: 0, baseline: 0, ..Extent::default() };
    let began = Instant::now();
    let alone = discovery_figures(seed, &Extent { idle: std::time::Duration::ZERO, ..nothing });
    let seconds = began.elapsed().as_secs_f64();
    let minutes = alone.simulated_s / 60.0;
    let case = format!("{} nodes, {minutes:.0} simulated minutes", alone.nodes);
    report.row(Row::new(BENCH, &case, "one core", seconds, "s").must(Bound::Value(RUN_S)))?;

    let figures = discovery_figures(seed, &Extent::default());
    let case = "a query the sub-grid can meet";
    let inside = &figures.inside;
    let most = Row::new(BENCH, case, "messages, 99 %", inside.messages[2], "");
    report.row(most.must(Bound::Value(4.0)))?;
    let left = Row::new(BENCH, case, "left the sub-grid", figures.inside_left as f64, "queries");
    report.row(left.must(Bound::Value(0.0)))?;
    query(report, case, inside)?;
    let case = "a query the region can meet";
    let row = Row::new(BENCH, case, "messages, 99 %", figures.region.messages[2], "");
    report.row(row.must(Bound::Value(12.0)))?;
    let row = Row::new(BENCH, case, "round trips, 99 %", figures.region.round_trips[2], "");
    report.row(row.must(Bound::Value(3.0)))?;
    query(report, case, &figures.region)?;
    let case = "a query only the grid can meet";
    report.row(Row::new(BENCH, case, "messages, 99 %", figures.grid.messages[2], ""))?;
    query(report, case, &figures.grid)?;
    baseline(report, "the same by flooding", &figures.flooding)?;
    baseline(report, "the same by random walks", &figures.walking)?;
    let reporting = figures.reporting_kbit_s;
    let case = "super-peers and region-peers";
    report.row(Row::new(BENCH, case, "reports, per sub-grid", reporting, "kbit/s"))?;

    growth(report, seed)?;

    rest(report, &figures.subgrid)
}

/// A large sub-grid at rest, and members that end.
fn rest(report: &mut Report, figures: &SubgridFigures) -> anyhow::Result<()> {
    let case = format!("{} members, 1 % loss", figures.nodes);
    let idle = figures.idle;
    let row = Row::new(BENCH, &case, "idle, per node", idle.sum(), "kbit/s");
    report.row(row.must(Bound::Value(2.0)))?;
    for (what, rate) in [
        ("of these: watching each other", idle.watching),
        ("of these: super-peer and voters", idle.group),
        ("of these: the registry", idle.registry),
        ("of these: connections at rest", idle.connections),
    ] {
        report.row(Row::new(BENCH, &case, what, rate, "kbit/s"))?;
    }
    let wrongly = figures.wrongly_gone as f64;
    let row = Row::new(BENCH, &case, "living taken for gone, an hour", wrongly, "times");
    report.row(row.must(Bound::Value(0.0)))?;
    let deposed = figures.deposed as f64;
    report.row(Row::new(BENCH, &case, "super-peers deposed, an hour", deposed, "times"))?;
    let worst = known(&figures.known_s, 100);
    let row = Row::new(BENCH, &case, "death known to 99 %, worst", worst, "s");
    report.row(row.must(Bound::Value(5.0)))?;
    let median = known(&figures.known_s, 50);
    report.row(Row::new(BENCH, &case, "death known to 99 %, median", median, "s"))
}

fn query(report: &mut Report, case: &str, figures: &QueryFigures) -> anyhow::Result<()> {
    let met = 100.0 * figures.met as f64 / figures.asked.max(1) as f64;
    report.row(Row::new(BENCH, case, "met", met, "%"))?;
    report.row(Row::new(BENCH, case, "messages, mean", figures.messages[0], ""))?;
    report.row(Row::new(BENCH, case, "answered, 99 %", figures.took_ms[2], "ms"))
}

fn baseline(report: &mut Report, case: &str, figures: &BaselineFigures) -> anyhow::Result<()> {
    report.row(Row::new(BENCH, case, "messages, mean", figures.messages[0], ""))?;
    report.row(Row::new(BENCH, case, "answered, 99 %", figures.took_ms[2], "ms"))
}

/// Sub-grids of twice as many members: a query costs as many messages.
fn growth(report: &mut Report, seed: u64) -> anyhow::Result<()> {
    let extent = Extent {
        members: 0,
        ends: 0,
        idle: std::time::Duration::ZERO,
        baseline: 0,
        ..Extent::default()
    };
    let mut means = Vec::new();
    for members in [50, 200] {
        let mut shape = extent.shape;
        shape.members = members;
        let figures = discovery_figures(seed, &Extent { shape, ..extent });
        let mean = figures.inside.messages[0];
        let case = format!("sub-grids of {members}");
        report.row(Row::new(BENCH, &case, "messages of a query inside, mean", mean, ""))?;
        means.push(mean);
    }
    if let [few, many] = means[..] {
        let row = Row::new(BENCH, "sub-grids of 200 to of 50", "messages inside", many / few, "x");
        report.row(row.must(Bound::Value(1.1)))?;
    }
    Ok(())
}
