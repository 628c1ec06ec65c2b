//! One elector, and what it does at what others send: each of its promises by itself.

use std::cell::RefCell;

use phantom_model::Epoch;

use super::kept::assert_kept_first;
use super::*;
use crate::machine::group::message::{Body, Message};

/// One of five, who is no voter. The others' lives are their numbers.
struct Elector {
    group: Group,
    kept: Kept,
    now: Duration,
    complaints: RefCell<Vec<&'static str>>,
}

fn mandate(term: u64) -> Mandate {
    Mandate { generation: 1, term }
}

fn ballot(round: u64, life: u64) -> Ballot {
    Ballot { round, life }
}

fn granted(app: u64, epoch: u64) -> State {
    let mut state = State::default();
    for after in 0..epoch {
        let grant = Op::Grant { app: AppId(app), after: Epoch(after), host: id(1) };
        state.apply(grant, Stamp { mandate: mandate(1), index: after });
    }
    state
}

fn decided(office: Ballot, index: u64, state: State) -> Box<Progress> {
    Box::new(Progress { at: Stamp { mandate: mandate(1), index }, state, office })
}

impl Elector {
    /// With this life in its seat; `None`: its own.
    fn seated(seat: Option<Life>) -> Self {
        let now = secs(1000);
        let group = Group::new(id(0), false, &Kept::default(), [3; 32], now);
        let complaints = RefCell::default();
        let mut elector = Self { group, kept: Kept::default(), now, complaints };
        let seat = seat.unwrap_or(elector.group.life);
        let founding = elector.founding(1, seat);
        elector.look(1..5);
        elector.group.adopt(founding, now);
        elector.drain();
        elector
    }

    fn new() -> Self {
        Self::seated(None)
    }

    fn founding(&self, generation: u64, seat: Life) -> Founding {
        let mut electors: BTreeMap<NodeId, Life> =
            (1..5).map(|number| (id(number), Life(number as u64))).collect();
        electors.insert(id(0), seat);
        let voters = BTreeSet::from([id(1), id(2), id(3)]);
        let view = View { generation, electors, tie: id(1), voters };
        Founding { view, state: State::default(), is_refounded: false }
    }

    /// The next generation, as this one of the others would have it.
    fn next(&self, by: usize) -> Box<Founding> {
        let founding = self.founding(2, self.group.life);
        let view = View { tie: id(by), ..founding.view };
        Box::new(Founding { view, ..founding })
    }

    fn look(&mut self, members: std::ops::Range<usize>) {
        let standing = Standing { alive: true, since: self.now, availability: 500 };
        let members = members.map(|number| (id(number), standing)).collect();
        self.group.handle_members(members, BTreeSet::new(), 500, self.now);
    }

    /// What is to be sent, after all that is to be durable is.
    fn drain(&mut self) -> Vec<(NodeId, Body)> {
        let mut sent = Vec::new();
        while let Some(command) = self.group.poll_command() {
            match command {
                Command::Save(changes) => changes.into_iter().for_each(|it| self.kept.apply(it)),
                Command::Send { to, payload, .. } => {
                    assert_kept_first(&self.kept, &payload);
                    sent.push((to, Message::decode(&payload).unwrap().body));
                }
                Command::Complain { what, .. } => self.complaints.borrow_mut().push(what),
                Command::Led(_) | Command::Done { .. } => {}
            }
        }
        sent
    }

    fn hear_as(&mut self, from: usize, generation: u64, life: u64, body: Body) -> Vec<Body> {
        let message = Message { generation, life: Life(life), body };
        self.group.handle_message(id(from), &message.encode(), self.now);
        self.drain().into_iter().filter(|(to, _)| *to == id(from)).map(|(_, body)| body).collect()
    }

    fn hear(&mut self, from: usize, body: Body) -> Vec<Body> {
        self.hear_as(from, 1, from as u64, body)
    }

    fn beat(&mut self, from: usize, term: u64, office: Ballot) -> Vec<Body> {
        self.hear(from, Body::Beat { mandate: mandate(term), office, sent: 7 })
    }

    fn prepare(&mut self, from: usize, ballot: Ballot) -> Option<(Ballot, Progress)> {
        match self.hear(from, Body::Prepare(ballot)).pop()? {
            Body::Promise { accepted, progress, .. } => {
                Some((accepted.map(|(ballot, _)| ballot).unwrap_or_default(), *progress))
            }
            _ => None,
        }
    }

    fn accept(&mut self, from: usize, ballot: Ballot) -> bool {
        let founding = self.next(from);
        let answer = self.hear(from, Body::Accept { ballot, founding }).pop();
        matches!(answer, Some(Body::Accepted(_)))
    }

    fn witness(&mut self, from: usize, decided: Box<Progress>) -> bool {
        let answer = self.hear(from, Body::Witness { number: 1, decided }).pop();
        matches!(answer, Some(Body::Witnessed { .. }))
    }

    fn wait(&mut self, seconds: u64) {
        self.now += secs(seconds);
    }

    fn restart(&mut self) {
        self.group = Group::new(id(0), false, &self.kept, [4; 32], self.now);
        self.look(1..5);
        assert!(self.drain().is_empty());
    }

    fn complaint(&self) -> Option<&'static str> {
        self.complaints.borrow_mut().pop()
    }
}

#[test]
fn who_has_heard_its_super_peer_helps_nobody_else_for_a_lease() {
    let mut elector = Elector::new();
    assert!(!elector.beat(1, 1, ballot(1, 1)).is_empty());
    elector.wait(9);
    assert!(elector.prepare(2, ballot(2, 2)).is_none());
    assert!(!elector.accept(2, ballot(2, 2)));
    assert!(elector.prepare(1, ballot(2, 1)).is_some(), "but that one");
    elector.wait(2);
    assert!(elector.prepare(2, ballot(3, 2)).is_some());
    assert!(elector.accept(2, ballot(3, 2)));
}

#[test]
fn who_was_started_anew_does_not_know_to_whom_it_is_bound_and_helps_nobody_for_a_lease() {
    let mut elector = Elector::new();
    elector.beat(1, 2, ballot(1, 1));
    elector.restart();
    // One that was followed by another, which it does not know any more.
    assert!(!elector.beat(2, 1, ballot(1, 2)).is_empty());
    elector.wait(9);
    for from in [1, 2] {
        assert!(elector.prepare(from, ballot(2, from as u64)).is_none());
        assert!(!elector.accept(from, ballot(2, from as u64)));
    }
    elector.wait(2);
    assert!(elector.prepare(1, ballot(2, 1)).is_some());
}

#[test]
fn what_is_older_than_what_was_promised_is_neither_promised_nor_accepted() {
    for restarted in [false, true] {
        let mut elector = Elector::new();
        assert!(elector.prepare(2, ballot(5, 2)).is_some());
        if restarted {
            elector.restart();
            elector.wait(11);
        }
        assert!(elector.prepare(3, ballot(4, 3)).is_none());
        assert!(!elector.accept(3, ballot(4, 3)));
        assert!(!elector.accept(1, ballot(5, 1)), "of one round the life decides");
        assert!(elector.accept(2, ballot(5, 2)));
        assert!(elector.accept(4, ballot(6, 4)), "what is newer also unprepared");
        assert!(!elector.accept(2, ballot(5, 2)));
    }
}

#[test]
fn what_was_accepted_is_told_to_who_tries_next() {
    for restarted in [false, true] {
        let mut elector = Elector::new();
        assert!(elector.accept(2, ballot(5, 2)));
        if restarted {
            elector.restart();
            elector.wait(11);
        }
        let (accepted, _) = elector.prepare(3, ballot(6, 3)).unwrap();
        assert_eq!(accepted, ballot(5, 2));
        assert!(elector.accept(4, ballot(7, 4)));
        assert_eq!(elector.prepare(3, ballot(8, 3)).unwrap().0, ballot(7, 4));
    }
}

#[test]
fn who_has_accepted_another_generation_answers_for_this_one_no_more() {
    let mut elector = Elector::new();
    assert!(elector.accept(2, ballot(5, 2)));
    assert!(elector.beat(1, 1, ballot(6, 1)).is_empty());
    assert!(!elector.witness(1, decided(ballot(6, 1), 3, granted(1, 1))));
    assert_eq!(elector.group.super_peer().map(|led| led.node), Some(id(1)), "but follows it");
    assert!(elector.prepare(3, ballot(7, 3)).is_some(), "and is bound to nobody");
}

#[test]
fn an_office_ends_what_was_prepared_before_it() {
    for restarted in [false, true] {
        let mut elector = Elector::new();
        assert!(elector.prepare(2, ballot(5, 2)).is_some());
        let answer = elector.beat(1, 1, ballot(6, 1)).pop();
        let heard = |answer| match answer {
            Some(Body::Heard { promised, .. }) => promised,
            other => panic!("{other:?}"),
        };
        assert_eq!(heard(answer), ballot(6, 1));
        if restarted {
            elector.restart();
        }
        elector.wait(11);
        assert!(!elector.accept(2, ballot(5, 2)));
        // One that is older than what was promised since hears of that.
        assert!(elector.prepare(3, ballot(7, 3)).is_some());
        assert_eq!(heard(elector.beat(1, 1, ballot(6, 1)).pop()), ballot(7, 3));
        assert!(!elector.witness(1, decided(ballot(6, 1), 3, granted(1, 1))));
        assert!(elector.witness(1, decided(ballot(8, 1), 3, granted(1, 1))));
        elector.wait(11);
        assert!(!elector.accept(3, ballot(7, 3)), "which was prepared before that was witnessed");
    }
}

#[test]
fn what_was_witnessed_is_told_to_who_tries_next() {
    for restarted in [false, true] {
        let mut elector = Elector::new();
        elector.beat(1, 1, ballot(1, 1));
        assert!(elector.witness(1, decided(ballot(1, 1), 3, granted(1, 2))));
        assert!(elector.witness(1, decided(ballot(1, 1), 4, granted(2, 1))));
        assert!(elector.witness(1, decided(ballot(2, 1), 2, granted(1, 1))), "one that comes late");
        if restarted {
            elector.restart();
        }
        elector.wait(11);
        let (_, progress) = elector.prepare(2, ballot(3, 2)).unwrap();
        assert_eq!(progress.at.index, 4);
        assert_eq!(progress.office, ballot(2, 1));
        assert_eq!(progress.state.grant(AppId(1)).unwrap().epoch, Epoch(2));
        assert_eq!(progress.state.grant(AppId(2)).unwrap().epoch, Epoch(1));
    }
}

#[test]
fn a_super_peer_of_before_is_not_answered() {
    let mut elector = Elector::new();
    assert!(elector.beat(1, 1, ballot(1, 1)).len() == 1);
    assert!(elector.beat(2, 3, ballot(2, 2)).len() == 1);
    assert!(elector.beat(1, 1, ballot(3, 1)).is_empty(), "an earlier mandate");
    assert!(elector.beat(3, 3, ballot(3, 3)).is_empty(), "another's");
    let foreign = Mandate { generation: 2, term: 9 };
    let body = Body::Beat { mandate: foreign, office: ballot(3, 3), sent: 7 };
    assert!(elector.hear(3, body).is_empty(), "of no generation that there is");
    let witnessed = decided(ballot(3, 1), 3, granted(1, 1));
    assert!(!elector.witness(1, witnessed.clone()), "nobody witnesses for it");
    assert!(elector.witness(2, witnessed));
    elector.wait(9);
    assert!(elector.prepare(2, ballot(4, 2)).is_some(), "bound to the last one only");
    assert!(elector.prepare(1, ballot(5, 1)).is_none());
}

#[test]
fn a_node_whose_seat_is_of_another_life_promises_nothing() {
    let mut elector = Elector::seated(Some(Life(77)));
    assert!(elector.prepare(2, ballot(5, 2)).is_none());
    let before = elector.kept.clone();
    assert!(!elector.accept(2, ballot(5, 2)));
    elector.beat(1, 1, ballot(6, 1));
    assert!(!elector.witness(1, decided(ballot(6, 1), 3, granted(1, 1))));
    elector.hear(1, Body::Raft(raft_message(elector.group.life.0)));
    assert_eq!(elector.kept, before);
    assert!(!elector.group.replicates());
    let mut founding = elector.next(2);
    founding.view.electors.insert(id(0), Life(77));
    founding.view.voters.insert(id(0));
    elector.hear_as(2, 2, 2, Body::Founded(founding));
    assert_eq!(elector.group.generation(), 2);
    assert!(!elector.group.replicates());
    elector.wait(60);
    elector.look(1..5);
    elector.group.handle_timeout(elector.now);
    assert!(elector.group.attempt.is_none(), "it founds nothing");
}

fn raft_message(to: u64) -> Vec<u8> {
    use prost::Message as _;
    let mut message = raft::eraftpb::Message { to, from: 1, term: 5, ..Default::default() };
    message.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    message.encode_to_vec()
}

#[test]
fn raft_is_heard_from_who_has_a_seat_only() {
    let mut elector = Elector::new();
    let message = raft_message(elector.group.life.0);
    elector.hear_as(1, 1, 99, Body::Raft(message.clone()));
    assert!(!elector.group.replicates());
    elector.hear(1, Body::Raft(message));
    assert!(elector.group.replicates());
}

#[test]
fn what_makes_no_sense_is_refused_and_named() {
    let mut elector = Elector::new();
    let far = ballot(2_000_000, 2);
    assert!(elector.prepare(2, far).is_none());
    assert_eq!(elector.complaint(), Some("a ballot out of all proportion"));
    assert!(elector.beat(1, 1, far).is_empty());
    assert_eq!(elector.complaint(), Some("a ballot out of all proportion"));
    assert!(!elector.witness(1, decided(far, 3, State::default())));
    assert_eq!(elector.complaint(), Some("a state or a ballot out of bounds"));
    let long = Value { bytes: Some(vec![0; 70_000]), at: Stamp::default() };
    let state = State::of_values([("long".to_owned(), long)]);
    assert!(!elector.witness(1, decided(ballot(1, 1), 3, state.clone())));
    assert_eq!(elector.complaint(), Some("a state or a ballot out of bounds"));
    let mut founding = elector.next(2);
    founding.state = state;
    let accept = Body::Accept { ballot: ballot(5, 2), founding: founding.clone() };
    elector.wait(11);
    assert!(elector.hear(2, accept).is_empty());
    assert_eq!(elector.complaint(), Some("a founding that makes no sense"));
    elector.hear_as(2, 2, 2, Body::Founded(founding));
    assert_eq!(elector.group.generation(), 1);
    let mut third = elector.next(2);
    third.view.generation = 3;
    assert!(elector.hear(2, Body::Accept { ballot: ballot(5, 2), founding: third }).is_empty());
    assert!(elector.accept(2, ballot(5, 2)));
    elector.group.handle_message(id(2), &vec![0; MAX_MESSAGE + 1], elector.now);
    elector.drain();
    assert_eq!(elector.complaint(), Some("a message that is none"));
}

#[test]
fn only_members_with_a_life_are_heard() {
    let mut elector = Elector::new();
    elector.look(2..5);
    assert!(elector.prepare(1, ballot(5, 1)).is_none());
    assert!(elector.hear_as(2, 1, 0, Body::Prepare(ballot(5, 2))).is_empty());
    assert!(elector.hear(2, Body::Prepare(ballot(5, 2))).len() == 1);
}

#[test]
fn what_is_of_another_generation_has_no_effect_but_that_the_later_one_is_told() {
    let mut elector = Elector::new();
    let next = elector.next(2);
    let answer = elector.hear_as(2, 2, 2, Body::Prepare(ballot(5, 2)));
    assert!(matches!(answer[..], [Body::AskFounding]), "{answer:?}");
    elector.hear_as(2, 2, 2, Body::Founded(next));
    assert_eq!(elector.group.generation(), 2);
    let answer = elector.hear(3, Body::Prepare(ballot(5, 3)));
    assert!(matches!(answer[..], [Body::Founded(_)]), "{answer:?}");
    let same = elector.next(3);
    elector.hear_as(3, 2, 3, Body::Founded(same));
    assert_eq!(elector.group.view().unwrap().tie, id(2), "what is founded stays");
}

#[test]
fn a_generation_that_nobody_can_have_counted_to_is_not_taken_over() {
    let mut elector = Elector::new();
    for (generation, is_taken) in [(u64::MAX, false), (1 << 40, false), (1000, true)] {
        let mut founding = elector.next(2);
        founding.view.generation = generation;
        elector.hear_as(2, generation, 2, Body::Founded(founding));
        assert_eq!(elector.group.generation() == generation, is_taken, "{generation}");
    }
}

#[test]
fn the_next_generation_forgets_what_was_promised_for_it_and_brings_what_it_lacks() {
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    assert!(elector.witness(1, decided(ballot(1, 1), 3, granted(1, 2))));
    let next = elector.next(2);
    elector.hear_as(2, 2, 2, Body::Founded(next));
    for restarted in [false, true] {
        if restarted {
            elector.restart();
            elector.wait(11);
        }
        let answer = elector.hear_as(3, 2, 3, Body::Prepare(ballot(1, 3))).pop();
        let Some(Body::Promise { accepted, progress, .. }) = answer else { panic!("{answer:?}") };
        assert!(accepted.is_none());
        assert_eq!(*progress, Progress::default());
    }
}

#[test]
fn what_the_next_generation_lacks_is_brought_to_its_super_peer_until_that_has_it() {
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    assert!(elector.witness(1, decided(ballot(1, 1), 3, granted(1, 2))));
    let next = elector.next(2);
    elector.hear_as(2, 2, 2, Body::Founded(next));
    let beat = |term| {
        let mandate = Mandate { generation: 2, term };
        Body::Beat { mandate, office: ballot(1, 2), sent: 7 }
    };
    let merges = |sent: Vec<Body>| {
        sent.iter().any(|body| {
            matches!(body, Body::Merge(state)
            if state.grant(AppId(1)).is_some_and(|grant| grant.epoch == Epoch(2)))
        })
    };
    assert!(merges(elector.hear_as(2, 2, 2, beat(1))));
    elector.wait(1);
    elector.look(1..5);
    assert!(merges(elector.hear_as(2, 2, 2, beat(1))), "again, as it was not answered");
    elector.hear_as(2, 2, 2, Body::Merged);
    elector.wait(1);
    elector.look(1..5);
    assert!(!merges(elector.hear_as(2, 2, 2, beat(1))));
}

#[test]
fn outcomes_are_the_super_peers_to_tell() {
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    let grant = Op::Grant { app: AppId(1), after: Epoch(0), host: id(2) };
    let ticket = elector.group.propose(grant, elector.now).unwrap();
    let outcome = Some(Outcome::Done(Stamp::default()));
    let told = |elector: &mut Elector, from: usize| {
        let body = Body::Outcome { ticket, outcome: outcome.clone() };
        let message = Message { generation: 1, life: Life(from as u64), body };
        elector.group.handle_message(id(from), &message.encode(), elector.now);
        std::iter::from_fn(|| elector.group.poll_command())
            .any(|command| matches!(command, Command::Done { .. }))
    };
    assert!(!told(&mut elector, 2));
    assert!(told(&mut elector, 1));
}

#[test]
fn no_more_is_proposed_than_the_bounds_allow() {
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    let set = |len: usize| {
        let bytes = Some(vec![0; len]);
        Op::Set { name: "name".to_owned(), expect: None, bytes, sure: false }
    };
    assert_eq!(elector.group.propose(set(70_000), elector.now), Err(Declined::TooLarge));
    for _ in 0..MAX_WAITING {
        elector.group.propose(set(1), elector.now).unwrap();
    }
    assert_eq!(elector.group.propose(set(1), elector.now), Err(Declined::Busy));
}

/// An attempt of the elector's, which has promised it itself.
fn attempting() -> (Elector, Ballot) {
    let mut elector = Elector::new();
    elector.group.begin_attempt(elector.now);
    let ballot = elector.group.attempt.as_ref().unwrap().ballot;
    assert_eq!(elector.drain().len(), 4);
    (elector, ballot)
}

fn promise(ballot: Ballot) -> Body {
    Body::Promise { ballot, accepted: None, progress: Box::default() }
}

#[test]
fn an_attempt_counts_promises_and_acceptances_that_are_its_own_and_of_who_has_a_seat() {
    let (mut elector, own) = attempting();
    let proposes = |elector: &Elector| {
        elector.group.attempt.as_ref().is_some_and(|attempt| attempt.proposal.is_some())
    };
    let other = own.next(Life(9));
    elector.hear(4, promise(other));
    elector.hear_as(2, 1, 99, promise(own));
    elector.hear(1, promise(own));
    elector.hear(1, promise(own));
    assert!(!proposes(&elector), "two of five");
    elector.hear(3, promise(own));
    assert!(proposes(&elector));
    elector.hear(1, Body::Accepted(other));
    elector.hear_as(2, 1, 99, Body::Accepted(own));
    elector.hear(3, Body::Accepted(own));
    elector.hear(3, Body::Accepted(own));
    assert_eq!(elector.group.generation(), 1, "two of five");
    elector.hear(4, Body::Accepted(own));
    assert_eq!(elector.group.generation(), 2);
    let founding = elector.group.founding.as_ref().unwrap();
    assert!(founding.is_refounded);
}

#[test]
fn acceptances_before_there_is_a_proposal_found_nothing() {
    let (mut elector, own) = attempting();
    (1..4).for_each(|from| drop(elector.hear(from, Body::Accepted(own))));
    (1..3).for_each(|from| drop(elector.hear(from, promise(own))));
    assert!(elector.group.attempt.as_ref().is_some_and(|attempt| attempt.proposal.is_some()));
    assert_eq!(elector.group.generation(), 1);
}

#[test]
fn survivors_begin_with_all_that_any_of_them_has_witnessed() {
    let (mut elector, own) = attempting();
    let progress = decided(Ballot::default(), 3, granted(1, 2));
    elector.hear(1, Body::Promise { ballot: own, accepted: None, progress });
    elector.hear(2, promise(own));
    let proposal = elector.group.attempt.as_ref().unwrap().proposal.clone().unwrap();
    assert_eq!(proposal.state.grant(AppId(1)).unwrap().epoch, Epoch(2));
    // What comes after the choice is not in the proposal, and changes nothing of it.
    let progress = decided(Ballot::default(), 9, granted(1, 4));
    elector.hear(3, Body::Promise { ballot: own, accepted: None, progress });
    assert_eq!(elector.group.attempt.as_ref().unwrap().proposal.as_ref(), Some(&proposal));
}

#[test]
fn survivors_give_no_seat_to_who_has_lost_its_memory() {
    let (mut elector, own) = attempting();
    elector.hear_as(4, 0, 99, Body::Blank);
    (1..3).for_each(|from| drop(elector.hear(from, promise(own))));
    let proposal = elector.group.attempt.as_ref().unwrap().proposal.clone().unwrap();
    assert!(proposal.view.electors.keys().eq(&[id(0), id(1), id(2), id(3)]));
}

#[test]
fn promises_that_make_no_sense_are_refused_and_named() {
    let (mut elector, own) = attempting();
    let mut other = elector.next(2);
    other.view.generation = 7;
    let accepted = Some((ballot(1, 2), other));
    let body = Body::Promise { ballot: own, accepted, progress: Box::default() };
    elector.hear(2, body);
    assert_eq!(elector.complaint(), Some("a promise that makes no sense"));
    elector.hear(2, Body::Refuse(ballot(5_000_000, 2)));
    assert!(elector.group.attempt.is_some(), "a refusal out of all proportion ends nothing");
    let ahead = Ballot { round: own.round + 9, life: 2 };
    elector.hear(2, Body::Refuse(ahead));
    assert!(elector.group.attempt.is_none());
    elector.group.begin_attempt(elector.now);
    let again = elector.group.attempt.as_ref().unwrap().ballot;
    assert!(again > ahead, "the next goes beyond");
}

#[test]
fn what_it_does_not_promise_itself_it_asks_of_nobody() {
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    elector.group.begin_attempt(elector.now);
    assert!(elector.drain().is_empty());
    assert!(elector.group.attempt.is_none());

    // A super-peer was heard meanwhile: with a higher ballot, or one that will follow.
    for higher in [true, false] {
        let (mut elector, own) = attempting();
        elector.beat(1, 1, if higher { own.next(Life(1)) } else { Ballot::default() });
        let asked: Vec<Body> = (1..3).flat_map(|from| elector.hear(from, promise(own))).collect();
        assert!(asked.is_empty(), "{asked:?}");
        assert!(elector.group.attempt.is_none());
        assert!(elector.group.acceptor.accepted.is_none());
    }
}

#[test]
fn an_attempt_is_made_when_the_super_peer_is_silent_for_a_lease_and_a_majority_lives() {
    let tries = |elector: &mut Elector, members: std::ops::Range<usize>| {
        elector.look(members);
        elector.group.handle_timeout(elector.now);
        elector.group.attempt.is_some()
    };
    let mut elector = Elector::new();
    elector.beat(1, 1, ballot(1, 1));
    elector.wait(9);
    assert!(!tries(&mut elector, 1..5), "before the lease is over");
    elector.beat(1, 1, ballot(1, 1));
    elector.wait(13);
    assert!(!tries(&mut elector, 1..2), "two of five live");
    elector.wait(1);
    assert!(tries(&mut elector, 1..4));
    let mut elector = Elector::new();
    elector.restart();
    elector.wait(9);
    assert!(!tries(&mut elector, 1..5), "so soon after it was started");
}
