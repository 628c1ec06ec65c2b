use std::collections::BTreeSet;

use phantom_model::{NodeId, SubgridId, VoId};
use proptest::prelude::*;

use super::vos::{Learned, Vos};
use super::{
    Authority, CLOCK_SKEW_S, Delegation, MAX_FOREIGN_VOS, MAX_VO_MEMBERS, MAX_VOS, Removal, Rights,
    Scope, Statements, Vo, VoError, VoMember,
};
use crate::key::{NodeKey, SubgridKey};

const NOW: u64 = 1_800_000_000;

fn node(number: u16) -> VoMember {
    let mut id = [0; 32];
    id[..2].copy_from_slice(&number.to_be_bytes());
    VoMember::Node(NodeId(id))
}

fn nodes(count: u16) -> BTreeSet<VoMember> {
    (0..count).map(node).collect()
}

fn holder(key: &SubgridKey) -> Authority {
    key.into()
}

fn issue(key: &SubgridKey, name: &str, version: u64) -> Vo {
    Vo::issue(&holder(key), name, version, NOW, Some(nodes(3))).unwrap()
}

/// A delegate of `key`, as it seals.
fn delegate(key: &SubgridKey, node: &NodeKey, serial: u64) -> (Authority, Delegation) {
    let delegation = Delegation::issue(key, node.id(), serial);
    (Authority::Delegate(node.clone(), delegation.clone()), delegation)
}

#[test]
fn who_is_in_it() {
    let key = SubgridKey::ephemeral();
    let (lab, other) = (SubgridId([8; 32]), SubgridId([9; 32]));
    let members = BTreeSet::from([
        node(1),
        VoMember::Subgrid(lab),
        VoMember::Region("campus.example.org".to_owned()),
    ]);
    let vo = Vo::issue(&holder(&key), "physics", 1, NOW, Some(members)).unwrap();
    let [VoMember::Node(one), VoMember::Node(two)] = [node(1), node(2)] else { unreachable!() };
    let campus = ["example.org".to_owned(), "campus.example.org".to_owned()];
    assert!(vo.has_member(one, other, &[]), "by itself");
    assert!(vo.has_member(two, lab, &[]), "by its sub-grid");
    assert!(vo.has_member(two, other, &campus), "by its region");
    assert!(!vo.has_member(two, other, &campus[..1]), "of a region above");
    let dissolved = Vo::issue(&holder(&key), "physics", 2, NOW, None).unwrap();
    assert!(!dissolved.has_member(one, lab, &campus));
}

#[test]
fn only_the_owner_and_its_delegates_seal_one() {
    let (key, stranger) = (SubgridKey::ephemeral(), SubgridKey::ephemeral());
    let vo = issue(&key, "physics", 1);
    assert_eq!(vo.check(NOW), Ok(()));
    assert_eq!(Vo::from_bytes(&vo.to_bytes()).unwrap(), vo);
    let (by, _) = delegate(&key, &NodeKey::ephemeral(), NOW);
    let by_delegate = Vo::issue(&by, "physics", 2, NOW, Some(nodes(1))).unwrap();
    assert_eq!(by_delegate.check(NOW), Ok(()));
    // A delegate of somebody else, and a seal that was put under another document.
    let node = NodeKey::ephemeral();
    let lent = Authority::Delegate(node.clone(), Delegation::issue(&stranger, node.id(), NOW));
    let foreign = Vo::issue(&lent, "physics", 2, NOW, Some(nodes(1))).unwrap();
    assert_eq!(foreign.owner(), stranger.id(), "it is another one of the same name");
    let bytes = |vo: &Vo| vo.to_bytes();
    let (ours, theirs) = (bytes(&vo), bytes(&issue(&stranger, "physics", 1)));
    let seal_at = theirs.len() - 65;
    let mixed = [&ours[..seal_at], &theirs[seal_at..]].concat();
    let mixed = Vo::from_bytes(&mixed).unwrap();
    assert!(matches!(mixed.check(NOW), Err(VoError::Forged { .. })));
}

#[test]
fn bounds_are_kept_and_told() {
    let key = SubgridKey::ephemeral();
    let by = holder(&key);
    let issue = |members| Vo::issue(&by, "v", 1, NOW, Some(members));
    let most = u16::try_from(MAX_VO_MEMBERS).unwrap();
    assert_eq!(issue(nodes(most)).unwrap().check(NOW), Ok(()));
    assert!(matches!(issue(nodes(most + 1)), Err(VoError::TooMany { count: 1025, .. })));
    let region = |name: String| issue([VoMember::Region(name)].into());
    let many = |number: usize| VoMember::Region(format!("{}.{number}.org", "r".repeat(60)));
    assert!(matches!(issue((0..1000).map(many).collect()), Err(VoError::Long { .. })));
    let long = format!("{}.org", "a.".repeat(130).trim_end_matches('.'));
    for wrong in ["", "org", "Campus.org", "a..org", "-a.org", "a b.org", "a.org.", &long] {
        assert!(matches!(region(wrong.to_owned()), Err(VoError::Region { .. })), "{wrong}");
    }
    assert!(region("xn--bcher-kva.example.org".to_owned()).is_ok());
    assert!(matches!(Vo::issue(&by, "a b", 1, NOW, None), Err(VoError::Name(_))));
    let future = Vo::issue(&by, "v", 1, NOW + CLOCK_SKEW_S + 1, None).unwrap();
    assert!(matches!(future.check(NOW), Err(VoError::Future { .. })));
}

#[test]
fn a_delegate_cannot_have_the_last_word_for_ever() {
    let key = SubgridKey::ephemeral();
    let (by, delegation) = delegate(&key, &NodeKey::ephemeral(), NOW);
    let highest = |version| Vo::issue(&by, "v", version, NOW, Some(nodes(1))).unwrap();
    assert!(matches!(highest(u64::MAX).check(NOW), Err(VoError::Future { .. })));
    let bold = highest(NOW + CLOCK_SKEW_S);
    assert_eq!(bold.check(NOW), Ok(()));
    let answer = Vo::issue(&holder(&key), "v", bold.version() + 1, NOW, None).unwrap();
    assert_eq!(answer.check(NOW), Ok(()));
    assert!(answer.replaces(&bold));

    // Once it is no delegate, what it has sealed is void, and forgotten where it was known.
    let (mut vos, mut rights) = (Vos::new(key.id()), Rights::new(key.id()));
    assert!(vos.learn(bold.clone(), &rights, NOW).unwrap().new);
    let removal =
        Removal::issue(&holder(&key), delegation.node(), Scope::Delegate, delegation.serial(), NOW);
    rights.learn(Statements { removals: vec![removal], delegations: vec![] }, NOW);
    assert_eq!(vos.prune(&rights), [bold.id().clone()]);
    assert!(matches!(vos.learn(bold, &rights, NOW), Err(VoError::Withdrawn { .. })));
    assert!(vos.learn(issue(&key, "v", 1), &rights, NOW).unwrap().new, "the key's word counts");
}

#[test]
fn a_dissolved_one_is_remembered_and_an_old_version_does_not_bring_it_back() {
    let key = SubgridKey::ephemeral();
    let (mut vos, rights) = (Vos::new(key.id()), Rights::new(key.id()));
    let old = issue(&key, "v", 1);
    let gone = Vo::issue(&holder(&key), "v", 2, NOW, None).unwrap();
    for vo in [&old, &gone, &old] {
        vos.learn(vo.clone(), &rights, NOW).unwrap();
    }
    assert!(vos.get(old.id()).unwrap().is_dissolved());
    assert_eq!((vos.owned(), vos.iter().count()), (0, 1));
    assert!(vos.learn(issue(&key, "v", 3), &rights, NOW).unwrap().new, "its owner does");
}

#[test]
fn a_flood_of_organisations_fills_no_memory() {
    let key = SubgridKey::ephemeral();
    let (mut vos, rights) = (Vos::new(key.id()), Rights::new(key.id()));
    for number in 0..MAX_VOS + 9 {
        let name = format!("v{number:03}");
        let learned = vos.learn(issue(&key, &name, 1), &rights, NOW).unwrap();
        assert_eq!(learned.new, number < MAX_VOS, "{number}");
        let at = NOW - 1000 + number as u64;
        let ended = Vo::issue(&holder(&key), &format!("e{number:03}"), 1, at, None).unwrap();
        let learned = vos.learn(ended, &rights, NOW).unwrap();
        assert!(learned.new, "the newest is remembered");
        assert_eq!(learned.gone.len(), usize::from(number >= MAX_VOS));
    }
    assert_eq!((vos.owned(), vos.iter().count()), (MAX_VOS, 2 * MAX_VOS));

    let one = SubgridKey::ephemeral();
    for number in 0..=MAX_VOS {
        let learned = vos.learn(issue(&one, &format!("v{number}"), 1), &rights, NOW);
        assert_eq!(learned.is_ok(), number < MAX_VOS, "no owner takes all the room");
    }
    let mut taken = 0;
    for _ in 0..MAX_FOREIGN_VOS {
        taken +=
            usize::from(vos.learn(issue(&SubgridKey::ephemeral(), "v", 1), &rights, NOW).is_ok());
    }
    assert_eq!(taken, MAX_FOREIGN_VOS - MAX_VOS);
    assert!(vos.learn(issue(&one, "v0", 2), &rights, NOW).unwrap().new, "newer ones still come");
    assert!(vos.learn(issue(&key, "v000", 2), &rights, NOW).unwrap().new);
}

/// What a household may hear: versions of a few organisations by the key, by two delegates and by
/// another sub-grid, and that one delegate is none any more.
#[derive(Debug, Clone)]
enum Heard {
    Vo { who: usize, name: usize, version: u64, members: Option<u16> },
    Withdrawn,
}

fn heard() -> impl Strategy<Value = Heard> {
    let vo = (0usize..4, 0usize..3, 1u64..5, prop::option::weighted(0.8, 0u16..4))
        .prop_map(|(who, name, version, members)| Heard::Vo { who, name, version, members });
    prop_oneof![8 => vo, 1 => Just(Heard::Withdrawn)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nodes that have heard the same, in whatever order and however often, end with the same once
    /// they have told each other what they know.
    #[test]
    fn the_order_of_hearing_does_not_matter(
        said in prop::collection::vec(heard(), 1..14),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let key = SubgridKey::ephemeral();
        let (first, second) = (NodeKey::ephemeral(), NodeKey::ephemeral());
        let (bad, delegation) = delegate(&key, &first, NOW);
        let by = [
            holder(&key),
            bad,
            delegate(&key, &second, NOW).0,
            holder(&SubgridKey::ephemeral()),
        ];
        let removal = Removal::issue(&by[0], delegation.node(), Scope::Delegate, NOW, NOW);
        let apply = |vos: &mut Vos, rights: &mut Rights, heard: &Heard| match heard {
            Heard::Withdrawn => {
                let removals = vec![removal.clone()];
                rights.learn(Statements { removals, delegations: vec![] }, NOW);
                vos.prune(rights);
            }
            Heard::Vo { who, name, version, members } => {
                let name = ["a", "b", "c"][*name];
                let members = members.map(nodes);
                let vo = Vo::issue(&by[*who], name, *version, NOW, members).unwrap();
                let _ = vos.learn(vo, rights, NOW);
            }
        };
        let mut reversed: Vec<_> = said.iter().chain(&said).rev().collect();
        reversed.rotate_left(shuffled.index(said.len()));
        let told = |order: &[&Heard]| {
            let (mut vos, mut rights) = (Vos::new(key.id()), Rights::new(key.id()));
            order.iter().for_each(|heard| apply(&mut vos, &mut rights, heard));
            (vos, rights)
        };
        let (mut one, rights) = told(&said.iter().collect::<Vec<_>>());
        let (mut other, _) = told(&reversed);
        for _ in 0..2 {
            let (a, b): (Vec<Vo>, Vec<Vo>) =
                (one.iter().cloned().collect(), other.iter().cloned().collect());
            b.into_iter().for_each(|vo| drop(one.learn(vo, &rights, NOW)));
            a.into_iter().for_each(|vo| drop(other.learn(vo, &rights, NOW)));
        }
        let content = |vos: &Vos| -> Vec<(VoId, [u8; 32])> {
            vos.with_digests().map(|(vo, digest)| (vo.id().clone(), digest)).collect()
        };
        prop_assert_eq!(content(&one), content(&other));
    }

    /// Whoever changes one byte of a document makes it worthless, or changes nothing.
    #[test]
    fn tampering_is_found(at in any::<prop::sample::Index>(), flip in 1u8..=255, delegated: bool) {
        let key = SubgridKey::ephemeral();
        let by = match delegated {
            true => delegate(&key, &NodeKey::ephemeral(), NOW).0,
            false => holder(&key),
        };
        let vo = Vo::issue(&by, "physics", 3, NOW, Some(nodes(3))).unwrap();
        let mut bytes = vo.to_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(read) = Vo::from_bytes(&bytes) {
            prop_assert!(read.check(NOW).is_err() || read == vo, "byte {at}");
        }
    }

    /// Any bytes are answered.
    #[test]
    fn hostile_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(vo) = Vo::from_bytes(&bytes) {
            prop_assert!(vo.check(NOW).is_err());
        }
    }
}

#[test]
fn what_is_heard_again_is_no_news() {
    let key = SubgridKey::ephemeral();
    let (mut vos, rights) = (Vos::new(key.id()), Rights::new(key.id()));
    let vo = issue(&key, "v", 1);
    assert!(vos.learn(vo.clone(), &rights, NOW).unwrap().new);
    assert_eq!(vos.learn(vo, &rights, NOW), Ok(Learned::default()));
}
