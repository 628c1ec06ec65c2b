//! What is told to have happened, and who has to know it by then.

use phantom_model::Epoch;

use super::leader::group;
use super::*;
use crate::machine::group::message::{Body, Message};

/// Nine electors, of which the super-peer and two other voters are cut off from the rest, and what it
/// was asked to grant: the voters have it, a majority of the electors does not.
fn granted_among_few(seed: u64) -> (World, usize, Vec<usize>) {
    let mut world = settled(9, seed);
    let leader = world.agreed().unwrap();
    let voters = group(&world, leader).voters();
    let voters: Vec<usize> = (0..9).filter(|host| voters.contains(&id(*host))).collect();
    let few = voters.iter().copied().filter(|host| *host != leader).take(2).chain([leader]);
    let few: Vec<usize> = few.collect();
    few.iter().for_each(|host| world.hosts[*host].part = 1);
    world.grant(leader, AppId(1), id(0)).unwrap();
    world.run(secs(1));
    let known = group(&world, leader).state().unwrap().grant(AppId(1));
    assert_eq!(known.unwrap().epoch, Epoch(1), "the voters have decided it");
    let others = (0..9).filter(|host| !few.contains(host)).collect();
    (world, leader, others)
}

#[test]
fn nothing_is_told_before_a_majority_of_the_electors_has_witnessed_it() {
    let (mut world, leader, others) = granted_among_few(1);
    assert_eq!(world.grants, 0);
    let (number, office) = (group(&world, leader).witness_count, group(&world, leader).office);
    let witnessed = |number, office| Body::Witnessed { number, office };
    for from in &others {
        world.tell_as(leader, *from, Life(7), witnessed(number, office));
        world.tell(leader, *from, witnessed(number, office.next(Life(7))));
        world.tell(leader, *from, witnessed(number + 1, office));
    }
    world.tell(leader, others[0], witnessed(number, office));
    world.tell(leader, others[0], witnessed(number, office));
    assert_eq!(world.grants, 0);
    world.tell(leader, others[1], witnessed(number, office));
    assert_eq!(world.grants, 1);
}

#[test]
fn who_was_put_out_counts_as_a_witness() {
    let (mut world, leader, others) = granted_among_few(5);
    let (number, office) = (group(&world, leader).witness_count, group(&world, leader).office);
    world.with(leader, |group, _| group.removed.extend([id(others[0]), id(others[1])]));
    let witness = (0..9).find(|host| *host != leader && !others.contains(host)).unwrap();
    world.tell(leader, witness, Body::Witnessed { number, office });
    assert_eq!(world.grants, 1);
}

#[test]
fn nothing_is_witnessed_before_a_majority_has_promised_the_office() {
    let (mut world, leader, _) = granted_among_few(6);
    let asked = |group: &mut Group, now| {
        let before = group.commands.len();
        group.witness_now(now);
        let asked = group.commands.iter().skip(before).filter(|command| match command {
            Command::Send { payload, .. } => {
                matches!(Message::decode(payload).unwrap().body, Body::Witness { .. })
            }
            _ => false,
        });
        asked.count()
    };
    world.with(leader, |group, now| {
        group.begin_to_lead(now);
        assert_eq!(asked(group, now), 0);
        group.promised = group.view().unwrap().electors.keys().copied().collect();
        assert_eq!(asked(group, now), 8);
    });
}

#[test]
fn nothing_is_told_without_a_lease() {
    let (mut world, leader, others) = granted_among_few(2);
    let (number, office) = (group(&world, leader).witness_count, group(&world, leader).office);
    world.with(leader, |group, _| group.answered.clear());
    others.iter().for_each(|from| {
        world.tell(leader, *from, Body::Witnessed { number, office });
    });
    assert!(group(&world, leader).witnessing.is_empty());
    assert_eq!(world.grants, 0);
}

#[test]
fn what_was_witnessed_in_an_office_before_is_witnessed_anew() {
    let (mut world, leader, others) = granted_among_few(3);
    let (number, office) = (group(&world, leader).witness_count, group(&world, leader).office);
    world.tell(leader, others[0], Body::Witnessed { number, office });
    world.with(leader, |group, now| {
        group.begin_to_lead(now);
        let all = group.view().unwrap().electors.keys().copied();
        (group.promised, group.answered) =
            (all.clone().collect(), all.map(|node| (node, now)).collect());
        group.witness_now(now);
    });
    let office = group(&world, leader).office;
    for from in &others[1..4] {
        assert_eq!(world.grants, 0);
        world.tell(leader, *from, Body::Witnessed { number, office });
    }
    assert_eq!(world.grants, 0, "three and the super-peer itself");
    world.tell(leader, others[4], Body::Witnessed { number, office });
    assert_eq!(world.grants, 1);
}

#[test]
fn a_new_generation_tells_nothing_of_the_one_before() {
    let (mut world, leader, others) = granted_among_few(4);
    let founding = group(&world, leader).founding.clone().unwrap();
    let view = View { generation: founding.view.generation + 1, ..founding.view };
    // Not in the world: it has no part in what the others do.
    let mut group = world.hosts[leader].group.take().unwrap();
    let now = group.heard.map_or(group.next_beat, |(_, at)| at);
    group.attempt = Some(Attempt::new(Ballot::default()));
    group.heard = Some((SuperPeer { node: id(others[0]), mandate: Mandate::default() }, now));
    group.adopt(Founding { view, ..founding }, now);
    assert!(group.witnessing.is_empty() && group.attempt.is_none() && group.heard.is_none());
}

#[test]
fn the_super_peer_is_a_witness_as_well() {
    let mut world = settled(1, 1);
    world.grant(0, AppId(1), id(0)).unwrap();
    world.run(secs(1));
    assert_eq!(world.grants, 1);
    let known = group(&world, 0).witnessed.state.grant(AppId(1));
    assert_eq!(known.unwrap().epoch, Epoch(1));
}

#[test]
fn who_asks_hears_what_came_of_it_whoever_it_is() {
    for seed in seeds(5) {
        let _seed = Seed(seed);
        let mut world = settled(5, seed);
        for by in 0..5 {
            world.grant(by, AppId(by as u64), id(by)).unwrap();
            world.run(secs(1));
            assert_eq!(world.grants, by + 1);
            // Also of what it may have applied itself before it is told.
            let set = Op::Set {
                name: by.to_string(),
                expect: None,
                bytes: Some(Vec::new()),
                sure: false,
            };
            let ticket = world.with(by, |group, now| group.propose(set, now)).unwrap();
            world.run(secs(1));
            let outcome = &world.outcomes[&(by, ticket)];
            assert!(matches!(outcome, Some(Outcome::Done(_))), "{outcome:?}");
        }
    }
}
