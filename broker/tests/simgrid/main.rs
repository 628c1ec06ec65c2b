//! The simulator against SimGrid 3.32: given placements finish when SimGrid says, and policies come
//! to the same makespans. Where the numbers come from: `../data/simgrid/README.md`.

mod adaptive;
mod archive;

use std::collections::BTreeMap;

use phantom_broker::Job;
use phantom_broker::policy::{News, Policy, Profile, named};
use phantom_broker::sim::{Arrival, Discipline, Trial, fluid_bound, integer_bound, run};

use archive::{files, grid, jobs, table};

/// Places jobs as told.
struct Told(Vec<u32>);

impl Policy for Told {
    fn told(&mut self, _: &News, _: f64) {}
    fn choose(&mut self, id: u32, _: &Profile, _: f64) -> Option<u32> {
        Some(self.0[id as usize])
    }
}

#[test]
fn given_placements_finish_when_simgrid_says() {
    let mut replayed = 0;
    for name in files().keys().filter(|name| name.starts_with("assign_")) {
        let stem = name.trim_start_matches("assign_").trim_end_matches(".csv");
        let (platform, kind) = stem.rsplit_once('_').unwrap();
        let grid = grid(&format!("plat_{platform}.csv"));
        let seed = platform.rsplit_once('_').unwrap().1;
        let jobs = match kind {
            "mix" => jobs(&format!("jobs_mix_{seed}.csv")),
            _ => jobs(&format!("jobs_{kind}.csv")),
        };
        let rows = table(name);
        let policies = rows[0].keys().filter_map(|key| key.strip_suffix("_node"));
        for policy in policies {
            let nodes: Vec<u32> =
                rows.iter().map(|row| row[&*format!("{policy}_node")].parse().unwrap()).collect();
            let ends: Vec<f64> = rows
                .iter()
                .map(|row| row[&*format!("{policy}_finish_s")].parse().unwrap())
                .collect();
            let jobs: Vec<Arrival> = jobs.clone();
            // This one dispatched the longest first, all others in order.
            let mut order: Vec<usize> = (0..jobs.len()).collect();
            if policy == "heft" {
                let (flops, bytes) = grid.nodes.iter().fold((0.0, 0.0), |(flops, bytes), node| {
                    (flops + node.flops_per_s, bytes + node.bytes_per_s)
                });
                let rank = |job: &Job| job.flops / flops + job.bytes / bytes;
                order.sort_by(|a, b| rank(&jobs[*b].job).total_cmp(&rank(&jobs[*a].job)));
            }
            let ordered: Vec<Arrival> = order.iter().map(|job| jobs[*job]).collect();
            let told: Vec<u32> = order.iter().map(|job| nodes[*job]).collect();
            let trial = Trial::exact(&grid, &ordered, Discipline::Fifo);
            let outcome = run(&trial, &mut |_| Box::new(Told(told.clone())));
            for (place, job) in order.iter().enumerate() {
                let (ours, theirs) = (outcome.finished[place], ends[*job]);
                // The files keep three decimals.
                let off = ((ours - theirs).abs() - 5.1e-4).max(0.0) / theirs;
                assert!(off <= 1e-3, "{name}, {policy}, job {job}: {ours} s, SimGrid {theirs} s");
            }
            let makespan = ends.iter().copied().fold(0.0, f64::max);
            assert!((outcome.makespan() / makespan - 1.0).abs() <= 1e-3, "{name}, {policy}");
            replayed += 1;
        }
    }
    assert_eq!(replayed, 103);
}

#[test]
fn policies_come_to_simgrids_makespans() {
    let mut worst = BTreeMap::<String, f64>::new();
    for row in table("results.csv") {
        let (name, theirs) = (row["policy"], row["makespan_s"].parse::<f64>().unwrap());
        let (grid, jobs) = (grid(row["platform_file"]), jobs(row["jobs_file"]));
        let about =
            format!("{} {} {name} {}", row["platform_file"], row["jobs_file"], row["queue"]);
        let seed = row["seed"].parse().unwrap();
        let ours = match name {
            "LB_fluid" => fluid_bound(&grid, &jobs),
            "LB_int" => integer_bound(&grid, &jobs),
            _ => {
                let discipline = match row["queue"] {
                    "fifo" => Discipline::Fifo,
                    "ps" => Discipline::Shared,
                    other => panic!("queue {other}"),
                };
                let trial = Trial::exact(&grid, &jobs, discipline);
                let outcome = run(&trial, &mut |grid| named(name, grid, seed).unwrap());
                let theirs: f64 = row["mean_completion_s"].parse().unwrap();
                let ratio = outcome.mean_completion() / theirs;
                assert!(
                    (ratio - 1.0).abs() <= 0.01,
                    "{about}: mean completion {ratio} of SimGrid's"
                );
                outcome.makespan()
            }
        };
        let ratio = ours / theirs;
        assert!((ratio - 1.0).abs() <= 0.01, "{about}: {ours} s, SimGrid {theirs} s");
        let worst = worst.entry(format!("{name} {}", row["queue"])).or_default();
        *worst = worst.max((ratio - 1.0).abs());
    }
    println!("{worst:#?}");
}
