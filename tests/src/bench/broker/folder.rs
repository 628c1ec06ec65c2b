//! Every policy on every grid and job file of a folder.

use phantom_broker::Grid;
use phantom_broker::policy::{ALL, PAPER};
use phantom_broker::sim::{Arrival, Discipline, fluid_bound, integer_bound};

use super::super::{Bound, Report, Row};
use super::BENCH;
use super::data::Folder;
use super::policies::{applies, exact, is_batch};

/// Runs them; where the folder has results of SimGrid, compares with these too.
pub fn run(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for grid_name in folder.names("plat_") {
        let grid = folder.grid(&grid_name.file)?;
        for jobs_name in folder.names("jobs_").iter().filter(|jobs| jobs.suits(&grid_name)) {
            let jobs = folder.jobs(&jobs_name.file)?;
            report.progress(format!("{}, {}", grid_name.file, jobs_name.file));
            let case = format!("{}, {}", grid_name.file, jobs_name.file);
            pair(report, &case, &grid, &jobs, grid_name.seed.unwrap_or(0))?;
        }
    }
    if folder.text("results.csv").is_ok() {
        compare(report, folder)?;
    }
    report.note("Nodes serve one transfer and one computation at a time (queue fifo).");
    Ok(())
}

fn pair(
    report: &mut Report,
    case: &str,
    grid: &Grid,
    jobs: &[Arrival],
    seed: u64,
) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    for name in ALL.into_iter().filter(|name| applies(name, grid, jobs)) {
        let outcome = exact(name, grid, jobs, Discipline::Fifo, seed)?;
        outcomes.push((name, outcome.makespan(), outcome.mean_completion()));
    }
    let least = |value: fn(&(&str, f64, f64)) -> f64| {
        let paper = outcomes.iter().filter(|(name, ..)| PAPER.contains(name));
        paper.map(value).fold(f64::INFINITY, f64::min)
    };
    let (makespan, completion) = (least(|one| one.1), least(|one| one.2));
    let bounds = [("LB_fluid", fluid_bound(grid, jobs)), ("LB_int", integer_bound(grid, jobs))];
    for (name, value, _) in &outcomes {
        let row = Row::new(BENCH, case, format!("makespan, {name}"), *value, "s");
        report.row(if *name == "adaptive" {
            row.against("best of the paper's", makespan)
        } else {
            row
        })?;
    }
    for (name, bound) in bounds.into_iter().filter(|_| is_batch(jobs)) {
        report.row(Row::new(BENCH, case, format!("makespan, {name}"), bound, "s"))?;
    }
    for (name, _, value) in &outcomes {
        let row = Row::new(BENCH, case, format!("mean completion, {name}"), *value, "s");
        report.row(if *name == "adaptive" {
            row.against("best of the paper's", completion)
        } else {
            row
        })?;
    }
    Ok(())
}

/// The simulator against SimGrid's results for the same grids, jobs and policies.
fn compare(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    report.progress("results.csv");
    let (mut worst, mut compared, mut left_out) = (0.0f64, 0u32, 0u32);
    for row in folder.table("results.csv")? {
        let column = |name| row.get(name).copied().unwrap_or_default();
        let discipline =
            if column("queue") == "ps" { Discipline::Shared } else { Discipline::Fifo };
        let (Ok(theirs), Ok(grid), Ok(jobs)) = (
            column("makespan_s").parse::<f64>(),
            folder.grid(column("platform_file")),
            folder.jobs(column("jobs_file")),
        ) else {
            left_out += 1;
            continue;
        };
        let ours = match column("policy") {
            "LB_fluid" => fluid_bound(&grid, &jobs),
            "LB_int" => integer_bound(&grid, &jobs),
            name if name != "adaptive" && ALL.contains(&name) => {
                let seed = column("seed").parse().unwrap_or(0);
                exact(name, &grid, &jobs, discipline, seed)?.makespan()
            }
            _ => {
                left_out += 1;
                continue;
            }
        };
        worst = worst.max((ours / theirs - 1.0).abs());
        compared += 1;
    }
    let case = format!("results.csv, {compared} lines");
    let row = Row::new(BENCH, case, "makespan apart from SimGrid's, worst", 100.0 * worst, "%");
    report.row(row.must(Bound::Value(1.0)))?;
    if left_out > 0 {
        report.note(format!("{left_out} lines of results.csv name no file or policy known here."));
    }
    Ok(())
}
