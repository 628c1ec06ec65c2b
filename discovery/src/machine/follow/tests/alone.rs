//! One node's machine by itself: each fence by its own.

use super::*;
use crate::machine::Mandate;

const OWN: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

fn mandate(term: u64) -> Mandate {
    Mandate { generation: 1, term }
}

fn stamp(index: u64) -> Stamp {
    Stamp { mandate: mandate(1), index }
}

fn leads(term: u64, until: u64) -> Situation {
    let lease = Lease { mandate: mandate(term), until: secs(until), length: secs(10) };
    Situation { lead: Lead::Own, lease: Some(lease), electors: 3, unix_s: 1000 }
}

fn follows() -> Situation {
    Situation { lead: Lead::Other, lease: None, electors: 3, unix_s: 1000 }
}

struct Alone {
    service: Service,
    now: Duration,
}

impl Alone {
    fn new() -> Self {
        let mut service = Service::new(OWN, [1; 32]);
        service.handle_terms(Ok(world::TERMS), secs(100));
        service.handle_found(None, secs(100));
        Self { service, now: secs(100) }
    }

    /// What it wants done, without words for the log.
    fn commands(&mut self) -> Vec<Command> {
        let all = std::iter::from_fn(|| self.service.poll_command());
        all.filter(|command| !matches!(command, Command::Tell(_))).collect()
    }

    fn situation(&mut self, situation: Situation) -> Vec<Command> {
        self.service.handle_situation(situation, self.now);
        self.commands()
    }

    fn value(&mut self, stamp: Stamp, record: Option<Record>) -> Vec<Command> {
        self.service.handle_value(Value { stamp, record: Ok(record) }, self.now);
        self.commands()
    }

    fn written(&mut self, ticket: u64, written: Written) -> Vec<Command> {
        self.service.handle_written(ticket, written, self.now);
        self.commands()
    }

    /// The one write it wants.
    fn write(commands: &[Command]) -> (u64, Stamp, Record) {
        match commands {
            [Command::Write { ticket, expect, record }] => (*ticket, *expect, (**record).clone()),
            other => panic!("no write: {other:?}"),
        }
    }

    /// Runs with a claim of stamp 1, written in mandate 5.
    fn running() -> (Self, Record) {
        let mut alone = Self::new();
        assert_eq!(alone.situation(leads(5, 109)), [Command::Read]);
        let commands = alone.value(Stamp::default(), None);
        let (ticket, expect, record) = Self::write(&commands);
        assert_eq!((expect, record.mandate, record.stopped), (Stamp::default(), mandate(5), false));
        let commands = alone.written(ticket, Written::Done(stamp(1)));
        assert_eq!(commands, [Command::Fill { saved: None, former: None, run: record.run }]);
        alone.service.handle_filled(Ok(()), alone.now);
        assert_eq!(alone.commands(), [Command::Start { run: record.run, until: secs(109) }]);
        (alone, record)
    }
}

#[test]
fn nothing_is_started_before_the_claim_is_written_for_sure() {
    let mut alone = Alone::new();
    alone.situation(leads(5, 109));
    let commands = alone.value(Stamp::default(), None);
    let (ticket, _, record) = Alone::write(&commands);
    // Nobody can tell; then it is in this node's own log.
    assert_eq!(alone.written(ticket, Written::Unknown), []);
    alone.now += secs(1);
    alone.service.handle_timeout(alone.now);
    assert_eq!(alone.commands(), [Command::Read]);
    let commands = alone.value(stamp(1), Some(record.clone()));
    let (ticket, expect, again) = Alone::write(&commands);
    assert_eq!((expect, again.run), (stamp(1), record.run));
    let commands = alone.written(ticket, Written::Done(stamp(2)));
    assert!(matches!(commands[..], [Command::Fill { .. }]), "{commands:?}");
}

#[test]
fn anothers_claim_is_waited_for_from_when_this_node_first_decided() {
    let theirs = Record { node: OTHER, mandate: mandate(4), stopped: false, ..record() };
    let mut alone = Alone::new();
    alone.situation(leads(5, 109));
    assert_eq!(alone.value(stamp(7), Some(theirs.clone())), []);
    alone.now = secs(111);
    assert_eq!(alone.situation(leads(5, 120)), [Command::Read]);
    assert_eq!(alone.value(stamp(7), Some(theirs.clone())), [], "11 s of 11.5");
    alone.now = secs(100) + wait(secs(10));
    assert_eq!(alone.situation(leads(5, 120)), [Command::Read]);
    let commands = alone.value(stamp(7), Some(theirs.clone()));
    let (_, expect, record) = Alone::write(&commands);
    assert_eq!((expect, record.node), (stamp(7), OWN));
    assert_eq!(record.saved, theirs.saved, "with what was saved");
    assert_ne!(record.run, theirs.run);
}

#[test]
fn a_claim_of_a_later_mandate_is_left_alone() {
    let theirs = Record { node: OTHER, mandate: mandate(6), stopped: true, ..record() };
    let mut alone = Alone::new();
    alone.situation(leads(5, 109));
    assert_eq!(alone.value(stamp(7), Some(theirs)), []);
}

#[test]
fn who_has_stopped_is_followed_at_once() {
    let theirs = Record { node: OTHER, mandate: mandate(4), stopped: true, ..record() };
    let mut alone = Alone::new();
    alone.situation(leads(5, 109));
    let commands = alone.value(stamp(7), Some(theirs));
    Alone::write(&commands);
}

#[test]
fn a_later_mandate_gives_no_permission_before_its_claim_is_written() {
    let (mut alone, first) = Alone::running();
    assert_eq!(alone.situation(leads(5, 112)), [Command::Permit { until: secs(112) }]);
    let commands = alone.situation(leads(6, 115));
    let (ticket, expect, record) = Alone::write(&commands);
    assert_eq!((expect, record.mandate, record.run), (stamp(1), mandate(6), first.run));
    assert_eq!(alone.situation(leads(6, 117)), []);
    let commands = alone.written(ticket, Written::Done(stamp(3)));
    assert_eq!(commands, [Command::Permit { until: secs(117) }]);
}

#[test]
fn who_finds_another_in_its_place_stops() {
    let (mut alone, _) = Alone::running();
    let commands = alone.situation(leads(6, 115));
    let (ticket, ..) = Alone::write(&commands);
    assert_eq!(alone.written(ticket, Written::Changed), [Command::Read]);
    let theirs = Record { node: OTHER, mandate: mandate(6), stopped: false, ..record() };
    let commands = alone.value(stamp(9), Some(theirs));
    // Asked to end, and killed when the permission it had is over.
    assert_eq!(commands, [Command::Stop { kill_at: secs(103) }]);
}

#[test]
fn who_is_not_answered_asks_it_to_end_in_time_and_kills_it_with_its_permission() {
    let (mut alone, _) = Alone::running();
    alone.now = secs(106);
    let nobody = Situation { lead: Lead::Nobody, lease: None, ..leads(5, 0) };
    assert_eq!(alone.situation(nobody), [Command::Look]);
    alone.now = Duration::from_millis(106_500);
    alone.service.handle_timeout(alone.now);
    assert_eq!(alone.commands(), [Command::Stop { kill_at: secs(109) }]);
}

#[test]
fn who_is_followed_by_another_hands_back_with_the_last_of_the_state() {
    let (mut alone, record) = Alone::running();
    assert_eq!(alone.situation(follows()), [Command::Stop { kill_at: secs(103) }]);
    let end = End { how: "exit code 0".to_owned(), lapsed: false };
    alone.service.handle_ended(record.run, end, alone.now);
    assert_eq!(alone.commands(), [Command::Look]);
    alone.service.handle_seen(Seen::Content(vec![1, 2, 3]), alone.now);
    let commands = alone.commands();
    let (ticket, expect, back) = Alone::write(&commands);
    assert_eq!((expect, back.stopped), (stamp(1), true));
    assert_eq!(back.saved.unwrap().packed, [1, 2, 3]);
    assert!(!alone.service.is_idle());
    assert_eq!(alone.written(ticket, Written::Done(stamp(2))), []);
    assert!(alone.service.is_idle());
}

#[test]
fn what_fails_is_started_again_after_growing_pauses() {
    let (mut alone, record) = Alone::running();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let end = End { how: "exit code 1".to_owned(), lapsed: false };
        alone.service.handle_ended(record.run, end, alone.now);
        alone.service.handle_seen(Seen::Same, alone.now);
        assert_eq!(alone.commands(), [Command::Look]);
        assert!(alone.service.report().why.unwrap().starts_with("exit code 1"));
        let begin = alone.now;
        loop {
            let until = alone.now.as_secs() + 9;
            if !alone.situation(leads(5, until)).is_empty() {
                break;
            }
            alone.now += secs(1);
        }
        pauses.push((alone.now - begin).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_state_is_saved_when_it_has_changed_and_refusals_leave_the_service_alone() {
    let (mut alone, _) = Alone::running();
    alone.now = secs(101);
    assert_eq!(
        alone.situation(leads(5, 110))[..],
        [Command::Permit { until: secs(110) }, Command::Look]
    );
    alone.service.handle_seen(Seen::Refused("it is too large".to_owned()), alone.now);
    assert_eq!(alone.commands(), []);
    assert_eq!(alone.service.report().trouble.as_deref(), Some("it is too large"));
    alone.now = secs(102);
    assert_eq!(alone.situation(leads(5, 110)), [Command::Look]);
    alone.service.handle_seen(Seen::Content(vec![1; 100]), alone.now);
    let commands = alone.commands();
    let (ticket, expect, record) = Alone::write(&commands);
    assert_eq!((expect, record.saved.unwrap().packed.len()), (stamp(1), 100));
    assert_eq!(alone.service.report().trouble, None);
    alone.written(ticket, Written::Done(stamp(2)));
    alone.now = secs(103);
    alone.situation(leads(5, 110));
    alone.service.handle_seen(Seen::Content(vec![1; 100]), alone.now);
    assert_eq!(alone.commands(), [], "the same again");
}

#[test]
fn a_large_state_among_many_nodes_is_written_less_often() {
    let (mut alone, _) = Alone::running();
    let many = |until| Situation { electors: 200, ..leads(5, until) };
    alone.now = secs(101);
    alone.situation(many(110));
    alone.service.handle_seen(Seen::Content(vec![1; 40 << 10]), alone.now);
    let commands = alone.commands();
    let (ticket, ..) = Alone::write(&commands);
    alone.written(ticket, Written::Done(stamp(2)));
    alone.now = secs(102);
    alone.situation(many(111));
    alone.service.handle_seen(Seen::Content(vec![2; 40 << 10]), alone.now);
    assert_eq!(alone.commands(), []);
    // 8 MB for all of them, at a megabyte a second.
    alone.now = secs(109);
    let commands = alone.situation(many(118));
    assert!(commands.iter().any(|it| matches!(it, Command::Write { .. })), "{commands:?}");
}

#[test]
fn another_place_is_filled_with_what_was_found_last_saved_or_not() {
    let (mut alone, record) = Alone::running();
    alone.now = secs(101);
    alone.situation(leads(5, 110));
    alone.service.handle_seen(Seen::Content(vec![1]), alone.now);
    let commands = alone.commands();
    let (ticket, ..) = Alone::write(&commands);
    alone.written(ticket, Written::Done(stamp(2)));
    alone.service.handle_terms(Ok(Terms { version: 2, ..world::TERMS }), alone.now);
    assert!(matches!(alone.commands()[..], [Command::Stop { .. }]));
    let end = End { how: "exit code 0".to_owned(), lapsed: false };
    alone.service.handle_ended(record.run, end, alone.now);
    assert_eq!(alone.commands(), [Command::Look]);
    alone.service.handle_seen(Seen::Content(vec![2]), alone.now);
    match &alone.commands()[..] {
        [Command::Fill { saved: Some(saved), .. }, ..] => assert_eq!(saved.packed, [2]),
        other => panic!("{other:?}"),
    }
}

/// Runs, and the group has had no room for what is new in its folder.
fn without_room() -> (Alone, u64) {
    let (mut alone, record) = Alone::running();
    alone.now = secs(101);
    alone.situation(leads(5, 110));
    alone.service.handle_seen(Seen::Content(vec![1; 100]), alone.now);
    let commands = alone.commands();
    let (ticket, ..) = Alone::write(&commands);
    assert_eq!(alone.written(ticket, Written::Full), []);
    let trouble = alone.service.report().trouble.unwrap();
    assert!(trouble.contains("memory is full"), "{trouble}");
    (alone, record.run)
}

#[test]
fn what_the_group_had_no_room_for_is_saved_when_there_is_room() {
    let (mut alone, _) = without_room();
    for second in 102..111 {
        alone.now = secs(second);
        let commands = alone.situation(leads(5, second + 9));
        assert!(!commands.iter().any(|it| matches!(it, Command::Write { .. })), "{commands:?}");
        alone.service.handle_seen(Seen::Same, alone.now);
    }
    assert!(alone.service.report().trouble.is_some());
    alone.now = secs(111);
    let commands = alone.situation(leads(5, 120));
    let writes = commands.into_iter().filter(|it| matches!(it, Command::Write { .. }));
    let (ticket, expect, record) = Alone::write(&writes.collect::<Vec<_>>());
    assert_eq!((expect, record.saved.unwrap().packed.len()), (stamp(1), 100));
    alone.written(ticket, Written::Done(stamp(2)));
    assert_eq!(alone.service.report().trouble, None);
}

#[test]
fn a_claim_is_renewed_although_there_is_no_room_for_what_is_new() {
    let (mut alone, _) = without_room();
    let commands = alone.situation(leads(6, 115));
    let (ticket, expect, record) = Alone::write(&commands);
    assert_eq!((expect, record.mandate, record.saved), (stamp(1), mandate(6), None));
    let commands = alone.written(ticket, Written::Done(stamp(2)));
    assert_eq!(commands, [Command::Permit { until: secs(115) }]);
    // Where it is told so of the renewal itself.
    alone.now = secs(111);
    let commands = alone.situation(leads(7, 120));
    let writes = commands.into_iter().filter(|it| matches!(it, Command::Write { .. }));
    let (ticket, _, record) = Alone::write(&writes.collect::<Vec<_>>());
    assert_eq!(record.saved.unwrap().packed.len(), 100);
    let commands = alone.written(ticket, Written::Full);
    let (ticket, _, record) = Alone::write(&commands);
    assert_eq!((record.mandate, record.saved), (mandate(7), None));
    let commands = alone.written(ticket, Written::Done(stamp(3)));
    assert_eq!(commands, [Command::Permit { until: secs(120) }]);
    // Nor is it written all the time where there is no room at all.
    let commands = alone.situation(leads(8, 122));
    let (ticket, ..) = Alone::write(&commands);
    assert_eq!(alone.written(ticket, Written::Full), []);
}

#[test]
fn who_hands_back_does_so_although_there_is_no_room_for_the_last_of_the_state() {
    let (mut alone, run) = without_room();
    assert!(matches!(alone.situation(follows())[..], [Command::Stop { .. }]));
    let end = End { how: "exit code 0".to_owned(), lapsed: false };
    alone.service.handle_ended(run, end, alone.now);
    alone.service.handle_seen(Seen::Content(vec![2; 100]), alone.now);
    let commands = alone.commands();
    let (ticket, _, back) = Alone::write(&commands[commands.len() - 1..]);
    assert_eq!((back.stopped, back.saved.unwrap().packed.len()), (true, 100), "once more");
    let commands = alone.written(ticket, Written::Full);
    let (ticket, _, back) = Alone::write(&commands);
    assert_eq!((back.stopped, back.saved), (true, None));
    assert_eq!(alone.written(ticket, Written::Done(stamp(2))), []);
    assert!(alone.service.is_idle());
}

#[test]
fn what_it_wrote_last_is_handed_back_although_a_look_was_under_way_when_it_ended() {
    let (mut alone, record) = Alone::running();
    alone.now = secs(101);
    alone.situation(leads(5, 110));
    assert!(matches!(alone.situation(follows())[..], [Command::Stop { .. }]));
    let end = End { how: "exit code 0".to_owned(), lapsed: false };
    alone.service.handle_ended(record.run, end, alone.now);
    assert_eq!(alone.commands(), [], "one looks already");
    alone.service.handle_seen(Seen::Content(vec![1]), alone.now);
    assert_eq!(alone.commands(), [Command::Look]);
    alone.service.handle_seen(Seen::Content(vec![2]), alone.now);
    let commands = alone.commands();
    let (_, _, back) = Alone::write(&commands);
    assert_eq!((back.stopped, back.saved.unwrap().packed), (true, vec![2]));
}
