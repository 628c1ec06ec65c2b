//! The choice of what to propose, and when it is decided: Paxos without messages.

use super::*;
use crate::machine::group::synod::{Attempt, Choice};

fn view(electors: usize) -> View {
    let lives = (0..electors).map(|number| (id(number), Life(number as u64 + 1)));
    let view = View {
        generation: 1,
        electors: lives.collect(),
        tie: id(0),
        voters: BTreeSet::from([id(0)]),
    };
    assert!(view.is_sound());
    view
}

fn founding(by: usize) -> Box<Founding> {
    let view = View { generation: 2, tie: id(by), ..view(5) };
    Box::new(Founding { view, state: State::default(), is_refounded: false })
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, life: 1 }
}

fn attempt() -> Attempt {
    Attempt::new(ballot(100))
}

/// Promises of the first of five: what each has accepted, by round and who proposed it.
fn choice(promises: &[Option<(u64, usize)>], office: u64) -> Option<Choice> {
    let mut attempt = attempt();
    for (from, accepted) in promises.iter().enumerate() {
        let accepted = accepted.map(|(round, by)| (ballot(round), founding(by)));
        let progress = Progress { office: ballot(office), ..Progress::default() };
        attempt.promised(id(from), accepted, progress);
    }
    attempt.choice(&view(5), &BTreeSet::new())
}

#[test]
fn nothing_is_chosen_before_a_majority_has_promised() {
    assert_eq!(choice(&[None, None], 0), None);
    assert_eq!(choice(&[None, None, None], 0), Some(Choice::Free));
    assert_eq!(choice(&[Some((1, 1)), None], 0), None);
}

#[test]
fn what_may_have_been_decided_is_proposed_again() {
    let first = Some(Choice::Bound(founding(1)));
    assert_eq!(choice(&[Some((1, 1)), None, None], 0), first, "two others may have it");
    assert_eq!(choice(&[Some((1, 1)), Some((1, 1)), Some((1, 1))], 0), first);
    let second = Some(Choice::Bound(founding(2)));
    assert_eq!(choice(&[Some((1, 1)), Some((7, 2)), None], 0), second, "the later one");
    assert_eq!(choice(&[Some((7, 2)), Some((1, 1)), None], 0), second);
}

#[test]
fn what_cannot_have_been_decided_does_not_bind() {
    assert_eq!(choice(&[Some((1, 1)), None, None, None], 0), Some(Choice::Free));
    assert_eq!(choice(&[Some((7, 2)), Some((1, 1)), None, Some((1, 1))], 0), Some(Choice::Free));
    assert_eq!(
        choice(&[Some((7, 2)), Some((1, 2)), None, Some((1, 1))], 0),
        Some(Choice::Bound(founding(2))),
        "who has accepted the same earlier still has it"
    );
}

#[test]
fn what_was_accepted_before_an_office_does_not_bind() {
    assert_eq!(choice(&[Some((1, 1)), None, None], 2), Some(Choice::Free));
    assert_eq!(choice(&[Some((3, 1)), None, None], 2), Some(Choice::Bound(founding(1))));
}

#[test]
fn a_majority_that_has_accepted_decides() {
    let nobody = BTreeSet::new();
    let mut attempt = attempt();
    assert!((0..5).all(|from| !attempt.accepted(id(from), &view(5), &nobody)), "no proposal");
    let mut attempt = self::attempt();
    attempt.proposal = Some(*founding(0));
    assert!(!attempt.accepted(id(1), &view(5), &nobody));
    assert!(!attempt.accepted(id(1), &view(5), &nobody));
    assert!(!attempt.accepted(id(8), &view(5), &nobody), "a stranger");
    assert!(!attempt.accepted(id(2), &view(5), &nobody));
    assert!(attempt.accepted(id(3), &view(5), &nobody));
}

#[test]
fn who_was_put_out_counts_as_agreeing() {
    let removed = BTreeSet::from([id(3), id(4), id(9)]);
    let mut attempt = attempt();
    attempt.promised(id(0), None, Progress::default());
    assert_eq!(attempt.choice(&view(5), &removed), Some(Choice::Free));
    attempt.proposal = Some(*founding(0));
    assert!(attempt.accepted(id(0), &view(5), &removed));
}

#[test]
fn half_of_them_are_a_majority_with_the_one_that_breaks_ties() {
    let view = view(4);
    assert!(view.is_quorum(&[id(0), id(1)]));
    assert!(!view.is_quorum(&[id(1), id(2)]));
    assert!(view.is_quorum(&[id(1), id(2), id(3)]));
    assert!(!view.is_quorum(&[id(0), id(8), id(9)]));
}

#[test]
fn any_two_majorities_have_an_elector_in_common() {
    for electors in 1..=9 {
        let view = view(electors);
        let all = 0..1u32 << electors;
        let present = |set: u32| (0..electors).filter(move |at| set >> at & 1 == 1).map(id);
        let majorities: Vec<u32> =
            all.filter(|set| view.is_quorum(&present(*set).collect::<Vec<_>>())).collect();
        for one in &majorities {
            assert!(majorities.iter().all(|other| one & other != 0), "{one:b}");
        }
    }
}

#[test]
fn views_that_make_no_sense_are_not_taken() {
    type Change = fn(&mut View);
    let changes: [(&str, Change); 8] = [
        ("nobody", |it| it.electors.clear()),
        ("too many", |it| {
            let many = 0..MAX_ELECTORS + 1;
            it.electors = many.map(|number| (id(number), Life(number as u64 + 1))).collect();
        }),
        ("two with one life", |it| it.electors.extend([(id(7), Life(1))])),
        ("one without", |it| it.electors.extend([(id(7), Life(0))])),
        ("a tie for nobody", |it| it.tie = id(7)),
        ("no voters", |it| it.voters.clear()),
        ("a voter who is none", |it| it.voters.extend([id(7)])),
        ("no generation", |it| it.generation = 0),
    ];
    for (what, change) in changes {
        let mut view = view(5);
        change(&mut view);
        assert!(!view.is_sound(), "{what}");
    }
    let mut view = view(6);
    view.voters = view.electors.keys().copied().collect();
    assert!(!view.is_sound(), "too many voters");
}
