//! What the group remembers, and its bounds.

use std::collections::BTreeMap;

use phantom_model::Epoch;

use super::*;
use crate::machine::group::state::MAX_NAMES;

fn at(term: u64, index: u64) -> Stamp {
    Stamp { mandate: Mandate { generation: 1, term }, index }
}

fn grant(app: u64, after: u64, host: usize) -> Op {
    Op::Grant { app: AppId(app), after: Epoch(after), host: id(host) }
}

fn set(name: &str, expect: Option<Stamp>, bytes: Option<Vec<u8>>) -> Op {
    Op::Set { name: name.to_owned(), expect, bytes, sure: true }
}

impl State {
    /// Of any values, also beyond the bounds.
    pub fn of_values(values: impl IntoIterator<Item = (String, Value)>) -> Self {
        let values: BTreeMap<String, Value> = values.into_iter().collect();
        let grants: BTreeMap<AppId, Grant> = BTreeMap::new();
        postcard::from_bytes(&postcard::to_stdvec(&(grants, values)).unwrap()).unwrap()
    }
}

#[test]
fn an_epoch_is_granted_once_and_by_who_knows_the_one_before() {
    let mut state = State::default();
    assert_eq!(state.apply(grant(1, 4, 0), at(1, 1)), Outcome::Done(at(1, 1)));
    let known = Grant { epoch: Epoch(5), host: id(0) };
    assert_eq!(state.apply(grant(1, 4, 1), at(1, 2)), Outcome::NotItsEpoch(Some(known)));
    assert_eq!(state.apply(grant(1, 5, 1), at(1, 3)), Outcome::Done(at(1, 3)));
    let full = Op::Grant { app: AppId(2), after: Epoch(u64::MAX), host: id(0) };
    assert_eq!(state.apply(full, at(1, 4)), Outcome::NotItsEpoch(None));
    let forget = |epoch| Op::Forget { app: AppId(1), epoch: Epoch(epoch) };
    assert!(matches!(state.apply(forget(5), at(1, 5)), Outcome::NotItsEpoch(Some(_))));
    assert!(matches!(state.apply(forget(6), at(1, 6)), Outcome::Done(_)));
    assert_eq!(state.grant(AppId(1)), None);
}

#[test]
fn a_value_is_set_by_who_has_seen_the_one_before() {
    let mut state = State::default();
    let bytes = |byte| Some(vec![byte]);
    assert_eq!(
        state.apply(set("a", Some(at(1, 1)), bytes(1)), at(1, 2)),
        Outcome::Changed(Stamp::default())
    );
    assert!(matches!(
        state.apply(set("a", Some(Stamp::default()), bytes(1)), at(1, 3)),
        Outcome::Done(_)
    ));
    assert_eq!(
        state.apply(set("a", Some(Stamp::default()), bytes(2)), at(1, 4)),
        Outcome::Changed(at(1, 3))
    );
    assert_eq!(state.get("a"), Some(&[1][..]));
}

#[test]
fn what_meets_again_keeps_the_highest_epochs_and_the_latest_values() {
    let (mut one, mut other) = (State::default(), State::default());
    one.apply(grant(1, 4, 0), at(1, 1));
    other.apply(grant(1, 6, 1), at(1, 1));
    one.apply(grant(2, 9, 0), at(1, 1));
    other.apply(grant(2, 1, 1), at(1, 1));
    one.apply(set("a", None, Some(vec![1])), at(2, 1));
    other.apply(set("a", None, Some(vec![2])), at(1, 9));
    other.apply(set("b", None, Some(vec![2])), at(1, 9));
    let (mut left, mut right) = (one.clone(), other.clone());
    left.merge(other);
    right.merge(one);
    assert_eq!(left, right);
    assert_eq!(left.grant(AppId(1)), Some(Grant { epoch: Epoch(7), host: id(1) }));
    assert_eq!(left.grant(AppId(2)), Some(Grant { epoch: Epoch(10), host: id(0) }));
    assert_eq!(left.get("a"), Some(&[1][..]));
    assert_eq!(left.get("b"), Some(&[2][..]));
}

#[test]
fn it_never_outgrows_its_bounds() {
    let mut state = State::default();
    for app in 0..4096 {
        assert!(matches!(state.apply(grant(app, 0, 0), at(1, 1)), Outcome::Done(_)));
    }
    assert_eq!(state.apply(grant(4096, 0, 0), at(1, 1)), Outcome::Full);
    assert!(matches!(state.apply(grant(7, 1, 0), at(1, 2)), Outcome::Done(_)));
    for name in 0..8 {
        let op = set(&name.to_string(), None, Some(vec![0; 64 << 10]));
        assert!(matches!(state.apply(op, at(1, 3)), Outcome::Done(_)));
    }
    assert_eq!(state.apply(set("one more", None, Some(vec![0])), at(1, 4)), Outcome::Full);
    let value = Value { bytes: Some(vec![0]), at: at(5, 5) };
    state.merge(State::of_values([("one more".to_owned(), value)]));
    assert!(state.is_sound() && state.get("one more").is_none());

    let mut state = State::default();
    for name in 0..MAX_NAMES {
        state.apply(set(&name.to_string(), None, Some(vec![0])), at(1, 1));
    }
    assert_eq!(state.apply(set("one more", None, Some(vec![0])), at(1, 2)), Outcome::Full);
    state.apply(set("5", None, None), at(1, 3));
    assert!(matches!(
        state.apply(set("one more", None, Some(vec![0])), at(1, 4)),
        Outcome::Done(_)
    ));
    assert!(state.is_sound());
}

#[test]
fn what_is_beyond_the_bounds_is_not_sound() {
    let value = |len| Value { bytes: Some(vec![0; len]), at: Stamp::default() };
    let many =
        |count, len| State::of_values((0..count).map(|name: usize| (name.to_string(), value(len))));
    assert!(many(MAX_NAMES, 1).is_sound() && many(8, 64 << 10).is_sound());
    assert!(!many(MAX_NAMES + 1, 1).is_sound());
    assert!(!many(9, 64 << 10).is_sound());
    assert!(!State::of_values([("long".to_owned(), value((64 << 10) + 1))]).is_sound());
    assert!(!State::of_values([(String::new(), value(1))]).is_sound());
    assert!(!State::of_values([("n".repeat(257), value(1))]).is_sound());
    assert!(set("a", None, Some(vec![0; 64 << 10])).is_sound());
    assert!(!set("a", None, Some(vec![0; (64 << 10) + 1])).is_sound());
    assert!(!set("", None, None).is_sound());
    assert!(!Op::Merge(Box::new(many(MAX_NAMES + 1, 1))).is_sound());
}
