//! Super-peers killed one after the other, on seven machines: no registration is lost.

use anyhow::Context;

use crate::bench::failover::{NODES, kills};
use crate::bench::{Bound, Report, Row, median};
use crate::lab::Household;

/// Kills of a round.
const KILLS: usize = 30;
/// As for the benchmark's kills.
const WORST_S: f64 = 3.0;

/// The soak.
pub fn run(rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for round in 1..=rounds {
        report.progress(format!("round {round} of {rounds}: {KILLS} kills"));
        let household = Household::open("failover", NODES)?.context("this soak needs root")?;
        // It ends in an error when a registration is missing after a kill.
        took.extend(kills(report, &household, KILLS)?);
    }
    let case = format!("{NODES} daemons, super-peer killed");
    let row = |metric, value, unit| Row::new("failover", &case, metric, value, unit);
    report.row(row("with no registration lost", took.len() as f64, "kills"))?;
    report.row(row("whole registry again, median", median(&took)?, "s"))?;
    let worst = took.iter().copied().fold(0.0, f64::max);
    report.row(row("whole registry again, worst", worst, "s").must(Bound::Value(WORST_S)))
}
