use proptest::prelude::*;

use super::super::message::tests::any_message;
use super::*;

const PEER: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

fn mandate(term: u64) -> Mandate {
    Mandate { generation: 1, term }
}

fn attributes(number: u64) -> Attributes {
    let text = |name: &str, text: String| (name.to_owned(), text);
    let fixed = text("long", "\"unchanged\"".repeat(20));
    Attributes::new([text("n", number.to_string()), fixed].into()).unwrap()
}

/// With a super-peer, and what was sent until now.
fn registrant() -> Registrant {
    let mut registrant = Registrant::new(5, [7; 32]);
    registrant.handle_attributes(attributes(0), Duration::ZERO);
    registrant.handle_super_peer(Some((PEER, mandate(3))), Duration::ZERO);
    registrant
}

/// Lets the time pass, and tells when what was sent.
fn run(registrant: &mut Registrant, until: Duration) -> Vec<(Duration, Message)> {
    let mut sent = Vec::new();
    while let Some(now) = registrant.poll_timeout().filter(|at| *at <= until) {
        registrant.handle_timeout(now);
        while let Some(command) = registrant.poll_command() {
            let Command::Send { to, message } = command else { panic!("{command:?}") };
            assert_eq!(to, PEER);
            sent.push((now, message));
        }
    }
    sent
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn acknowledge(registrant: &mut Registrant, now: Duration) {
    let version = registrant.description().version;
    registrant.handle_message(PEER, &Message::Registered { mandate: mandate(3), version }, now);
}

#[test]
fn it_repeats_with_back_off_until_it_is_acknowledged() {
    let mut registrant = registrant();
    let sent = run(&mut registrant, secs(300));
    let pauses: Vec<_> = sent.windows(2).map(|two| two[1].0 - two[0].0).collect();
    assert!(pauses.iter().zip(&pauses[1..]).take(4).all(|(one, next)| *next > one.mul_f64(1.5)));
    assert!(pauses.iter().all(|pause| *pause >= PACE && *pause <= secs(38)));
    assert!((10..16).contains(&sent.len()), "{}", sent.len());
    assert!(sent.iter().all(|(_, message)| matches!(message, Message::Refresh { .. })));
    assert!(!registrant.is_registered());
    acknowledge(&mut registrant, secs(300));
    assert!(registrant.is_registered());
    let kept_alive = run(&mut registrant, secs(300) + KEEP_ALIVE.mul_f64(1.2));
    assert!(kept_alive[0].0 >= secs(300) + KEEP_ALIVE.mul_f64(0.8));
}

#[test]
fn of_many_changes_the_last_goes_out_once_a_second_as_a_difference() {
    let mut registrant = registrant();
    run(&mut registrant, secs(1));
    acknowledge(&mut registrant, secs(1));
    let mut base = registrant.description().clone();
    let mut sent = 0;
    for change in 1..=100 {
        let now = secs(10) + Duration::from_millis(30) * change as u32;
        registrant.handle_attributes(attributes(change), now);
        for (_, message) in run(&mut registrant, now) {
            let Message::Change { difference, .. } = message else { panic!("{message:?}") };
            assert!(difference.len() < 10);
            base = difference.apply(&base).unwrap();
            assert_eq!(base, *registrant.description());
            sent += 1;
            acknowledge(&mut registrant, now);
        }
    }
    assert!((3..=4).contains(&sent), "{sent}");
    let rest = run(&mut registrant, secs(15));
    let Some((_, Message::Change { difference, .. })) = rest.first() else { panic!("{rest:?}") };
    assert_eq!(difference.apply(&base).as_ref(), Ok(registrant.description()));
}

#[test]
fn what_was_acknowledged_to_an_earlier_mandate_counts_for_nothing() {
    let mut registrant = registrant();
    run(&mut registrant, secs(1));
    let version = registrant.description().version;
    registrant.handle_super_peer(Some((OTHER, mandate(4))), secs(2));
    registrant.handle_super_peer(Some((PEER, mandate(5))), secs(3));
    run(&mut registrant, secs(4));
    for term in [3, 4, 6] {
        let late = Message::Registered { mandate: mandate(term), version };
        registrant.handle_message(PEER, &late, secs(4));
        assert!(!registrant.is_registered(), "term {term}");
    }
    let right = Message::Registered { mandate: mandate(5), version };
    registrant.handle_message(OTHER, &right, secs(4));
    assert!(!registrant.is_registered(), "from another");
    registrant.handle_message(PEER, &right, secs(4));
    assert!(registrant.is_registered());
    // Who tells of the one before is late.
    registrant.handle_super_peer(Some((OTHER, mandate(4))), secs(5));
    assert!(registrant.is_registered());
    registrant.handle_super_peer(None, secs(5));
    assert!(!registrant.is_registered());
    assert_eq!(registrant.poll_timeout(), None);
}

#[test]
fn the_whole_goes_out_when_it_is_asked_for_but_not_twice_a_second() {
    let mut registrant = registrant();
    run(&mut registrant, secs(1));
    let mut whole = 0;
    for ask in 0..100u32 {
        let now = secs(1) + Duration::from_millis(50) * ask;
        let question = Message::SendWhole { mandate: mandate(3), sent: u64::MAX };
        registrant.handle_message(PEER, &question, now);
        while let Some(Command::Send { message, .. }) = registrant.poll_command() {
            assert!(matches!(message, Message::Whole { .. }));
            whole += 1;
        }
        let sent = run(&mut registrant, now);
        assert!(sent.iter().all(|(_, message)| matches!(message, Message::Whole { .. })));
        whole += sent.len();
    }
    assert!((5..=6).contains(&whole), "{whole}");
    acknowledge(&mut registrant, secs(6));
    assert!(registrant.is_registered());
    let late = Message::SendWhole { mandate: mandate(3), sent: 1 };
    registrant.handle_message(PEER, &late, secs(6));
    assert!(registrant.is_registered(), "it was answered long ago");
}

#[test]
fn a_node_whose_clock_went_back_counts_on_from_what_the_registry_has() {
    let mut registrant = registrant();
    run(&mut registrant, secs(1));
    let outdated = |term, boot, seq| Message::Outdated {
        mandate: mandate(term),
        held: Version { boot, seq },
        digest: Description::default().digest(),
    };
    registrant.handle_message(PEER, &outdated(2, 900, 4), secs(1));
    assert_eq!(registrant.description().version.boot, 5, "an earlier mandate");
    registrant.handle_message(PEER, &outdated(3, 900, 4), secs(1));
    assert_eq!(registrant.description().version, Version { boot: 901, seq: 0 });
    registrant.handle_message(PEER, &outdated(3, 5, 1), secs(1));
    assert_eq!(registrant.description().version, Version { boot: 901, seq: 0 });
    let sent = run(&mut registrant, secs(3));
    assert!(matches!(sent[0].1, Message::Refresh { version: Version { boot: 901, .. }, .. }));
    // Something else under the version of this one.
    registrant.handle_message(PEER, &outdated(3, 901, 0), secs(3));
    assert_eq!(registrant.description().version, Version { boot: 902, seq: 0 });
    registrant.handle_message(PEER, &outdated(3, u64::MAX, u64::MAX), secs(3));
    registrant.handle_attributes(attributes(9), secs(3));
    assert_eq!(registrant.description().version.boot, u64::MAX);
}

#[test]
fn that_the_registry_has_this_very_description_is_no_reason_to_count_on() {
    let mut registrant = registrant();
    run(&mut registrant, secs(1));
    // A message before the last one came after it.
    let description = registrant.description().clone();
    let (held, digest) = (description.version, description.digest());
    let outdated = Message::Outdated { mandate: mandate(3), held, digest };
    registrant.handle_message(PEER, &outdated, secs(1));
    assert_eq!(*registrant.description(), description);
    assert!(registrant.is_registered());
}

proptest! {
    #[test]
    fn any_messages_are_answered_in_bounds(
        messages in proptest::collection::vec((any::<bool>(), any_message()), 0..60)) {
        let mut registrant = registrant();
        registrant.handle_super_peer(Some((PEER, Mandate { generation: 2, term: 1 })), secs(0));
        let (mut sent, mut version) = (0, registrant.description().version);
        for (at, (other, message)) in (1u32..).zip(messages) {
            let now = Duration::from_millis(100) * at;
            registrant.handle_message(if other { OTHER } else { PEER }, &message, now);
            sent += run(&mut registrant, now).len();
            sent += std::iter::from_fn(|| registrant.poll_command()).count();
            prop_assert!(registrant.description().version >= version);
            version = registrant.description().version;
        }
        // One each second, and the whole besides.
        prop_assert!(sent <= 14, "{}", sent);
    }
}
