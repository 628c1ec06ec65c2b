//! Several nodes' machines together, with what one of them has registered.

use phantom_classad::Ad;
use proptest::prelude::*;

use super::*;
use crate::machine::query::{
    AskError, Errand, Forward, Hop, Outcome, Query, Referral, Role, Scope, Ticket,
};
use crate::machine::region::RegionId;

const NOW: Duration = Duration::from_secs(50);
const SECOND: Duration = Duration::from_secs(1);

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn subgrid() -> SubgridId {
    SubgridId([200; 32])
}

fn request(text: &str, scope: Scope) -> Request {
    Request {
        requirements: text.to_owned(),
        rank: Some("Idle".to_owned()),
        wanted: 2,
        scope,
        vo: None,
        patience: 5 * SECOND,
    }
}

fn query(origin: u8, id: u8) -> Query {
    Query {
        id: QueryId([id; 16]),
        origin: node(origin),
        requirements: "Idle >= 2".to_owned(),
        rank: None,
        wanted: 2,
        scope: Scope::Grid,
        vo: None,
        remaining_ms: 5000,
        attempt: 1,
        route: vec![Hop::new(node(origin), Role::Asker)],
    }
}

/// Members 1 to 5; what is registered of them, while there is a super-peer.
struct World {
    nodes: Vec<Questions>,
    listing: Listing,
    messages: usize,
    abroad: Vec<(u8, NodeId, Message)>,
    named: Vec<NodeId>,
    dead: Option<u8>,
}

impl World {
    fn new(super_peer: u8) -> Self {
        let members: BTreeSet<NodeId> = (1..=5).map(node).collect();
        let ads = (1..=5).map(|number| {
            let text =
                format!("[ Name = \"n{number}\"; Cpus = 8; Idle = {number}; State = \"up\" ]");
            (node(number), Ad::parse(&text).unwrap())
        });
        let listing = Listing::of(ads.collect(), true);
        let nodes = (1..=5).map(|number| {
            let mut one = Questions::new(node(number), [number; 32]);
            one.handle_members(members.clone());
            one
        });
        let nodes = nodes.collect();
        let (abroad, named) = (Vec::new(), Vec::new());
        let mut world = Self { nodes, listing, messages: 0, abroad, named, dead: None };
        world.elect(Some(super_peer), NOW);
        world
    }

    fn elect(&mut self, super_peer: Option<u8>, now: Duration) {
        for number in 1..=5 {
            self.of(number).handle_standing(Some(subgrid()), super_peer.map(node), now);
        }
    }

    fn of(&mut self, number: u8) -> &mut Questions {
        &mut self.nodes[usize::from(number) - 1]
    }

    fn ask(&mut self, number: u8, request: Request, now: Duration) -> oneshot::Receiver<Asked> {
        let (done, asked) = oneshot::channel();
        self.of(number).handle_request(request, done, now);
        self.settle(now);
        asked
    }

    fn hear(&mut self, at: u8, from: NodeId, message: Message, origin: Origin, now: Duration) {
        let one = &mut self.nodes[usize::from(at) - 1];
        one.handle_message(from, message, origin, Some(&self.listing), now);
    }

    /// Carries out what the machines want, until they want nothing more.
    fn settle(&mut self, now: Duration) {
        let mut quiet = false;
        while !std::mem::replace(&mut quiet, true) {
            let dead = self.dead;
            for number in (1..=5).filter(|number| Some(*number) != dead) {
                while let Some(deed) = self.of(number).poll_deed(now) {
                    quiet = false;
                    self.carry_out(number, deed, now);
                }
            }
        }
    }

    fn carry_out(&mut self, number: u8, deed: Deed, now: Duration) {
        match deed {
            Deed::Parcel(to, bytes) => {
                self.messages += 1;
                let message = Message::read(&bytes).unwrap();
                if Some(to.0[0]) != self.dead {
                    self.hear(to.0[0], node(number), message, Origin::Inside, now);
                }
            }
            Deed::Abroad(to, bytes) => {
                self.abroad.push((number, to, Message::read(&bytes).unwrap()));
            }
            Deed::Home(message) => self.hear(number, node(number), *message, Origin::Inside, now),
            Deed::Flooding(node) => self.named.push(node),
        }
    }

    fn pass(&mut self, until: Duration) {
        loop {
            let due = self.nodes.iter().filter_map(Questions::poll_timeout).min();
            let Some(due) = due.filter(|due| *due <= until) else { return };
            self.nodes.iter_mut().for_each(|one| one.handle_timeout(due));
            self.settle(due);
        }
    }
}

fn names(answer: &Answer) -> Vec<u8> {
    answer.matches.iter().map(|one| one.node.0[0]).collect()
}

#[test]
fn a_member_asks_with_two_messages_and_the_super_peer_itself_with_none() {
    let mut world = World::new(3);
    let answer = world.ask(1, request("Idle >= 2", Scope::SubGrid), NOW).try_recv().unwrap();
    let answer = answer.unwrap();
    assert_eq!((names(&answer), answer.outcome), (vec![5, 4], Outcome::Met));
    assert_eq!((answer.steps, answer.messages, world.messages), (2, 2, 2));
    let roles: Vec<_> = answer.route.iter().map(|hop| hop.role).collect();
    assert_eq!(roles, [Role::Asker, Role::SuperPeer]);
    let own = world.ask(3, request("Idle >= 5", Scope::SubGrid), NOW).try_recv().unwrap().unwrap();
    assert_eq!((names(&own), own.outcome, own.messages), (vec![5], Outcome::Short, 0));
    assert_eq!(world.messages, 2);
    let none =
        world.ask(2, Request { vo: Some("x".into()), ..request("true", Scope::SubGrid) }, NOW);
    assert!({ none }.try_recv().unwrap().unwrap().matches.is_empty());
}

#[test]
fn without_a_region_the_sub_grid_answers_alone_and_says_so() {
    let mut world = World::new(3);
    let answer = world.ask(1, request("Idle >= 5", Scope::Grid), NOW).try_recv().unwrap().unwrap();
    assert_eq!((names(&answer), answer.outcome), (vec![5], Outcome::Alone));
    let met = world.ask(1, request("Idle >= 2", Scope::Grid), NOW).try_recv().unwrap().unwrap();
    assert_eq!(met.outcome, Outcome::Met);
    assert!(world.abroad.is_empty());
}

#[test]
fn a_query_that_waits_goes_on_with_the_successor_once_that_knows_all() {
    let mut world = World::new(3);
    world.dead = Some(3);
    let mut asked = world.ask(1, request("Idle >= 2", Scope::SubGrid), NOW);
    world.pass(NOW + SECOND);
    assert!(asked.try_recv().is_err(), "nobody is there");
    world.elect(None, NOW + SECOND);
    world.pass(NOW + 2 * SECOND);
    // The new one has heard of one member only.
    let ad = Ad::parse("[ Cpus = 8; Idle = 2 ]").unwrap();
    let whole = std::mem::replace(&mut world.listing, Listing::of(vec![(node(2), ad)], false));
    world.elect(Some(4), NOW + 2 * SECOND);
    world.pass(NOW + 3 * SECOND);
    assert!(asked.try_recv().is_err(), "what it does not know yet may be better");
    world.listing = whole;
    world.pass(NOW + 4 * SECOND);
    let answer = asked.try_recv().unwrap().unwrap();
    assert_eq!((names(&answer), answer.outcome), (vec![5, 4], Outcome::Met));
    assert_eq!(answer.route[1], Hop::new(node(4), Role::SuperPeer));
}

#[test]
fn who_can_ask_nobody_is_told_by_the_deadline() {
    let mut world = World::new(3);
    world.elect(None, NOW);
    let mut asked = world.ask(1, request("true", Scope::SubGrid), NOW);
    world.pass(NOW + 4 * SECOND);
    assert!(asked.try_recv().is_err());
    world.pass(NOW + 5 * SECOND);
    assert_eq!(asked.try_recv().unwrap(), Err(QueryError::NoSuperPeer));
    let bad = world.ask(1, request("Idle >", Scope::SubGrid), NOW).try_recv().unwrap();
    assert!(matches!(bad, Err(QueryError::Ask(AskError::Bad(_)))), "{bad:?}");
    let left = world.ask(1, request("true", Scope::SubGrid), NOW);
    world.of(1).handle_standing(None, None, NOW);
    assert!({ left }.try_recv().is_err(), "the sender is gone");
    let none = world.ask(1, request("true", Scope::SubGrid), NOW).try_recv().unwrap();
    assert_eq!(none, Err(QueryError::NoGroup));
}

#[test]
fn who_floods_is_named_and_the_others_are_answered() {
    let mut world = World::new(3);
    for number in 0..200 {
        let ask = Message::Ask(query(2, number));
        world.hear(3, node(2), ask, Origin::Inside, NOW);
    }
    world.settle(NOW);
    assert_eq!(world.named, [node(2)]);
    assert!(world.messages <= 60, "{}", world.messages);
    let answer = world.ask(1, request("Idle >= 2", Scope::SubGrid), NOW).try_recv().unwrap();
    assert_eq!(answer.unwrap().outcome, Outcome::Met);
}

#[test]
fn queries_leave_for_the_region_peer_and_come_back() {
    let mut world = World::new(3);
    world.of(3).handle_region(RegionLink::Peer(node(90)), None, NOW);
    let mut asked = world.ask(1, request("Idle >= 5", Scope::Grid), NOW);
    assert!(asked.try_recv().is_err());
    let (at, to, message) = world.abroad.pop().unwrap();
    let Message::Refer(query, errand) = message else { panic!("{message:?}") };
    assert_eq!((at, to, errand.reply_to), (3, node(90), node(3)));
    let (elsewhere, other) = (SubgridId([201; 32]), node(91));
    let referral = Referral {
        id: query.id,
        attempt: query.attempt,
        ticket: errand.ticket.of(node(90), None),
        region: RegionId::named("r"),
        asked: vec![elsewhere],
        crossed: vec![],
        more: false,
        messages: 2,
    };
    world.hear(3, node(90), Message::Referral(referral), Origin::Outside, NOW);
    let found = crate::machine::query::Match {
        node: node(92),
        subgrid: elsewhere,
        rank: 7.0,
        attributes: vec![],
    };
    let answer = Answer {
        id: query.id,
        subgrid: elsewhere,
        ticket: errand.ticket.of(other, Some(elsewhere)),
        outcome: Outcome::Met,
        matches: vec![found],
        route: query.route.clone(),
        steps: 4,
        messages: 1,
    };
    let forged = Answer { ticket: Ticket([1; 16]), ..answer.clone() };
    world.hear(3, other, Message::Answer(forged), Origin::Outside, NOW);
    world.settle(NOW);
    assert!(asked.try_recv().is_err());
    world.hear(3, other, Message::Answer(answer), Origin::Outside, NOW);
    world.settle(NOW);
    let answer = asked.try_recv().unwrap().unwrap();
    assert_eq!((names(&answer), answer.outcome), (vec![92, 5], Outcome::Met));
    assert_eq!(answer.messages, 6, "ask, refer, forward, referral, answer, answer");
}

#[test]
fn a_region_peer_among_the_members_is_asked_on_its_own_way() {
    for region_peer in [3, 4] {
        let mut world = World::new(3);
        world.of(3).handle_region(RegionLink::Peer(node(region_peer)), None, NOW);
        drop(world.ask(1, request("Idle >= 5", Scope::Grid), NOW));
        let (at, to, message) = world.abroad.pop().unwrap();
        assert_eq!((at, to), (3, node(region_peer)));
        assert!(matches!(message, Message::Refer(..)));
    }
}

#[test]
fn the_region_peer_asks_and_who_waits_elsewhere_is_answered() {
    let mut world = World::new(3);
    let forward = Forward { ticket: Ticket([7; 16]), reply_to: node(80), subgrid: subgrid() };
    let asked = Message::Forward(query(81, 1), forward);
    world.hear(3, node(90), asked.clone(), Origin::Outside, NOW);
    world.settle(NOW);
    assert!(world.abroad.is_empty(), "it belongs to no region");
    world.of(3).handle_region(RegionLink::Peer(node(90)), None, NOW);
    world.hear(3, node(91), asked.clone(), Origin::Outside, NOW);
    world.settle(NOW);
    assert!(world.abroad.is_empty(), "that is not its region-peer");
    let whole = std::mem::replace(&mut world.listing, Listing::of(vec![], false));
    world.hear(3, node(90), asked, Origin::Outside, NOW);
    world.settle(NOW);
    assert!(world.abroad.is_empty(), "it does not know its members yet");
    world.listing = whole;
    let again = Message::Forward(Query { attempt: 2, ..query(81, 1) }, forward);
    world.hear(3, node(90), again, Origin::Outside, NOW);
    world.settle(NOW);
    let (_, to, message) = world.abroad.pop().unwrap();
    let Message::Answer(answer) = message else { panic!("{message:?}") };
    assert_eq!((to, answer.ticket, answer.matches.len()), (node(80), Ticket([7; 16]), 2));
}

fn any_message() -> impl Strategy<Value = Message> {
    (0u8..5, any::<[u8; 4]>(), 0u8..3).prop_map(|(kind, [a, b, c, d], scope)| {
        let scope = [Scope::SubGrid, Scope::Region, Scope::Grid][usize::from(scope)];
        let query = Query { scope, wanted: b % 12 + 1, ..query(a % 8, c % 4) };
        let (id, ticket) = (query.id, Ticket([d % 3; 16]));
        match kind {
            0 => Message::Ask(query),
            1 => {
                let forward = Forward { ticket, reply_to: node(b), subgrid: subgrid() };
                Message::Forward(query, forward)
            }
            2 => {
                let (tried, regions) = (vec![], vec![]);
                let errand = Errand {
                    ticket,
                    reply_to: node(b),
                    tried,
                    regions,
                    crossed: false,
                    near: None,
                };
                Message::Refer(query, errand)
            }
            3 => Message::Answer(Answer {
                id,
                subgrid: subgrid(),
                ticket,
                outcome: Outcome::Met,
                matches: vec![],
                route: vec![],
                steps: d,
                messages: 1,
            }),
            _ => Message::Referral(Referral {
                id,
                attempt: d.into(),
                ticket,
                region: RegionId::named("r"),
                asked: vec![subgrid()],
                crossed: vec![],
                more: true,
                messages: 1,
            }),
        }
    })
}

proptest! {
    /// Who proves a key that is nobody's can send what it likes: nothing comes of it, and who asks
    /// meanwhile gets the right answer.
    #[test]
    fn strangers_change_nothing(
        messages in proptest::collection::vec((any_message(), 1u8..=5, 100u8..110), 0..60),
    ) {
        let mut world = World::new(3);
        world.of(3).handle_region(RegionLink::Peer(node(90)), None, NOW);
        let mut waits = world.ask(2, request("Idle >= 5", Scope::Grid), NOW);
        prop_assert_eq!(world.abroad.len(), 1);
        let sent = world.messages;
        for (message, at, from) in messages {
            world.hear(at, node(from), message, Origin::Outside, NOW);
            world.settle(NOW);
        }
        prop_assert_eq!(world.abroad.len(), 1);
        prop_assert_eq!(world.messages, sent);
        prop_assert!(world.named.is_empty());
        prop_assert!(waits.try_recv().is_err());
        let answer = world.ask(1, request("Idle >= 2", Scope::Grid), NOW).try_recv();
        prop_assert_eq!(names(&answer.unwrap().unwrap()), vec![5, 4]);
    }

    /// Members may lie as they like: no panic, and no more messages than they have sent.
    #[test]
    fn members_have_nobody_flooded(
        messages in proptest::collection::vec((any_message(), 1u8..=5, 1u8..=5), 0..80),
    ) {
        let mut world = World::new(3);
        world.of(3).handle_region(RegionLink::Peer(node(4)), None, NOW);
        let count = messages.len();
        for (message, at, from) in messages {
            world.hear(at, node(from), message, Origin::Inside, NOW);
            world.settle(NOW);
        }
        prop_assert!(world.messages + world.abroad.len() <= count);
    }
}
