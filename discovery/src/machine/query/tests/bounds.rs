//! What is asked and answered stays within its bounds, and each speaks for itself.

use super::super::limit::{Handled, Limiter, Verdict};
use super::*;
use crate::machine::region::catalogue::RegionReport;

fn numbered(number: u32) -> QueryId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    QueryId(id)
}

fn many(number: u32) -> NodeId {
    let mut bytes = [200; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(bytes)
}

#[test]
fn names_of_virtual_organisations_are_bounded() {
    let vo = |len| Some("v".repeat(len));
    assert!(Wanted::of(&Query { vo: vo(MAX_VO), ..query("true", 1) }).is_ok());
    let long = Wanted::of(&Query { vo: vo(MAX_VO + 1), ..query("true", 1) });
    assert_eq!(long.err(), Some(BadQuery::Vo(MAX_VO + 1)));
}

#[test]
fn an_asker_takes_no_more_than_it_wanted() {
    let mut asker = Asker::new(node(1), subgrid(1), [1; 32]);
    asker.handle_super_peer(Some(node(2)), NOW);
    let id = asker.handle_request(request("true", 2, Scope::SubGrid), NOW).unwrap();
    sent(&mut || asker.poll_command());
    let full = answer(Ticket([0; 16]), 1, 2);
    let matches = vec![full.matches[0].clone(); 5];
    asker.handle_message(node(2), Message::Answer(Answer { id, matches, ..full }), NOW);
    let Some(Command::Done(done)) = asker.poll_command() else { panic!() };
    assert_eq!(done.matches.len(), 2);
}

#[test]
fn a_super_peer_answers_for_its_own_sub_grid_while_there_is_time_and_not_too_often() {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    let one = members(&["[ Cpus = 1 ]"]);
    let forward =
        |of| Forward { ticket: Ticket([1; 16]), reply_to: node(30), subgrid: subgrid(of) };
    let long = vec![Hop::new(node(1), Role::RegionPeer); MAX_HOPS];
    for (query, of) in [
        (Query { attempt: 1, ..query("true", 1) }, 4),
        (Query { attempt: 2, remaining_ms: 0, ..query("true", 1) }, 1),
        (Query { attempt: 3, route: long, ..query("true", 1) }, 1),
    ] {
        peer.handle_message(node(3), Message::Forward(query, forward(of)), &one, NOW);
        assert_eq!(peer.poll_command(), None);
    }
    let (mut answered, mut named) = (0, 0);
    for number in 0..1000 {
        let query = Query { id: numbered(number), ..query("true", 1) };
        peer.handle_message(node(3), Message::Forward(query, forward(1)), &one, NOW);
        match peer.poll_command() {
            Some(Command::Flooding { .. }) => named += 1,
            Some(_) => answered += 1,
            None => {}
        }
    }
    assert_eq!((answered, named), (397, 1), "three were before");
}

#[test]
fn a_question_is_taken_once_from_who_asks_it_and_while_there_is_time() {
    let (mut peer, _) = referred();
    let ask = |query| Message::Ask(query);
    // The same again is one that is under way.
    peer.handle_message(node(1), ask(query("Idle >= 4", 1)), &members(&[]), NOW);
    assert_eq!((peer.poll_command(), peer.pending()), (None, 1));
    let long = vec![Hop::new(node(1), Role::Asker); MAX_HOPS];
    for (number, query) in [
        (1, Query { remaining_ms: 0, ..query("true", 1) }),
        (2, Query { route: long, ..query("true", 1) }),
    ] {
        let query = Query { id: numbered(number), ..query };
        peer.handle_message(node(1), ask(query), &members(&["[ Cpus = 1 ]"]), NOW);
        assert_eq!((peer.poll_command(), peer.pending()), (None, 1));
    }
    // What one was answered is not told to another who knows its number.
    let own = Query { id: numbered(3), ..query("true", 1) };
    peer.handle_message(node(1), ask(own.clone()), &members(&["[ Cpus = 1 ]"]), NOW);
    assert_eq!(sent(&mut || peer.poll_command()).len(), 1);
    let other = Query { origin: node(8), scope: Scope::SubGrid, ..own };
    peer.handle_message(node(8), ask(other), &members(&[]), NOW);
    let told = sent(&mut || peer.poll_command());
    let [(to, Message::Answer(told))] = &told[..] else { panic!("{told:?}") };
    assert!(*to == node(8) && told.matches.is_empty());
}

#[test]
fn queries_of_all_members_together_are_bounded() {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    for number in 0..600 {
        let origin = many(number);
        let asked = Query { id: numbered(number), origin, ..query("Idle >= 4", 1) };
        peer.handle_message(origin, Message::Ask(asked), &members(&[]), NOW);
    }
    assert_eq!(peer.pending(), 512);
    let busy = |message: &Message| matches!(message, Message::Answer(answer) if answer.outcome == Outcome::Busy);
    let told = sent(&mut || peer.poll_command());
    assert_eq!(told.iter().filter(|(_, message)| busy(message)).count(), 88);
}

fn referral(ticket: Ticket, from: u8, attempt: u16, asked: Vec<SubgridId>) -> Referral {
    Referral {
        id: QueryId([9; 16]),
        attempt,
        ticket: ticket.of(node(from), None),
        region: RegionId([1; 8]),
        asked,
        crossed: vec![],
        more: true,
        messages: 3,
    }
}

/// What the query has cost when it ends late, and how it ends.
fn ended(mut peer: SuperPeer) -> (u16, Outcome, usize) {
    sent(&mut || peer.poll_command());
    peer.handle_timeout(NOW + Duration::from_secs(60));
    let told = sent(&mut || peer.poll_command());
    let [.., (_, Message::Answer(answer))] = &told[..] else { panic!("{told:?}") };
    (answer.messages, answer.outcome, answer.matches.len())
}

#[test]
fn a_referral_counts_once_and_names_no_more_than_there_is_room_for() {
    let tell = |times: u16, asked: usize| {
        let (mut peer, ticket) = referred();
        for number in 0..times {
            let asked = (0..asked).map(|at| SubgridId(many(u32::from(number) * 300 + at as u32).0));
            let told = referral(ticket, 3, 1, asked.collect());
            peer.handle_message(node(3), Message::Referral(told), &members(&[]), NOW);
        }
        ended(peer).0
    };
    assert_eq!(tell(1, 1), tell(5, 1), "five times the same");
    assert_eq!(tell(1, 300), tell(0, 0), "more than can be asked");
}

#[test]
fn where_a_query_stands_the_own_region_peer_tells() {
    // Another region's says, with a ticket of its own, that it has asked nobody: others go on.
    let (mut peer, ticket) = referred();
    let other =
        Referral { more: false, region: RegionId([2; 8]), ..referral(ticket, 4, 1, vec![]) };
    peer.handle_message(node(4), Message::Referral(other), &members(&[]), NOW);
    assert_eq!((peer.poll_command(), peer.pending()), (None, 1));
}

#[test]
fn of_answers_each_node_counts_once_and_none_beyond_what_is_wanted() {
    let mut peer = SuperPeer::new(node(2), subgrid(1), [2; 32]);
    peer.handle_region(RegionLink::Peer(node(3)), NOW);
    peer.handle_message(node(1), Message::Ask(query("Idle >= 4", 3)), &members(&[]), NOW);
    let sent = sent(&mut || peer.poll_command());
    let [(_, Message::Refer(_, errand))] = &sent[..] else { panic!("{sent:?}") };
    let ticket = errand.ticket;
    let with = |nodes: &[u8], of: u8, from: u8| {
        let good = answer(ticket, of, from);
        let one = |number: &u8| Match { node: node(*number), ..good.matches[0].clone() };
        Answer { matches: nodes.iter().map(one).collect(), ..good.clone() }
    };
    let tell = |peer: &mut SuperPeer, answer, from| {
        peer.handle_message(node(from), Message::Answer(answer), &members(&[]), NOW);
        peer.poll_command()
    };
    assert_eq!(tell(&mut peer, with(&[70, 70, 71], 5, 50), 50), None, "two of three");
    assert_eq!(tell(&mut peer, with(&[70], 6, 51), 51), None);
    let done = tell(&mut peer, with(&[72, 73, 74], 7, 52), 52);
    let Some(Command::Send { message, .. }) = done else { panic!("{done:?}") };
    let Message::Answer(done) = *message else { panic!("{message:?}") };
    let found: Vec<u8> = done.matches.iter().map(|one| one.node.0[0]).collect();
    assert_eq!(found, [70, 71, 72]);
}

#[test]
fn no_more_sub_grids_are_heard_than_may_be_asked() {
    let (mut peer, ticket) = referred();
    for number in 0..400 {
        let subgrid = SubgridId(many(number).0);
        let none = Answer {
            subgrid,
            ticket: ticket.of(node(50), Some(subgrid)),
            matches: vec![],
            ..answer(ticket, 5, 50)
        };
        peer.handle_message(node(50), Message::Answer(none), &members(&[]), NOW);
    }
    // The question, its answer, and 256 of those.
    assert_eq!(ended(peer).0, 2 + 1 + 256);
}

#[test]
fn a_region_peer_listens_to_super_peers_and_region_peers_and_not_too_often() {
    let (mut peer, mut catalogue) = region_peer();
    let refer = |query, errand| Message::Refer(query, errand);
    let crossed = || Errand { crossed: true, ..errand(node(1)) };
    let stranger = refer(query("Idle >= 4", 1), errand(node(70)));
    peer.handle_message(node(70), stranger, &mut catalogue, NOW);
    assert_eq!(peer.poll_command(), None, "who answers for no sub-grid");
    let stranger = refer(query("Idle >= 4", 1), crossed());
    peer.handle_message(node(70), stranger, &mut catalogue, NOW);
    assert_eq!(peer.poll_command(), None, "who answers for no region");
    let (mut passed, mut named) = (0, 0);
    for number in 0..1000 {
        let query = Query { id: numbered(number), ..query("Idle >= 4", 1) };
        peer.handle_message(node(1), refer(query, errand(node(1))), &mut catalogue, NOW);
        let told: Vec<Command> = std::iter::from_fn(|| peer.poll_command()).collect();
        named += usize::from(matches!(told[..], [Command::Flooding { .. }]));
        passed += usize::from(told.len() > 1);
    }
    assert_eq!((passed, named), (200, 1));
}

#[test]
fn a_query_crosses_to_another_region_once_and_if_it_is_to() {
    let crosses = |scope, errand: Errand, from: u8| {
        let (mut peer, mut catalogue) = region_peer();
        let ad = Ad::parse("[ Cpus = 64; Idle = 64; Mflops = 1000 ]").unwrap();
        let summary = Summary::of([(node(1), &ad)]);
        for (region, at) in [(2, 80), (3, 81)] {
            let report = RegionReport { region: RegionId([region; 8]), summary: summary.clone() };
            assert!(catalogue.handle_region(node(at), &report, NOW));
        }
        let asked = Query { scope, ..query("Idle >= 32", 1) };
        // Nobody of its own region has so much, and it has heard of all.
        let now = NOW + Duration::from_secs(6);
        peer.handle_message(node(from), Message::Refer(asked, errand), &mut catalogue, now);
        let told = sent(&mut || peer.poll_command());
        told.iter().filter(|(_, message)| matches!(message, Message::Refer(..))).count()
    };
    assert_eq!(crosses(Scope::Grid, errand(node(1)), 1), 2);
    assert_eq!(crosses(Scope::Region, errand(node(1)), 1), 0);
    assert_eq!(crosses(Scope::Grid, Errand { crossed: true, ..errand(node(1)) }, 80), 0);
}

#[test]
fn who_asks_is_not_asked_itself() {
    let (mut peer, mut catalogue) = region_peer();
    let refer = Message::Refer(query("Idle >= 4", 2), errand(node(5)));
    peer.handle_message(node(5), refer, &mut catalogue, NOW);
    let to: Vec<u8> = sent(&mut || peer.poll_command()).iter().map(|(to, _)| to.0[0]).collect();
    assert_eq!(to, [4, 3, 5], "the strongest is who asks");
}

#[test]
fn what_is_counted_and_remembered_is_bounded() {
    let mut limiter = Limiter::new(1.0, 2.0, 10);
    for number in 0..1000 {
        assert_eq!(limiter.check(many(number), NOW), Verdict::Pass);
    }
    assert!(limiter.len() <= 10);
    let mut handled = Handled::new(10);
    assert!((0..1000).all(|number| handled.is_new(numbered(number), 1)));
    assert!(handled.is_new(numbered(0), 1), "long ago");
    assert!(!handled.is_new(numbered(999), 1));
}
