mod elector;
mod kept;
mod leader;
mod state;
mod synod;
mod wall;
mod witness;
pub mod world;

use std::time::Duration;

use phantom_model::AppId;
use rand::{Rng, RngExt, SeedableRng};
use world::{FAIR, Weather, World, id};

use super::*;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The seeds of a test: that of `PHANTOM_SEED`, or the first ones, `PHANTOM_SEEDS` times as many as
/// usual.
pub fn seeds(count: u64) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("PHANTOM_SEED") {
        Some(seed) => vec![seed],
        None => (0..count * number("PHANTOM_SEEDS").unwrap_or(1)).collect(),
    }
}

/// Says which seed it was when the test fails.
pub struct Seed(pub u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PHANTOM_SEED={}", self.0);
        }
    }
}

fn settled(hosts: usize, seed: u64) -> World {
    let mut world = World::new(hosts, seed);
    world.run_until("a super-peer", secs(30), |world| world.agreed().is_some());
    world.run_until("all are electors", secs(120), |world| {
        world.agreed().is_some() && world.newest().is_some_and(|it| it.view.electors.len() == hosts)
    });
    world.run(secs(20));
    world
}

#[test]
fn a_machine_alone_answers_for_itself_at_once() {
    let mut world = World::new(1, 1);
    let took = world.run_until("a super-peer", secs(5), |world| world.agreed().is_some());
    assert!(took <= secs(1), "{took:?}");
    world.grant(0, AppId(1), id(0)).unwrap();
    world.run(secs(1));
    assert_eq!(world.grants, 1);
}

#[test]
fn voters_are_one_three_or_five_and_the_rest_learn() {
    for (hosts, voters, learners) in [(2, 1, 1), (3, 3, 0), (5, 3, 2), (9, 5, 2)] {
        let mut world = settled(hosts, 3);
        let leader = world.agreed().unwrap();
        let conf = world.hosts[leader].group.as_ref().unwrap().replica.as_ref().unwrap().conf();
        assert_eq!((conf.voters.len(), conf.learners.len()), (voters, learners), "{hosts}");
        world.grant(leader, AppId(1), id(0)).unwrap();
        world.run(secs(5));
        let known = world.hosts.iter().filter(|host| {
            let group = host.group.as_ref().unwrap();
            group.state().unwrap().grant(AppId(1)).is_some()
        });
        assert_eq!(known.count(), voters + learners);
    }
}

#[test]
fn a_killed_super_peer_is_followed_within_two_seconds() {
    let mut worst = Duration::ZERO;
    for seed in seeds(30) {
        let _seed = Seed(seed);
        let mut world = settled(7, seed);
        let leader = world.agreed().unwrap();
        world.crash(leader);
        let took = world.run_until("another super-peer", secs(10), |world| {
            let led = (0..7).filter(|host| *host != leader).map(|host| world.hosts[host].led);
            let led: BTreeSet<_> = led.map(|led| led.map(|it| it.mandate)).collect();
            led.len() == 1 && world.agreed().is_some_and(|now| now != leader)
        });
        worst = worst.max(took);
    }
    println!("worst of all: {worst:?}");
    assert!(worst <= secs(3), "{worst:?}");
}

#[test]
fn of_three_machines_two_go_on_at_once_in_the_same_generation() {
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let mut world = settled(3, seed);
        let (leader, generation) = (world.agreed().unwrap(), world.generation());
        world.crash(leader);
        let took = world.run_until("another super-peer", secs(10), |world| {
            world.agreed().is_some_and(|now| now != leader)
        });
        assert!(took < secs(3), "{took:?}");
        world.run(secs(60));
        assert_eq!(world.generation(), generation);
    }
}

#[test]
fn of_two_machines_the_one_that_led_goes_on_alone_and_the_other_grants_nothing() {
    let mut world = settled(2, 5);
    let leader = world.agreed().unwrap();
    let other = 1 - leader;
    world.crash(other);
    world.run(secs(60));
    assert_eq!(world.agreed(), Some(leader));
    world.start(other);
    world.run_until("both", secs(20), |world| world.agreed() == Some(leader));
    world.run(secs(10));
    world.crash(leader);
    world.run(secs(120));
    assert_eq!(world.agreed(), None);
    assert!(world.grant(other, AppId(1), id(other)).is_none());
    // It still tells what it knows.
    assert!(world.hosts[other].group.as_ref().unwrap().state().is_some());
}

#[test]
fn who_was_put_out_does_not_stand_in_the_way() {
    let mut world = settled(2, 5);
    let leader = world.agreed().unwrap();
    world.crash(leader);
    world.run(secs(60));
    assert_eq!(world.agreed(), None);
    world.removed.insert(id(leader));
    let other = 1 - leader;
    world.run_until("it goes on", secs(30), |world| world.agreed() == Some(other));
    world.grant(other, AppId(1), id(other));
    world.run(secs(20));
    assert!(world.newest().unwrap().view.electors.keys().eq([&id(other)]));
}

#[test]
fn survivors_of_all_voters_found_another_generation_and_nothing_granted_is_forgotten() {
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let mut world = settled(12, seed);
        world.grant(3, AppId(1), id(3)).unwrap();
        world.run(secs(1));
        assert_eq!(world.grants, 1);
        let generation = world.generation();
        let leader = world.agreed().unwrap();
        let conf = world.hosts[leader].group.as_ref().unwrap().replica.as_ref().unwrap().conf();
        let voters: Vec<usize> = (0..12)
            .filter(|host| {
                let life = world.hosts[*host].group.as_ref().unwrap().life;
                conf.voters.contains(&life)
            })
            .collect();
        assert_eq!(voters.len(), 5);
        voters.iter().for_each(|host| world.wipe(*host));
        let took =
            world.run_until("another super-peer", secs(60), |world| world.agreed().is_some());
        println!("{seed}: founded again after {took:?}");
        assert_eq!(world.generation(), generation + 1);
        world.run(secs(20));
        let host = (0..12).find(|host| !voters.contains(host)).unwrap();
        world.grant(host, AppId(1), id(host)).unwrap();
        world.run(secs(5));
        assert_eq!(world.grants, 2);
        // They come back as somebody new.
        voters.iter().for_each(|host| world.start(*host));
        world.run_until("all are electors again", secs(120), |world| {
            world.agreed().is_some()
                && world.newest().is_some_and(|it| it.view.electors.len() == 12)
        });
    }
}

#[test]
fn a_minority_decides_nothing_and_follows_the_majority_when_they_meet_again() {
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let mut world = settled(7, seed);
        let leader = world.agreed().unwrap();
        // The super-peer and two others are cut off.
        let cut: Vec<usize> = (0..7).filter(|host| (*host + 7 - leader) % 7 < 3).collect();
        cut.iter().for_each(|host| world.hosts[*host].part = 1);
        world.run(secs(60));
        let led = world.hosts[leader].group.as_ref().unwrap();
        assert!(!led.leads() || !led.has_lease(secs(u64::MAX >> 20)));
        world.grant(cut[1], AppId(9), id(cut[1]));
        world.run(secs(5));
        assert_eq!(world.grants, 0);
        let other = (0..7).find(|host| !cut.contains(host)).unwrap();
        world.grant(other, AppId(1), id(other)).unwrap();
        world.run(secs(5));
        assert_eq!(world.grants, 1);
        cut.iter().for_each(|host| world.hosts[*host].part = 0);
        world.run_until("agreement", secs(30), |world| world.agreed().is_some());
    }
}

/// The super-peer and one other, who does not vote, have accepted another generation, and nobody else
/// has heard of it.
fn accepted_by_two_of_five(seed: u64) -> (World, usize, [usize; 4]) {
    let mut world = settled(5, seed);
    let leader = world.agreed().unwrap();
    let voters = world.hosts[leader].group.as_ref().unwrap().voters();
    let mut others: Vec<usize> = (0..5).filter(|host| *host != leader).collect();
    others.sort_by_key(|host| voters.contains(&id(*host)));
    world.with(leader, |group, now| group.begin_attempt(now));
    world.run_until("a proposal", secs(1), |world| {
        let attempt = world.hosts[leader].group.as_ref().unwrap().attempt.as_ref();
        attempt.is_some_and(|attempt| attempt.proposal.is_some())
    });
    [leader, others[0]].iter().for_each(|host| world.hosts[*host].part = 1);
    world.run(Duration::from_millis(100));
    let accepted = (0..5)
        .filter(|host| world.hosts[*host].group.as_ref().unwrap().acceptor.accepted.is_some());
    assert_eq!(accepted.collect::<BTreeSet<_>>(), [leader, others[0]].into());
    (world, leader, others.try_into().unwrap())
}

#[test]
fn what_few_have_accepted_does_not_undo_what_was_granted_after_it() {
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let (mut world, leader, [with_it, first, second, third]) = accepted_by_two_of_five(seed);
        world.run_until("another super-peer", secs(30), |world| {
            world.hosts[first].led.is_some_and(|led| led.node != id(leader))
        });
        world.run(secs(5));
        assert_eq!(world.hosts[first].led.unwrap().mandate.generation, world.generation());
        world.grant(first, AppId(1), id(first)).unwrap();
        world.run(secs(2));
        assert_eq!(world.grants, 1, "{}", world.describe());
        // Of those who know of the grant one is left.
        world.crash(second);
        world.crash(third);
        [leader, with_it].iter().for_each(|host| world.hosts[*host].part = 0);
        world.run_until("a super-peer", secs(120), |world| world.agreed().is_some());
        world.grant(first, AppId(1), id(leader)).unwrap();
        world.run(secs(5));
        assert_eq!(world.grants, 2);
    }
}

#[test]
fn all_restart_at_once() {
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let mut world = settled(5, seed);
        world.grant(1, AppId(1), id(1)).unwrap();
        world.run(secs(1));
        (0..5).for_each(|host| world.crash(host));
        (0..5).for_each(|host| world.start(host));
        let took = world.run_until("a super-peer", secs(60), |world| world.agreed().is_some());
        println!("{seed}: {took:?}");
        world.grant(2, AppId(1), id(2)).unwrap();
        world.run(secs(5));
        assert_eq!(world.grants, 2);
    }
}

/// Anything may happen at any time, and then it is quiet.
fn storm(hosts: usize, seed: u64, rounds: usize) -> World {
    let mut world = World::new(hosts, seed);
    let mut rng = StdRng::seed_from_u64(seed ^ 0x5707);
    world.run(secs(30));
    for _ in 0..rounds {
        world.weather = Weather {
            loss: [0.0, 0.01, 0.2][rng.random_range(0..3)],
            twice: [0.0, 0.1][rng.random_range(0..2)],
            delay_ms: [(1, 4), (1, 200), (20, 3000)][rng.random_range(0..3)],
            crash: [0.0, 0.0, 0.0005][rng.random_range(0..3)],
        };
        let host = rng.random_range(0..hosts);
        match rng.random_range(0..10) {
            0 => world.crash(host),
            1 => world.hosts[host].frozen_until = world.now + secs(rng.random_range(1..16)),
            2 | 3 => {
                for host in 0..hosts {
                    world.hosts[host].part = usize::from(rng.random_bool(0.4));
                }
            }
            4 => (0..hosts).for_each(|host| world.hosts[host].part = 0),
            // So many keep their memory that the group can go on.
            5 if world.can_spare(host) => world.wipe(host),
            6 => world.hosts[host].availability = rng.random_range(0..1000),
            _ => {}
        }
        if rng.random_bool(0.6) {
            for host in 0..hosts {
                if world.hosts[host].group.is_none() && rng.random_bool(0.7) {
                    world.start(host);
                }
            }
        }
        for _ in 0..rng.random_range(0..4) {
            let (by, to) = (rng.random_range(0..hosts), rng.random_range(0..hosts));
            world.grant(by, AppId(rng.random_range(0..2)), id(to));
        }
        world.run(Duration::from_millis(rng.next_u64() % 15_000));
    }
    world
}

#[test]
fn through_any_storm_nothing_is_decided_twice_and_after_it_all_agree() {
    let mut grants = 0;
    for seed in seeds(24) {
        let _seed = Seed(seed);
        let hosts = [1, 2, 3, 4, 5, 7, 9][seed as usize % 7];
        let mut world = storm(hosts, seed, 40);
        let in_storm = world.grants;
        world.weather = FAIR;
        for host in 0..hosts {
            world.hosts[host].part = 0;
            world.hosts[host].frozen_until = Duration::ZERO;
            if world.hosts[host].group.is_none() {
                world.start(host);
            }
        }
        world.run_until("agreement", secs(120), |world| world.agreed().is_some());
        world.run_until("all are electors", secs(200), |world| {
            world.agreed().is_some()
                && world.newest().is_some_and(|it| it.view.electors.len() == hosts)
        });
        world.run(secs(10));
        // The lead may just be handed over. Who does not replicate may not know the last epoch.
        let granted = (0..10).any(|_| {
            let by = world.agreed().unwrap_or(0);
            world.grant(by, AppId(0), id(0));
            world.run(secs(5));
            world.grants > in_storm
        });
        assert!(granted, "{}", world.describe());
        grants += in_storm;
    }
    println!("{grants} grants in all storms");
    assert!(grants > 0);
}
