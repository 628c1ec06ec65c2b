//! Moves in the world of [`world`].

mod world;

use phantom_model::handoff::Needs;
use phantom_model::{Epoch, Step};
use rand::Rng;
use world::{HOME, OTHER, TARGET, Work, World, seconds};

use super::*;

#[test]
fn a_quiet_move_takes_every_step_once() {
    for host in [HOME, OTHER] {
        let mut world = World::new(1, host, 0);
        world.start(1);
        world.heal_and_check();
        assert_eq!(world.durable.host, TARGET);
        assert_eq!(world.durable.epoch, Epoch(6));
        assert!(matches!(world.settled[..], [Outcome::Moved { .. }]), "{:?}", world.settled);
    }
}

#[test]
fn a_second_move_waits_and_a_move_in_place_is_refused() {
    let mut world = World::new(1, HOME, 0);
    world.start(1);
    let start =
        |id, target| Start { id: MoveId(id), target, needs: Needs::default(), capsule: vec![] };
    assert_eq!(world.home.start(start(2, OTHER), seconds(0)), Err(Refusal::Busy));
    world.heal_and_check();
    assert_eq!(world.home.start(start(3, TARGET), world.now), Err(Refusal::AlreadyThere));
}

#[test]
fn cancelling_before_the_commit_leaves_the_app_at_the_source() {
    for steps in 3..12 {
        let mut world = World::new(steps, HOME, 0);
        world.start(1);
        for _ in 0..steps {
            world.step();
        }
        world.home.handle(Event::Cancel, world.now);
        world.drain_home();
        world.heal_and_check();
        let stayed = matches!(world.settled[..], [Outcome::Stayed(_)]);
        assert_eq!(stayed, world.durable.host == HOME, "{:?}", world.settled);
    }
}

#[test]
fn a_lost_target_is_noticed_at_once() {
    let mut world = World::new(1, HOME, 0);
    world.start(1);
    while world.home.step() != Some(Step::Dump) {
        world.step();
    }
    world.home.handle(Event::LinkLost(TARGET), world.now);
    world.drain_home();
    let before = world.now;
    while world.settled.is_empty() {
        world.step();
    }
    assert!(world.now - before < seconds(1));
    assert!(matches!(world.settled[..], [Outcome::Stayed(_)]));
    world.heal_and_check();
}

#[test]
fn a_target_that_never_reports_running_loses_the_app() {
    let mut world = World::new(1, HOME, 0);
    world.start(1);
    while world.home.step() != Some(Step::Resume) {
        world.step();
    }
    // The target is cut off right after the commit.
    let limit = world.now + world.limits.resume + seconds(1);
    while world.now < limit {
        world.queue.retain(|_, work| {
            !matches!(work, Work::ToNode(TARGET, _)) && !matches!(work, Work::ToHome(TARGET, _))
        });
        world.step();
    }
    assert!(matches!(world.settled[..], [Outcome::Reverted(_)]), "{:?}", world.settled);
    assert_eq!((world.durable.host, world.durable.epoch), (HOME, Epoch(7)));
    world.heal_and_check();
}

#[test]
fn a_store_that_fails_is_asked_again_later_and_not_at_once() {
    let mut world = World::new(1, HOME, 0);
    world.start(1);
    // The last write of the move: the record without it.
    let (number, mut asked_at) = loop {
        let last = world.queue.iter().find_map(|(_, work)| match work {
            Work::Persisted(number, record) if record.pending.is_none() => Some(*number),
            _ => None,
        });
        match last {
            Some(number) => break (number, world.now),
            None => world.step(),
        }
    };
    world.queue.retain(|_, work| !matches!(work, Work::Persisted(..)));
    world.home.handle(Event::PersistFailed(number, "full".into()), world.now);
    for failure in 1..=3 {
        assert!(!world.home.has_commands(), "asked again at once");
        let due = world.home.poll_timeout().unwrap();
        assert!(due >= asked_at + world.limits.repeat, "{due:?} after {asked_at:?}");
        (asked_at, world.now) = (due, due);
        world.home.handle_timeout(due);
        let commands = world.home.take_commands();
        let [Command::Persist { number: next, .. }] = commands[..] else { panic!("{commands:?}") };
        assert_eq!(next, number + failure);
        world.home.handle(Event::PersistFailed(next, "full".into()), due);
    }
    world.heal_and_check();
}

#[test]
fn the_end_of_the_app_ends_its_move_once() {
    for steps in 0..40 {
        let mut world = World::new(steps, HOME, 0);
        world.start(1);
        for _ in 0..steps {
            world.step();
        }
        let settled = world.settled.clone();
        world.home.handle(Event::Ended, world.now);
        assert!(!world.home.is_busy() && world.home.poll_timeout().is_none());
        world.drain_home();
        match settled[..] {
            [] => assert_eq!(world.settled, [Outcome::Ended]),
            _ => assert_eq!(world.settled, settled),
        }
        // What comes late changes nothing.
        world.home.handle(Event::Persisted(1), world.now);
        assert!(!world.home.has_commands());
    }
}

#[test]
fn a_restart_of_anyone_at_any_step_is_survived() {
    for host in [HOME, OTHER] {
        for steps in 0..40 {
            for who in [None, Some(host), Some(TARGET)] {
                let mut world = World::new(steps, host, 0);
                world.start(1);
                for _ in 0..steps {
                    world.step();
                }
                match who {
                    None => world.restart_home(),
                    Some(node) => world.restart_node(node),
                }
                world.heal_and_check();
            }
        }
    }
}

#[test]
fn trouble_of_all_kinds_never_makes_two_and_never_loses_the_last() {
    let rounds = std::env::var("PHANTOM_ROUNDS").ok().and_then(|text| text.parse().ok());
    let first: u64 = rand::random::<u32>().into();
    println!("seeds from {first}");
    for seed in first..first + rounds.unwrap_or(300) {
        let outcome = std::panic::catch_unwind(|| {
            let host = if seed % 2 == 0 { HOME } else { OTHER };
            let mut world = World::new(seed, host, (seed % 4) as u32 * 8);
            world.start(seed);
            let mut moves = seed * 100;
            for _ in 0..world.rng.random_range(5..400) {
                world.step();
                if !world.home.is_busy() {
                    moves += 1;
                    let target = [HOME, OTHER, TARGET][world.rng.random_range(0..3)];
                    let _ = world.start_to(moves, target);
                }
                match world.rng.random_range(0..80) {
                    0 => world.restart_home(),
                    1 => world.restart_node(host),
                    2 => world.restart_node(TARGET),
                    3 => world.reconnect(),
                    4 => {
                        world.home.handle(Event::LinkLost(TARGET), world.now);
                        world.drain_home();
                    }
                    _ => {}
                }
            }
            world.heal_and_check();
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
