use phantom_erasure::Assembly;
use proptest::prelude::*;

use super::super::message::MAX_PIECE;
use super::super::message::tests::any_message;
use super::super::placement::MAX_SHARD;
use super::super::{Attributes, Description};
use super::spread::scheme_for;
use super::*;

const MANDATE: Mandate = Mandate { generation: 1, term: 2 };

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn nodes(count: usize) -> BTreeSet<NodeId> {
    (0..count).map(node).collect()
}

fn snapshot(members: usize) -> Snapshot {
    let attributes = (0..7).map(|at| (format!("a{at}"), "x".repeat(8000)));
    let attributes = Attributes::new(attributes.collect()).unwrap();
    let description = Description { attributes, ..Description::default() };
    Snapshot::new((0..members).map(|number| (node(number), description.clone())))
}

/// An archive over so many members that live, the first being this node; the registry has something.
fn archive(count: usize) -> Archive {
    let version = ShardVersion::default();
    let settings = Settings::default();
    let mut archive = Archive::new(node(0), MANDATE, &settings, version, Duration::ZERO);
    archive.handle_members(&nodes(count), Duration::ZERO);
    archive.handle_revision(1);
    archive
}

fn commands(archive: &mut Archive) -> Vec<Command> {
    std::iter::from_fn(|| archive.poll_command()).collect()
}

/// What is sent to whom when it is spread now.
fn spread(archive: &mut Archive, revision: u64, now: Duration) -> Vec<Command> {
    commands(archive);
    assert!(archive.wants_snapshot(now));
    archive.handle_snapshot(&snapshot(2), revision, now);
    commands(archive)
}

fn stored(archive: &mut Archive, command: &Command, now: Duration) -> Vec<Command> {
    let Command::Send { to, message: Message::Store { shard, .. } } = command else {
        panic!("{command:?}")
    };
    let message = Message::Stored { mandate: MANDATE, shard: *shard };
    archive.handle_message(*to, &message, now);
    commands(archive)
}

/// Spreads and commits with all of so many members.
fn committed(count: usize) -> Archive {
    let mut archive = archive(count);
    archive.open();
    let mut commits = Vec::new();
    for store in spread(&mut archive, 1, secs(1)) {
        commits.extend(stored(&mut archive, &store, secs(1)));
    }
    commit(&mut archive, &commits, secs(1));
    archive
}

fn commit(archive: &mut Archive, commands: &[Command], now: Duration) {
    let bytes = commands.iter().find_map(|command| match command {
        Command::Commit(bytes) => Some(bytes),
        _ => None,
    });
    archive.handle_committed(&Placement::decode(bytes.unwrap()).unwrap(), now);
}

#[test]
fn nothing_is_archived_before_it_is_opened_or_without_a_change() {
    let mut archive = archive(3);
    assert!(!archive.wants_snapshot(secs(9)));
    archive.open();
    assert!(archive.wants_snapshot(secs(9)));
    let mut archive = committed(3);
    let keeps = commands(&mut archive);
    let tells = |command: &Command| {
        matches!(command, Command::Send { message: Message::Keep { index: None, .. }, .. })
    };
    assert!(keeps.len() == 3 && keeps.iter().all(tells), "{keeps:?}");
    assert_eq!(archive.safety(), Some((3, 1)));
    assert!(!archive.wants_snapshot(secs(500)));
    archive.handle_revision(2);
    assert!(!archive.wants_snapshot(secs(10)));
    assert!(archive.wants_snapshot(secs(11)), "once in ten seconds");
}

#[test]
fn it_is_committed_when_enough_shards_are_on_disks() {
    for (count, enough) in [(1, 1), (2, 2), (3, 2), (7, 5)] {
        let mut archive = archive(count);
        archive.open();
        let stores = spread(&mut archive, 1, secs(1));
        assert_eq!(stores.len(), count);
        for (at, store) in (1..).zip(&stores) {
            let done = stored(&mut archive, store, secs(2));
            let commits = done.iter().any(|command| matches!(command, Command::Commit(_)));
            assert_eq!(commits, at == enough, "{at} of {count}");
            // The same again is no second one.
            assert_eq!(stored(&mut archive, store, secs(2)), []);
        }
        // The group is asked again until it answers.
        let at = archive.poll_timeout().unwrap();
        archive.handle_timeout(at);
        let done = commands(&mut archive);
        assert!(at > secs(2) && matches!(done[..], [Command::Commit(_)]));
        assert_eq!(archive.safety(), None);
        commit(&mut archive, &done, at);
        assert_eq!(archive.safety().unwrap().0, count);
    }
}

#[test]
fn who_did_not_store_does_not_count() {
    let mut archive = archive(3);
    archive.open();
    let stores = spread(&mut archive, 1, secs(1));
    let Command::Send { message: Message::Store { shard, .. }, .. } = stores[1] else { panic!() };
    for (from, mandate, shard) in [
        (node(2), MANDATE, shard),
        (node(1), Mandate { term: 1, ..MANDATE }, shard),
        (node(1), MANDATE, ShardName { index: 9, ..shard }),
        (node(1), MANDATE, ShardName { version: ShardVersion::default(), ..shard }),
    ] {
        archive.handle_message(from, &Message::Stored { mandate, shard }, secs(2));
    }
    assert!(!archive.spread.as_ref().unwrap().stored().any(|_| true));
}

#[test]
fn who_is_silent_is_named_left_out_and_asked_later() {
    let mut archive = archive(2);
    archive.open();
    let stores = spread(&mut archive, 1, secs(1));
    stored(&mut archive, &stores[0], secs(1));
    // The other never answers; the deadline comes.
    let mut done = Vec::new();
    while archive.spread.is_some() {
        let now = archive.poll_timeout().unwrap();
        archive.handle_timeout(now);
        done.extend(commands(&mut archive));
        assert!(now < secs(30));
    }
    let (complaints, again): (Vec<_>, Vec<_>) =
        done.iter().partition(|command| matches!(command, Command::Complain { .. }));
    let [Command::Complain { member, what }] = complaints[..] else { panic!("{complaints:?}") };
    assert_eq!(*member, node(1));
    assert!(what.to_string().starts_with("did not confirm in time"), "{what}");
    assert!((4..10).contains(&again.len()), "{}", again.len());
    let alone = spread(&mut archive, 1, secs(40));
    assert_eq!(alone.len(), 1);
    let commits = stored(&mut archive, &alone[0], secs(40));
    commit(&mut archive, &commits, secs(40));
    commands(&mut archive);
    assert!(!archive.wants_snapshot(secs(200)));
    let mut now = secs(200);
    while !archive.wants_snapshot(now) {
        now = archive.poll_timeout().unwrap();
        archive.handle_timeout(now);
    }
    assert!(now < secs(400));
    assert_eq!(spread(&mut archive, 1, now).len(), 2, "it may have room by now");
}

#[test]
fn it_is_spread_anew_at_once_when_too_few_are_left_and_soon_when_others_are_there() {
    let mut archive = committed(7);
    archive.handle_members(&nodes(5), secs(100));
    assert!(!archive.wants_snapshot(secs(129)), "five of seven are enough");
    assert!(archive.wants_snapshot(secs(130)));
    archive.handle_members(&nodes(4), secs(110));
    assert!(archive.wants_snapshot(secs(110)), "four are not");
    assert_eq!(spread(&mut archive, 1, secs(110)).len(), 4);

    let mut archive = committed(2);
    archive.handle_members(&nodes(3), secs(100));
    assert!(!archive.wants_snapshot(secs(129)));
    assert_eq!(spread(&mut archive, 1, secs(130)).len(), 3);
    // A holder that leaves while it is under way: it cannot be finished, and begins again.
    archive.handle_members(&nodes(1), secs(131));
    assert_eq!(spread(&mut archive, 1, secs(131)).len(), 1);
}

#[test]
fn who_comes_back_is_asked_whether_it_still_has_its_shard() {
    let mut archive = committed(7);
    commands(&mut archive);
    let others: BTreeSet<_> = nodes(7).into_iter().filter(|it| *it != node(3)).collect();
    archive.handle_members(&others, secs(100));
    archive.handle_members(&nodes(7), secs(101));
    archive.handle_timeout(secs(101));
    let asked = commands(&mut archive);
    let [Command::Send { to, message: Message::Keep { committed, index: Some(index), .. } }] =
        asked[..]
    else {
        panic!("{asked:?}")
    };
    assert_eq!(to, node(3));
    let shard = ShardName { version: committed, index };
    archive.handle_message(to, &Message::Stored { mandate: MANDATE, shard }, secs(102));
    assert_eq!((archive.safety().unwrap().0, archive.uneven_since), (7, None));
    archive.handle_message(to, &Message::Absent { mandate: MANDATE, shard }, secs(103));
    assert_eq!((archive.safety().unwrap().0, archive.uneven_since), (6, Some(secs(103))));
    assert_eq!(spread(&mut archive, 1, secs(140)).len(), 7);
}

#[test]
fn who_is_started_anew_while_its_shard_is_under_way_gets_it_again() {
    let mut archive = archive(7);
    archive.open();
    let stores = spread(&mut archive, 1, secs(1));
    for store in &stores[..4] {
        assert_eq!(stored(&mut archive, store, secs(1)), []);
    }
    let Command::Send { to, .. } = stores[1] else { panic!("{stores:?}") };
    archive.handle_restart(to, secs(1));
    // Five of seven are enough, and these are four again.
    assert_eq!(stored(&mut archive, &stores[4], secs(1)).len(), 1);
    assert_eq!(archive.spread.as_ref().unwrap().phase, Phase::Storing);
    let again = stored(&mut archive, &stores[1], secs(1));
    assert!(again.iter().any(|command| matches!(command, Command::Commit(_))), "{again:?}");
}

#[test]
fn from_time_to_time_all_holders_are_asked_and_the_silent_do_not_count() {
    let mut archive = committed(3);
    commands(&mut archive);
    let mut asked = BTreeMap::new();
    while archive.safety() == Some((3, 1)) {
        let now = archive.poll_timeout().unwrap();
        assert!(now < secs(700));
        archive.handle_timeout(now);
        for command in commands(&mut archive) {
            let Command::Send { to, message: Message::Keep { committed, index: Some(index), .. } } =
                command
            else {
                continue;
            };
            *asked.entry(to).or_insert(0) += 1;
            let shard = ShardName { version: committed, index };
            if to != node(2) {
                archive.handle_message(to, &Message::Stored { mandate: MANDATE, shard }, now);
            }
        }
    }
    assert_eq!(asked, BTreeMap::from([(node(0), 1), (node(1), 1), (node(2), AUDITS)]));
    assert_eq!(archive.safety(), Some((2, 1)));
}

#[test]
fn large_shards_go_in_pieces_and_a_holder_that_never_has_enough_is_given_up() {
    let mut archive = archive(2);
    archive.open();
    archive.handle_snapshot(&snapshot(20), 1, secs(1));
    let first = commands(&mut archive);
    let mut whole = Vec::new();
    let mut command = first[1].clone();
    let placement = archive.spread.as_ref().unwrap().placement.clone();
    loop {
        let Command::Send { to, message } = &command else { panic!("{command:?}") };
        assert!(message.encode().len() <= MAX_PIECE + 200);
        let Message::Store { shard, offset, len, bytes, .. } = message else { panic!() };
        assert_eq!(*offset, whole.len() as u64);
        whole.extend_from_slice(&bytes.0);
        if whole.len() as u64 == *len {
            break;
        }
        let (shard, have) = (*shard, whole.len() as u64);
        let received = Message::Received { mandate: MANDATE, shard, have };
        archive.handle_message(*to, &received, secs(1));
        // The answer comes twice; the next piece does not.
        archive.handle_message(*to, &received, secs(1));
        let next = commands(&mut archive);
        assert_eq!(next.len(), 1);
        command = next[0].clone();
    }
    let mut assembly = Assembly::new(placement.manifest).unwrap();
    let shard =
        phantom_erasure::Shard { version: placement_version(&command), index: 1, bytes: whole };
    assembly.offer(shard).unwrap();
    assert_eq!(Snapshot::decode(&assembly.bytes().unwrap()), Ok(snapshot(20)));

    let shard = ShardName { version: placement_version(&command), index: 0 };
    let mut sent = 0;
    for have in (1..3).cycle().take(10_000) {
        let received = Message::Received { mandate: MANDATE, shard, have };
        archive.handle_message(node(0), &received, secs(1));
        sent += commands(&mut archive).len();
    }
    assert!(sent < 100, "{sent}");
}

fn placement_version(command: &Command) -> ShardVersion {
    match command {
        Command::Send { message: Message::Store { shard, .. }, .. } => shard.version,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_was_super_peer_before_commands_nothing_after_a_later_one_has_archived() {
    let mut archive = committed(3);
    commands(&mut archive);
    let mut later = archive.standing.as_ref().unwrap().placement.clone();
    later.manifest.version = version_of(Mandate { term: 3, ..MANDATE }, 1);
    archive.handle_committed(&later, secs(50));
    archive.handle_revision(9);
    archive.handle_members(&nodes(1), secs(51));
    assert!(!archive.wants_snapshot(secs(500)));
    archive.handle_timeout(secs(2000));
    assert_eq!(commands(&mut archive), []);
    assert_eq!(archive.poll_timeout(), None);
}

#[test]
fn no_shard_is_longer_than_a_holder_takes() {
    for (holders, away, len) in [(1, 0.1, 9 << 20), (64, 0.5, 65 << 20), (3, 0.1, 30_000)] {
        let scheme = scheme_for(holders, away, len);
        assert_eq!(scheme.total(), holders);
        let shard = len.div_ceil(scheme.data() as u64);
        assert!(shard <= MAX_SHARD || scheme.parity() == 0, "{scheme:?}");
    }
    assert_eq!(scheme_for(3, 0.1, 30_000).data(), 1);
}

proptest! {
    #[test]
    fn any_messages_are_answered_in_bounds(
        messages in proptest::collection::vec((0usize..4, any_message()), 0..60)) {
        let mut archive = archive(3);
        archive.open();
        archive.handle_snapshot(&snapshot(1), 1, secs(1));
        let mut done = commands(&mut archive).len();
        for (from, message) in messages {
            archive.handle_message(node(from), &message, secs(1));
            done += commands(&mut archive).len();
        }
        prop_assert!(done <= 3 * (8 + 32) + 1);
    }
}

#[test]
fn answers_to_an_earlier_mandate_and_about_other_shards_count_for_nothing() {
    let earlier = Mandate { term: 1, ..MANDATE };
    let mut archive = archive(3);
    archive.open();
    let stores = spread(&mut archive, 1, secs(1));
    let Command::Send { to, message: Message::Store { shard, .. } } = stores[1].clone() else {
        panic!("{stores:?}")
    };
    for message in [
        Message::Received { mandate: earlier, shard, have: 1 },
        Message::Stored { mandate: earlier, shard },
    ] {
        archive.handle_message(to, &message, secs(1));
    }
    assert!(commands(&mut archive).is_empty());
    assert_eq!(archive.safety(), None);

    let mut archive = committed(3);
    let version = archive.committed();
    let shard = ShardName { version, index: 1 };
    let other = ShardName { version, index: 2 };
    archive.handle_message(node(1), &Message::Absent { mandate: earlier, shard }, secs(2));
    archive.handle_message(node(1), &Message::Absent { mandate: MANDATE, shard: other }, secs(2));
    assert_eq!(archive.safety(), Some((3, 1)));
    archive.handle_message(node(1), &Message::Absent { mandate: MANDATE, shard }, secs(2));
    assert_eq!(archive.safety(), Some((2, 1)));
}

#[test]
fn what_is_committed_does_not_go_back() {
    let mut archive = committed(3);
    let version = archive.committed();
    let standing = archive.standing.as_ref().unwrap().placement.clone();
    let mut older = standing.clone();
    older.manifest.version.change -= 1;
    archive.handle_committed(&older, secs(2));
    assert_eq!(archive.committed(), version);
    assert_eq!(archive.safety(), Some((3, 1)));
    archive.handle_committed(&standing, secs(2));
    assert_eq!(archive.safety(), Some((3, 1)), "and again changes nothing");
}
