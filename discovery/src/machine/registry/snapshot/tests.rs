use super::*;

fn node(number: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId(bytes)
}

fn written(members: usize) -> Vec<u8> {
    let all: BTreeMap<NodeId, Description> =
        (0..members).map(|number| (node(number), Description::default())).collect();
    [&MAGIC[..], &postcard::to_stdvec(&all).unwrap()].concat()
}

#[test]
fn what_was_written_is_read_again_and_no_more_members_than_the_bound() {
    let full = Snapshot::decode(&written(MAX_MEMBERS)).unwrap();
    assert_eq!(full.len(), MAX_MEMBERS);
    assert_eq!(full.encode(), written(MAX_MEMBERS));
    let more = Snapshot::decode(&written(MAX_MEMBERS + 1));
    assert!(matches!(more, Err(SnapshotError::Malformed(_))), "{more:?}");
    let many = (0..=MAX_MEMBERS).map(|number| (node(number), Description::default()));
    assert_eq!(Snapshot::new(many).len(), MAX_MEMBERS);
}

#[test]
fn other_formats_and_what_comes_after_it_are_refused() {
    let good = written(3);
    assert_eq!(Snapshot::decode(&good[1..]), Err(SnapshotError::Format));
    let rest = Snapshot::decode(&[&good[..], &[0]].concat());
    assert!(matches!(rest, Err(SnapshotError::Malformed(_))), "{rest:?}");
    assert!(Snapshot::decode(&good[..good.len() - 1]).is_err());
}
