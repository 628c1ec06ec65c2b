//! What no policy can be sure of.

use super::Arrival;
#[cfg(doc)]
use super::Discipline;
use crate::Grid;
use crate::policy::Random;

/// Moments at which [`chance`] looks.
const STEPS: u32 = 80;

/// The greatest chance that any policy has to end a batch in a star within `time_s` seconds when it
/// is told the bytes of each job times a factor between `1 / doubt` and `doubt`, each order of
/// magnitude as likely; the factors are drawn from `seed`. Jobs count as drawn evenly by order of
/// magnitude up to the largest, which the policy may know, as it may know all else. Nodes receive one
/// job's data at a time, and what is dropped is sent anew ([`Discipline::Fifo`]).
///
/// This is why none has a greater one. Take a moment `t`, and let b be the quickest link.
/// - A job of more than b (`time_s` - t) bytes that has not begun by then is late on any link. One
///   that began on a link l is late if it has more than l `time_s` bytes.
/// - A job told to have more than `doubt` b t bytes can neither be done by `t` on any link, nor can
///   anything have been learnt of it: no more is sent of any than it must have. So of those each link
///   has begun at most one that it has not dropped again, and which ones is a choice by what was told
///   alone.
/// - The chance that none of them is late is thus a product over pairs of job and link, and greatest
///   if what is told to be larger has the quicker link: what a quicker link adds to the logarithm of a
///   job's chance grows with what was told.
///
/// It holds for each `t`; the least counts.
pub fn chance(grid: &Grid, jobs: &[Arrival], doubt: f64, time_s: f64, seed: u64) -> f64 {
    let mut links: Vec<f64> =
        grid.nodes.iter().filter(|node| node.is_sound()).map(|node| node.bytes_per_s).collect();
    links.sort_by(|a, b| b.total_cmp(a));
    let Some(quickest) = links.first().copied() else { return 0.0 };
    let sizes =
        || jobs.iter().map(|arrival| arrival.job.sound().bytes).filter(|bytes| *bytes > 0.0);
    let largest = sizes().fold(0.0, f64::max);
    let mut random = Random::new(seed);
    let mut told: Vec<f64> =
        sizes().map(|bytes| bytes * doubt.powf(random.between(-1.0, 1.0))).collect();
    told.sort_by(|a, b| b.total_cmp(a));
    let at = |t: f64| {
        let late_later = quickest * (time_s - t);
        let unknown = told.iter().filter(|told| **told > doubt * quickest * t);
        let mut links = links.iter().map(|link| link * time_s).filter(|most| *most >= late_later);
        let in_time = unknown.map(|told| {
            let most = links.next().unwrap_or(0.0).max(late_later);
            let (least, largest) = (told / doubt, (told * doubt).min(largest));
            match largest > least {
                true => ((most / least).ln() / (largest / least).ln()).clamp(0.0, 1.0),
                false => f64::from(u8::from(most >= largest)),
            }
        });
        in_time.product::<f64>()
    };
    (0..STEPS).map(|step| at(time_s * f64::from(step) / f64::from(STEPS))).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GridNode, Job};

    fn star(links: &[f64]) -> Grid {
        let node = |link: &f64| GridNode {
            flops_per_s: 1.0,
            bytes_per_s: *link,
            latency_s: 0.0,
            site: None,
        };
        Grid { nodes: links.iter().map(node).collect(), trunks: Vec::new() }
    }

    fn batch(sizes: &[f64]) -> Vec<Arrival> {
        sizes.iter().map(|bytes| Arrival::new(0.0, Job { flops: 0.0, bytes: *bytes })).collect()
    }

    #[test]
    fn what_is_known_or_quick_enough_is_sure() {
        assert_eq!(chance(&star(&[1.0]), &batch(&[10.0]), 1.0, 10.0, 1), 1.0);
        assert_eq!(chance(&star(&[1.0]), &batch(&[10.0]), 1.0, 9.9, 1), 0.0);
        let (grid, jobs) = (star(&[2.0, 2.0]), batch(&[10.0, 1.0, 1.0]));
        assert_eq!(chance(&grid, &jobs, 2.0, 5.0, 1), 1.0);
    }

    #[test]
    fn one_of_two_that_look_alike_is_a_guess() {
        // One link can send the larger job in time if it begins at once, the other one never. Who is
        // told one size of both has it right every second time, and other sizes say little more.
        let (grid, jobs) = (star(&[1.0, 0.8]), batch(&[10.0, 7.9]));
        let mean = (0..200).map(|seed| chance(&grid, &jobs, 2.0, 10.0, seed)).sum::<f64>() / 200.0;
        assert!((0.5..0.95).contains(&mean), "{mean}");
    }
}
