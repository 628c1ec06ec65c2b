//! What holds for every policy, whatever nodes and jobs say of themselves.

use phantom_broker::policy::reference::{Batch, Drawn, Mct, Order};
use phantom_broker::policy::{Adaptive, Flops, Ncda, Policy, RoundRobin, Sum};
use phantom_broker::sim::{Arrival, Discipline, Doubts, Trial, run};
use phantom_broker::{Grid, GridNode, Job};
use proptest::prelude::*;

const POLICIES: usize = 10;

fn policy(which: usize, grid: &Grid) -> Box<dyn Policy> {
    match which {
        0 => Box::new(RoundRobin::new(grid)),
        1 => Box::new(Flops::new(grid)),
        2 => Box::new(Ncda::new(grid, Sum::Weighted)),
        3 => Box::new(Ncda::new(grid, Sum::Product)),
        4 => Box::new(Ncda::new(grid, Sum::Harmonic)),
        5 => Box::new(Mct::new(grid, true)),
        6 => Box::new(Drawn::new(grid, 4, 1)),
        7 => Box::new(Batch::new(grid, Order::Longest)),
        8 => Box::new(Batch::new(grid, Order::MinMin)),
        _ => Box::new(Adaptive::new(grid, 1)),
    }
}

/// Rates that are, or that no machine has.
fn rate() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => 1e3..1e8,
        1 => prop::sample::select(vec![
            0.0, -1.0, -1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, f64::MIN_POSITIVE,
        ]),
    ]
}

fn grid() -> impl Strategy<Value = Grid> {
    let node = (rate(), rate(), rate(), proptest::option::of(0u32..4));
    let nodes = proptest::collection::vec(node, 1..40);
    (nodes, proptest::collection::vec(1e3..1e8, 4)).prop_map(|(nodes, trunks)| Grid {
        nodes: nodes
            .into_iter()
            .map(|(flops_per_s, bytes_per_s, latency, site)| GridNode {
                flops_per_s,
                bytes_per_s,
                latency_s: if latency > 0.0 && latency < 1e9 { latency / 1e9 } else { latency },
                site,
            })
            .collect(),
        trunks,
    })
}

fn size() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => 1e3..1e9,
        2 => Just(0.0),
        1 => prop::sample::select(vec![-1.0, f64::NAN, f64::INFINITY, 1e300]),
    ]
}

fn jobs() -> impl Strategy<Value = Vec<Arrival>> {
    proptest::collection::vec((0u8..4, size(), size()), 0..60).prop_map(|jobs| {
        let mut at = 0.0;
        jobs.into_iter()
            .map(|(later, flops, bytes)| {
                at += f64::from(later);
                Arrival { at, job: Job { flops, bytes } }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nodes_that_cannot_be_never_win(
        grid in grid(),
        jobs in jobs(),
        which in 0..POLICIES,
        shared in any::<bool>(),
        brokers in 1usize..4,
        news_age_s in prop_oneof![Just(0.0), 0.1..100.0],
        doubtful in any::<bool>(),
    ) {
        let discipline = if shared { Discipline::Shared } else { Discipline::Fifo };
        let mut trial = Trial::exact(&grid, &jobs, discipline);
        (trial.brokers, trial.news_age_s) = (brokers, news_age_s);
        if doubtful {
            trial.doubts = Doubts { bandwidth: 0.5, size: 2.0, extreme: false };
        }
        let outcome = run(&trial, &mut |grid| policy(which, grid));
        let any_sound = grid.nodes.iter().any(GridNode::is_sound);
        for (node, end) in outcome.nodes.iter().zip(&outcome.finished) {
            if let Some(node) = node {
                prop_assert!(grid.nodes[*node as usize].is_sound(), "node {node}");
            }
            prop_assert!(!end.is_nan());
            // The default leaves no job behind, where none takes for ever.
            let endless = |job: &Job| job.flops > 1e12 || job.bytes > 1e12;
            if which == POLICIES - 1 && !jobs.iter().any(|arrival| endless(&arrival.job)) {
                prop_assert_eq!(any_sound, node.is_some());
                prop_assert!(!any_sound || end.is_finite());
            }
        }
    }
}

fn star(count: usize, said: impl Fn(usize) -> f64) -> Grid {
    let node =
        |node| GridNode { flops_per_s: said(node), bytes_per_s: 1e6, latency_s: 0.01, site: None };
    Grid { nodes: (0..count).map(node).collect(), trunks: Vec::new() }
}

/// Jobs of 10^8 flop, one each `every` seconds.
fn stream(count: usize, every: f64) -> Vec<Arrival> {
    let job = Job { flops: 1e8, bytes: 0.0 };
    (0..count).map(|place| Arrival { at: place as f64 * every, job }).collect()
}

#[test]
fn a_node_that_lies_is_found_out() {
    // Ten nodes of 10 Mflop/s; the first says that it were a thousand times as fast.
    let (so, said) = (star(10, |_| 1e7), star(10, |node| if node == 0 { 1e10 } else { 1e7 }));
    let jobs = stream(200, 2.0);
    let trial = Trial::exact(&so, &jobs, Discipline::Fifo);
    let believed = run(&trial, &mut |_| Box::new(Flops::new(&said)));
    let outcome = run(&trial, &mut |_| Box::new(Adaptive::new(&said, 1)));
    let there = outcome.nodes.iter().filter(|node| **node == Some(0)).count();
    // Five nodes are enough; it is no better than others.
    assert!(there <= 45, "{there} of 200 jobs at the liar");
    assert!(outcome.mean_completion() < 12.0, "{} s", outcome.mean_completion());
    assert!(believed.mean_completion() > 5.0 * outcome.mean_completion());
}

#[test]
fn a_batch_leaves_a_node_that_stands_still() {
    // It takes jobs and never finishes one.
    let so = star(8, |node| if node == 3 { 1e-3 } else { 1e7 });
    let said = star(8, |_| 1e7);
    let jobs = stream(80, 0.0);
    let trial = Trial::exact(&so, &jobs, Discipline::Fifo);
    let outcome = run(&trial, &mut |_| Box::new(Adaptive::new(&said, 1)));
    assert!(outcome.makespan() < 160.0, "{} s", outcome.makespan());
    assert!(outcome.recalls > 0);
}

#[test]
fn an_id_that_is_used_twice_harms_nobody() {
    use phantom_broker::policy::{Command, Event, News, Profile};
    let mut broker = Adaptive::new(&star(2, |_| 1e7), 1);
    let profile = Profile::exact(Job { flops: 1e8, bytes: 1e6 });
    for now in 0..50 {
        let now = f64::from(now);
        assert_eq!(broker.choose(7, &profile, now), None);
        while let Some(command) = broker.release(now) {
            let Command::Give { job, node } = command else { continue };
            assert_eq!(job, 7);
            for event in [
                Event::Sent { job, node },
                Event::Sent { job, node },
                Event::Finished { job: 9, node: 77 },
                Event::Finished { job, node },
                Event::Finished { job, node },
            ] {
                broker.told(&News { event, at: now, own: true }, now);
            }
        }
    }
}
