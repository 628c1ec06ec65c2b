//! Random grids in virtual time: losses, copies, parted networks, nodes that end, freeze, or whose
//! clocks jump.

use std::time::Duration;

use super::engine::{Engine, Event, Network, Place};
use super::grid::{Grid, Record, Shape};
use super::*;
use crate::machine::query::{Outcome, Request, Scope};

const SMALL: Shape = Shape { regions: 3, subgrids: 60, members: 8 };

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn lossy(loss: f64) -> Network {
    Network { loss, duplicated: loss / 2.0, ..Network::default() }
}

/// Asks so many random things from the 15th second on, one each tenth of a second.
fn ask_many(grid: &mut Grid, count: u32, nodes: impl Fn(&mut Grid) -> usize) {
    for number in 0..count {
        let at = secs(15) + Duration::from_millis(100) * number;
        let node = nodes(grid);
        let scope = [Scope::Grid, Scope::Grid, Scope::Region, Scope::SubGrid][number as usize % 4];
        grid.ask_anything_at(at, node, scope);
    }
}

fn anybody(grid: &mut Grid) -> usize {
    let shape = grid.shape();
    grid.random(shape.subgrids * shape.members)
}

/// Every question has ended by its deadline; nobody was named who does not match.
fn all_ended(grid: &Grid, seed: u64) {
    for (number, record) in grid.records().iter().enumerate() {
        let (took, answer) = record.ended.as_ref().expect("it has ended");
        let what = || format!("seed {seed}, question {number}: {record:?}");
        assert!(*took <= secs(10), "{}", what());
        assert!(record.wrong().is_none() && answer.matches.len() <= record.wanted, "{}", what());
        let met = answer.matches.len() == record.wanted;
        assert_eq!(answer.outcome == Outcome::Met, met, "{}", what());
        if record.is_inside() {
            assert!(!record.left, "{}", what());
        }
        // It says itself where it was answered.
        assert!(answer.outcome == Outcome::Late || !answer.route.is_empty(), "{}", what());
    }
    assert_eq!(grid.pending(), 0, "seed {seed}");
}

fn percentile(of: impl Iterator<Item = u64>, percent: usize) -> u64 {
    let mut of: Vec<u64> = of.collect();
    of.sort_unstable();
    of[(of.len() * percent).div_ceil(100).max(1) - 1]
}

#[test]
fn whatever_can_be_met_is_met_and_costs_few_messages() {
    let seed = seed();
    for (turn, loss) in [0.0, 0.01, 0.05].into_iter().enumerate() {
        let seed = seed.wrapping_add(turn as u64);
        let mut grid = Grid::new(SMALL, lossy(loss), seed, false);
        ask_many(&mut grid, 400, anybody);
        grid.run(secs(80));
        assert_eq!(grid.records().len(), 400);
        all_ended(&grid, seed);
        for record in grid.records() {
            assert_eq!(record.found(), record.possible(), "seed {seed}, loss {loss}: {record:?}");
            let far = record.scope == Scope::Grid && record.there[1] < record.wanted;
            let (_, answer) = record.ended.as_ref().unwrap();
            if loss == 0.0 {
                // A round has a question and a referral, four who are asked and answer. In sub-grids
                // as small as these, five nodes may take several.
                let rounds = u64::from(answer.steps.saturating_sub(2).div_ceil(3));
                let most = 2 + 10 * rounds;
                assert!(far || record.traffic.messages <= most, "seed {seed}: {record:?}");
                // What those who were asked as well still sent is not known to who answers.
                let counted = u64::from(answer.messages);
                assert!(counted <= record.traffic.messages, "seed {seed}: {record:?}");
            }
        }
        let messages = |wanted: &dyn Fn(&Record) -> bool| {
            let of = grid.records().iter().filter(|record| wanted(record));
            percentile(of.map(|record| record.traffic.messages), 99)
        };
        let inside = messages(&|record| record.is_inside());
        let region = messages(&|record| !record.is_inside() && record.there[1] >= record.wanted);
        println!("loss {loss}: p99 of messages: {inside} inside, {region} in the region");
        // So few questions have their worst as 99th percentile.
        let (of_inside, of_region) = if loss == 0.0 { (2, 32) } else { (8, 40) };
        let few = inside <= of_inside && region <= of_region;
        assert!(loss > 0.01 || few, "seed {seed}, loss {loss}");
    }
}

#[test]
fn messages_do_not_grow_with_the_sub_grid() {
    let seed = seed();
    let mut means = Vec::new();
    for members in [8, 80] {
        let mut grid = Grid::new(Shape { members, ..SMALL }, Network::default(), seed, false);
        ask_many(&mut grid, 200, anybody);
        grid.run(secs(45));
        all_ended(&grid, seed);
        let all: u64 = grid.records().iter().map(|record| record.traffic.messages).sum();
        means.push(all as f64 / 200.0);
        let region = grid.records().iter().filter(|it| !it.is_inside());
        let met = region.filter(|it| it.there[1] >= it.wanted && it.scope != Scope::SubGrid);
        let messages = percentile(met.clone().map(|it| it.traffic.messages), 95);
        let steps = met.map(|it| u64::from(it.ended.as_ref().unwrap().1.steps));
        let steps = percentile(steps, 95);
        println!("{members} members, in the region: p95 of {messages} messages, {steps} steps");
        assert!(members < 80 || (messages <= 12 && steps <= 6), "seed {seed}");
    }
    println!("messages for one question in sub-grids of 8 and 80: {means:?}");
    assert!(means[1] <= means[0] * 1.5, "seed {seed}: {means:?}");
}

/// A question that the region of sub-grid 0 can meet and sub-grid 0 cannot.
fn of_the_region(scope: Scope) -> Request {
    Request {
        requirements: "Cpus >= 8 && Memory >= 16384 && Mflops >= 2000".to_owned(),
        rank: None,
        wanted: 1,
        scope,
        vo: None,
        patience: secs(10),
    }
}

/// Asks the region again and again; a node ends a little later each time, and is back at `back`.
fn ends_in_the_middle(node: impl Fn(&Grid) -> usize, back: Duration) {
    let seed = seed();
    for turn in 0..12u64 {
        let seed = seed.wrapping_add(turn);
        let mut grid = Grid::new(SMALL, lossy(0.01), seed, false);
        // The asker is no region-peer: it is of sub-grid 6, which is an office.
        grid.ask_at(secs(20), grid.super_peer(6) + 3, of_the_region(Scope::Region));
        let after = Duration::from_micros(500 + 2_900 * turn);
        grid.crash_at(secs(20) + after, node(&grid), Some(back));
        grid.run(secs(40));
        all_ended(&grid, seed);
        let record = &grid.records()[0];
        assert!(record.is_met(), "seed {seed}, after {after:?}: {record:?}");
    }
}

#[test]
fn a_super_peer_that_ends_in_the_middle_is_replaced() {
    ends_in_the_middle(|grid| grid.super_peer(6), secs(26));
}

#[test]
fn a_region_peer_that_ends_in_the_middle_is_replaced() {
    ends_in_the_middle(|grid| grid.region_peer(0), secs(60));
}

#[test]
fn a_sub_grid_that_does_not_answer_is_passed_over() {
    let seed = seed();
    let mut grid = Grid::new(SMALL, lossy(0.01), seed, false);
    let shape = grid.shape();
    // Every other sub-grid of region 0 is frozen before anybody can notice.
    for subgrid in (6..shape.subgrids).step_by(6) {
        let node = grid.super_peer(subgrid);
        grid.freeze_at(secs(20), node, secs(8));
    }
    for number in 0..40u32 {
        let node = 1 + number as usize % 7;
        let at = secs(20) + Duration::from_millis(100) * number;
        grid.ask_at(at, node, of_the_region(Scope::Region));
    }
    grid.run(secs(45));
    all_ended(&grid, seed);
    let met = grid.records().iter().filter(|record| record.is_met()).count();
    assert_eq!(met, 40, "seed {seed}");
    let slow = percentile(
        grid.records().iter().map(|record| record.ended.as_ref().unwrap().0.as_millis() as u64),
        50,
    );
    println!("half of the questions were met within {slow} ms");
    assert!(slow < 1000, "seed {seed}");
}

#[test]
fn what_is_cut_off_is_answered_as_far_as_it_can_be() {
    let seed = seed();
    let mut grid = Grid::new(SMALL, lossy(0.01), seed, false);
    grid.part_at(secs(20), 0, secs(60));
    // Of the other architecture there is one sub-grid in region 2 and one in region 1.
    let request =
        Request { requirements: "Arch == \"aarch64\"".into(), ..of_the_region(Scope::Grid) };
    for number in 0..10u64 {
        grid.ask_at(secs(25 + number), 1 + number as usize % 7, request.clone());
        grid.ask_at(secs(64 + number), 1 + number as usize % 7, request.clone());
    }
    grid.run(secs(100));
    all_ended(&grid, seed);
    for record in grid.records() {
        let cut = record.began < secs(60);
        let (_, answer) = record.ended.as_ref().unwrap();
        assert_eq!(record.is_met(), !cut, "seed {seed}: {record:?}");
        assert!(!cut || answer.outcome == Outcome::Late, "seed {seed}: {record:?}");
    }
}

#[test]
fn anything_may_happen_and_every_question_ends() {
    let seed = seed();
    for turn in 0..3 {
        let seed = seed.wrapping_add(turn);
        let mut grid = Grid::new(SMALL, lossy(0.1), seed, true);
        let nodes = SMALL.subgrids * SMALL.members;
        ask_many(&mut grid, 400, anybody);
        for _ in 0..60 {
            let at = secs(15) + Duration::from_millis(grid.random(40_000) as u64);
            let length = Duration::from_millis(grid.random(6_000) as u64);
            // Half of it befalls those who answer for others.
            let node = match grid.random(2) {
                0 => grid.random(nodes),
                _ => grid.random(SMALL.subgrids) * SMALL.members,
            };
            match grid.random(4) {
                0 => grid.crash_at(at, node, Some(at + length)),
                1 => grid.freeze_at(at, node, length),
                2 => grid.jump_at(at, node, length),
                _ => grid.part_at(at, (node % 3) as u16, at + length),
            }
        }
        grid.run(secs(90));
        let (mut met, mut possible) = (0, 0);
        for record in grid.records() {
            // Of a node that has crashed or was frozen nobody waits for an answer.
            let Some((took, answer)) = &record.ended else { continue };
            assert!(*took <= secs(17), "seed {seed}: {record:?}");
            assert!(answer.matches.len() <= record.wanted, "seed {seed}: {record:?}");
            met += record.found().min(record.possible());
            possible += record.possible();
        }
        assert_eq!(grid.pending(), 0, "seed {seed}");
        println!("{met} of {possible} were found through all of it");
        assert!(met * 10 >= possible * 7, "seed {seed}: {met} of {possible}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut grid = Grid::new(SMALL, lossy(0.05), seed, true);
        ask_many(&mut grid, 60, anybody);
        grid.run(secs(40));
        let costs = grid.records().iter().map(|record| (record.traffic, record.found()));
        (costs.collect::<Vec<_>>(), grid.reporting, grid.events)
    };
    let seed = seed();
    assert_eq!(run(seed), run(seed));
    assert_ne!(run(seed).0, run(seed.wrapping_add(1)).0);
}

#[test]
fn who_floods_is_named_and_others_are_met() {
    let seed = seed();
    let mut grid = Grid::new(SMALL, Network::default(), seed, false);
    let request = Request { patience: Duration::from_millis(50), ..of_the_region(Scope::Region) };
    for number in 0..3000u32 {
        let at = secs(20) + Duration::from_millis(2) * number;
        grid.ask_at(at, 3, Request { patience: Duration::from_millis(10), ..request.clone() });
    }
    for number in 0..50u32 {
        grid.ask_at(
            secs(20) + Duration::from_millis(110) * number,
            5,
            of_the_region(Scope::Region),
        );
    }
    grid.run(secs(40));
    assert!(grid.named.iter().all(|node| *node == 3) && !grid.named.is_empty(), "{:?}", grid.named);
    let others = grid.records().iter().filter(|record| record.is_met());
    assert!(others.count() >= 50, "seed {seed}");
}

#[test]
fn asking_everybody_or_anybody_costs_more() {
    let extent = Extent {
        shape: Shape { members: 20, ..SMALL },
        queries: 60,
        simulated: secs(60),
        loss: 0.01,
        baseline: 10,
        members: 12,
        idle: secs(60),
        ends: 2,
    };
    let figures = discovery_figures(seed(), &extent);
    let asked = [&figures.inside, &figures.region, &figures.grid, &figures.short];
    assert_eq!(asked.iter().map(|figures| figures.asked).sum::<usize>(), 60);
    let most = asked.iter().map(|figures| figures.messages[3]).fold(0.0, f64::max);
    println!("at most {most}; flooding {:?}", figures.flooding.messages);
    assert!(figures.flooding.messages[0] > 10.0 * most, "{figures:#?}");
    assert!(
        figures.subgrid.wrongly_gone == 0 && subgrid::known(&figures.subgrid.known_s, 100) < 15.0,
        "{figures:#?}"
    );
}

#[test]
fn a_sub_grid_of_sixty_watches_itself_cheaply() {
    let seed = seed();
    let figures = subgrid::subgrid_figures(60, lossy(0.01), secs(300), 6, seed);
    println!("{figures:?}");
    assert_eq!(figures.wrongly_gone, 0, "seed {seed}");
    assert_eq!(figures.deposed, 0, "seed {seed}");
    assert!(figures.idle.watching < 1.5 && figures.joined_s < 60.0, "seed {seed}: {figures:?}");
    assert!(subgrid::known(&figures.known_s, 100) < 5.0, "seed {seed}: {figures:?}");
}

#[test]
fn the_engine_loses_copies_delays_and_wakes_as_it_says() {
    let places = vec![
        Place { region: 0, subgrid: 0 },
        Place { region: 0, subgrid: 0 },
        Place { region: 1, subgrid: 1 },
    ];
    let network = Network { loss: 0.25, duplicated: 0.5, ..Network::default() };
    let mut engine: Engine<u32> = Engine::new(network, places, 5);
    let mut bytes = 0;
    for number in 0..1000 {
        bytes += engine.send(0, 1 + number as usize % 2, number, 100).bytes;
    }
    assert_eq!(bytes, 1000 * (100 + 28 + 37));
    assert_eq!(engine.send(0, 1, 0, 2500).messages, 3);
    engine.freeze(2, secs(2));
    engine.wake(1, Some(secs(1)));
    let (mut arrived, mut woken) = ([0; 3], None);
    while let Some(event) = engine.next(secs(3)) {
        match event {
            Event::Arrival { to, .. } => {
                arrived[to] += 1;
                assert!(to == 1 || engine.now() == secs(2), "frozen");
            }
            Event::Wake(node) => woken = Some((node, engine.now())),
            Event::Plan(_) => {}
        }
    }
    assert_eq!(woken, Some((1, secs(1))));
    // 500 to each, half of them twice, a quarter of those lost.
    assert!((500..=625).contains(&arrived[1]) && (500..=625).contains(&arrived[2]), "{arrived:?}");
    engine.crash(1);
    engine.send(0, 1, 7, 1);
    engine.jump(0, secs(5));
    engine.wake(0, Some(secs(9)));
    let mut left = Vec::new();
    while let Some(event) = engine.next(secs(10)) {
        left.push((engine.now(), event));
    }
    let woken = (secs(4), Event::Wake(0));
    assert!(left.contains(&woken), "its clock says nine then: {left:?}");
    assert!(left.iter().all(|(_, event)| !matches!(event, Event::Arrival { to: 1, .. })));
}
