use phantom_erasure::{Scheme, split};

use super::*;

const MANDATE: Mandate = Mandate { generation: 1, term: 2 };

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

fn placement() -> Placement {
    let scheme = Scheme::new(2, 2).unwrap();
    let (manifest, _) = split(&[7; 1000], version_of(MANDATE, 1), scheme);
    Placement { manifest, holders: (0..4).map(node).collect() }
}

#[test]
fn what_was_written_is_read_again() {
    let placement = placement();
    assert_eq!(Placement::decode(&placement.encode()), Ok(placement));
}

#[test]
fn what_contradicts_itself_is_not_read() {
    type Change = fn(&mut Placement);
    let changes: [(&str, Change); 8] = [
        ("a shard without a digest", |it| it.manifest.shards.truncate(3)),
        ("a shard too many", |it| it.manifest.shards.push(it.manifest.shards[0])),
        ("a shard without a holder", |it| it.holders.truncate(3)),
        ("one that holds twice", |it| it.holders.push(node(0))),
        ("a holder too many", |it| it.holders.push(node(9))),
        ("one holder of two shards", |it| it.holders[1] = node(0)),
        ("nothing", |it| it.manifest.len = 0),
        ("more than any registry has", |it| it.manifest.len = MAX_SNAPSHOT as u64 + 1),
    ];
    for (what, change) in changes {
        let mut placement = placement();
        change(&mut placement);
        assert_eq!(Placement::decode(&placement.encode()), Err(BadPlacement), "{what}");
    }
    let mut one = placement();
    one.manifest.scheme = Scheme::new(1, 3).unwrap();
    one.manifest.len = MAX_SHARD + 1;
    assert_eq!(Placement::decode(&one.encode()), Err(BadPlacement), "a shard that is too long");
    let rest = [placement().encode(), vec![0]].concat();
    assert_eq!(Placement::decode(&rest), Err(BadPlacement));
}

#[test]
fn two_super_peers_never_give_one_version() {
    let mandates = [(1, 1), (1, 2), (2, 1), (2, u64::MAX)];
    let mandates = mandates.map(|(generation, term)| Mandate { generation, term });
    for (at, earlier) in mandates.iter().enumerate() {
        assert!(is_of(version_of(*earlier, 5), *earlier));
        for later in &mandates[at + 1..] {
            assert!(version_of(*earlier, u32::MAX) < version_of(*later, 0));
            assert!(!is_of(version_of(*later, 0), *earlier));
            assert!(!is_of(version_of(*earlier, 9), *later));
        }
    }
}
