use proptest::prelude::*;

use super::super::bucket::{BURST, EACH_SECOND};
use super::super::description::Attributes;
use super::super::description::tests::any_description;
use super::super::message::tests::any_message;
use super::*;

const MANDATE: Mandate = Mandate { generation: 1, term: 1 };
const KEEP: Duration = Duration::from_secs(1000);

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn description(boot: u64, seq: u64, text: &str) -> Description {
    let attributes = Attributes::new([("a".to_owned(), text.to_owned())].into()).unwrap();
    Description { version: Version { boot, seq }, attributes }
}

fn whole(sent: u64, description: &Description) -> Message {
    let (description, digest) = (description.clone(), description.digest());
    Message::Whole { sent, description, digest }
}

fn refresh(sent: u64, description: &Description) -> Message {
    Message::Refresh { sent, version: description.version, digest: description.digest() }
}

/// Of three members that live.
fn registry() -> Registry {
    let mut registry = Registry::new(MANDATE, KEEP);
    registry.handle_roster((1..=3).map(node), Duration::ZERO);
    (1..=3).for_each(|number| registry.handle_up(node(number)));
    registry
}

/// What it does about a message.
fn tell(registry: &mut Registry, from: u8, message: &Message, now: Duration) -> Vec<Command> {
    registry.handle_message(node(from), message, now);
    std::iter::from_fn(|| registry.poll_command()).collect()
}

fn answer(to: u8, message: Message) -> Vec<Command> {
    vec![Command::Send { to: node(to), message }]
}

fn named(member: u8, what: Offence) -> Vec<Command> {
    vec![Command::Complain { member: node(member), what }]
}

fn registered(version: Version) -> Message {
    Message::Registered { mandate: MANDATE, version }
}

fn held(registry: &Registry) -> BTreeMap<NodeId, Description> {
    registry.snapshot().into_descriptions()
}

#[test]
fn it_asks_for_what_it_does_not_have_and_acknowledges_the_rest() {
    let mut registry = registry();
    let (old, new) = (description(1, 1, "1"), description(1, 2, "2"));
    let send_whole = |sent| answer(1, Message::SendWhole { mandate: MANDATE, sent });
    assert_eq!(tell(&mut registry, 1, &refresh(1, &old), secs(1)), send_whole(1));
    assert_eq!(
        tell(&mut registry, 1, &whole(2, &old), secs(1)),
        answer(1, registered(old.version))
    );
    let entry = |registry: &Registry, now| {
        let entries: Vec<_> =
            registry.entries(now).map(|it| (it.member, it.age, it.confirmed)).collect();
        entries
    };
    assert_eq!(entry(&registry, secs(4)), [(node(1), secs(3), true)]);
    assert_eq!(
        tell(&mut registry, 1, &refresh(3, &old), secs(9)),
        answer(1, registered(old.version))
    );
    assert_eq!(entry(&registry, secs(9)), [(node(1), secs(0), true)]);
    let change = Message::Change { sent: 4, difference: Difference::between(&old, &new) };
    assert_eq!(tell(&mut registry, 1, &change, secs(9)), answer(1, registered(new.version)));
    assert_eq!(held(&registry)[&node(1)], new);
    // The same again, as the answer was lost.
    assert_eq!(tell(&mut registry, 1, &change, secs(10)), answer(1, registered(new.version)));
    let (other, latest) = (description(1, 8, "8"), description(1, 9, "9"));
    let change = Message::Change { sent: 5, difference: Difference::between(&other, &latest) };
    assert_eq!(tell(&mut registry, 1, &change, secs(11)), send_whole(5), "another base");
    assert_eq!(held(&registry)[&node(1)], new);
}

#[test]
fn what_is_older_is_not_taken_and_the_member_hears_what_is_there() {
    let mut registry = registry();
    let (old, new) = (description(4, 7, "1"), description(5, 1, "2"));
    tell(&mut registry, 1, &whole(1, &new), secs(1));
    let outdated =
        answer(1, Message::Outdated { mandate: MANDATE, held: new.version, digest: new.digest() });
    assert_eq!(tell(&mut registry, 1, &whole(900, &old), secs(1)), outdated);
    assert_eq!(held(&registry)[&node(1)], new);
}

#[test]
fn who_is_no_member_is_not_heard_and_who_is_none_any_more_is_forgotten_at_once() {
    let mut registry = registry();
    let said = description(1, 1, "1");
    assert_eq!(tell(&mut registry, 9, &whole(1, &said), secs(1)), []);
    tell(&mut registry, 2, &whole(1, &said), secs(1));
    let revision = registry.revision();
    registry.handle_roster([node(1), node(3)], secs(2));
    assert_eq!(registry.entries(secs(2)).count(), 0);
    assert!(registry.revision() > revision);
    assert_eq!(tell(&mut registry, 2, &whole(2, &said), secs(2)), []);
    let mut other = Registry::new(MANDATE, KEEP);
    other.handle_roster([node(2)], secs(2));
    tell(&mut other, 2, &whole(2, &said), secs(2));
    registry.merge(other.snapshot(), secs(3));
    assert_eq!(registry.entries(secs(3)).count(), 0, "nor does it come back by a merge");
}

#[test]
fn who_is_gone_is_kept_for_a_while() {
    let mut registry = registry();
    for number in [1, 2] {
        tell(&mut registry, number, &whole(1, &description(1, 1, "1")), secs(1));
    }
    assert_eq!(registry.poll_timeout(), None);
    registry.handle_down(node(1), secs(10));
    registry.handle_down(node(1), secs(500));
    assert_eq!(registry.poll_timeout(), Some(secs(1010)));
    registry.handle_timeout(secs(1009));
    assert_eq!(registry.entries(secs(1009)).count(), 2);
    registry.handle_timeout(secs(1010));
    assert_eq!(held(&registry).into_keys().collect::<Vec<_>>(), [node(2)]);
    registry.handle_down(node(2), secs(1010));
    registry.handle_up(node(2));
    assert_eq!(registry.poll_timeout(), None);
}

/// What a liar does after it has registered version 1.5 with its second message.
fn lies() -> Vec<(Message, Offence)> {
    let (said, older) = (description(1, 5, "5"), description(1, 4, "4"));
    let (other, next) = (description(1, 5, "x"), description(1, 6, "6"));
    let wrong = Message::Whole { sent: 3, description: next.clone(), digest: said.digest() };
    let mut difference = Difference::between(&said, &next);
    difference.result = said.digest();
    let back = Offence::WentBack { version: older.version, held: said.version };
    vec![
        (wrong, Offence::WrongDigest),
        (Message::Change { sent: 3, difference }, Offence::WrongDigest),
        (refresh(3, &older), back.clone()),
        (whole(3, &older), back),
        (refresh(3, &other), Offence::TwoOfOneVersion { version: said.version }),
        (whole(1, &other), Offence::TwoOfOneVersion { version: said.version }),
    ]
}

#[test]
fn a_liar_is_named_once_and_hardly_heard_and_others_are() {
    for (lie, offence) in lies() {
        let mut registry = registry();
        let said = description(1, 5, "5");
        tell(&mut registry, 1, &whole(2, &said), secs(1));
        let complaint = named(1, offence.clone());
        let done = tell(&mut registry, 1, &lie, secs(2));
        assert!(done.contains(&complaint[0]), "{done:?}");
        // Others are registered as ever, and the liar gets as much as anybody's minimum.
        let mut done = 0;
        for second in 3..600 {
            let mut lie = lie.clone();
            let (Message::Refresh { sent, .. }
            | Message::Whole { sent, .. }
            | Message::Change { sent, .. }) = &mut lie
            else {
                continue;
            };
            *sent += second;
            for _ in 0..10 {
                let commands = tell(&mut registry, 1, &lie, secs(second));
                assert!(!commands.contains(&complaint[0]));
                done += commands.len();
            }
            let other = description(1, second, "other");
            let commands = tell(&mut registry, 2, &whole(second, &other), secs(second));
            assert_eq!(commands, answer(2, registered(other.version)));
        }
        assert!(done < 150, "{done} answers");
        assert_eq!(held(&registry)[&node(1)], said);
    }
}

#[test]
fn a_flood_is_named_once_and_limited() {
    let mut registry = registry();
    let said = description(1, 1, "1");
    let (mut answers, mut complaints) = (0, 0);
    for at in 0..6000u32 {
        let now = Duration::from_millis(10) * at;
        for command in tell(&mut registry, 1, &whole(at.into(), &said), now) {
            match command {
                Command::Complain { what: Offence::Flooding, .. } => complaints += 1,
                Command::Send { .. } => answers += 1,
                other => panic!("{other:?}"),
            }
        }
        if at % 100 == 0 {
            let other = description(1, at.into(), "o");
            let commands = tell(&mut registry, 2, &whole(at.into(), &other), now);
            assert_eq!(commands, answer(2, registered(other.version)));
        }
    }
    assert_eq!(complaints, 1);
    assert!((200..=(BURST + 60.0 * EACH_SECOND) as u32).contains(&answers), "{answers}");
}

#[test]
fn bytes_that_are_no_message_are_named_and_limited() {
    let mut registry = registry();
    for at in 0..1000 {
        registry.handle_malformed(node(1), Duration::from_millis(at));
        registry.handle_malformed(node(9), Duration::from_millis(at));
    }
    let commands: Vec<_> = std::iter::from_fn(|| registry.poll_command()).collect();
    assert_eq!(commands, [named(1, Offence::Malformed), named(1, Offence::Flooding)].concat());
}

#[test]
fn what_an_archive_says_makes_nobody_a_liar() {
    // The archive has a version of the same boot which this member never had: its disk is lost, or
    // another super-peer lied.
    let (archived, said) = (description(1, 9, "archived"), description(1, 9, "said"));
    let mut registry = registry();
    registry.merge(Snapshot::new([(node(1), archived.clone())]), secs(1));
    let (held, digest) = (archived.version, archived.digest());
    let outdated = answer(1, Message::Outdated { mandate: MANDATE, held, digest });
    assert_eq!(tell(&mut registry, 1, &refresh(1, &said), secs(2)), outdated);
    let before = description(1, 3, "before");
    assert_eq!(tell(&mut registry, 1, &refresh(2, &before), secs(3)), outdated);
    let lifted = description(2, 0, "said");
    assert_eq!(
        tell(&mut registry, 1, &whole(3, &lifted), secs(4)),
        answer(1, registered(lifted.version))
    );
}

/// An honest member's messages: it changes, sends any of what it may send, and knows nothing of what
/// arrives.
fn honest() -> impl Strategy<Value = Vec<(Message, Description)>> {
    let step = (any::<bool>(), any::<bool>(), 0u8..3, any_description());
    proptest::collection::vec(step, 1..12).prop_map(|steps| {
        let mut now = description(1, 0, "first");
        let mut base = now.clone();
        let mut messages = Vec::new();
        for (sent, (restarts, rebases, kind, next)) in (1..).zip(steps) {
            let Version { boot, seq } = now.version;
            let version = match restarts {
                true => Version { boot: boot + 1, seq: 0 },
                false => Version { boot, seq: seq + 1 },
            };
            now = Description { version, attributes: next.attributes };
            messages.push((
                match kind {
                    0 => refresh(sent, &now),
                    1 => whole(sent, &now),
                    _ => Message::Change { sent, difference: Difference::between(&base, &now) },
                },
                now.clone(),
            ));
            if rebases {
                base = now.clone();
            }
        }
        messages
    })
}

proptest! {
    #[test]
    fn an_honest_member_is_never_called_a_liar_and_never_goes_back(
        said in honest(), order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let mut registry = registry();
        let mut before = None;
        // Any of them come, any number of times, in any order.
        for (second, at) in (0..).zip(&order) {
            let (message, _) = &said[at.index(said.len())];
            for command in tell(&mut registry, 1, message, secs(second)) {
                prop_assert!(matches!(command, Command::Send { .. }), "{command:?}");
            }
            let now = held(&registry).remove(&node(1));
            let version = now.as_ref().map(|it| it.version);
            prop_assert!(before <= version);
            before = version;
            prop_assert!(now.is_none_or(|now| said.iter().any(|(_, had)| *had == now)));
        }
        // Once the whole of the latest comes, it is there.
        let last = said.last().unwrap().1.clone();
        tell(&mut registry, 1, &whole(99, &last), secs(99));
        prop_assert_eq!(held(&registry).remove(&node(1)), Some(last));
    }

    #[test]
    fn any_messages_are_answered_in_bounds(
        messages in proptest::collection::vec((1u8..5, any_message()), 0..80)) {
        let mut registry = registry();
        let (mut commands, mut versions) = (0, BTreeMap::new());
        for (at, (from, message)) in (0..).zip(messages) {
            let done = tell(&mut registry, from, &message, Duration::from_millis(at));
            prop_assert!(from != 4 || done.is_empty());
            commands += done.len();
            for (node, description) in held(&registry) {
                let before = versions.insert(node, description.version);
                prop_assert!(before <= Some(description.version));
            }
        }
        prop_assert!(commands <= 3 * (BURST as usize + 1 + Offence::KINDS));
    }

    #[test]
    fn merging_loses_nothing_whatever_the_order(
        sides in proptest::collection::vec(
            proptest::collection::btree_map((1u8..5).prop_map(node), any_description(), 0..4), 1..4)) {
        let all = |order: &mut dyn Iterator<Item = &BTreeMap<NodeId, Description>>| {
            let mut registry = registry();
            order.for_each(|side| registry.merge(Snapshot::new(side.clone()), secs(1)));
            held(&registry)
        };
        let merged = all(&mut sides.iter());
        prop_assert_eq!(&merged, &all(&mut sides.iter().rev()));
        prop_assert_eq!(&merged, &all(&mut sides.iter().chain(&sides)));
        for (member, description) in sides.iter().flatten() {
            let there = merged.get(member).map(|it| it.version);
            prop_assert_eq!(there.is_some(), *member != node(4));
            prop_assert!(there.is_none_or(|there| there >= description.version));
        }
        let from_a_side = |(member, it): (&NodeId, &Description)| {
            sides.iter().any(|side| side.get(member) == Some(it))
        };
        prop_assert!(merged.iter().all(from_a_side));
    }
}

#[test]
fn of_two_things_under_one_version_the_one_that_was_heard_stays() {
    let mut registry = registry();
    let (heard, other) = (description(1, 1, "heard"), description(1, 1, "archived"));
    for (first, second) in [(&heard, &other), (&other, &heard)] {
        tell(&mut registry, 1, &whole(1, first), secs(1));
        registry.merge(Snapshot::new([(node(1), second.clone())]), secs(2));
        assert_eq!(held(&registry)[&node(1)], *first);
        registry.handle_roster((2..=3).map(node), secs(3));
        registry.handle_roster((1..=3).map(node), secs(3));
    }
}

#[test]
fn there_are_no_more_members_than_the_bound() {
    let mut registry = Registry::new(MANDATE, KEEP);
    let many = (0..=MAX_MEMBERS).map(|number| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        NodeId(bytes)
    });
    registry.handle_roster(many, secs(1));
    assert_eq!(registry.members.len(), MAX_MEMBERS);
}
