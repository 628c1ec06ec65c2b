//! What lets through only messages that the crate raft does not panic at, and what it needs to be
//! told of its own.

use proptest::prelude::*;
use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType as T, Snapshot,
};

use super::*;
use crate::machine::group::log::Log;

const OWN: Life = Life(1);
const LEADER: Life = Life(2);

/// One of three voters, at term 1, with nothing in its log.
fn replica() -> Replica {
    let voters = [OWN, LEADER, Life(3)].into();
    let state = State::default();
    let rng = StdRng::seed_from_u64(5);
    Replica::begin(1, OWN, Some((&voters, &state)), rng).unwrap()
}

fn message(kind: T) -> Message {
    let mut message = Message { to: OWN.0, from: LEADER.0, term: 2, ..Message::default() };
    message.set_msg_type(kind);
    (message.index, message.log_term) = (1, 1);
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, ..Entry::default() }
}

fn append(entries: Vec<Entry>) -> Message {
    Message { entries, ..message(T::MsgAppend) }
}

fn change(changes: Vec<ConfChangeSingle>) -> Entry {
    let mut entry = entry(2, 2);
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry.data = ConfChangeV2 { changes, ..ConfChangeV2::default() }.encode_to_vec();
    entry
}

fn snapshot(conf: ConfState) -> Message {
    let data = postcard::to_stdvec(&State::default()).unwrap();
    let mut snapshot = Snapshot { data, ..Snapshot::default() };
    let meta = snapshot.mut_metadata();
    (meta.index, meta.term) = (9, 2);
    meta.set_conf_state(conf);
    let mut message = message(T::MsgSnapshot);
    message.set_snapshot(snapshot);
    message
}

fn voters(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..ConfState::default() }
}

fn step(replica: &mut Replica, message: &Message) -> Result<(), &'static str> {
    replica.step(LEADER, &message.encode_to_vec())
}

#[test]
fn what_a_peer_may_say_is_let_in() {
    let mut replica = replica();
    step(&mut replica, &append(vec![entry(2, 2), entry(3, 2)])).unwrap();
    step(&mut replica, &Message { commit: 3, ..message(T::MsgHeartbeat) }).unwrap();
    let life = |id| ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    let mut four = change(vec![life(4)]);
    four.index = 4;
    let more = Message { index: 3, log_term: 2, commit: 4, ..append(vec![four]) };
    step(&mut replica, &more).unwrap();
    assert!(replica.conf().voters.contains(&Life(4)));
    step(&mut replica, &snapshot(voters(&[1, 2, 3]))).unwrap();
    assert_eq!(replica.stamp().index, 9);
}

#[test]
fn what_would_end_the_process_is_refused_and_said_in_words() {
    let life = |id| ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
    let mut old_change = entry(2, 2);
    old_change.set_entry_type(EntryType::EntryConfChange);
    let mut no_change = change(Vec::new());
    no_change.data = vec![0xff; 3];
    let mut no_state = snapshot(voters(&[1, 2]));
    no_state.mut_snapshot().data = vec![0xff; 3];
    let mut no_index = snapshot(voters(&[1, 2]));
    no_index.mut_snapshot().mut_metadata().index = 0;
    let wrong = "a snapshot with impossible voters";
    let cases = [
        (Message { to: 9, ..message(T::MsgHeartbeat) }, "a message in another's name"),
        (Message { from: 3, ..message(T::MsgHeartbeat) }, "a message in another's name"),
        (Message { term: 0, ..message(T::MsgHeartbeat) }, "a term out of all proportion"),
        (Message { term: 200_000, ..message(T::MsgRequestVote) }, "a term out of all proportion"),
        (
            Message { commit: 4, ..message(T::MsgHeartbeat) },
            "it claims as decided what this node has not got",
        ),
        (
            Message { index: 5, log_term: 0, ..append(vec![entry(6, 2)]) },
            "entries that follow nothing",
        ),
        (append(vec![entry(3, 2)]), "entries out of order"),
        (append(vec![entry(2, 2), entry(4, 2)]), "entries out of order"),
        (append(vec![entry(2, 0)]), "entries of terms to come"),
        (append(vec![entry(2, 3)]), "entries of terms to come"),
        (append(vec![old_change]), "a change of voters that is none"),
        (append(vec![no_change]), "a change of voters that is none"),
        (append(vec![change(vec![life(0)])]), "a change of voters that is none"),
        (append(vec![change(vec![life(4); 21])]), "a change of voters that is none"),
        (snapshot(voters(&[])), wrong),
        (snapshot(voters(&[1, 1])), wrong),
        (snapshot(voters(&[0])), wrong),
        (snapshot(ConfState { learners: vec![1], ..voters(&[1, 2]) }), wrong),
        (snapshot(ConfState { learners_next: vec![5], ..voters(&[1, 2]) }), wrong),
        (no_index, wrong),
        (no_state, "a snapshot of no state"),
        (
            Message { index: 9, ..message(T::MsgAppendResponse) },
            "it claims to have what nobody has sent",
        ),
        (message(T::MsgHup), "a kind of message that peers do not send"),
        (message(T::MsgPropose), "a kind of message that peers do not send"),
        (message(T::MsgBeat), "a kind of message that peers do not send"),
    ];
    for (message, what) in cases {
        assert_eq!(step(&mut replica(), &message), Err(what), "{message:?}");
    }
    assert_eq!(replica().step(LEADER, &[0xff; 9]), Err("a message that is none"));
}

#[test]
fn what_was_decided_is_not_contradicted() {
    let mut replica = replica();
    step(&mut replica, &append(vec![entry(2, 2), entry(3, 2)])).unwrap();
    step(&mut replica, &Message { commit: 3, ..message(T::MsgHeartbeat) }).unwrap();
    let other = Message { term: 4, ..append(vec![entry(2, 4)]) };
    assert_eq!(step(&mut replica, &other), Err("it contradicts what was decided"));
    // Of a term that is over it says nothing, and no harm is done.
    let late = Message { term: 1, ..append(vec![entry(2, 1)]) };
    step(&mut replica, &late).unwrap();
    assert_eq!(replica.stamp().index, 3);
}

#[test]
fn entries_that_are_replaced_are_not_kept() {
    let mut replica = replica();
    let mut kept = Kept::default();
    let three = append(vec![entry(2, 2), entry(3, 2), entry(4, 2)]);
    let other = Message { term: 3, ..append(vec![entry(2, 3)]) };
    for message in [three, other] {
        step(&mut replica, &message).unwrap();
        replica.take_changes().into_iter().for_each(|change| kept.apply(change));
        let snapshot = kept.0.get(&Key::Snapshot).map(|bytes| &bytes[..]);
        let log = Log::load(&kept.0[&Key::Hard], snapshot, kept.entries()).unwrap();
        assert_eq!(log, *replica.log());
    }
    assert_eq!(replica.log().last(), 2);
}

#[test]
fn who_is_elected_leads_when_all_that_was_decided_before_is_decided_by_it_too() {
    let mut replica = replica();
    replica.campaign();
    let mut term = 1;
    for kind in [T::MsgRequestPreVoteResponse, T::MsgRequestVoteResponse] {
        term = term.max(2);
        step(&mut replica, &Message { term, ..message(kind) }).unwrap();
    }
    assert_eq!(replica.mandate().term, 2);
    assert!(!replica.propose(OWN, 1, Op::Forget { app: AppId(1), epoch: Default::default() }));
    assert!(!replica.leads(), "its own first entry is not decided yet");
    step(&mut replica, &Message { index: 2, ..message(T::MsgAppendResponse) }).unwrap();
    assert!(replica.leads());
    assert!(replica.propose(OWN, 1, Op::Forget { app: AppId(1), epoch: Default::default() }));
    let voters = [OWN, LEADER].into();
    assert!(replica.reconfigure(&voters, &BTreeSet::new()));
    let (last, _) = (replica.stamp().index + 2, ());
    step(&mut replica, &Message { index: last, ..message(T::MsgAppendResponse) }).unwrap();
    assert_eq!(replica.conf().voters, voters);
}

#[test]
fn what_is_out_of_bounds_changes_nothing_where_it_is_applied() {
    let mut replica = replica();
    let bytes = Some(vec![0; 70_000]);
    let op = Op::Set { name: "long".to_owned(), expect: None, bytes, sure: false };
    let data = postcard::to_stdvec(&(LEADER, 1u64, op)).unwrap();
    step(&mut replica, &append(vec![Entry { data, ..entry(2, 2) }])).unwrap();
    step(&mut replica, &Message { commit: 2, ..message(T::MsgHeartbeat) }).unwrap();
    assert_eq!(replica.stamp().index, 2);
    assert_eq!(*replica.state(), State::default());
}

fn any_kind() -> impl Strategy<Value = T> {
    prop_oneof![
        4 => Just(T::MsgAppend),
        2 => Just(T::MsgHeartbeat),
        2 => Just(T::MsgSnapshot),
        1 => Just(T::MsgAppendResponse),
        1 => Just(T::MsgHeartbeatResponse),
        1 => Just(T::MsgRequestVote),
        1 => Just(T::MsgRequestVoteResponse),
        1 => Just(T::MsgRequestPreVote),
        1 => Just(T::MsgRequestPreVoteResponse),
        1 => Just(T::MsgTimeoutNow),
        1 => Just(T::MsgTransferLeader),
        1 => Just(T::MsgReadIndex),
        1 => Just(T::MsgPropose),
    ]
}

prop_compose! {
    fn any_entry()(
        index in 0u64..8,
        term in 0u64..4,
        kind in 0..4,
        lives in proptest::collection::vec((0u64..6, 0..3), 0..4),
    ) -> Entry {
        let mut entry = entry(index, term);
        let changes = lives.into_iter().map(|(id, kind)| {
            let mut one = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
            one.set_change_type(match kind {
                0 => ConfChangeType::AddNode,
                1 => ConfChangeType::RemoveNode,
                _ => ConfChangeType::AddLearnerNode,
            });
            one
        });
        let change = ConfChangeV2 { changes: changes.collect(), ..ConfChangeV2::default() };
        match kind {
            0 => {}
            1 => entry.data = vec![1, 2, 3],
            2 => {
                entry.set_entry_type(EntryType::EntryConfChangeV2);
                entry.data = change.encode_to_vec();
            }
            _ => {
                entry.set_entry_type(EntryType::EntryConfChange);
                entry.data = vec![9; 3];
            }
        }
        entry
    }
}

prop_compose! {
    fn any_message()(
        kind in any_kind(),
        (to, from) in (0u64..3, 1u64..4),
        (term, log_term) in (0u64..4, 0u64..4),
        (index, commit) in (0u64..8, 0u64..8),
        entries in proptest::collection::vec(any_entry(), 0..4),
        in_order in any::<bool>(),
        (at, of) in (0u64..9, 0u64..4),
        (voters, learners) in (proptest::collection::vec(0u64..5, 0..4),
            proptest::collection::vec(0u64..5, 0..3)),
        reject in any::<bool>(),
    ) -> Message {
        let mut message = Message { to, from, term, log_term, index, commit, reject,
            reject_hint: at, ..Message::default() };
        message.set_msg_type(kind);
        let entries = entries.into_iter().zip(index + 1..);
        message.entries = entries
            .map(|(it, next)| if in_order { Entry { index: next, ..it } } else { it })
            .collect();
        let data = postcard::to_stdvec(&State::default()).unwrap();
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        let meta = snapshot.mut_metadata();
        (meta.index, meta.term) = (at, of);
        meta.set_conf_state(ConfState { voters, learners, ..ConfState::default() });
        message.set_snapshot(snapshot);
        message
    }
}

proptest! {
    #[test]
    fn nothing_that_peers_send_ends_the_process(
        campaigns in any::<bool>(),
        messages in proptest::collection::vec((any_message(), 0..4), 0..30),
    ) {
        let mut replica = replica();
        if campaigns {
            replica.campaign();
        }
        for (message, ticks) in messages {
            let _ = replica.step(Life(message.from), &message.encode_to_vec());
            (0..ticks).for_each(|_| replica.tick());
            let _ = replica.take_changes();
            let _ = replica.take_messages().count();
        }
    }
}
