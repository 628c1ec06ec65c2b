use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::member::{Delegation, Document, MAX_VO_MEMBERS, VALIDITY_S, VoError, VoMember};
use crate::store::MemoryStore;

const NOW: u64 = 1_800_000_000;

/// A founder's book, and its key.
async fn founder() -> (Book, SubgridKey) {
    let key = SubgridKey::ephemeral();
    let book = open(&NodeKey::ephemeral(), &Arc::default(), None).await;
    book.found(key.clone(), "desk", vec![]).await.unwrap();
    (book, key)
}

async fn open(node: &NodeKey, store: &Arc<MemoryStore>, key: Option<SubgridKey>) -> Book {
    Book::open(node.clone(), store.clone(), key, Arc::new(|| NOW)).await.unwrap()
}

/// A book of a node that `founder` has let in.
async fn member(founder: &Book, node: &NodeKey) -> Book {
    let book = open(node, &Arc::default(), None).await;
    let certificate = founder.let_in(node.id(), "lab", vec![]).await.unwrap();
    book.enter(certificate, founder.news(), vec![], founder.id).await.unwrap();
    book
}

/// What one knows is told to the other.
async fn tell(from: &Book, to: &Book) {
    let mut told = BTreeMap::new();
    while let Some(part) = from.vo_news(&mut told) {
        to.hear(part).await;
    }
    to.hear(from.news()).await;
}

fn some(number: u8) -> BTreeSet<VoMember> {
    [VoMember::Node(NodeId([number; 32]))].into()
}

fn policy(document: Document) -> News {
    News { policy: Some(document), ..News::default() }
}

#[tokio::test]
async fn a_policy_by_a_stranger_or_an_older_one_replayed_changes_nothing() {
    let (book, key) = founder().await;
    let [one, two] =
        [1, 2].map(|version| Document::sign(&key, version, NOW, format!("version {version}")));
    book.hear(policy(two.clone())).await;
    assert_eq!(book.policy(), Some(two.clone()));
    book.hear(policy(one)).await;
    let stranger = Document::sign(&SubgridKey::ephemeral(), 9, NOW, "mine".to_owned());
    book.hear(policy(stranger)).await;
    let future = Document::sign(&key, 9, NOW + VALIDITY_S, "later".to_owned());
    book.hear(policy(future)).await;
    assert_eq!(book.policy(), Some(two.clone()));
    assert_eq!(book.policies().await.unwrap(), [two]);
}

#[tokio::test]
async fn a_bounded_number_of_versions_is_kept() {
    let (book, _) = founder().await;
    for version in 0..KEPT_POLICIES as u64 + 5 {
        book.decree(format!("version {version}"), version).await.unwrap();
    }
    let kept = book.policies().await.unwrap();
    assert_eq!(kept.len(), KEPT_POLICIES);
    assert_eq!(kept.last(), book.policy().as_ref());
}

#[tokio::test]
async fn virtual_organisations_are_kept_and_go_with_the_membership() {
    let (node, store) = (NodeKey::ephemeral(), Arc::new(MemoryStore::default()));
    let key = SubgridKey::ephemeral();
    let book = open(&node, &store, None).await;
    let create = VoChange::Create(some(1));
    assert!(matches!(book.change_vo("lab", create.clone()).await, Err(Error::NotMember)));
    book.found(key.clone(), "desk", vec![]).await.unwrap();
    let refused = |change, name| book.change_vo(name, change);
    assert!(matches!(
        refused(VoChange::Add(some(1)), "lab").await,
        Err(Error::Vo(VoError::Unknown(_)))
    ));
    assert!(matches!(refused(create.clone(), "a b").await, Err(Error::Vo(VoError::Name(_)))));
    book.change_vo("lab", create.clone()).await.unwrap();
    assert!(matches!(refused(create.clone(), "lab").await, Err(Error::Vo(VoError::Exists(_)))));
    book.change_vo("lab", VoChange::Add(some(2))).await.unwrap();
    let last = book.change_vo("lab", VoChange::Remove(some(1))).await.unwrap();
    assert_eq!((last.version(), last.members()), (3, &some(2)));
    book.change_vo("old", create.clone()).await.unwrap();
    book.change_vo("old", VoChange::Dissolve).await.unwrap();
    // Those of others are kept as well.
    let other = Vo::issue(&(&SubgridKey::ephemeral()).into(), "lab", 7, NOW, Some(some(9)));
    let other = Vo::from_bytes(&other.unwrap().to_bytes()).unwrap();
    assert!(book.learn_vo(other.clone()).await.unwrap());
    assert!(!book.learn_vo(other.clone()).await.unwrap(), "it is no news");

    let known = book.vos();
    assert_eq!(known.len(), 3);
    let again = open(&node, &store, Some(key.clone())).await;
    assert_eq!(again.vos(), known);
    let back = again.change_vo("old", create).await.unwrap();
    assert_eq!((back.version(), back.is_dissolved()), (3, false));

    again.leave().await.unwrap();
    assert!(again.vos().is_empty() && store.list(VOS).unwrap().is_empty());
}

#[tokio::test]
async fn what_a_delegate_has_said_of_virtual_organisations_lasts_by_the_keys_word_only() {
    let (founder, key) = founder().await;
    let (node, third) = (NodeKey::ephemeral(), NodeKey::ephemeral());
    let lab = member(&founder, &node).await;
    let create = || VoChange::Create(some(1));
    assert!(matches!(lab.change_vo("x", create()).await, Err(Error::MayNotAccept { .. })));
    founder.delegate(node.id()).await.unwrap();
    tell(&founder, &lab).await;
    lab.change_vo("told", create()).await.unwrap();
    tell(&lab, &founder).await;
    assert_eq!(founder.vos(), lab.vos());
    // This one the founder does not hear of in time.
    lab.change_vo("late", create()).await.unwrap();
    let witness = member(&founder, &third).await;
    tell(&lab, &witness).await;
    assert_eq!(witness.vos().len(), 2);

    founder.withdraw(node.id()).await.unwrap();
    tell(&founder, &witness).await;
    for book in [&founder, &witness] {
        let known = book.vos();
        let [told] = &known[..] else { panic!("{known:?}") };
        assert_eq!((told.name(), told.version(), told.members()), ("told", 2, &some(1)));
        assert!(told.seal().delegation().is_none(), "the key says so now");
    }
    assert_eq!(witness.store.list(VOS).unwrap().len(), 1, "what is void is not kept either");
    tell(&lab, &witness).await;
    assert_eq!(witness.vos().len(), 1, "nor heard again");
    let by = Authority::Delegate(node.clone(), Delegation::issue(&key, node.id(), 0));
    let forged = Vo::issue(&by, "told", 9, NOW, None).unwrap();
    assert!(matches!(witness.learn_vo(forged).await, Err(Error::Vo(VoError::Withdrawn { .. }))));
}

#[tokio::test]
async fn large_ones_are_told_in_parts_and_only_what_is_new() {
    let (founder, _) = founder().await;
    let lab = member(&founder, &NodeKey::ephemeral()).await;
    let many = |vo: u8| {
        let node = move |number: usize| {
            let mut id = [vo; 32];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            VoMember::Node(NodeId(id))
        };
        VoChange::Create((0..MAX_VO_MEMBERS).map(node).collect())
    };
    for number in 0..20 {
        founder.change_vo(&format!("v{number}"), many(number)).await.unwrap();
    }
    let (mut told, mut parts) = (BTreeMap::new(), 0);
    while let Some(part) = founder.vo_news(&mut told) {
        assert!(encode(&part).len() < 1 << 20);
        parts += 1;
        lab.hear(part).await;
    }
    assert!(parts > 1, "{parts}");
    assert_eq!(lab.vos(), founder.vos());
    founder.change_vo("v3", VoChange::Dissolve).await.unwrap();
    let news = founder.vo_news(&mut told).unwrap();
    assert_eq!(news.vos.len(), 1);
    assert!(founder.vo_news(&mut told).is_none());
    lab.hear(news).await;
    assert_eq!(lab.vos(), founder.vos());
}
