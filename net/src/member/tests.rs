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
