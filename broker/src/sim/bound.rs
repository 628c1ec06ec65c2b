//! Below which no policy can end a batch.

use super::Arrival;
use crate::{Grid, GridNode, Job};

/// Least time, in seconds, in which a batch can be done if jobs could be cut at will: each node's
/// link and processor, and each trunk, at work all the time. Of equal jobs a node computes no more
/// than it receives.
pub fn fluid_bound(grid: &Grid, jobs: &[Arrival]) -> f64 {
    let Some(first) = jobs.first().map(|arrival| arrival.job.sound()) else { return 0.0 };
    let sum = |size: fn(&Job) -> f64| jobs.iter().map(|one| size(&one.job.sound())).sum::<f64>();
    let (flops, bytes) = (sum(|job| job.flops), sum(|job| job.bytes));
    if all_equal(jobs) {
        let rate =
            |node: &GridNode| (node.flops_per_s / first.flops).min(node.bytes_per_s / first.bytes);
        return jobs.len() as f64 / through(grid, rate, |trunk| trunk / first.bytes);
    }
    let computed: f64 = sound(grid).map(|node| node.flops_per_s).sum();
    let sent = through(grid, |node| node.bytes_per_s, |trunk| trunk);
    (flops / computed).max(if bytes > 0.0 { bytes / sent } else { 0.0 })
}

fn all_equal(jobs: &[Arrival]) -> bool {
    let first = jobs.first().map(|arrival| arrival.job.sound());
    jobs.iter().all(|arrival| Some(arrival.job.sound()) == first)
}

/// The sum of what nodes can do, those of a site together no more than their trunk lets through.
fn through(grid: &Grid, own: impl Fn(&GridNode) -> f64, trunk: impl Fn(f64) -> f64) -> f64 {
    let (mut sites, mut sum) = (vec![0.0; grid.trunks.len()], 0.0);
    for node in sound(grid) {
        match node.site {
            Some(site) => sites[site as usize] += own(node),
            None => sum += own(node),
        }
    }
    sum + sites.iter().zip(&grid.trunks).map(|(own, site)| own.min(trunk(*site))).sum::<f64>()
}

/// Least time, in seconds, in which a batch can be done by whole jobs, one at a time at each node.
/// For equal jobs in a star this is the optimum; else only a bound: the fluid one, or what the job
/// takes that takes longest on its best node.
pub fn integer_bound(grid: &Grid, jobs: &[Arrival]) -> f64 {
    let Some(first) = jobs.first().map(|arrival| arrival.job.sound()) else { return 0.0 };
    let fluid = fluid_bound(grid, jobs);
    if !all_equal(jobs) {
        let alone = jobs.iter().map(|arrival| fastest(grid, arrival.job.sound()));
        return alone.fold(fluid, f64::max);
    }
    let whole = bisect(|time| {
        let count = |node: &GridNode| {
            let send = if first.bytes > 0.0 {
                node.latency_s + first.bytes / node.bytes_per_s
            } else {
                0.0
            };
            let compute = first.flops / node.flops_per_s;
            // The slower stage works all the time; the other one once, before or after it.
            ((time - send.min(compute)) / send.max(compute) + 1e-9).floor().max(0.0)
        };
        let trunk = |trunk: f64| (trunk * time / first.bytes + 1e-9).floor();
        through(grid, count, trunk) >= jobs.len() as f64
    });
    whole.max(fluid)
}

fn sound(grid: &Grid) -> impl Iterator<Item = &GridNode> {
    grid.nodes.iter().filter(|node| node.is_sound())
}

fn fastest(grid: &Grid, job: Job) -> f64 {
    let times = sound(grid).map(|node| {
        let trunk = node.site.map_or(f64::INFINITY, |site| grid.trunks[site as usize]);
        let send = node.latency_s + job.bytes / node.bytes_per_s.min(trunk);
        job.flops / node.flops_per_s + if job.bytes > 0.0 { send } else { 0.0 }
    });
    times.fold(f64::INFINITY, f64::min)
}

/// The least time that is enough, to a part in 10^12; infinite when none below 10^18 s is.
fn bisect(enough: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1e-6);
    while !enough(high) {
        (low, high) = (high, high * 2.0);
        if high > 1e18 {
            return f64::INFINITY;
        }
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if enough(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
