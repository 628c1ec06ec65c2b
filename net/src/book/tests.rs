use super::*;
use crate::member::VALIDITY_S;
use crate::store::MemoryStore;

const NOW: u64 = 1_800_000_000;

/// A founder's book, and its key.
async fn founder() -> (Book, SubgridKey) {
    let (key, store) = (SubgridKey::ephemeral(), Arc::new(MemoryStore::default()));
    let book = Book::open(NodeKey::ephemeral(), store, None, Arc::new(|| NOW)).await.unwrap();
    book.found(key.clone(), "desk", vec![]).await.unwrap();
    (book, key)
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
