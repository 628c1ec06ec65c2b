use proptest::prelude::*;

use super::super::message::tests::any_message;
use super::*;

const PEER: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);
const NOW: Duration = Duration::from_secs(1);

fn mandate(term: u64) -> Mandate {
    Mandate { generation: 1, term }
}

fn name(term: u64, count: u32) -> ShardName {
    ShardName { version: version_of(mandate(term), count), index: 2 }
}

/// Bytes that are no others'.
fn bytes(seed: u8, len: usize) -> Bytes {
    vec![seed; len].into()
}

fn store(
    shard: ShardName,
    committed: ShardVersion,
    all: &Bytes,
    from: usize,
    to: usize,
) -> Message {
    Message::Store {
        mandate: Mandate { generation: shard.version.generation, term: shard.version.change >> 32 },
        shard,
        len: all.len() as u64,
        digest: digest_of(all),
        committed,
        offset: from as u64,
        bytes: Piece(all.slice(from..to)),
    }
}

fn commands(holder: &mut Holder) -> Vec<Command> {
    std::iter::from_fn(|| holder.poll_command()).collect()
}

fn tell(holder: &mut Holder, from: NodeId, message: Message) -> Vec<Command> {
    holder.handle_message(from, message, NOW);
    commands(holder)
}

fn answer(message: Message) -> Command {
    Command::Send { to: PEER, message }
}

fn holder() -> Holder {
    let mut holder = Holder::restore([]);
    holder.handle_super_peer(Some((PEER, mandate(3))));
    holder
}

/// Has it keep one, which gets on the disk.
fn keep(holder: &mut Holder, shard: ShardName, committed: ShardVersion, seed: u8) -> Vec<Command> {
    let all = bytes(seed, 100);
    let mut done = tell(holder, PEER, store(shard, committed, &all, 0, 100));
    holder.handle_persisted(shard, true);
    done.extend(commands(holder));
    done
}

fn kept(term: u64, count: u32) -> Kept {
    let bytes = bytes(9, 40);
    Kept { mandate: mandate(term), shard: name(term, count), digest: digest_of(&bytes), bytes }
}

#[test]
fn a_shard_is_acknowledged_when_it_is_on_the_disk() {
    let mut holder = holder();
    let (shard, all) = (name(3, 1), bytes(7, 1000));
    let received = |have| answer(Message::Received { mandate: mandate(3), shard, have });
    let piece = |from, to| store(shard, ShardVersion::default(), &all, from, to);
    assert_eq!(tell(&mut holder, PEER, piece(0, 600)), [received(600)]);
    assert_eq!(tell(&mut holder, PEER, piece(0, 600)), [received(600)], "repeated");
    assert_eq!(tell(&mut holder, PEER, piece(700, 1000)), [received(600)], "too early");
    let persist = Kept { mandate: mandate(3), shard, digest: digest_of(&all), bytes: all.clone() };
    assert_eq!(tell(&mut holder, PEER, piece(600, 1000)), [Command::Persist(persist.clone())]);
    assert_eq!(tell(&mut holder, PEER, piece(600, 1000)), [], "it is being written");
    let ask = Message::Keep { mandate: mandate(3), committed: shard.version, index: Some(2) };
    let fetch = Message::Fetch { mandate: mandate(3), shard, offset: 0 };
    let absent = [answer(Message::Absent { mandate: mandate(3), shard })];
    assert_eq!(tell(&mut holder, PEER, ask.clone()), absent);
    assert_eq!(tell(&mut holder, PEER, fetch.clone()), absent);
    assert_eq!(holder.kept().count(), 0);

    holder.handle_persisted(shard, true);
    let stored = [answer(Message::Stored { mandate: mandate(3), shard })];
    assert_eq!(commands(&mut holder), stored);
    assert_eq!(tell(&mut holder, PEER, piece(600, 1000)), stored, "again, it was lost");
    assert_eq!(tell(&mut holder, PEER, ask), stored);
    let piece = Message::Piece {
        mandate: mandate(3),
        shard,
        len: 1000,
        offset: 0,
        bytes: Piece(all.clone()),
    };
    assert_eq!(tell(&mut holder, PEER, fetch), [answer(piece)]);
    for offset in [1000, 1001, u64::MAX] {
        let fetch = Message::Fetch { mandate: mandate(3), shard, offset };
        assert_eq!(tell(&mut holder, PEER, fetch), absent);
    }

    // What did not get on the disk is as if it had never come.
    let next = name(3, 2);
    tell(&mut holder, PEER, store(next, shard.version, &all, 0, 1000));
    holder.handle_persisted(next, false);
    assert_eq!(commands(&mut holder), []);
    assert_eq!(holder.kept().collect::<Vec<_>>(), [shard]);
    let read = Kept::decode(&persist.encode());
    assert_eq!(read, Some(persist));
}

#[test]
fn nobody_but_the_super_peer_in_its_mandate_is_obeyed() {
    let mut holder = holder();
    let none = ShardVersion::default();
    keep(&mut holder, name(3, 1), none, 1);
    holder.handle_super_peer(Some((OTHER, mandate(4))));
    let all = bytes(5, 100);
    let late = name(3, 2);
    assert_eq!(tell(&mut holder, PEER, store(late, none, &all, 0, 100)), []);
    let keep_later = |term| Message::Keep {
        mandate: mandate(term),
        committed: name(3, 2).version,
        index: Some(2),
    };
    let fetch = |term| Message::Fetch { mandate: mandate(term), shard: name(3, 1), offset: 0 };
    for (from, term) in [(PEER, 3), (PEER, 4), (OTHER, 3), (OTHER, 5)] {
        assert_eq!(tell(&mut holder, from, keep_later(term)), [], "{from:?} {term}");
        assert_eq!(tell(&mut holder, from, fetch(term)), [], "{from:?} {term}");
    }
    assert_eq!(holder.kept().collect::<Vec<_>>(), [name(3, 1)], "nothing has gone");
    // An earlier mandate does not come back, neither by hearsay nor by a restart.
    holder.handle_super_peer(Some((PEER, mandate(3))));
    assert_eq!(tell(&mut holder, PEER, fetch(3)), []);
    let mut holder = Holder::restore([kept(4, 1)]);
    holder.handle_super_peer(Some((PEER, mandate(3))));
    assert_eq!(tell(&mut holder, PEER, fetch(3)), []);
    holder.handle_super_peer(Some((PEER, mandate(4))));
    assert_eq!(tell(&mut holder, PEER, fetch(4)).len(), 1);
}

#[test]
fn what_is_not_what_it_says_is_not_kept_and_its_sender_named() {
    let mut holder = holder();
    let (shard, all) = (name(3, 1), bytes(7, 100));
    let offence = |what| [Command::Complain { member: PEER, what }];
    let none = ShardVersion::default();
    let change = |with: &dyn Fn(&mut u64, &mut Digest, &mut ShardName, &mut ShardVersion)| {
        let mut message = store(shard, none, &all, 0, 100);
        if let Message::Store { len, digest, shard, committed, .. } = &mut message {
            with(len, digest, shard, committed);
        }
        message
    };
    let wrong = change(&|_, digest, _, _| *digest = Digest([0; 32]));
    assert_eq!(tell(&mut holder, PEER, wrong), offence(Offence::WrongDigest));
    let long = change(&|len, _, _, _| *len = MAX_SHARD + 1);
    assert_eq!(tell(&mut holder, PEER, long), offence(Offence::Oversized));
    assert_eq!(tell(&mut holder, PEER, change(&|len, _, _, _| *len = 0)), [], "named before");
    let foreign = name(4, 1).version;
    let foreign_offence = offence(Offence::ForeignVersion { version: foreign });
    let other = change(&|_, _, shard, _| shard.version = foreign);
    assert_eq!(tell(&mut holder, PEER, other), foreign_offence);
    let ahead = Message::Keep { mandate: mandate(3), committed: foreign, index: None };
    assert_eq!(tell(&mut holder, PEER, ahead), []);
    assert_eq!(holder.kept().count(), 0);

    keep(&mut holder, shard, none, 1);
    let two = offence(Offence::TwoShards { shard });
    assert_eq!(tell(&mut holder, PEER, store(shard, none, &all, 0, 100)), two);
    // Pieces that are more than the whole, or nothing, change nothing.
    let (next, long) = (name(3, 2), bytes(7, 300));
    let mut more = store(next, none, &long, 0, 300);
    if let Message::Store { len, .. } = &mut more {
        *len = 299;
    }
    let have = [answer(Message::Received { mandate: mandate(3), shard: next, have: 0 })];
    assert_eq!(tell(&mut holder, PEER, more), have);
    assert_eq!(tell(&mut holder, PEER, store(next, none, &long, 0, 0)), have);
}

#[test]
fn old_ones_go_when_a_newer_is_committed_and_the_committed_one_stays() {
    let mut holder = holder();
    let version = |count| name(3, count).version;
    keep(&mut holder, name(3, 1), ShardVersion::default(), 1);
    for count in 2..10 {
        // Version 1 is committed, and nothing after it.
        keep(&mut holder, name(3, count), version(1), count as u8);
        let there: Vec<_> = holder.kept().map(|shard| shard.version).collect();
        assert!(there.len() <= MAX_KEPT);
        assert!(there.contains(&version(1)) && there.contains(&version(count)));
    }
    let done = tell(
        &mut holder,
        PEER,
        Message::Keep { mandate: mandate(3), committed: version(9), index: None },
    );
    assert_eq!(done, [Command::Discard(name(3, 1)), Command::Discard(name(3, 8))]);
    holder.handle_committed(version(5));
    assert_eq!(commands(&mut holder), [], "an older one changes nothing");
    let mut done = keep(&mut holder, name(3, 6), version(9), 6);
    assert_eq!(done, [], "what is older than what is committed is not taken");
    // It may come to a holder after it was committed.
    let mut late = super::tests::holder();
    late.handle_committed(version(4));
    done = keep(&mut late, name(3, 4), version(3), 4);
    assert_eq!(
        done.last(),
        Some(&answer(Message::Stored { mandate: mandate(3), shard: name(3, 4) }))
    );
}

#[test]
fn a_disk_is_believed_only_what_it_can_prove() {
    let (one, mut damaged, mut foreign) = (kept(3, 1), kept(3, 2), kept(3, 3));
    damaged.bytes = bytes(1, 40);
    foreign.mandate = mandate(4);
    let mut holder = Holder::restore([one.clone(), damaged.clone(), foreign.clone(), one.clone()]);
    let discarded = [damaged.shard, foreign.shard, one.shard].map(Command::Discard);
    assert_eq!(commands(&mut holder), discarded);
    assert_eq!(holder.kept().collect::<Vec<_>>(), [one.shard]);
    assert_eq!(Kept::decode(&damaged.encode()), None);
    let encoded = one.encode();
    assert_eq!(Kept::decode(&encoded[..encoded.len() - 1]), None);
    let many = Holder::restore((1..100).map(|count| kept(3, count)));
    assert!(many.kept().count() <= 2 * MAX_KEPT);
}

#[test]
fn a_shard_of_which_no_more_comes_is_given_up() {
    let mut holder = holder();
    let all = bytes(7, 100);
    tell(&mut holder, PEER, store(name(3, 1), ShardVersion::default(), &all, 0, 50));
    let at = holder.poll_timeout().unwrap();
    holder.handle_timeout(at);
    assert_eq!(holder.poll_timeout(), None);
}

proptest! {
    #[test]
    fn any_messages_are_answered_in_bounds(
        messages in proptest::collection::vec((any_message(), any::<bool>(), any::<bool>()), 0..60)) {
        let mut holder = Holder::restore([kept(1, 1)]);
        holder.handle_super_peer(Some((PEER, Mandate { generation: 1, term: 1 })));
        let mut disk = vec![kept(1, 1).shard];
        for (message, other, durable) in messages {
            let done = tell(&mut holder, if other { OTHER } else { PEER }, message);
            prop_assert!(done.len() <= MAX_KEPT + 2);
            for command in done {
                match command {
                    Command::Persist(kept) => {
                        prop_assert!(kept.is_whole());
                        holder.handle_persisted(kept.shard, durable);
                        disk.extend(durable.then_some(kept.shard));
                    }
                    Command::Discard(shard) => disk.retain(|it| *it != shard),
                    Command::Send { to, .. } => prop_assert_eq!(to, PEER),
                    _ => {}
                }
            }
            disk.sort();
            prop_assert_eq!(&holder.kept().collect::<Vec<_>>(), &disk);
            prop_assert!(disk.len() <= MAX_KEPT);
        }
    }

    #[test]
    fn any_bytes_on_the_disk_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Kept::decode(&bytes).is_none_or(|kept| kept.is_whole()));
    }
}

#[test]
fn what_is_committed_is_of_the_super_peers_time_and_does_not_go_back() {
    let mut holder = holder();
    let all = bytes(7, 100);
    let later = version_of(mandate(4), 1);
    let done = tell(&mut holder, PEER, store(name(3, 9), later, &all, 0, 100));
    assert!(matches!(done[..], [Command::Complain { .. }]), "{done:?}");
    keep(&mut holder, name(3, 5), version_of(mandate(3), 5), 1);
    holder.handle_committed(version_of(mandate(3), 2));
    assert_eq!(
        keep(&mut holder, name(3, 4), ShardVersion::default(), 2),
        [],
        "older than committed"
    );
    assert!(holder.kept().eq([name(3, 5)]));
}

#[test]
fn a_shard_is_given_under_its_own_name_only() {
    let mut holder = holder();
    let shard = name(3, 1);
    keep(&mut holder, shard, ShardVersion::default(), 1);
    let other = ShardName { index: 3, ..shard };
    let absent = [answer(Message::Absent { mandate: mandate(3), shard: other })];
    let fetch = Message::Fetch { mandate: mandate(3), shard: other, offset: 0 };
    assert_eq!(tell(&mut holder, PEER, fetch), absent);
    let ask = Message::Keep { mandate: mandate(3), committed: shard.version, index: Some(3) };
    assert_eq!(tell(&mut holder, PEER, ask), absent);
}

#[test]
fn a_shard_of_an_earlier_mandate_is_acknowledged_to_nobody() {
    let mut holder = holder();
    let (shard, all) = (name(3, 1), bytes(7, 100));
    tell(&mut holder, PEER, store(shard, ShardVersion::default(), &all, 0, 100));
    holder.handle_super_peer(Some((OTHER, mandate(4))));
    holder.handle_persisted(shard, true);
    assert_eq!(commands(&mut holder), []);
    assert!(holder.kept().eq([shard]));
}

#[test]
fn a_shard_that_is_coming_gives_way_to_a_newer_one_only() {
    let mut holder = holder();
    let all = bytes(7, 100);
    let begin = |count| store(name(3, count), ShardVersion::default(), &all, 0, 50);
    let end = |count| store(name(3, count), ShardVersion::default(), &all, 50, 100);
    tell(&mut holder, PEER, begin(2));
    assert_eq!(tell(&mut holder, PEER, begin(1)), []);
    let done = tell(&mut holder, PEER, end(2));
    assert!(matches!(&done[..], [Command::Persist(kept)] if kept.shard == name(3, 2)));
    tell(&mut holder, PEER, begin(3));
    tell(&mut holder, PEER, begin(4));
    let done = tell(&mut holder, PEER, end(4));
    assert!(done.iter().any(|it| matches!(it, Command::Persist(kept) if kept.shard == name(3, 4))));
}
