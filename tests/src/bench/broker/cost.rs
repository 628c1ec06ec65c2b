//! What a decision costs.

use std::time::{Duration, Instant};

use phantom_broker::policy::{Adaptive, Command, Event, News, Policy, Profile, Random};
use phantom_broker::sim::{Discipline, Happened, World};
use phantom_broker::{Grid, GridNode, Job};

use super::super::{Bound, Report, Row};
use super::BENCH;

/// Nodes, and how long a decision among them may take, microseconds.
const SIZES: [(usize, f64); 2] = [(1_000, 2.0), (100_000, 10.0)];
const LOAD: f64 = 0.8;
const SEED: u64 = 7;

/// A kind of jobs: its name and how one is drawn.
type Kind = (&'static str, fn(&mut Random) -> Job);
const KINDS: [Kind; 4] = [
    ("compute", |_| Job { flops: 1e9, bytes: 0.0 }),
    ("network", |_| Job { flops: 0.0, bytes: 1e9 }),
    ("hybrid", |_| Job { flops: 1e9, bytes: 1e9 }),
    ("mixed", |random| {
        let mut size = || 1e9 * 10f64.powf(random.between(-1.0, 1.0));
        let (flops, bytes) = (size(), size());
        match random.below(3) {
            0 => Job { flops, bytes: 0.0 },
            1 => Job { flops: 0.0, bytes },
            _ => Job { flops, bytes },
        }
    }),
];

/// Measures; grids of a thousand and of a hundred thousand nodes in which jobs keep coming.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    for (nodes, most) in SIZES {
        for (kind, draw) in KINDS {
            for stale in [false, true] {
                report.progress(format!("decisions among {nodes} nodes, {kind}"));
                let cost = measure(nodes, draw, stale);
                let news = if stale { "stale" } else { "fresh" };
                let case = format!("{nodes} nodes, {kind}, news {news}");
                let row = Row::new(BENCH, &case, "one decision", cost.decision_us, "us");
                report.row(row.must(Bound::Value(most)))?;
                let row = Row::new(BENCH, &case, "one piece of news", cost.news_us, "us");
                report.row(row)?;
            }
        }
    }
    report.note("Nothing is allocated for a decision: broker/tests/allocations counts.");
    Ok(())
}

struct Cost {
    decision_us: f64,
    news_us: f64,
}

/// Lets three jobs per node come to idle nodes and measures while the last two thirds come.
fn measure(nodes: usize, draw: fn(&mut Random) -> Job, stale: bool) -> Cost {
    let mut random = Random::new(SEED);
    let node = |_| GridNode {
        flops_per_s: random.between(1e4, 1e8),
        bytes_per_s: random.between(7e3, 1e7),
        latency_s: 0.01,
        site: None,
    };
    let grid = Grid { nodes: (0..nodes).map(node).collect(), trunks: Vec::new() };
    let rate = LOAD * capacity(&grid, draw, &mut random);
    let count = (3 * nodes).max(20_000) as u32;
    let jobs: Vec<Job> = (0..count).map(|_| draw(&mut random)).collect();
    let mut world = World::new(&grid, Discipline::Fifo);
    let mut broker = Adaptive::new(&grid, SEED);
    let (mut now, mut placed) = (0.0, Vec::new());
    let (mut deciding, mut hearing, mut heard) = (Duration::ZERO, Duration::ZERO, 0u32);
    for id in 0..count {
        now -= (1.0 - random.unit()).ln() / rate;
        while let Some(at) = world.next().filter(|at| *at <= now) {
            while let Some(happened) = world.advance(at) {
                let event = match happened {
                    Happened::Sent { job, node } => Event::Sent { job, node },
                    Happened::Finished { job, node } => Event::Finished { job, node },
                };
                // What is old is said to be, and comes at once: its count is what costs.
                let age_s = if stale { 1e4 } else { 0.0 };
                let begin = Instant::now();
                broker.told(&News { event, at: at - age_s, own: true }, at);
                release(&mut broker, at, &mut placed);
                (hearing, heard) = (hearing + begin.elapsed(), heard + 1);
            }
            placed.drain(..).for_each(|(id, node)| world.dispatch(id, jobs[id as usize], node));
        }
        let begin = Instant::now();
        let chosen = broker.choose(id, &Profile::exact(jobs[id as usize]), now);
        release(&mut broker, now, &mut placed);
        if id >= count / 3 {
            deciding += begin.elapsed();
        }
        placed.extend(chosen.map(|node| (id, node)));
        placed.drain(..).for_each(|(id, node)| world.dispatch(id, jobs[id as usize], node));
    }
    let us = |time: Duration, count: u32| time.as_secs_f64() * 1e6 / f64::from(count.max(1));
    Cost { decision_us: us(deciding, count - count / 3), news_us: us(hearing, heard) }
}

fn release(broker: &mut Adaptive, now: f64, placed: &mut Vec<(u32, u32)>) {
    while let Some(command) = broker.release(now) {
        if let Command::Give { job, node } = command {
            placed.push((job, node));
        }
    }
}

/// How many such jobs all nodes together can do a second.
fn capacity(grid: &Grid, draw: fn(&mut Random) -> Job, random: &mut Random) -> f64 {
    let step = grid.nodes.len().div_ceil(500);
    let seconds_a_job = (0..500).map(|_| {
        let job = draw(random);
        let some = grid.nodes.iter().step_by(step);
        let rates =
            some.map(|node| 1.0 / (job.flops / node.flops_per_s).max(job.bytes / node.bytes_per_s));
        1.0 / (step as f64 * rates.sum::<f64>())
    });
    500.0 / seconds_a_job.sum::<f64>()
}
