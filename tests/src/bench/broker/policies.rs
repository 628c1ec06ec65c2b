//! Every policy by its name.

use phantom_broker::Grid;
use phantom_broker::policy::reference::{Batch, Drawn, Mct, Order};
use phantom_broker::policy::{Adaptive, Flops, Ncda, Policy, RoundRobin, Sum};
use phantom_broker::sim::{Arrival, Discipline, Outcome, Trial, run};

/// The paper's: what the default is measured against.
pub const PAPER: [&str; 5] = ["rr", "flops", "ncda_sum", "ncda_prod", "ncda_harm"];
/// All of them; the last three place batches only.
pub const ALL: [&str; 13] = [
    "adaptive",
    "rr",
    "flops",
    "ncda_sum",
    "ncda_prod",
    "ncda_harm",
    "mct",
    "mct_blind",
    "wpk8",
    "wpk16",
    "heft",
    "minmin",
    "sufferage",
];
/// Work beyond which the two slowest batch policies are left out: jobs squared times nodes.
const MOST_WORK: f64 = 5e9;

/// Whether a policy places such jobs, and in bearable time.
pub fn applies(name: &str, grid: &Grid, jobs: &[Arrival]) -> bool {
    let batch = is_batch(jobs);
    let work = (jobs.len() as f64).powi(2) * grid.nodes.len() as f64;
    match name {
        "heft" => batch,
        "minmin" | "sufferage" => batch && work <= MOST_WORK,
        "mct_blind" => !grid.trunks.is_empty(),
        _ => true,
    }
}

/// Whether all jobs come at once.
pub fn is_batch(jobs: &[Arrival]) -> bool {
    jobs.last().is_some_and(|last| last.at == jobs[0].at)
}

/// A policy by its name; `None` for one that is not known.
pub fn make(name: &str, grid: &Grid, seed: u64) -> Option<Box<dyn Policy>> {
    Some(match name {
        "adaptive" => Box::new(Adaptive::new(grid, seed)),
        "rr" => Box::new(RoundRobin::new(grid)),
        "flops" => Box::new(Flops::new(grid)),
        "ncda_sum" => Box::new(Ncda::new(grid, Sum::Weighted)),
        "ncda_prod" => Box::new(Ncda::new(grid, Sum::Product)),
        "ncda_harm" => Box::new(Ncda::new(grid, Sum::Harmonic)),
        "mct" => Box::new(Mct::new(grid, true)),
        "mct_blind" => Box::new(Mct::new(grid, false)),
        "wpk8" => Box::new(Drawn::new(grid, 8, seed)),
        "wpk16" => Box::new(Drawn::new(grid, 16, seed)),
        "heft" => Box::new(Batch::new(grid, Order::Longest)),
        "minmin" => Box::new(Batch::new(grid, Order::MinMin)),
        "sufferage" => Box::new(Batch::new(grid, Order::Sufferage)),
        _ => return None,
    })
}

/// What comes of a trial with a policy; each broker has a seed of its own.
pub fn outcome(trial: &Trial<'_>, name: &str) -> anyhow::Result<Outcome> {
    anyhow::ensure!(make(name, trial.grid, 0).is_some(), "no policy is called {name}");
    let mut seed = trial.seed;
    Ok(run(trial, &mut |grid| {
        seed += 1;
        // That it is known was made sure of.
        make(name, grid, seed - 1).unwrap_or_else(|| Box::new(RoundRobin::new(grid)))
    }))
}

/// The same where everything is known at once.
pub fn exact(
    name: &str,
    grid: &Grid,
    jobs: &[Arrival],
    discipline: Discipline,
    seed: u64,
) -> anyhow::Result<Outcome> {
    let trial = Trial { seed, ..Trial::exact(grid, jobs, discipline) };
    outcome(&trial, name)
}
