//! What holds for every policy, whatever nodes and jobs say of themselves.

use phantom_broker::policy::{ALL, Adaptive, Command, Event, Flops, News, Policy, Profile, named};
use phantom_broker::sim::{Arrival, Discipline, Doubts, Trial, run};
use phantom_broker::{Grid, GridNode, Job};
use proptest::prelude::*;

/// So many cases of each property.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
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
    let data_at = proptest::option::of(0u32..50);
    proptest::collection::vec((0u8..4, size(), size(), data_at), 0..60).prop_map(|jobs| {
        let mut at = 0.0;
        jobs.into_iter()
            .map(|(later, flops, bytes, data_at)| {
                at += f64::from(later);
                Arrival { data_at, ..Arrival::new(at, Job { flops, bytes }) }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn nodes_that_cannot_be_never_win(
        grid in grid(),
        jobs in jobs(),
        name in prop::sample::select(&ALL[..]),
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
        let outcome = run(&trial, &mut |grid| named(name, grid, 1).unwrap());
        let any_sound = grid.nodes.iter().any(GridNode::is_sound);
        for (node, end) in outcome.nodes.iter().zip(&outcome.finished) {
            if let Some(node) = node {
                prop_assert!(grid.nodes[*node as usize].is_sound(), "node {node}");
            }
            prop_assert!(!end.is_nan());
            // The default leaves no job behind, where none takes for ever.
            let endless = |job: &Job| job.flops > 1e12 || job.bytes > 1e12;
            if name == "adaptive" && !jobs.iter().any(|arrival| endless(&arrival.job)) {
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
    (0..count).map(|place| Arrival::new(place as f64 * every, job)).collect()
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
fn a_batch_in_doubt_leaves_a_node_that_stands_still() {
    let so = star(8, |node| if node == 3 { 1e-3 } else { 1e7 });
    let said = star(8, |_| 1e7);
    let job = |place: i32| Job { flops: 1e7 * 1.05f64.powi(place), bytes: 0.0 };
    let jobs: Vec<Arrival> = (0..80).map(|place| Arrival::new(0.0, job(place))).collect();
    let doubts = Doubts { bandwidth: 0.0, size: 2.0, extreme: false };
    for seed in 0..20 {
        let trial = Trial { doubts, seed, ..Trial::exact(&so, &jobs, Discipline::Fifo) };
        let outcome = run(&trial, &mut |_| Box::new(Adaptive::new(&said, 1)));
        // Seven nodes compute 140 s at least; the longest job takes 47 s and is begun anew.
        assert!(outcome.makespan() < 300.0, "{} s", outcome.makespan());
        assert!(outcome.recalls > 0);
    }
}

#[test]
fn an_id_that_is_used_twice_harms_nobody() {
    let mut broker = Adaptive::new(&star(2, |_| 1e7), 1);
    let profile = Profile::exact(Job { flops: 1e8, bytes: 1e6 });
    for step in 0..50 {
        let now = f64::from(step);
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

/// Jobs of 10 s of computation, whose data takes 100 s to send anywhere but to `data_at`.
fn with_data(count: usize, every: f64, data_at: Option<u32>) -> Vec<Arrival> {
    let job = Job { flops: 1e8, bytes: 1e8 };
    let arrival = |place| Arrival { data_at, ..Arrival::new(place as f64 * every, job) };
    (0..count).map(arrival).collect()
}

#[test]
fn a_job_goes_to_its_data_while_that_is_sooner() {
    let grid = star(10, |_| 1e7);
    let outcome = |jobs: &[Arrival], brokers, news_age_s| {
        let exact = Trial::exact(&grid, jobs, Discipline::Fifo);
        let trial = Trial { brokers, news_age_s, ..exact };
        let mut seed = 0;
        run(&trial, &mut |grid| {
            seed += 1;
            Box::new(Adaptive::new(grid, seed))
        })
    };
    let alone = outcome(&with_data(1, 0.0, Some(2)), 1, 0.0);
    assert_eq!((alone.nodes[0], alone.finished[0]), (Some(2), 10.0));
    // A batch: all of it at its data, or all of it sent, takes 400 s; together they do one each 5.3 s.
    let batch = outcome(&with_data(40, 0.0, Some(2)), 1, 0.0);
    assert!(batch.makespan() < 240.0, "{} s", batch.makespan());
    let there = batch.nodes.iter().filter(|node| **node == Some(2)).count();
    assert!((18..=26).contains(&there), "{there} at their data");
    // Jobs that keep coming, faster than the one node can do them and than they can be sent.
    let sent = outcome(&with_data(60, 6.0, None), 1, 0.0).mean_completion();
    let near = outcome(&with_data(60, 6.0, Some(2)), 1, 0.0).mean_completion();
    assert!(near < 0.75 * sent, "{near} s, and {sent} s where nothing is there");
    // Brokers that know of each other by old news.
    let sent = outcome(&with_data(60, 20.0, None), 3, 500.0).mean_completion();
    let near = outcome(&with_data(60, 20.0, Some(2)), 3, 500.0).mean_completion();
    assert!(near < 0.75 * sent, "{near} s, and {sent} s where nothing is there");
}

#[test]
fn data_at_a_node_that_is_none_has_to_be_sent() {
    let mut grid = star(3, |_| 1e7);
    grid.nodes[1].flops_per_s = f64::NAN;
    for data_at in [1, 3, u32::MAX] {
        let jobs = with_data(6, 0.0, Some(data_at));
        let outcome = run(&Trial::exact(&grid, &jobs, Discipline::Fifo), &mut |grid| {
            Box::new(Adaptive::new(grid, 1))
        });
        assert!((300.0..320.0).contains(&outcome.makespan()), "{} s", outcome.makespan());
    }
}

/// What brokers may hear: of jobs and nodes they know or not, in any order, with any figures.
fn news() -> impl Strategy<Value = (Event, f64, bool)> {
    let figure = prop_oneof![
        3 => 0.0..1e3,
        1 => prop::sample::select(vec![-1e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300]),
    ];
    (0u8..5, 0u32..12, 0u32..8, figure.clone(), figure, any::<[bool; 2]>()).prop_map(
        |(kind, job, node, bytes, at, [flag, own])| {
            let node = if node == 7 { u32::MAX } else { node };
            let event = match kind {
                0 => Event::Dispatched { job, node, data: flag },
                1 => Event::Sent { job, node },
                2 => Event::Progress { job, node, bytes },
                3 => Event::Finished { job, node },
                _ => Event::Withdrawn { job, node, sending: flag },
            };
            (event, at, own)
        },
    )
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn no_news_do_harm(
        grid in grid(),
        steps in proptest::collection::vec((news(), size(), size(), rate(), any::<bool>()), 0..80),
        seed in any::<u64>(),
    ) {
        let mut broker = Adaptive::new(&grid, seed);
        let (mut given, mut next) = (std::collections::BTreeMap::new(), 0);
        for (step, ((event, at, own), flops, bytes, doubt, comes)) in steps.into_iter().enumerate() {
            let now = step as f64;
            if comes {
                let data_at = Some(next % 9);
                let profile = Profile { job: Job { flops, bytes }, doubt, data_at };
                if let Some(node) = broker.choose(next, &profile, now) {
                    prop_assert!(grid.nodes[node as usize].is_sound());
                }
                next += 1;
            } else {
                broker.told(&News { event, at, own }, now);
            }
            let mut commands = 0;
            while let Some(command) = broker.release(now) {
                commands += 1;
                prop_assert!(commands < 10_000, "it ends");
                match command {
                    Command::Give { job, node } => {
                        prop_assert!(grid.nodes[node as usize].is_sound());
                        prop_assert_eq!(given.insert(job, node), None, "given twice");
                    }
                    Command::Recall { job } => {
                        prop_assert!(given.remove(&job).is_some(), "recalled and not given");
                    }
                    Command::Look { job } => prop_assert!(given.contains_key(&job)),
                }
            }
            if let Some(wake) = broker.wake() {
                prop_assert!(!wake.is_nan());
            }
        }
    }
}
