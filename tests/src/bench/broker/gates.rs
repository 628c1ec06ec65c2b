//! The gates, on the built-in data.

use phantom_broker::Grid;
use phantom_broker::policy::PAPER;
use phantom_broker::sim::{Arrival, Discipline, Doubts, Trial, chance, integer_bound};

use super::super::{Bound, Report, Row};
use super::data::{Folder, Name};
use super::policies::{exact, outcome};
use super::{BENCH, geometric, worst};

/// What jobs take; the word in their files' names and what a row calls them.
const KINDS: [(&str, &str); 4] =
    [("cpu", "compute"), ("net", "network"), ("hyb", "hybrid"), ("mix", "mixed")];
const ALIKE: usize = 3;
/// Draws of errors, and of who gets which job.
const SEEDS: u64 = 3;
/// Draws of what is told, of which the mean chance is taken.
const HOPES: u64 = 20;
/// How many brokers place jobs without a word to each other, and how old their news is in job
/// times.
const BROKERS: usize = 10;
const AGE: f64 = 4.0;

/// Runs them.
pub fn run(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    batch(report, folder)?;
    arrivals(report, folder)?;
    doubtful(report, folder)?;
    trunks(report, folder)?;
    stale(report, folder)
}

/// Each grid of a topology with the jobs whose name says the words and suits it.
fn pairs(
    folder: &Folder,
    topology: &str,
    words: &[&str],
) -> anyhow::Result<Vec<(Name, Grid, Vec<Arrival>)>> {
    let mut pairs = Vec::new();
    let grids = folder.names("plat_");
    for grid in grids.iter().filter(|grid| grid.topology.as_deref() == Some(topology)) {
        for jobs in folder.names("jobs_") {
            if jobs.words == words && jobs.suits(grid) {
                pairs.push((grid.clone(), folder.grid(&grid.file)?, folder.jobs(&jobs.file)?));
            }
        }
    }
    anyhow::ensure!(!pairs.is_empty(), "no grid of topology {topology} with jobs of {words:?}");
    Ok(pairs)
}

fn row(report: &mut Report, case: &str, metric: &str, value: f64, most: f64) -> anyhow::Result<()> {
    report.row(Row::new(BENCH, case, metric, value, "x").must(Bound::Value(most)))
}

fn batch(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for (place, (word, kind)) in KINDS.into_iter().enumerate() {
        report.progress(format!("star, batch, {kind}"));
        let (mut to_bound, mut to_paper) = (Vec::new(), Vec::new());
        for (name, grid, jobs) in pairs(folder, "star", &[word])? {
            let seed = name.seed.unwrap_or(0);
            let makespan = |policy| -> anyhow::Result<f64> {
                Ok(exact(policy, &grid, &jobs, Discipline::Fifo, seed)?.makespan())
            };
            let ours = makespan("adaptive")?;
            to_bound.push(ours / integer_bound(&grid, &jobs));
            let paper = PAPER.into_iter().map(makespan).collect::<anyhow::Result<Vec<_>>>()?;
            to_paper.push(ours / paper.into_iter().fold(f64::INFINITY, f64::min));
        }
        let case = format!("star, batch, {kind}");
        let most = if place < ALIKE { 1.01 } else { 1.03 };
        row(report, &case, "makespan to the bound, worst", worst(&to_bound), most)?;
        row(report, &case, "to the best of RR, FLOPS, NCDA, worst", worst(&to_paper), 1.0)?;
    }
    Ok(())
}

fn arrivals(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for (word, kind) in &KINDS[..ALIKE] {
        for load in ["0.7", "0.8"] {
            report.progress(format!("star, arrivals, {kind}"));
            let mut ours = Vec::new();
            let mut paper = vec![Vec::new(); PAPER.len()];
            for (name, grid, jobs) in pairs(folder, "star", &[word, &format!("poisson{load}")])? {
                let seed = name.seed.unwrap_or(0);
                let completion = |policy| -> anyhow::Result<f64> {
                    Ok(exact(policy, &grid, &jobs, Discipline::Fifo, seed)?.mean_completion())
                };
                ours.push(completion("adaptive")?);
                for (policy, values) in PAPER.into_iter().zip(&mut paper) {
                    values.push(completion(policy)?);
                }
            }
            let best = paper.iter().map(|values| geometric(values)).fold(f64::INFINITY, f64::min);
            let each: Vec<f64> = (0..ours.len())
                .map(|place| {
                    let best = paper.iter().map(|values| values[place]);
                    ours[place] / best.fold(f64::INFINITY, f64::min)
                })
                .collect();
            let case = format!("star, load {load}, {kind}");
            let metric = "mean completion to the best of RR, FLOPS, NCDA";
            row(report, &case, metric, geometric(&ours) / best, 1.0)?;
            row(report, &case, "the same, worst seed", worst(&each), 1.03)?;
        }
    }
    Ok(())
}

fn doubtful(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for (word, kind) in KINDS {
        for (extreme, errors) in [(false, "up to 2 x"), (true, "all 2 x, either way")] {
            report.progress(format!("star, batch in doubt, {kind}"));
            let mut to_bound = Vec::new();
            for (_, grid, jobs) in pairs(folder, "star", &[word])? {
                for seed in 0..SEEDS {
                    let trial = Trial {
                        doubts: Doubts { bandwidth: 0.5, size: 2.0, extreme },
                        seed,
                        ..Trial::exact(&grid, &jobs, Discipline::Fifo)
                    };
                    let ours = outcome(&trial, "adaptive")?.makespan();
                    to_bound.push(ours / integer_bound(&grid, &jobs));
                }
            }
            let case = format!("bandwidth 50 % off, sizes {errors}, {kind}");
            let (metric, other) = ("makespan to the bound, worst", "the same, mean");
            let (worst, mean) = (worst(&to_bound), geometric(&to_bound));
            if word == "mix" {
                // The bound is not what can be reached: `hopes` tells how far off it is.
                report.row(Row::new(BENCH, &case, metric, worst, "x"))?;
                row(report, &case, other, mean, 1.15)?;
            } else {
                row(report, &case, metric, worst, 1.15)?;
                report.row(Row::new(BENCH, &case, other, mean, "x"))?;
            }
        }
    }
    hopes(report, folder)
}

/// What any policy can hope for where sizes differ and are in doubt, even if it knows bandwidths.
fn hopes(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    let mixed = pairs(folder, "star", &["mix"])?;
    for most in [1.15, 1.2, 1.25, 1.3] {
        let chance = |seed: u64| {
            let each = mixed.iter().map(|(_, grid, jobs)| {
                chance(grid, jobs, 2.0, most * integer_bound(grid, jobs), seed)
            });
            each.product::<f64>()
        };
        let best = (0..HOPES).map(chance).sum::<f64>() / HOPES as f64;
        let case = "sizes up to 2 x, mixed: any policy";
        let metric = format!("best chance of {most} x on each grid once");
        report.row(Row::new(BENCH, case, metric, 100.0 * best, "%"))?;
    }
    Ok(())
}

fn trunks(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for (discipline, queue) in [(Discipline::Fifo, "fifo"), (Discipline::Shared, "ps")] {
        for (word, kind) in KINDS {
            report.progress(format!("two tiers, {kind}"));
            let mut to_paper = Vec::new();
            for (name, grid, jobs) in pairs(folder, "tier", &[word])? {
                let seed = name.seed.unwrap_or(0);
                let makespan = |policy| -> anyhow::Result<f64> {
                    Ok(exact(policy, &grid, &jobs, discipline, seed)?.makespan())
                };
                let paper = PAPER.into_iter().map(makespan).collect::<anyhow::Result<Vec<_>>>()?;
                let best = paper.into_iter().fold(f64::INFINITY, f64::min);
                to_paper.push(makespan("adaptive")? / best);
            }
            let case = format!("two tiers, batch, {kind}, nodes {queue}");
            let metric = "makespan to the best of RR, FLOPS, NCDA, worst";
            row(report, &case, metric, worst(&to_paper), 1.02)?;
        }
    }
    Ok(())
}

/// Seconds a job takes on the average node, the quicker ones getting more of them.
fn job_time(grid: &Grid, jobs: &[Arrival]) -> f64 {
    let job = jobs.first().map_or(phantom_broker::Job { flops: 1.0, bytes: 1.0 }, |one| one.job);
    let rates = grid
        .nodes
        .iter()
        .map(|node| 1.0 / (job.flops / node.flops_per_s).max(job.bytes / node.bytes_per_s));
    grid.nodes.len() as f64 / rates.sum::<f64>()
}

fn stale(report: &mut Report, folder: &Folder) -> anyhow::Result<()> {
    for (word, kind) in &KINDS[..ALIKE] {
        for load in ["0.7", "0.8"] {
            report.progress(format!("stale news, {kind}"));
            let (mut to_ncda, mut to_counting, mut times) = (Vec::new(), Vec::new(), Vec::new());
            for (_, grid, jobs) in pairs(folder, "star", &[word, &format!("poisson{load}")])? {
                let job_time = job_time(&grid, &jobs);
                for seed in 0..SEEDS {
                    let completion = |policy, own_at_once| -> anyhow::Result<f64> {
                        let trial = Trial {
                            brokers: BROKERS,
                            news_age_s: AGE * job_time,
                            own_at_once,
                            seed,
                            ..Trial::exact(&grid, &jobs, Discipline::Fifo)
                        };
                        Ok(outcome(&trial, policy)?.mean_completion())
                    };
                    let ours = completion("adaptive", false)?;
                    let least = |own| -> anyhow::Result<f64> {
                        let ncda = PAPER[2..].iter().map(|policy| completion(policy, own));
                        let ncda = ncda.collect::<anyhow::Result<Vec<_>>>()?;
                        Ok(ncda.into_iter().fold(f64::INFINITY, f64::min))
                    };
                    to_ncda.push(ours / least(false)?);
                    to_counting.push(ours / least(true)?);
                    times.push(ours / job_time);
                }
            }
            let case = format!("{BROKERS} brokers, news {AGE} job times old, load {load}, {kind}");
            row(report, &case, "mean completion to the best NCDA's, worst", worst(&to_ncda), 0.6)?;
            let counting = geometric(&to_counting);
            let metric = "to NCDA that counts its own jobs at once, mean";
            report.row(Row::new(BENCH, &case, metric, counting, "x"))?;
            let times = geometric(&times);
            report.row(Row::new(BENCH, &case, "mean completion", times, "job times"))?;
        }
    }
    Ok(())
}
