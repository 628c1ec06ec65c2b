use phantom_erasure::{Manifest, Scheme, split};
use proptest::prelude::*;

use super::super::description::tests::any_description;
use super::super::message::tests::any_message;
use super::super::placement::version_of;
use super::super::{Attributes, Description, Version};
use super::*;

const MANDATE: Mandate = Mandate { generation: 1, term: 2 };

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn said(text: &str) -> Description {
    let attributes = Attributes::new([("a".to_owned(), text.to_owned())].into()).unwrap();
    Description { attributes, ..Description::default() }
}

/// An archive of what two members said, on one of them, and its only shard.
fn archived(mandate: Mandate, count: u32, text: &str) -> (Placement, Message) {
    let snapshot = Snapshot::new([(node(1), said(text)), (node(2), said(text))]);
    let version = version_of(mandate, count);
    let (manifest, shards) = split(&snapshot.encode(), version, Scheme::new(1, 0).unwrap());
    let Manifest { len, .. } = manifest;
    let shard = super::super::ShardName { version, index: 0 };
    let bytes = super::super::message::Piece(shards[0].bytes.clone().into());
    let piece = Message::Piece { mandate: MANDATE, shard, len, offset: 0, bytes };
    (Placement { manifest, holders: vec![node(1)] }, piece)
}

fn commands(super_peer: &mut SuperPeer) -> Vec<Command> {
    std::iter::from_fn(|| super_peer.poll_command()).collect()
}

fn new(committed: Option<Placement>) -> SuperPeer {
    let mut new = SuperPeer::new(node(0), MANDATE, Settings::default(), committed, secs(0));
    new.handle_roster((0..4).map(node), secs(0));
    new.handle_up(node(1), secs(0));
    new
}

fn texts(super_peer: &SuperPeer) -> Vec<String> {
    let entries = super_peer.entries(secs(1));
    entries.map(|it| it.description.attributes.get("a").unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_a_deposed_super_peer_knew_is_taken_over_where_nothing_is_known() {
    let mut super_peer = new(None);
    let own = said("own word");
    let whole = Message::Whole { sent: 1, digest: own.digest(), description: own };
    super_peer.handle_message(node(1), &whole, secs(1));
    let mut forged = said("somebody else's word");
    forged.version = Version { boot: u64::MAX, seq: 9 };
    let all = [(node(1), forged.clone()), (node(2), forged.clone()), (node(9), forged)];
    super_peer.handle_handover(Snapshot::new(all), secs(1));
    // Of the second nothing was known; the last is no member.
    assert_eq!(texts(&super_peer), ["own word", "somebody else's word"]);
    assert!(super_peer.entries(secs(1)).all(|it| it.confirmed == (it.member == node(1))));
    let before = super_peer.revision();
    super_peer.handle_handover(super_peer.snapshot(), secs(2));
    assert_eq!(super_peer.revision(), before);
}

#[test]
fn an_archive_is_gathered_before_another_is_made() {
    let (placement, piece) = archived(Mandate { term: 1, ..MANDATE }, 4, "archived");
    let mut super_peer = new(Some(placement));
    let own = Description::default();
    let whole = Message::Whole { sent: 1, digest: own.digest(), description: own };
    super_peer.handle_message(node(0), &whole, secs(1));
    let stores = |commands: &[Command]| {
        let store =
            |it: &&Command| matches!(it, Command::Send { message: Message::Store { .. }, .. });
        commands.iter().filter(store).count()
    };
    assert_eq!(stores(&commands(&mut super_peer)), 0);
    super_peer.handle_message(node(1), &piece, secs(1));
    assert_eq!(super_peer.progress().unwrap().outcome, Outcome::Complete);
    assert_eq!(texts(&super_peer), ["", "archived", "archived"]);
    assert!(stores(&commands(&mut super_peer)) > 0, "and then at once");
}

#[test]
fn what_was_committed_late_is_gathered_instead() {
    let before = Mandate { term: 1, ..MANDATE };
    let (old, old_piece) = archived(before, 4, "old");
    let (late, late_piece) = archived(before, 5, "late");
    let mut super_peer = new(Some(old));
    super_peer.handle_committed(&late, secs(1));
    super_peer.handle_message(node(1), &old_piece, secs(1));
    super_peer.handle_message(node(1), &late_piece, secs(1));
    assert_eq!(texts(&super_peer), ["late", "late"]);
    let complains = |it: &Command| matches!(it, Command::Complain { .. });
    assert!(!commands(&mut super_peer).iter().any(complains), "it answered what it was asked");
}

#[test]
fn who_is_no_member_does_not_count_as_a_holder() {
    let mut super_peer = new(None);
    (2..4).for_each(|number| super_peer.handle_up(node(number), secs(0)));
    let description = said("here");
    let whole = Message::Whole { sent: 1, digest: description.digest(), description };
    super_peer.handle_message(node(0), &whole, secs(1));
    let stores = commands(&mut super_peer).into_iter().filter_map(|command| match command {
        Command::Send { to, message: Message::Store { mandate, shard, .. } } => {
            Some((to, Message::Stored { mandate, shard }))
        }
        _ => None,
    });
    let stored: std::collections::BTreeMap<NodeId, Message> = stores.collect();
    assert_eq!(stored.len(), 4);
    super_peer.handle_roster((0..3).map(node), secs(2));
    let mut commits = |number: usize| {
        super_peer.handle_message(node(number), &stored[&node(number)], secs(2));
        commands(&mut super_peer).iter().any(|it| matches!(it, Command::Commit(_)))
    };
    assert_eq!([3, 0, 1, 2].map(&mut commits), [false, false, false, true], "three are enough");
}

#[test]
fn a_holder_that_was_started_anew_is_asked_for_its_shard() {
    let mut super_peer = new(None);
    let register = |super_peer: &mut SuperPeer, boot, now| {
        let mut description = said("here");
        description.version.boot = boot;
        let digest = description.digest();
        let whole = Message::Whole { sent: boot, description, digest };
        super_peer.handle_message(node(1), &whole, now);
        super_peer.handle_timeout(now);
        commands(super_peer)
    };
    let mut all = register(&mut super_peer, 1, secs(1));
    while let Some(command) = all.pop() {
        match command {
            Command::Send { to, message: Message::Store { mandate, shard, .. } } => {
                let stored = Message::Stored { mandate, shard };
                super_peer.handle_message(to, &stored, secs(1));
            }
            Command::Commit(bytes) => {
                let placement = Placement::decode(&bytes).unwrap();
                super_peer.handle_committed(&placement, secs(1));
            }
            _ => {}
        }
        all.extend(commands(&mut super_peer));
    }
    assert_eq!(super_peer.archive().safety(), Some((2, 1)));
    let asks = |commands: Vec<Command>| {
        let ask = |it: &Command| {
            matches!(it, Command::Send { to, message: Message::Keep { index: Some(_), .. } }
                if *to == node(1))
        };
        commands.iter().any(ask)
    };
    assert!(!asks(register(&mut super_peer, 1, secs(2))));
    assert!(asks(register(&mut super_peer, 2, secs(3))));
}

#[test]
fn after_a_parted_network_nothing_is_lost() {
    let mut super_peer = new(None);
    let mut there = said("of this side");
    there.version.seq = 2;
    let whole = Message::Whole { sent: 1, digest: there.digest(), description: there };
    super_peer.handle_message(node(1), &whole, secs(1));
    let other = Snapshot::new([1, 2, 9].map(|number| (node(number), said("of the other"))));
    super_peer.handle_merge(Snapshot::decode(&other.encode()).unwrap(), secs(1));
    assert_eq!(texts(&super_peer), ["of this side", "of the other"]);
    assert_eq!(super_peer.snapshot().descriptions().len(), 2);
}

proptest! {
    #[test]
    fn any_events_are_answered_and_every_wait_ends(
        events in proptest::collection::vec((0usize..6, 0u8..9, any_message()), 0..60)) {
        let (placement, piece) = archived(Mandate { term: 1, ..MANDATE }, 4, "archived");
        let mut super_peer = new(Some(placement.clone()));
        for (second, (from, what, message)) in (0..).zip(events) {
            let now = secs(second);
            match what {
                0 => super_peer.handle_up(node(from), now),
                1 => super_peer.handle_down(node(from), now),
                2 => super_peer.handle_roster((from..5).map(node), now),
                3 => super_peer.handle_message(node(1), &piece, now),
                4 => super_peer.handle_malformed(node(from), now),
                5 => super_peer.handle_committed(&placement, now),
                _ => super_peer.handle_message(node(from), &message, now),
            }
            let mut turns = 0;
            while let Some(at) = super_peer.poll_timeout().filter(|at| *at <= now) {
                super_peer.handle_timeout(at.max(now));
                turns += 1;
                prop_assert!(turns < 5, "it waits for what is past");
            }
            prop_assert!(commands(&mut super_peer).len() < 100);
            prop_assert!(super_peer.entries(now).all(|it| it.member != node(9)));
        }
    }

    #[test]
    fn snapshots_read_as_written_and_any_bytes_are_answered(
        members in proptest::collection::btree_map((0usize..9).prop_map(node), any_description(), 0..9),
        at in any::<prop::sample::Index>(), with in any::<u8>(),
        noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let snapshot = Snapshot::new(members);
        let mut bytes = snapshot.encode();
        prop_assert_eq!(Snapshot::decode(&bytes), Ok(snapshot));
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = Snapshot::decode(&bytes);
        bytes.truncate(at);
        prop_assert!(Snapshot::decode(&bytes).is_err());
        let _ = Snapshot::decode(&noise);
        let _ = Snapshot::decode(&[b"PHR1".to_vec(), noise].concat());
    }
}
