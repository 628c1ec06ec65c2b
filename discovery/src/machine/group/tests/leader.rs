//! The super-peer: on whose word it counts, and what it tells when.

use phantom_model::Epoch;

use super::*;
use crate::machine::group::message::{Body, Message};

pub fn group(world: &World, host: usize) -> &Group {
    world.hosts[host].group.as_ref().unwrap()
}

impl World {
    /// A host hears this from another, in this life; what it sends at that to whom.
    pub fn tell_as(
        &mut self,
        to: usize,
        from: usize,
        life: Life,
        body: Body,
    ) -> Vec<(NodeId, Body)> {
        let message = Message { generation: group(self, to).generation(), life, body };
        let sent = self.with(to, |group, now| {
            let before = group.commands.len();
            group.handle_message(id(from), &message.encode(), now);
            group.commands.iter().skip(before).cloned().collect::<Vec<_>>()
        });
        let sent = sent.into_iter().filter_map(|command| match command {
            Command::Send { to, payload, .. } => {
                Some((to, Message::decode(&payload).unwrap().body))
            }
            _ => None,
        });
        sent.collect()
    }

    pub fn tell(&mut self, to: usize, from: usize, body: Body) -> Vec<(NodeId, Body)> {
        let life = group(self, from).life;
        self.tell_as(to, from, life, body)
    }
}

/// A super-peer of so many, which nobody else hears any more.
fn alone_of(hosts: usize, seed: u64) -> (World, usize) {
    let mut world = settled(hosts, seed);
    let leader = world.agreed().unwrap();
    world.hosts[leader].part = 1;
    world.run(Duration::from_millis(20));
    (world, leader)
}

#[test]
fn the_lease_ends_before_any_elector_helps_another_whatever_their_clocks_do() {
    for seed in seeds(20) {
        let _seed = Seed(seed);
        let mut world = settled(3, seed);
        let leader = world.agreed().unwrap();
        let lease = group(&world, leader).view().unwrap().lease();
        let others = (0..3).filter(|host| *host != leader);
        others.for_each(|host| world.hosts[host].frozen_until = world.now + secs(60));
        while world.with(leader, |group, now| group.has_lease(now)) {
            world.run(Duration::from_millis(10));
        }
        for elector in (0..3).filter(|host| *host != leader) {
            let left = world.with(elector, |group, now| group.bound.1.saturating_sub(now));
            assert!(left >= lease / 40, "{left:?} of {lease:?}");
        }
    }
}

#[test]
fn answers_count_that_are_to_this_mandate_of_who_has_a_seat_and_not_of_the_future() {
    let (mut world, leader) = alone_of(3, 1);
    let other = (leader + 1) % 3;
    let (mandate, promised) = world.with(leader, |group, now| {
        group.answered.clear();
        assert!(!group.may_decide(now));
        assert!(group.super_peer().is_some_and(|led| led.node == group.own));
        (group.super_peer().unwrap().mandate, group.office)
    });
    let now = world.with(leader, |_, now| now.as_micros() as u64);
    let heard = |mandate, sent| Body::Heard { mandate, promised, sent };
    world.tell(leader, other, heard(Mandate { term: mandate.term - 1, ..mandate }, now));
    world.tell(leader, other, heard(mandate, now + 5_000_000));
    world.tell_as(leader, other, Life(7), heard(mandate, now));
    assert!(group(&world, leader).answered.is_empty());
    world.tell(leader, other, heard(mandate, now - 1_000));
    world.tell(leader, other, heard(mandate, now - 9_000));
    let answered = Duration::from_micros(now - 1_000);
    assert_eq!(group(&world, leader).answered.get(&id(other)), Some(&answered));
}

#[test]
fn a_new_office_begins_without_answers_and_without_promises() {
    let (mut world, leader) = alone_of(3, 2);
    world.with(leader, |group, now| {
        assert!(group.has_lease(now) && group.is_in_office());
        let before = group.office;
        group.begin_to_lead(now);
        assert!(!group.has_lease(now) && !group.is_in_office());
        assert!(group.office > before);
        assert!(group.answered.keys().eq([&group.own]));
    });
}

#[test]
fn a_super_peer_refuses_others_itself() {
    let (mut world, leader) = alone_of(3, 3);
    let other = (leader + 1) % 3;
    let ballot = group(&world, leader).office.next(Life(9));
    let answer = world.tell(leader, other, Body::Prepare(ballot));
    assert!(matches!(answer[..], [(_, Body::Refuse(_))]), "{answer:?}");
}

#[test]
fn while_another_generation_is_founded_nothing_is_granted() {
    let (mut world, leader) = alone_of(3, 4);
    let other = (leader + 1) % 3;
    let op = || Op::Grant { app: AppId(1), after: Epoch(0), host: id(0) };
    world.with(leader, |group, now| {
        assert!(group.may_decide(now));
        group.begin_attempt(now);
        assert!(group.has_lease(now) && !group.may_decide(now));
        assert_eq!(group.propose(op(), now), Err(Declined::NoSuperPeer));
        assert!(!group.is_in_office(), "and nothing witnessed");
    });
    let answer = world.tell(leader, other, Body::Propose { ticket: 5, op: op() });
    let refused = |sent: &(NodeId, Body)| matches!(sent.1, Body::Outcome { outcome: None, .. });
    assert!(answer.iter().any(refused), "{answer:?}");
    assert!(group(&world, leader).replica.as_ref().unwrap().is_settled());
}

#[test]
fn without_a_lease_nothing_is_proposed_and_nothing_taken_over() {
    let (mut world, leader) = alone_of(3, 5);
    let other = (leader + 1) % 3;
    let op = || Op::Grant { app: AppId(1), after: Epoch(0), host: id(0) };
    world.with(leader, |group, now| {
        group.answered.clear();
        assert_eq!(group.propose(op(), now), Err(Declined::NoSuperPeer));
    });
    let answer = world.tell(leader, other, Body::Propose { ticket: 5, op: op() });
    assert!(matches!(answer[..], [(_, Body::Outcome { outcome: None, .. })]), "{answer:?}");
    let answer = world.tell(leader, other, Body::Merge(Box::default()));
    assert!(answer.is_empty(), "{answer:?}");
    assert!(group(&world, leader).replica.as_ref().unwrap().is_settled());
}

#[test]
fn what_is_out_of_bounds_is_not_proposed() {
    let mut world = settled(3, 6);
    let leader = world.agreed().unwrap();
    let other = (leader + 1) % 3;
    let bytes = Some(vec![0; 70_000]);
    let op = Op::Set { name: "long".to_owned(), expect: None, bytes, sure: false };
    let answer = world.tell(leader, other, Body::Propose { ticket: 5, op });
    assert!(matches!(answer[..], [(_, Body::Outcome { outcome: None, .. })]), "{answer:?}");
}

#[test]
fn what_a_former_group_had_decided_is_acknowledged_when_it_is_decided_here() {
    let mut world = settled(3, 7);
    let leader = world.agreed().unwrap();
    let other = (leader + 1) % 3;
    let mut former = State::default();
    for after in 0..3 {
        let grant = Op::Grant { app: AppId(4), after: Epoch(after), host: id(1) };
        former.apply(grant, Stamp::default());
    }
    let merges = |world: &mut World| {
        let answer = world.tell(leader, other, Body::Merge(Box::new(former.clone())));
        answer.iter().any(|(_, body)| matches!(body, Body::Merged))
    };
    assert!(!merges(&mut world), "so far it is only proposed");
    world.run(secs(1));
    assert!(merges(&mut world));
    for host in 0..3 {
        let known = group(&world, host).state().unwrap().grant(AppId(4));
        assert_eq!(known.unwrap().epoch, Epoch(3));
    }
}

#[test]
fn a_super_peer_names_who_sends_what_is_out_of_bounds() {
    let mut world = settled(3, 14);
    world.complaints = Some(Vec::new());
    let leader = world.agreed().unwrap();
    let other = (leader + 1) % 3;
    let long = Value { bytes: Some(vec![0; 70_000]), at: Stamp::default() };
    let state = State::of_values([("long".to_owned(), long)]);
    world.tell(leader, other, Body::Merge(Box::new(state)));
    let mandate = group(&world, leader).super_peer().unwrap().mandate;
    let promised = Ballot { round: 5_000_000, life: 1 };
    let office = group(&world, leader).office;
    world.tell(leader, other, Body::Heard { mandate, promised, sent: 0 });
    let complaints = world.complaints.take().unwrap();
    assert_eq!(complaints, ["a state out of bounds", "a ballot out of all proportion"]);
    assert_eq!(group(&world, leader).office, office);
}

#[test]
fn a_super_peer_that_is_overtaken_takes_a_higher_ballot() {
    let (mut world, leader) = alone_of(3, 15);
    let other = (leader + 1) % 3;
    let (mandate, office) = world.with(leader, |group, _| {
        assert!(group.is_in_office());
        (group.super_peer().unwrap().mandate, group.office)
    });
    let promised = office.next(Life(9));
    world.tell(leader, other, Body::Heard { mandate, promised, sent: 0 });
    assert!(group(&world, leader).office > promised);
    assert!(!group(&world, leader).is_in_office());
    // Its own attempt as well, when that has come to nothing.
    world.with(leader, |group, now| {
        group.begin_attempt(now);
        let ballot = group.attempt.take().unwrap().ballot;
        assert!(ballot > group.office);
        group.beat(now);
        assert!(group.office > ballot && group.acceptor.promised == group.office);
    });
}

#[test]
fn a_super_peer_that_others_have_left_behind_founds_nothing() {
    for (behind, founds) in [(false, true), (true, false)] {
        let (mut world, leader) = alone_of(3, 8);
        let other = (leader + 1) % 3;
        let (ballot, mut at) = world.with(leader, |group, now| {
            group.begin_attempt(now);
            (group.attempt.as_ref().unwrap().ballot, group.replica.as_ref().unwrap().stamp())
        });
        at.index += u64::from(behind);
        let progress = Box::new(Progress { at, ..Progress::default() });
        world.tell(leader, other, Body::Promise { ballot, accepted: None, progress });
        let attempt = group(&world, leader).attempt.as_ref();
        assert_eq!(attempt.is_some_and(|attempt| attempt.proposal.is_some()), founds);
        let refounded = attempt.and_then(|attempt| attempt.proposal.as_ref());
        assert!(refounded.is_none_or(|it| !it.is_refounded));
    }
}

#[test]
fn a_super_peer_founds_nothing_while_something_may_yet_be_decided() {
    let (mut world, leader) = alone_of(3, 9);
    let other = (leader + 1) % 3;
    world.grant(leader, AppId(1), id(0)).unwrap();
    let ballot = world.with(leader, |group, now| {
        assert!(!group.replica.as_ref().unwrap().is_settled());
        group.begin_attempt(now);
        group.attempt.as_ref().unwrap().ballot
    });
    let body = Body::Promise { ballot, accepted: None, progress: Box::default() };
    world.tell(leader, other, body);
    assert!(group(&world, leader).attempt.is_none());
}

#[test]
fn a_super_peer_that_has_accepted_another_generation_has_no_lease_and_holds_no_office() {
    let (mut world, leader, _) = accepted_by_two_of_five(1);
    world.with(leader, |group, now| {
        group.attempt = None;
        assert!(group.leads());
        let all: Vec<NodeId> = group.view().unwrap().electors.keys().copied().collect();
        group.answered = all.into_iter().map(|node| (node, now)).collect();
        assert!(!group.has_lease(now));
        group.begin_to_lead(now);
        assert!(group.answered.is_empty() && group.promised.is_empty());
        // Its next attempt is not taken for its office.
        group.begin_attempt(now);
        assert!(group.attempt.as_ref().unwrap().ballot > group.office);
    });
}

#[test]
fn electors_tell_who_founds_the_next_generation_all_that_they_know() {
    let mut world = settled(3, 10);
    let leader = world.agreed().unwrap();
    let set = Op::Set {
        name: "name".to_owned(),
        expect: None,
        bytes: Some(b"value".to_vec()),
        sure: false,
    };
    world.with(leader, |group, now| group.propose(set, now)).unwrap();
    world.run(secs(2));
    let (voter, other) = ((leader + 1) % 3, (leader + 2) % 3);
    world.with(voter, |group, now| (group.bound, group.blind_until) = ((None, now), now));
    let ballot = group(&world, voter).acceptor.promised.next(Life(9));
    let answer = world.tell(voter, other, Body::Prepare(ballot)).pop();
    let Some((_, Body::Promise { progress, .. })) = answer else { panic!("{answer:?}") };
    let replica = group(&world, voter).replica.as_ref().unwrap();
    assert_eq!(progress.at, replica.stamp());
    assert_eq!(progress.state.get("name"), Some(&b"value"[..]));
}

/// Survivors have founded another generation; with how long before it may decide, on its own clock.
fn refounded(seed: u64, then: impl Fn(&mut World, &[usize])) -> Duration {
    let mut world = settled(12, seed);
    let leader = world.agreed().unwrap();
    let generation = world.generation();
    let voters = group(&world, leader).voters();
    let voters: Vec<usize> = (0..12).filter(|host| voters.contains(&id(*host))).collect();
    voters.iter().for_each(|host| world.wipe(*host));
    world.run_until("another generation", secs(60), |world| world.generation() > generation);
    let begun = world.now;
    then(&mut world, &voters);
    world.run_until("a super-peer", secs(120), |world| world.agreed().is_some());
    world.now - begun
}

#[test]
fn a_generation_that_survivors_have_founded_waits_for_a_lease() {
    let least = Duration::from_millis(9_600);
    for seed in seeds(3) {
        let _seed = Seed(seed);
        let took = refounded(seed, |_, _| {});
        assert!(took >= least, "{took:?}");
        // Who comes back makes no difference to that,
        let took = refounded(seed, |world, voters| {
            voters.iter().for_each(|host| world.start(*host));
        });
        assert!(took >= least, "{took:?}");
        // and neither does a start in between.
        let took = refounded(seed, |world, _| {
            let founded = world.generation();
            world.run_until("all know of it", secs(5), |world| {
                let up = (0..12).filter(|host| world.is_up(*host));
                up.into_iter().all(|host| group(world, host).generation() == founded)
            });
            for host in 0..12 {
                if world.is_up(host) {
                    world.crash(host);
                    world.start(host);
                }
            }
        });
        assert!(took >= least, "{took:?}");
    }
}

#[test]
fn a_super_peer_that_hears_nobody_steps_down_and_one_that_comes_back_deposes_nobody() {
    for seed in seeds(3) {
        let _seed = Seed(seed);
        let (mut world, leader) = alone_of(5, seed);
        world.run(secs(3));
        assert!(!group(&world, leader).leads());
        world.run(secs(20));
        let led = |world: &World| world.hosts[(leader + 1) % 5].led;
        let before = led(&world);
        assert!(before.is_some_and(|led| led.node != id(leader)));
        world.hosts[leader].part = 0;
        world.run(secs(20));
        assert_eq!(led(&world), before);
        assert_eq!(world.hosts[leader].led, before);
    }
}

#[test]
fn a_founder_that_has_lost_its_memory_begins_no_first_generation_again() {
    for seed in seeds(5) {
        let _seed = Seed(seed);
        let mut world = settled(5, seed);
        let life = group(&world, 0).life;
        world.wipe(0);
        world.run(secs(20));
        world.start(0);
        assert_ne!(group(&world, 0).life, life);
        world.run_until("it has a seat again", secs(60), |world| {
            let seat = world.newest().and_then(|it| it.view.electors.get(&id(0))).copied();
            world.agreed().is_some() && seat == Some(group(world, 0).life)
        });
    }
}

#[test]
fn nobody_but_the_founder_begins_the_first_generation() {
    let mut world = World::new(3, 1);
    world.wipe(0);
    world.run(secs(60));
    assert_eq!(world.generation(), 0);
    world.start(0);
    world.run_until("a super-peer", secs(30), |world| world.agreed().is_some());
}

#[test]
fn a_voter_that_is_away_or_has_lost_its_memory_is_replaced() {
    for lost in [false, true] {
        let mut world = settled(9, 11);
        let leader = world.agreed().unwrap();
        let voters = group(&world, leader).voters();
        let voter = (0..9).find(|host| *host != leader && voters.contains(&id(*host))).unwrap();
        let life = group(&world, voter).life;
        if lost {
            world.wipe(voter);
            world.start(voter);
        } else {
            world.crash(voter);
        }
        world.run_until("five others vote", secs(40), |world| {
            world.agreed().is_some_and(|leader| {
                let conf = group(world, leader).replica.as_ref().unwrap().conf();
                conf.voters.len() == 5 && !conf.voters.contains(&life) && !conf.is_joint
            })
        });
    }
}

#[test]
fn the_lead_goes_to_who_is_much_more_available_and_stays_otherwise() {
    let mut world = settled(3, 12);
    let leader = world.agreed().unwrap();
    let other = (leader + 1) % 3;
    world.hosts[other].availability = 560;
    world.run(secs(100));
    assert_eq!(world.agreed(), Some(leader), "not much more");
    world.hosts[other].availability = 900;
    world.run_until("the lead is handed over", secs(30), |world| world.agreed() == Some(other));
}

#[test]
fn memory_that_cannot_be_read_is_as_good_as_lost() {
    let mut world = settled(3, 13);
    let leader = world.agreed().unwrap();
    for app in 0..5 {
        world.grant(leader, AppId(app), id(0)).unwrap();
        world.run(secs(1));
    }
    let kept = world.hosts[leader].kept.clone();
    let life = group(&world, leader).life;
    let entries: Vec<Key> =
        kept.0.keys().filter(|key| matches!(key, Key::Entry(_))).copied().collect();
    assert!(entries.len() > 2, "{entries:?}");
    let new = |kept: &Kept| {
        let mut group = Group::new(id(leader), false, kept, [1; 32], secs(1));
        let mut after = kept.clone();
        while let Some(command) = group.poll_command() {
            if let Command::Save(changes) = command {
                changes.into_iter().for_each(|change| after.apply(change));
            }
        }
        (group.life, after, group)
    };
    let (same, after, group) = new(&kept);
    assert!(same == life && after == kept && group.replicates());
    let rotten = |key: Key| Change::Put(key, vec![0xff; 3]);
    let damages = [
        rotten(Key::Founding),
        rotten(Key::Hard),
        rotten(Key::Snapshot),
        rotten(Key::Witnessed),
        rotten(entries[1]),
        Change::Drop(entries[1]),
        Change::Drop(*entries.last().unwrap()),
        Change::Drop(Key::Life),
    ];
    for damage in damages {
        let mut kept = kept.clone();
        kept.apply(damage.clone());
        let (other, after, group) = new(&kept);
        assert_ne!(other, life, "{damage:?}");
        assert!(after.0.keys().eq([&Key::Life]), "{damage:?}");
        assert!(group.generation() == 0 && !group.replicates());
    }
}
