//! The machines one by one: tickets, limits, forgeries and nonsense. Whole grids are in `crate::sim`.

use std::time::Duration;

use phantom_classad::Ad;
use proptest::prelude::*;

use super::*;
use crate::machine::Mandate;
use crate::machine::region::catalogue::Catalogue;
use crate::machine::region::power::Summary;
use crate::machine::region::report::{Content, Report};

const NOW: Duration = Duration::from_secs(50);

mod bounds;

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn subgrid(number: u8) -> SubgridId {
    SubgridId([number; 32])
}

struct Members(Vec<(NodeId, Ad)>);

impl Directory for Members {
    fn ads<'a>(&'a self, vo: Option<&str>) -> Box<dyn Iterator<Item = (NodeId, &'a Ad)> + 'a> {
        let all = vo.is_none_or(|vo| vo == "physics");
        Box::new(self.0.iter().filter(move |_| all).map(|(node, ad)| (*node, ad)))
    }
}

fn members(texts: &[&str]) -> Members {
    let ads = texts.iter().enumerate();
    Members(ads.map(|(at, text)| (node(100 + at as u8), Ad::parse(text).unwrap())).collect())
}

fn request(text: &str, wanted: u8, scope: Scope) -> Request {
    Request {
        requirements: text.to_owned(),
        rank: None,
        wanted,
        scope,
        vo: None,
        patience: Duration::from_secs(5),
    }
}

fn query(text: &str, wanted: u8) -> Query {
    Query {
        id: QueryId([9; 16]),
        origin: node(1),
        requirements: text.to_owned(),
        rank: None,
        wanted,
        scope: Scope::Grid,
        vo: None,
        remaining_ms: 5000,
        attempt: 1,
        route: vec![Hop::new(node(1), Role::Asker)],
    }
}

fn sent(next: &mut dyn FnMut() -> Option<Command>) -> Vec<(NodeId, Message)> {
    let commands = std::iter::from_fn(next);
    let sent = commands.filter_map(|command| match command {
        Command::Send { to, message } => Some((to, *message)),
        _ => None,
    });
    sent.collect()
}

fn find(text: &str, rank: Option<&str>, wanted: u8, members: &Members) -> Vec<u8> {
    let query = Query { rank: rank.map(str::to_owned), ..query(text, wanted) };
    let found = Wanted::of(&query).unwrap().find(None, members, subgrid(1));
    found.iter().map(|one| one.node.0[0]).collect()
}

#[test]
fn matches_are_ranked_told_and_judged_by_both_sides() {
    let members = members(&[
        "[ Name = \"a\"; Cpus = 4; Idle = 2; Mflops = 1000 ]",
        "[ Name = \"b\"; Cpus = 8; Idle = 6; Mflops = 1000; Requirements = TARGET.VO == \"physics\" ]",
        "[ Name = \"c\"; Cpus = 8; Idle = 4; Mflops = 3000 ]",
        "[ Name = \"d\"; Cpus = 4; Idle = 1e6; Mflops = 1e300 ]",
        "[ Name = \"e\"; Cpus = 4; Idle = -1; Mflops = real(\"INF\") ]",
    ]);
    assert_eq!(find("Idle >= 2 || Idle < 0", Some("Idle * Mflops"), 5, &members), [102, 100]);
    assert_eq!(find("Idle >= 2", Some("Idle * Mflops"), 1, &members), [102]);
    assert_eq!(find("Idle >= 2", Some("1 / 0"), 5, &members), [100, 102]);
    for absurd in ["NaN", "INF", "-INF"] {
        let rank = format!("ifThenElse(Mflops > 1000, real(\"{absurd}\"), -Mflops)");
        assert_eq!(find("Idle >= 2", Some(&rank), 5, &members), [100, 102], "{absurd}");
    }
    let asked = Query { vo: Some("physics".into()), ..query("TARGET.Idle >= 3", 5) };
    let found = Wanted::of(&asked).unwrap().find(Some("physics"), &members, subgrid(1));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].attributes[0], ("Idle".to_owned(), "6".to_owned()));
    assert!(Wanted::of(&asked).unwrap().find(Some("other"), &members, subgrid(1)).is_empty());
}

#[test]
fn what_runs_wild_matches_nothing_and_ends() {
    // Attributes that refer to each other, each twice: without a bound 2^60 steps.
    let mut bomb = String::from("[ Cpus = 4; a0 = 1;");
    for at in 1..60 {
        bomb += &format!(" a{at} = a{} + a{};", at - 1, at - 1);
    }
    bomb += " ]";
    let members = members(&[&bomb, "[ Cpus = 4; a59 = 1 ]"]);
    assert_eq!(find("a59 > 0", None, 5, &members), [101]);
    let nested = format!("eval(\"{}\")", "1+".repeat(90) + "1");
    assert_eq!(find(&format!("{nested} > 0"), None, 5, &members).len(), 2);
}

#[test]
fn what_makes_no_sense_is_not_asked() {
    let mut asker = Asker::new(node(1), subgrid(1), [1; 32]);
    let refused = asker.handle_request(request("Idle >", 1, Scope::Grid), NOW).unwrap_err();
    assert!(refused.to_string().starts_with("`Idle >` is no expression"), "{refused}");
    let long = request(&"1 || ".repeat(200), 1, Scope::Grid);
    assert!(matches!(asker.handle_request(long, NOW), Err(AskError::Bad(BadQuery::TooLong(1000)))));
    let many = asker.handle_request(request("true", 99, Scope::Grid), NOW);
    assert!(matches!(many, Err(AskError::Bad(BadQuery::Count(99)))));
    for _ in 0..8 {
        asker.handle_request(request("true", 1, Scope::Grid), NOW).unwrap();
    }
    assert_eq!(asker.handle_request(request("true", 1, Scope::Grid), NOW), Err(AskError::TooMany));
}

#[test]
fn only_who_was_asked_answers_an_asker() {
    let mut asker = Asker::new(node(1), subgrid(1), [1; 32]);
    asker.handle_super_peer(Some(node(2)), NOW);
    let id = asker.handle_request(request("true", 1, Scope::SubGrid), NOW).unwrap();
    let answer = Answer {
        id,
        subgrid: subgrid(1),
        ticket: Ticket([0; 16]),
        outcome: Outcome::Met,
        matches: vec![],
        route: vec![],
        steps: 2,
        messages: 2,
    };
    assert_eq!(sent(&mut || asker.poll_command()).len(), 1);
    asker.handle_message(node(3), Message::Answer(answer.clone()), NOW);
    let other = Answer { id: QueryId([0; 16]), ..answer.clone() };
    asker.handle_message(node(2), Message::Answer(other), NOW);
    assert_eq!(asker.poll_command(), None);
    // Busy is no end: it asks again, and is told by its deadline.
    let busy = Answer { outcome: Outcome::Busy, ..answer.clone() };
    asker.handle_message(node(2), Message::Answer(busy), NOW);
    assert_eq!(asker.poll_timeout(), Some(NOW + Duration::from_secs(1)));
    asker.handle_timeout(NOW + Duration::from_secs(1));
    assert_eq!(sent(&mut || asker.poll_command()).len(), 1);
    asker.handle_message(node(2), Message::Answer(answer.clone()), NOW);
    assert!(matches!(asker.poll_command(), Some(Command::Done(_))));
    asker.handle_message(node(2), Message::Answer(answer), NOW);
    assert_eq!(asker.poll_command(), None, "once");
}

#[test]
fn without_a_super_peer_a_question_ends_at_its_deadline() {
    let mut asker = Asker::new(node(1), subgrid(1), [1; 32]);
    asker.handle_request(request("true", 1, Scope::SubGrid), NOW).unwrap();
    let (done, now) = loop {
        let now = asker.poll_timeout().expect("it waits");
        asker.handle_timeout(now);
        match asker.poll_command() {
            Some(Command::Done(answer)) => break (answer, now),
            other => assert_eq!(other, None),
        }
    };
    assert_eq!((done.outcome, now), (Outcome::Late, NOW + Duration::from_secs(5)));
    assert_eq!(asker.poll_timeout(), None);
}

/// A super-peer that has asked its region-peer (node 3) for one node, and the ticket it gave.
fn referred() -> (SuperPeer, Ticket) {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    peer.handle_message(node(1), Message::Ask(query("Idle >= 4", 1)), &members(&[]), NOW);
    let sent = sent(&mut || peer.poll_command());
    let [(to, Message::Refer(_, errand))] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(*to, node(3));
    let ticket = errand.ticket;
    (peer, ticket)
}

fn answer(ticket: Ticket, of: u8, from: u8) -> Answer {
    let found = Match { node: node(77), subgrid: subgrid(of), rank: 0.0, attributes: vec![] };
    Answer {
        id: QueryId([9; 16]),
        subgrid: subgrid(of),
        ticket: ticket.of(node(from), Some(subgrid(of))),
        outcome: Outcome::Met,
        matches: vec![found],
        route: vec![],
        steps: 4,
        messages: 1,
    }
}

#[test]
fn a_super_peer_believes_only_whom_its_region_peer_has_asked() {
    let (mut peer, ticket) = referred();
    let good = answer(ticket, 5, 50);
    let forged = [
        // Another node, another sub-grid, the region-peer's own, a guess.
        (51, good.clone()),
        (50, Answer { subgrid: subgrid(6), ..good.clone() }),
        (50, Answer { ticket: ticket.of(node(50), None), ..good.clone() }),
        (50, Answer { ticket, ..good.clone() }),
        (50, Answer { id: QueryId([8; 16]), ..good.clone() }),
    ];
    for (from, forged) in forged {
        peer.handle_message(node(from), Message::Answer(forged), &members(&[]), NOW);
        assert_eq!(peer.poll_command(), None);
    }
    // Who was asked speaks for its own sub-grid only.
    let mut foreign = good.clone();
    foreign.matches[0].subgrid = subgrid(6);
    peer.handle_message(node(50), Message::Answer(foreign), &members(&[]), NOW);
    assert_eq!(peer.poll_command(), None);
    let (mut peer, ticket) = referred();
    let good = answer(ticket, 5, 50);
    peer.handle_message(node(50), Message::Answer(good.clone()), &members(&[]), NOW);
    let done = sent(&mut || peer.poll_command());
    let [(to, Message::Answer(answer))] = &done[..] else { panic!("{done:?}") };
    assert_eq!((*to, answer.outcome, answer.matches.len()), (node(1), Outcome::Met, 1));
    // Late, it changes nothing; who asks again is told the same.
    peer.handle_message(node(50), Message::Answer(good), &members(&[]), NOW);
    assert_eq!(peer.poll_command(), None);
    peer.handle_message(node(1), Message::Ask(query("Idle >= 4", 1)), &members(&[]), NOW);
    assert_eq!(sent(&mut || peer.poll_command()), done);
    assert_eq!(peer.pending(), 0);
}

#[test]
fn a_forged_referral_ends_nothing() {
    let (mut peer, ticket) = referred();
    let nobody = Referral {
        id: QueryId([9; 16]),
        attempt: 1,
        ticket: ticket.of(node(3), None),
        region: RegionId([1; 8]),
        asked: vec![],
        crossed: vec![],
        more: false,
        messages: 1,
    };
    let forged = [
        (4, nobody.clone()),
        (3, Referral { ticket, ..nobody.clone() }),
        (3, Referral { attempt: 7, ..nobody.clone() }),
    ];
    for (from, forged) in forged {
        peer.handle_message(node(from), Message::Referral(forged), &members(&[]), NOW);
        assert_eq!((peer.poll_command(), peer.pending()), (None, 1));
    }
    peer.handle_message(node(3), Message::Referral(nobody), &members(&[]), NOW);
    let done = sent(&mut || peer.poll_command());
    assert!(matches!(&done[..], [(_, Message::Answer(it))] if it.outcome == Outcome::Short));
}

#[test]
fn who_floods_is_named_and_others_are_served() {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    let (mut named, mut answered, mut referred, mut busy) = (0, 0, 0, 0);
    for number in 0..5000u32 {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let asked = Query { id: QueryId(id), ..query("Idle >= 4", 1) };
        peer.handle_message(node(1), Message::Ask(asked), &members(&[]), NOW);
        while let Some(command) = peer.poll_command() {
            match command {
                Command::Flooding { node: by, .. } => {
                    assert_eq!(by, node(1));
                    named += 1;
                }
                Command::Send { message, .. } => match *message {
                    Message::Refer(..) => referred += 1,
                    Message::Answer(answer) if answer.outcome == Outcome::Busy => busy += 1,
                    _ => answered += 1,
                },
                Command::Done(_) => answered += 1,
            }
        }
    }
    assert_eq!((named, answered, referred, busy), (1, 0, 16, 44));
    let other = Query { id: QueryId([7; 16]), origin: node(8), ..query("true", 1) };
    let one = members(&["[ Cpus = 1 ]"]);
    peer.handle_message(node(8), Message::Ask(other), &one, NOW);
    assert!(matches!(&sent(&mut || peer.poll_command())[..], [(to, _)] if *to == node(8)));
    // Nobody asks in another's name.
    let other = Query { id: QueryId([6; 16]), origin: node(8), ..query("true", 1) };
    peer.handle_message(node(9), Message::Ask(other), &one, NOW);
    assert_eq!(peer.poll_command(), None);
}

fn region_peer() -> (RegionPeer, Catalogue) {
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved((1..=5).map(subgrid));
    let ad = Ad::parse("[ Cpus = 8; Idle = 6; Mflops = 1000 ]").unwrap();
    for of in 1..=5 {
        let summary = Summary::of((0..of).map(|_| (node(1), &ad)));
        let report = Report {
            subgrid: subgrid(of),
            mandate: Mandate::default(),
            coordinate: Coordinate::default(),
            digest: summary.digest(),
            content: Content::Whole(Box::new(summary)),
        };
        catalogue.handle_report(node(of), &report, NOW).unwrap();
    }
    (RegionPeer::new(node(90), RegionId([1; 8]), 2), catalogue)
}

fn errand(reply_to: NodeId) -> Errand {
    Errand {
        ticket: Ticket([4; 16]),
        reply_to,
        tried: vec![],
        regions: vec![],
        crossed: false,
        near: None,
    }
}

#[test]
fn a_region_peer_asks_few_of_the_strongest_and_each_question_once() {
    let (mut peer, mut catalogue) = region_peer();
    let asked = || query("Idle >= 4", 2);
    let refer = |query: Query| Message::Refer(query, errand(node(1)));
    peer.handle_message(node(1), refer(asked()), &mut catalogue, NOW);
    let first = sent(&mut || peer.poll_command());
    let to: Vec<u8> = first.iter().map(|(to, _)| to.0[0]).collect();
    assert_eq!(to, [5, 4, 1], "two sub-grids, and who waits");
    // A copy, a loop, one that is over, a stranger, and somebody who would have others answered to.
    let long = vec![Hop::new(node(1), Role::RegionPeer); MAX_HOPS];
    for (from, query) in [
        (1, asked()),
        (1, Query { attempt: 2, route: long, ..asked() }),
        (1, Query { attempt: 3, remaining_ms: 0, ..asked() }),
        (70, Query { attempt: 4, ..asked() }),
        (2, Query { attempt: 5, ..asked() }),
    ] {
        peer.handle_message(node(from), refer(query), &mut catalogue, NOW);
        assert_eq!(peer.poll_command(), None);
    }
    let tried = vec![Tried::new(subgrid(5), true), Tried::new(subgrid(4), false)];
    let next = Message::Refer(Query { attempt: 6, ..asked() }, Errand { tried, ..errand(node(1)) });
    peer.handle_message(node(1), next, &mut catalogue, NOW);
    let next = sent(&mut || peer.poll_command());
    let to: Vec<u8> = next.iter().map(|(to, _)| to.0[0]).collect();
    assert_eq!(to, [3, 2, 1], "who has answered is not asked again, who is late after others");
    assert!(matches!(&next[2].1, Message::Referral(it) if it.more));
}

#[test]
fn a_super_peer_answers_its_region_peer_only() {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    let one = members(&["[ Cpus = 1 ]"]);
    let forward = Forward { ticket: Ticket([1; 16]), reply_to: node(30), subgrid: subgrid(1) };
    let ask = |attempt| Message::Forward(Query { attempt, ..query("true", 1) }, forward);
    peer.handle_message(node(4), ask(1), &one, NOW);
    assert_eq!(peer.poll_command(), None);
    peer.handle_message(node(3), ask(1), &one, NOW);
    let answered = sent(&mut || peer.poll_command());
    assert!(
        matches!(&answered[..], [(to, Message::Answer(it))] if *to == node(30) && it.matches.len() == 1)
    );
    peer.handle_message(node(3), ask(1), &one, NOW);
    assert_eq!(peer.poll_command(), None, "a copy");
    peer.handle_message(node(3), ask(2), &one, NOW);
    assert_eq!(sent(&mut || peer.poll_command()).len(), 1, "a repetition");
}

#[test]
fn the_largest_messages_fit_a_datagram() {
    let hops = vec![Hop::new(node(1), Role::Answerer); MAX_HOPS];
    let largest = Query {
        requirements: "r".repeat(MAX_EXPRESSION - 100),
        rank: Some("r".repeat(100)),
        vo: Some("v".repeat(MAX_VO)),
        wanted: MAX_WANTED,
        remaining_ms: MAX_REMAINING_MS,
        attempt: u16::MAX,
        route: hops.clone(),
        ..query("", 1)
    };
    let errand = Errand {
        tried: vec![Tried::new(subgrid(250), true); MAX_TRIED],
        regions: vec![RegionId([255; 8]); MAX_REGIONS_TRIED],
        near: Some(Coordinate::default()),
        ..errand(node(1))
    };
    let matches = (0..MAX_WANTED).map(|at| Match {
        node: node(at),
        subgrid: subgrid(at),
        rank: f64::MAX,
        attributes: vec![("a".repeat(MAX_ATTRIBUTE), "b".repeat(MAX_ATTRIBUTE)); MAX_ATTRIBUTES],
    });
    let full = Answer {
        matches: matches.collect(),
        route: hops,
        messages: u16::MAX,
        ..answer(Ticket([1; 16]), 200, 1)
    };
    for message in [Message::Refer(largest, errand), Message::Answer(full)] {
        let bytes = message.to_bytes();
        assert!(bytes.len() <= MAX_MESSAGE, "{} of {message:?}", bytes.len());
        let read = Message::read(&bytes).expect("it reads back");
        match (&message, &read) {
            (Message::Answer(_), Message::Answer(read)) => {
                assert_eq!(read.matches.len(), usize::from(MAX_WANTED));
            }
            _ => assert_eq!(read, message),
        }
    }
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let messages = [
        Message::Ask(query("Idle >= 4 && Name == \"a\"", 3)),
        Message::Refer(query("Idle >= 4", 2), errand(node(1))),
        Message::Forward(
            query("true", 1),
            Forward { ticket: Ticket([1; 16]), reply_to: node(3), subgrid: subgrid(1) },
        ),
        Message::Answer(answer(Ticket([4; 16]), 5, 50)),
        Message::Referral(Referral {
            id: QueryId([9; 16]),
            attempt: 1,
            ticket: Ticket([4; 16]).of(node(3), None),
            region: RegionId([1; 8]),
            asked: vec![subgrid(4)],
            crossed: vec![],
            more: true,
            messages: 2,
        }),
    ];
    let bytes = messages.iter().map(Message::to_bytes).collect::<Vec<_>>();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let changed = (prop::sample::select(bytes), changes).prop_map(|(mut bytes, changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..1200)]
}

proptest! {
    #[test]
    fn nothing_that_is_sent_does_harm(
        all in prop::collection::vec((any_message(), prop::sample::select(vec![1u8, 2, 3, 5, 50])), 1..40),
    ) {
        let members = members(&["[ Cpus = 8; Idle = 6 ]", "[ Cpus = 4; Idle = Target.x ]"]);
        let (mut super_peer, _) = referred();
        let (mut region_peer, mut catalogue) = region_peer();
        let mut asker = Asker::new(node(1), subgrid(1), [1; 32]);
        asker.handle_super_peer(Some(node(2)), NOW);
        asker.handle_request(request("true", 1, Scope::SubGrid), NOW).unwrap();
        let (mut now, mut sent) = (NOW, 0);
        for (bytes, from) in &all {
            now += Duration::from_millis(40);
            let Some(message) = Message::read(bytes) else { continue };
            prop_assert!(message.to_bytes().len() <= MAX_MESSAGE);
            asker.handle_message(node(*from), message.clone(), now);
            region_peer.handle_message(node(*from), message.clone(), &mut catalogue, now);
            super_peer.handle_message(node(*from), message, &members, now);
            super_peer.handle_timeout(now);
            asker.handle_timeout(now);
            while let Some(command) = asker.poll_command()
                .or_else(|| super_peer.poll_command())
                .or_else(|| region_peer.poll_command())
            {
                sent += 1;
                if let Command::Send { message, .. } = command {
                    let bytes = message.to_bytes();
                    prop_assert_eq!(Message::read(&bytes).map(|read| read.id()), Some(message.id()));
                }
            }
        }
        prop_assert!(sent <= all.len() * 5 + 8, "{sent} commands");
        // Whatever it was, it is over at the deadlines.
        for _ in 0..2000 {
            let due = super_peer.poll_timeout().into_iter().chain(asker.poll_timeout()).min();
            let Some(due) = due else { break };
            now = now.max(due);
            super_peer.handle_timeout(now);
            asker.handle_timeout(now);
            while super_peer.poll_command().or_else(|| asker.poll_command()).is_some() {}
        }
        prop_assert_eq!((super_peer.pending(), super_peer.poll_timeout()), (0, None));
        prop_assert_eq!(asker.poll_timeout(), None);
    }
}
