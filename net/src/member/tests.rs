use std::net::SocketAddr;

use phantom_model::{NodeId, SubgridId};
use proptest::prelude::*;

use super::*;
use crate::key::{NodeKey, SubgridKey};
use crate::link::PeerAddr;

const NOW: u64 = 1_800_000_000;

fn terms(node: NodeId, name: &str) -> Terms {
    Terms {
        subgrid: SubgridId([0; 32]),
        node,
        name: name.to_owned(),
        not_before: NOW,
        expires: NOW + 1000,
        serial: 1,
    }
}

fn token() -> Token {
    Token {
        subgrid: SubgridKey::ephemeral().id(),
        inviter: NodeKey::ephemeral().id(),
        addrs: vec![
            PeerAddr::Ip("192.0.2.1:41610".parse::<SocketAddr>().unwrap()),
            PeerAddr::Ip("[2001:db8::1]:41610".parse::<SocketAddr>().unwrap()),
        ],
        secret: [7; 16],
        expires: NOW + 60,
    }
}

#[test]
fn certificate_holds_for_its_node_sub_grid_and_time_only() {
    let (key, node) = (SubgridKey::ephemeral(), NodeKey::ephemeral().id());
    let certificate = Certificate::issue(&key, terms(node, "desk")).unwrap();
    certificate.check_for(node, key.id(), NOW).unwrap();
    certificate.check(key.id(), NOW - CLOCK_SKEW_S).unwrap();

    let other = SubgridKey::ephemeral().id();
    let stranger = NodeKey::ephemeral().id();
    assert!(matches!(certificate.check(other, NOW), Err(CertificateError::Foreign { .. })));
    assert!(matches!(
        certificate.check_for(stranger, key.id(), NOW),
        Err(CertificateError::NotTheirs { .. })
    ));
    assert!(matches!(
        certificate.check(key.id(), NOW - CLOCK_SKEW_S - 1),
        Err(CertificateError::NotYet { .. })
    ));
    assert!(matches!(
        certificate.check(key.id(), NOW + 1000),
        Err(CertificateError::Expired { .. })
    ));
}

#[test]
fn names_are_checked_when_issued_and_when_read() {
    let key = SubgridKey::ephemeral();
    for name in ["", "-x", "a b", "é", "a/b", "\u{1b}[31m", &"x".repeat(64)] {
        assert!(Certificate::issue(&key, terms(NodeId([1; 32]), name)).is_err(), "{name:?}");
    }
    for name in ["a", "Desk-2.local", "0_0", &"x".repeat(63)] {
        assert!(Certificate::issue(&key, terms(NodeId([1; 32]), name)).is_ok(), "{name:?}");
    }
}

#[test]
fn tokens_survive_wrapping_and_capitals() {
    let token = token();
    let text = token.to_string();
    assert_eq!(text.parse::<Token>().unwrap(), token);
    let wrapped: String = text
        .to_uppercase()
        .chars()
        .enumerate()
        .flat_map(|(at, c)| if at % 40 == 39 { vec![c, '\n', ' '] } else { vec![c] })
        .collect();
    assert_eq!(wrapped.parse::<Token>().unwrap(), token);
    assert!(!format!("{token:?}").contains("7, 7"), "the secret stays out of logs");
}

#[test]
fn not_a_token_and_a_damaged_one_are_told_apart() {
    assert_eq!("".parse::<Token>(), Err(TokenError::NotAToken));
    assert_eq!("phantom".parse::<Token>(), Err(TokenError::NotAToken));
    assert_eq!("ssh-ed25519 AAAA".parse::<Token>(), Err(TokenError::NotAToken));
    assert_eq!("phantom1".parse::<Token>(), Err(TokenError::Damaged));
    let text = token().to_string();
    assert_eq!(text[..text.len() - 1].parse::<Token>(), Err(TokenError::Damaged));
}

#[test]
fn invitation_is_good_for_one_node_once() {
    let key = SubgridKey::ephemeral();
    let (inviter, joiner, other) =
        (NodeKey::ephemeral().id(), NodeKey::ephemeral().id(), NodeKey::ephemeral().id());
    let secret = [9; 16];
    let mut invitation = Invitation { secret, expires: NOW + 60, used: None };
    let ask = |who: NodeId| JoinAsk {
        token: TokenId([0; 8]),
        subgrid: key.id(),
        proof: proof(&secret, key.id(), inviter, who),
        name: "desk".to_owned(),
        addrs: vec![],
        now: NOW,
    };
    let decide_at = |invitation: Option<&Invitation>, ask: &JoinAsk, who, now| {
        decide(invitation, ask, who, inviter, key.id(), now)
    };
    let refused = Decision::Refuse;

    assert_eq!(decide_at(Some(&invitation), &ask(joiner), joiner, NOW), Decision::Issue);
    assert_eq!(decide_at(None, &ask(joiner), joiner, NOW), refused(JoinRefusal::Unknown));
    // A proof overheard from another node is worth nothing.
    assert_eq!(
        decide_at(Some(&invitation), &ask(joiner), other, NOW),
        refused(JoinRefusal::Unknown)
    );
    assert_eq!(
        decide_at(Some(&invitation), &JoinAsk { now: NOW + 60, ..ask(joiner) }, joiner, NOW + 60),
        refused(JoinRefusal::Expired)
    );
    assert_eq!(
        decide_at(Some(&invitation), &JoinAsk { now: NOW - 301, ..ask(joiner) }, joiner, NOW),
        refused(JoinRefusal::Clock { ours: NOW, theirs: NOW - 301 })
    );

    let given = Certificate::issue(&key, terms(joiner, "desk")).unwrap();
    invitation.used = Some(given.clone());
    // The same node lost the answer: it gets the same one, even after the invitation's end.
    let late = JoinAsk { now: NOW + 90, ..ask(joiner) };
    assert_eq!(
        decide_at(Some(&invitation), &late, joiner, NOW + 90),
        Decision::Again(Box::new(given))
    );
    assert_eq!(decide_at(Some(&invitation), &ask(other), other, NOW), refused(JoinRefusal::Used));
}

#[test]
fn roster_takes_only_what_its_key_signed() {
    let (key, foreign) = (SubgridKey::ephemeral(), SubgridKey::ephemeral());
    let node = NodeKey::ephemeral().id();
    let mut roster = Roster::new(key.id());
    let member = |key: &SubgridKey, serial, port: u16| Member {
        certificate: Certificate::issue(key, Terms { serial, ..terms(node, "desk") }).unwrap(),
        addrs: vec![PeerAddr::Ip(([192, 0, 2, 1], port).into())],
    };
    assert!(!roster.learn(member(&foreign, 1, 1), NOW));
    assert!(!roster.learn(member(&key, 1, 1), NOW + 5000), "expired");
    assert!(roster.learn(member(&key, 2, 1), NOW));
    assert!(!roster.learn(member(&key, 2, 1), NOW), "nothing new");
    let before = roster.digest();
    assert!(roster.learn(member(&key, 1, 2), NOW), "an address is news");
    assert_eq!(roster.digest(), before, "an old certificate is not");
    assert!(roster.worked(node, &PeerAddr::Ip(([192, 0, 2, 1], 2).into())));
    assert_eq!(roster.get(node).unwrap().addrs[0], PeerAddr::Ip(([192, 0, 2, 1], 2).into()));
    assert_eq!(roster.free_name("desk", NodeId([1; 32])), "desk-2");
    assert_eq!(roster.free_name("desk", node), "desk");
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "\\PC{0,300}") {
        let _ = text.parse::<Token>();
    }

    #[test]
    fn any_base32_is_answered(text in "phantom1[a-z2-7]{0,400}") {
        prop_assert!(text.parse::<Token>().is_err());
    }

    #[test]
    fn a_changed_character_is_noticed(at in 0usize..10_000, with in "[a-z2-7]") {
        let text = token().to_string();
        let at = 8 + at % (text.len() - 8);
        let mut changed = text.clone();
        changed.replace_range(at..=at, &with);
        // The last character's spare bits must be zero, so there too a change is seen.
        if changed != text {
            prop_assert_eq!(changed.parse::<Token>(), Err(TokenError::Damaged));
        }
    }

    #[test]
    fn a_changed_byte_breaks_a_certificate(at in 0usize..10_000, bit in 0u8..8) {
        let key = SubgridKey::ephemeral();
        let node = NodeKey::ephemeral().id();
        let certificate = Certificate::issue(&key, terms(node, "desk")).unwrap();
        let mut bytes = postcard::to_stdvec(&certificate).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(changed) = postcard::from_bytes::<Certificate>(&bytes) {
            prop_assert!(changed.check_for(node, key.id(), NOW).is_err());
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(certificate) = postcard::from_bytes::<Certificate>(&bytes) {
            prop_assert!(certificate.check(SubgridId([3; 32]), NOW).is_err());
        }
        let _ = postcard::from_bytes::<JoinAsk>(&bytes);
    }
}

/// A sub-grid with two delegates, all of whose statements a test shuffles.
struct World {
    key: SubgridKey,
    delegates: [Authority; 2],
    delegations: Vec<Delegation>,
}

impl World {
    fn new() -> Self {
        let key = SubgridKey::ephemeral();
        let nodes = [NodeKey::ephemeral(), NodeKey::ephemeral()];
        let delegations: Vec<_> =
            nodes.iter().map(|node| Delegation::issue(&key, node.id(), 10)).collect();
        let delegates = [0, 1].map(|number: usize| {
            Authority::Delegate(nodes[number].clone(), delegations[number].clone())
        });
        Self { key, delegates, delegations }
    }

    fn delegate(&self, number: usize) -> NodeId {
        self.delegations[number].node()
    }

    fn holder(&self) -> Authority {
        (&self.key).into()
    }

    /// Rights after hearing `removals` in that order.
    fn rights(&self, removals: &[Removal]) -> Rights {
        let mut rights = Rights::new(self.key.id());
        rights.learn(Statements { delegations: self.delegations.clone(), removals: vec![] }, NOW);
        for removal in removals {
            rights.learn(Statements { removals: vec![removal.clone()], ..Default::default() }, NOW);
        }
        rights
    }
}

#[test]
fn a_delegate_lets_in_and_puts_out_until_its_right_is_withdrawn() {
    let world = World::new();
    let node = NodeKey::ephemeral().id();
    let by_key = Certificate::issue(&world.key, Terms { serial: 5, ..terms(node, "a") }).unwrap();
    let guest = NodeKey::ephemeral().id();
    let let_in = terms(guest, "b");
    let by_delegate = Certificate::issue(&world.delegates[0], let_in).unwrap();
    by_delegate.check_for(guest, world.key.id(), NOW).unwrap();

    let out = Removal::issue(&world.delegates[0], node, Scope::Member, 5, NOW);
    let rights = world.rights(std::slice::from_ref(&out));
    assert!(rights.voids(&by_key).is_some(), "put out");
    assert!(rights.voids(&by_delegate).is_none());
    let again = Terms { serial: rights.next_serial(node, 0), ..terms(node, "a") };
    let again = Certificate::issue(&world.key, again).unwrap();
    assert!(rights.voids(&again).is_none(), "let in again");

    let withdrawn = Removal::issue(&world.holder(), world.delegate(0), Scope::Delegate, 10, NOW);
    let rights = world.rights(&[out, withdrawn]);
    assert!(rights.voids(&by_delegate).is_some(), "all it signed is void");
    assert!(rights.voids(&by_key).is_none(), "its removals too");
    assert_eq!(rights.delegates().collect::<Vec<_>>(), [world.delegate(1)]);
}

#[test]
fn a_delegate_cannot_take_rights_nor_shut_out_for_ever_and_a_stranger_nothing() {
    let world = World::new();
    let other = world.delegate(1);
    let refused = [
        Removal::issue(&world.delegates[0], other, Scope::Delegate, 10, NOW),
        Removal::issue(&world.delegates[0], other, Scope::Member, u64::MAX, NOW),
        Removal::issue(&world.delegates[0], other, Scope::Member, NOW, NOW + 3600),
        Removal::issue(&(&SubgridKey::ephemeral()).into(), other, Scope::Member, 10, NOW),
    ];
    for removal in refused {
        assert!(world.rights(&[removal]).statements().removals.is_empty());
    }
    // As a member it can be put out by the other, its delegation stays the key's matter.
    let out = Removal::issue(&world.delegates[0], other, Scope::Member, 10, NOW);
    assert!(world.rights(&[out]).delegation(other).is_some());
    let out = Removal::issue(&world.holder(), other, Scope::Member, 10, NOW);
    assert!(world.rights(&[out]).delegation(other).is_none());
}

#[test]
fn a_delegate_that_floods_removals_makes_nobody_forget_the_keys() {
    let world = World::new();
    let node = NodeKey::ephemeral().id();
    let mut rights = world.rights(&[Removal::issue(&world.holder(), node, Scope::Member, 1, NOW)]);
    for number in 0..3 * MAX_MEMBERS as u32 {
        let mut id = [9; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let out = Removal::issue(&world.delegates[0], NodeId(id), Scope::Member, 1, NOW);
        rights.learn(Statements { removals: vec![out], ..Default::default() }, NOW);
    }
    assert!(rights.statements().removals.len() <= 2 * MAX_MEMBERS + 1);
    let certificate = Certificate::issue(&world.key, terms(node, "a")).unwrap();
    assert!(rights.voids(&certificate).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the order, nodes that have heard the same statements agree on what counts, also
    /// when they hear each other's lists afterwards.
    #[test]
    fn the_order_of_news_does_not_matter(
        said in proptest::collection::vec((0usize..3, 0u8..3, any::<bool>(), 1u64..20), 0..12),
        order in any::<u64>(),
    ) {
        let world = World::new();
        let node = |number: u8| match number {
            0 => world.delegate(0),
            1 => world.delegate(1),
            _ => NodeId([5; 32]),
        };
        let removals: Vec<_> = said
            .iter()
            .map(|(by, of, right, serial)| {
                let holder = world.holder();
                let by = [&holder, &world.delegates[0], &world.delegates[1]][*by];
                let scope = if *right { Scope::Delegate } else { Scope::Member };
                Removal::issue(by, node(*of), scope, *serial, NOW)
            })
            .collect();
        let mut shuffled = removals.clone();
        let mut seed = order;
        for at in (1..shuffled.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let (mut a, mut b) = (world.rights(&removals), world.rights(&shuffled));
        for _ in 0..2 {
            let (from_a, from_b) = (a.statements(), b.statements());
            a.learn(from_b, NOW);
            b.learn(from_a, NOW);
        }
        prop_assert_eq!(a.digest(), b.digest());
        prop_assert_eq!(a.delegates().collect::<Vec<_>>(), b.delegates().collect::<Vec<_>>());
        for serial in 1..20 {
            for of in 0..3 {
                for by in [world.holder(), world.delegates[0].clone(), world.delegates[1].clone()] {
                    let terms = Terms { serial, ..terms(node(of), "x") };
                    let certificate = Certificate::issue(by, terms).unwrap();
                    prop_assert_eq!(
                        a.voids(&certificate).is_some(), b.voids(&certificate).is_some());
                }
            }
        }
    }
}
