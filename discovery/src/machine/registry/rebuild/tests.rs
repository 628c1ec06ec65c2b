use phantom_erasure::{Scheme, Shard, split};
use proptest::prelude::*;

use super::super::description::tests::any_description;
use super::super::message::Piece;
use super::super::message::tests::any_message;
use super::super::placement::version_of;
use super::*;

const MANDATE: Mandate = Mandate { generation: 1, term: 2 };
const DEADLINE: Duration = Duration::from_secs(60);

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

fn snapshot(bytes: usize) -> Snapshot {
    let attributes = (0..bytes / 8000).map(|at| (format!("a{at}"), "x".repeat(8000)));
    let attributes = super::super::Attributes::new(attributes.collect()).unwrap();
    let description = super::super::Description { attributes, ..Default::default() };
    Snapshot::new((0..20).map(|number| (node(number), description.clone())))
}

/// An archive of a mandate before, and its shards.
fn archived(snapshot: &Snapshot, data: usize, parity: usize) -> (Placement, Vec<Shard>) {
    let version = version_of(Mandate { generation: 1, term: 1 }, 7);
    let scheme = Scheme::new(data, parity).unwrap();
    let (manifest, shards) = split(&snapshot.encode(), version, scheme);
    (Placement { manifest, holders: (0..data + parity).map(node).collect() }, shards)
}

fn everybody(placement: &Placement) -> BTreeSet<NodeId> {
    placement.holders.iter().copied().collect()
}

/// A rebuild of which all holders live.
fn begun(placement: &Placement) -> Rebuild {
    let live = everybody(placement);
    Rebuild::new(MANDATE, placement.clone(), &live, DEADLINE, Duration::ZERO)
}

fn commands(rebuild: &mut Rebuild) -> Vec<Command> {
    std::iter::from_fn(|| rebuild.poll_command()).collect()
}

/// What an honest holder answers.
fn piece(shard: &Shard, offset: usize) -> Message {
    let name = ShardName { version: shard.version, index: shard.index };
    let end = shard.bytes.len().min(offset + MAX_PIECE);
    let bytes = Piece(shard.bytes[offset..end].to_vec().into());
    let (len, offset) = (shard.bytes.len() as u64, offset as u64);
    Message::Piece { mandate: MANDATE, shard: name, len, offset, bytes }
}

/// Answers all that it asks until it asks no more; who gives a changed piece is a liar.
fn answer_all(rebuild: &mut Rebuild, shards: &[Shard], change: impl Fn(usize, &mut Message)) {
    let mut asked = commands(rebuild);
    while let Some(command) = asked.pop() {
        if let Command::Send { to, message: Message::Fetch { shard, offset, .. } } = command {
            let index = usize::from(shard.index);
            let mut message = piece(&shards[index], offset as usize);
            change(index, &mut message);
            rebuild.handle_message(to, &message, Duration::ZERO);
            asked.extend(commands(rebuild));
        }
    }
}

#[test]
fn shards_of_many_pieces_are_put_together() {
    let said = snapshot(64_000);
    let (placement, shards) = archived(&said, 2, 1);
    assert!(shards[0].bytes.len() > 2 * MAX_PIECE, "{}", shards[0].bytes.len());
    let mut rebuild = begun(&placement);
    answer_all(&mut rebuild, &shards, |_, _| {});
    assert_eq!(rebuild.outcome(), Outcome::Complete);
    assert_eq!(rebuild.take(), Some(said));
    assert_eq!(rebuild.take(), None);
    assert_eq!(rebuild.poll_timeout(), None);
}

#[test]
fn wrong_shards_are_named_and_it_goes_on_without_them() {
    let said = snapshot(8000);
    let (placement, shards) = archived(&said, 1, 5);
    let mut rebuild = begun(&placement);
    commands(&mut rebuild);
    let wrong = |at: usize, with: &dyn Fn(&mut ShardName, &mut u64, &mut Piece)| {
        let mut message = piece(&shards[at], 0);
        if let Message::Piece { shard, len, bytes, .. } = &mut message {
            with(shard, len, bytes);
        }
        message
    };
    let lies = [
        wrong(0, &|shard, _, _| shard.version.change -= 1),
        wrong(1, &|shard, _, _| shard.version.generation += 1),
        wrong(2, &|shard, _, _| shard.index = 3),
        wrong(3, &|_, len, _| *len = u64::MAX),
        wrong(4, &|_, _, bytes| bytes.0 = vec![0; bytes.0.len()].into()),
    ];
    let told = [
        "shard 0 is of version 1.4294967302, not of 1.4294967303: it is stale",
        "newer than 1.4294967303",
        "shard 3 is not what was spread",
        "shard 3 is not what was spread",
        "shard 4 is not what was spread",
    ];
    for (at, (lie, told)) in lies.iter().zip(told).enumerate() {
        for _ in 0..3 {
            rebuild.handle_message(node(at), lie, Duration::ZERO);
        }
        let done = commands(&mut rebuild);
        let [Command::Complain { member, what }] = &done[..] else { panic!("{at}: {done:?}") };
        assert_eq!(*member, node(at));
        assert!(what.to_string().contains(told), "{what}");
        // Nor is it believed when it changes its mind.
        rebuild.handle_message(node(at), &piece(&shards[at], 0), Duration::ZERO);
        assert_eq!(rebuild.outcome(), Outcome::Underway);
    }
    let failed = Progress { have: 0, need: 1, awaited: 1, failed: 5, outcome: Outcome::Underway };
    assert_eq!(rebuild.progress(), failed);
    rebuild.handle_message(node(9), &piece(&shards[5], 0), Duration::ZERO);
    assert_eq!(rebuild.progress(), failed, "it is no holder");
    rebuild.handle_message(node(5), &piece(&shards[5], 0), Duration::ZERO);
    assert_eq!(rebuild.take(), Some(said));
}

#[test]
fn pieces_that_were_not_asked_for_are_passed_over() {
    let (placement, shards) = archived(&snapshot(64_000), 2, 1);
    let mut rebuild = begun(&placement);
    commands(&mut rebuild);
    rebuild.handle_message(node(0), &piece(&shards[0], MAX_PIECE), Duration::ZERO);
    let mut late = piece(&shards[0], 0);
    if let Message::Piece { mandate, .. } = &mut late {
        mandate.term -= 1;
    }
    rebuild.handle_message(node(0), &late, Duration::ZERO);
    assert_eq!(commands(&mut rebuild), []);
    rebuild.handle_message(node(0), &piece(&shards[0], 0), Duration::ZERO);
    assert_eq!(commands(&mut rebuild).len(), 1, "the next piece is asked for");
}

#[test]
fn it_repeats_its_questions_and_ends_at_its_deadline() {
    let (placement, _) = archived(&snapshot(8000), 2, 1);
    let live = [node(0)].into();
    let mut rebuild = Rebuild::new(MANDATE, placement.clone(), &live, DEADLINE, Duration::ZERO);
    let mut asked = 0;
    while let Some(now) = rebuild.poll_timeout() {
        asked += commands(&mut rebuild).len();
        rebuild.handle_timeout(now);
        if now > DEADLINE / 2 {
            rebuild.handle_members(&everybody(&placement), now);
        }
    }
    assert!((15..50).contains(&asked), "{asked}");
    let Progress { have, awaited, outcome, .. } = rebuild.progress();
    assert_eq!((have, awaited, outcome), (0, 3, Outcome::Failed));
}

#[test]
fn shards_that_give_no_archive_are_a_failure() {
    let version = version_of(Mandate { generation: 1, term: 1 }, 1);
    let (manifest, shards) = split(b"PHR9 of the future", version, Scheme::new(1, 0).unwrap());
    let placement = Placement { manifest, holders: vec![node(0)] };
    let mut rebuild = begun(&placement);
    answer_all(&mut rebuild, &shards, |_, _| {});
    assert_eq!((rebuild.outcome(), rebuild.take()), (Outcome::Failed, None));
}

proptest! {
    #[test]
    fn any_k_right_shards_are_enough_and_wrong_ones_never_used(
        said in proptest::collection::btree_map((0usize..9).prop_map(node), any_description(), 0..6),
        (data, parity) in (1usize..6, 0usize..5),
        kinds in proptest::collection::vec(0u8..4, 10)) {
        let said = Snapshot::new(said);
        let (placement, shards) = archived(&said, data, parity);
        let mut rebuild = begun(&placement);
        let right = kinds[..data + parity].iter().filter(|kind| **kind == 0).count();
        answer_all(&mut rebuild, &shards, |index, message| {
            let Message::Piece { shard, bytes, mandate, .. } = message else { return };
            let name = *shard;
            match kinds[index] {
                0 => {}
                1 => {
                    let mut turned = bytes.0.to_vec();
                    let at = index % turned.len();
                    turned[at] ^= 0x40;
                    bytes.0 = turned.into();
                }
                2 => shard.version.change -= 1,
                _ => *message = Message::Absent { mandate: *mandate, shard: name },
            }
        });
        let complete = right >= data;
        prop_assert_eq!(rebuild.outcome() == Outcome::Complete, complete);
        prop_assert_eq!(rebuild.take(), complete.then_some(said));
    }

    #[test]
    fn any_messages_are_answered_in_bounds(
        messages in proptest::collection::vec((0usize..4, any_message()), 0..60)) {
        let (placement, _) = archived(&snapshot(8000), 2, 1);
        let mut rebuild = begun(&placement);
        let mut done = commands(&mut rebuild).len();
        for (from, message) in messages {
            rebuild.handle_message(node(from), &message, Duration::ZERO);
            done += commands(&mut rebuild).len();
        }
        prop_assert!(done <= 6 && rebuild.take().is_none());
    }

    #[test]
    fn any_bytes_that_are_committed_are_answered(
        bytes in proptest::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(),
        with in any::<u8>()) {
        let (placement, _) = archived(&snapshot(8000), 2, 1);
        let mut damaged = placement.encode();
        let at = at.index(damaged.len());
        damaged[at] = with;
        for bytes in [bytes, damaged] {
            if let Ok(placement) = Placement::decode(&bytes) {
                let mut rebuild = begun(&placement);
                prop_assert_eq!(rebuild.outcome(), Outcome::Underway);
                prop_assert!(commands(&mut rebuild).len() <= 64);
            }
        }
    }
}

#[test]
fn a_piece_that_cannot_be_right_is_refused_before_the_rest_is_asked_for() {
    let (placement, shards) = archived(&snapshot(64_000), 2, 2);
    let refused = |with: fn(&mut ShardName, &mut Piece)| {
        let mut rebuild = begun(&placement);
        commands(&mut rebuild);
        let mut lie = piece(&shards[0], 0);
        if let Message::Piece { shard, bytes, .. } = &mut lie {
            with(shard, bytes);
        }
        rebuild.handle_message(node(0), &lie, Duration::ZERO);
        let done = commands(&mut rebuild);
        matches!(done[..], [Command::Complain { .. }])
    };
    assert!(!refused(|_, _| {}));
    assert!(refused(|shard, _| shard.version.change -= 1));
    assert!(refused(|shard, _| shard.index = 1));
    assert!(refused(|_, bytes| bytes.0 = bytes.0.slice(1..)));
    assert!(refused(|_, bytes| bytes.0 = Bytes::new()));
}

#[test]
fn what_was_asked_in_an_earlier_mandate_is_not_answered_now() {
    let (placement, shards) = archived(&snapshot(8000), 1, 1);
    let mut rebuild = begun(&placement);
    let shard = ShardName { version: shards[0].version, index: 0 };
    let mandate = Mandate { term: 1, ..MANDATE };
    rebuild.handle_message(node(0), &Message::Absent { mandate, shard }, Duration::ZERO);
    let other = ShardName { index: 1, ..shard };
    let absent = Message::Absent { mandate: MANDATE, shard: other };
    rebuild.handle_message(node(0), &absent, Duration::ZERO);
    assert_eq!(rebuild.progress().failed, 0, "nor what was not asked of it");
    rebuild.handle_message(node(0), &Message::Absent { mandate: MANDATE, shard }, Duration::ZERO);
    assert_eq!(rebuild.progress().failed, 1);
}
