//! Which policy places which jobs, and what comes of it.

use phantom_broker::Grid;
use phantom_broker::policy::{RoundRobin, named};
use phantom_broker::sim::{Arrival, Discipline, Outcome, Trial, run};

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

/// What comes of a trial with a policy; each broker has a seed of its own.
pub fn outcome(trial: &Trial<'_>, name: &str) -> anyhow::Result<Outcome> {
    anyhow::ensure!(named(name, trial.grid, 0).is_some(), "no policy is called {name}");
    let mut seed = trial.seed;
    Ok(run(trial, &mut |grid| {
        seed += 1;
        // That it is known was made sure of.
        named(name, grid, seed - 1).unwrap_or_else(|| Box::new(RoundRobin::new(grid)))
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
