//! What is durable, and when.

use prost::Message as _;
use raft::eraftpb::{self, HardState, MessageType, Snapshot};

use crate::machine::group::log::Log;
use crate::machine::group::message::{Body, Message};
use crate::machine::group::synod::{Acceptor, Ballot, Progress};
use crate::machine::group::{Founding, Group, Kept, Key};

/// What is promised is durable before it is said.
pub fn assert_kept_first(kept: &Kept, payload: &[u8]) {
    let acceptor = || {
        let bytes = &kept.0[&Key::Founding];
        postcard::from_bytes::<(Founding, Acceptor)>(bytes).unwrap().1
    };
    match Message::decode(payload).unwrap().body {
        Body::Promise { ballot, .. } => assert!(acceptor().promised >= ballot),
        Body::Prepare(ballot) => assert!(acceptor().promised >= ballot),
        Body::Heard { promised, .. } => {
            // Who has no seat promises nothing.
            assert!(promised == Ballot::default() || acceptor().promised >= promised);
        }
        Body::Accepted(ballot) => assert_eq!(acceptor().accepted.unwrap().0, ballot),
        Body::Accept { ballot, founding } => {
            let (last, accepted) = acceptor().accepted.unwrap();
            assert!(last > ballot || last == ballot && accepted == founding);
        }
        Body::Witnessed { office, .. } => {
            let witnessed: Progress = postcard::from_bytes(&kept.0[&Key::Witnessed]).unwrap();
            assert!(witnessed.office >= office && acceptor().promised >= office);
        }
        Body::Founded(founding) => {
            let known: (Founding, Acceptor) =
                postcard::from_bytes(&kept.0[&Key::Founding]).unwrap();
            assert!(known.0.view.generation >= founding.view.generation);
        }
        Body::Raft(bytes) => assert_log_kept_first(kept, &bytes),
        _ => {}
    }
}

fn assert_log_kept_first(kept: &Kept, bytes: &[u8]) {
    let message = eraftpb::Message::decode(bytes).unwrap();
    let hard = kept.0.get(&Key::Hard).map(|bytes| HardState::decode(&bytes[..]).unwrap());
    let hard = hard.unwrap_or_default();
    let last = kept.0.keys().filter_map(|key| match key {
        Key::Entry(index) => Some(*index),
        _ => None,
    });
    let snapshot = kept.0.get(&Key::Snapshot).map(|bytes| Snapshot::decode(&bytes[..]).unwrap());
    let last = last.max().unwrap_or(0).max(snapshot.map_or(0, |it| it.get_metadata().index));
    match message.get_msg_type() {
        MessageType::MsgRequestVote => {
            assert!(hard.term > message.term || hard.term == message.term && hard.vote != 0);
        }
        MessageType::MsgRequestVoteResponse if !message.reject => {
            assert!(
                hard.term > message.term || hard.term == message.term && hard.vote == message.to,
                "a vote is told before it is kept"
            );
        }
        MessageType::MsgAppendResponse if !message.reject => {
            assert!(last >= message.index, "entries are acknowledged before they are kept");
        }
        _ => {}
    }
}

/// What is kept is what the node knows.
pub fn assert_kept(group: &Group, kept: &Kept) {
    let Some(founding) = &group.founding else { return };
    let (known, acceptor): (Founding, Acceptor) =
        postcard::from_bytes(&kept.0[&Key::Founding]).unwrap();
    assert_eq!(known, *founding);
    assert_eq!(acceptor.accepted, group.acceptor.accepted);
    let witnessed = kept.0.get(&Key::Witnessed).map(|bytes| postcard::from_bytes(bytes).unwrap());
    let witnessed: Progress = witnessed.unwrap_or_default();
    assert_eq!(witnessed, group.witnessed);
    let log = kept.0.get(&Key::Hard).map(|hard| {
        let snapshot = kept.0.get(&Key::Snapshot).map(|bytes| &bytes[..]);
        Log::load(hard, snapshot, kept.entries()).expect("the log that is kept can be read")
    });
    match &group.replica {
        Some(replica) => assert_eq!(log.unwrap_or_default(), *replica.log()),
        None => assert!(log.is_none()),
    }
}
