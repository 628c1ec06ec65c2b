//! What is beyond the bounds is not read, whoever has written it.

use phantom_model::NodeId;

use super::super::{Role, Scope, Tried};
use super::*;
use crate::machine::region::RegionId;

fn query() -> Query {
    Query {
        id: QueryId([9; 16]),
        origin: NodeId([1; 32]),
        requirements: "true".to_owned(),
        rank: None,
        wanted: 1,
        scope: Scope::Grid,
        vo: None,
        remaining_ms: 5000,
        attempt: 1,
        route: Vec::new(),
    }
}

fn errand() -> Errand {
    Errand {
        ticket: Ticket([4; 16]),
        reply_to: NodeId([2; 32]),
        tried: Vec::new(),
        regions: Vec::new(),
        crossed: false,
        near: None,
    }
}

fn referral() -> Referral {
    Referral {
        id: QueryId([9; 16]),
        attempt: 1,
        ticket: Ticket([4; 16]),
        region: RegionId([1; 8]),
        asked: Vec::new(),
        crossed: Vec::new(),
        more: false,
        messages: 1,
    }
}

fn answer() -> WrittenAnswer {
    WrittenAnswer {
        id: QueryId([9; 16]),
        subgrid: SubgridId([5; 32]),
        ticket: Ticket([4; 16]),
        outcome: Outcome::Met,
        others: Vec::new(),
        matches: Vec::new(),
        route: Vec::new(),
        steps: 2,
        messages: 1,
    }
}

fn one(subgrid: u8, rank: f64, attributes: Vec<(String, String)>) -> WrittenMatch {
    WrittenMatch { node: NodeId([7; 32]), subgrid, rank, attributes }
}

fn hops(count: usize) -> Vec<Hop> {
    vec![Hop::new(NodeId([1; 32]), Role::Answerer); count]
}

fn read(written: Written) -> Option<Message> {
    Message::read(&postcard::to_stdvec(&written).unwrap())
}

#[test]
fn queries_beyond_the_bounds_are_not_read() {
    let text = |len: usize| "r".repeat(len);
    let within = [
        query(),
        Query { requirements: text(MAX_EXPRESSION), ..query() },
        Query { vo: Some(text(MAX_VO)), wanted: MAX_WANTED, route: hops(MAX_HOPS), ..query() },
    ];
    let beyond = [
        Query { requirements: text(MAX_EXPRESSION + 1), ..query() },
        Query { requirements: text(MAX_EXPRESSION), rank: Some(text(1)), ..query() },
        Query { vo: Some(text(MAX_VO + 1)), ..query() },
        Query { wanted: 0, ..query() },
        Query { wanted: MAX_WANTED + 1, ..query() },
        Query { route: hops(MAX_HOPS + 1), ..query() },
    ];
    let forward =
        Forward { ticket: Ticket([4; 16]), reply_to: NodeId([2; 32]), subgrid: SubgridId([5; 32]) };
    for (queries, good) in [(&within[..], true), (&beyond[..], false)] {
        for query in queries {
            assert_eq!(read(Written::Ask(query.clone())).is_some(), good, "{query:?}");
            assert_eq!(read(Written::Refer(query.clone(), errand())).is_some(), good);
            assert_eq!(read(Written::Forward(query.clone(), forward)).is_some(), good);
        }
    }
    let asked = Query { remaining_ms: u32::MAX, ..query() };
    let Some(Message::Ask(asked)) = read(Written::Ask(asked)) else { panic!() };
    assert_eq!(asked.remaining_ms, MAX_REMAINING_MS);
}

#[test]
fn errands_and_referrals_beyond_the_bounds_are_not_read() {
    let tried = |count| vec![Tried::new(SubgridId([1; 32]), true); count];
    let regions = |count| vec![RegionId([1; 8]); count];
    let refer = |errand| read(Written::Refer(query(), errand)).is_some();
    assert!(refer(Errand {
        tried: tried(MAX_TRIED),
        regions: regions(MAX_REGIONS_TRIED),
        ..errand()
    }));
    assert!(!refer(Errand { tried: tried(MAX_TRIED + 1), ..errand() }));
    assert!(!refer(Errand { regions: regions(MAX_REGIONS_TRIED + 1), ..errand() }));
    let asked = |count| vec![SubgridId([1; 32]); count];
    let referred = |referral| read(Written::Referral(referral)).is_some();
    assert!(referred(Referral {
        asked: asked(MAX_FAN_OUT),
        crossed: regions(MAX_FAN_OUT),
        ..referral()
    }));
    assert!(!referred(Referral { asked: asked(MAX_FAN_OUT + 1), ..referral() }));
    assert!(!referred(Referral { crossed: regions(MAX_FAN_OUT + 1), ..referral() }));
}

#[test]
fn a_place_that_is_none_is_left_out() {
    let place: Coordinate = {
        let bytes = postcard::to_stdvec(&Coordinate::default()).unwrap();
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        postcard::from_bytes(&bytes).unwrap()
    };
    assert!(place.checked().is_none());
    let errand = Errand { near: Some(place), ..errand() };
    let Some(Message::Refer(_, errand)) = read(Written::Refer(query(), errand)) else { panic!() };
    assert_eq!(errand.near, None);
}

#[test]
fn answers_beyond_the_bounds_are_not_read() {
    let many = usize::from(MAX_WANTED) + 1;
    let attribute = |name: usize, value: usize| ("n".repeat(name), "v".repeat(value));
    let matches = |one: WrittenMatch| WrittenAnswer { matches: vec![one], ..answer() };
    let longest = attribute(MAX_ATTRIBUTE, MAX_ATTRIBUTE);
    let good = [
        answer(),
        matches(one(0, 1.0, vec![longest.clone(); MAX_ATTRIBUTES])),
        WrittenAnswer { others: vec![SubgridId([6; 32])], ..matches(one(1, 1.0, vec![])) },
    ];
    for answer in good {
        assert!(read(Written::Answer(answer)).is_some());
    }
    let bad = [
        WrittenAnswer { matches: (0..many).map(|_| one(0, 1.0, vec![])).collect(), ..answer() },
        WrittenAnswer { others: vec![SubgridId([6; 32]); many], ..answer() },
        WrittenAnswer { route: hops(MAX_HOPS + 1), ..answer() },
        matches(one(1, 1.0, vec![])),
        matches(one(0, f64::NAN, vec![])),
        matches(one(0, f64::INFINITY, vec![])),
        matches(one(0, 1.0, vec![attribute(1, 1); MAX_ATTRIBUTES + 1])),
        matches(one(0, 1.0, vec![attribute(MAX_ATTRIBUTE + 1, 1)])),
        matches(one(0, 1.0, vec![attribute(1, MAX_ATTRIBUTE + 1)])),
        WrittenAnswer {
            matches: (0..3).map(|_| one(0, 1.0, vec![longest.clone(); MAX_ATTRIBUTES])).collect(),
            ..answer()
        },
    ];
    for (at, answer) in bad.into_iter().enumerate() {
        assert!(read(Written::Answer(answer)).is_none(), "{at}");
    }
    let rest = [postcard::to_stdvec(&Written::Answer(answer())).unwrap(), vec![0]].concat();
    assert_eq!(Message::read(&rest), None);
}
