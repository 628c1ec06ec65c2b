use proptest::prelude::*;

use super::super::description::tests::any_description;
use super::*;

fn any_shard() -> impl Strategy<Value = ShardName> {
    let version = (0u64..3, prop_oneof![0u64..3, (0u64..3).prop_map(|term| (term << 32) + 1)]);
    let version = version.prop_map(|(generation, change)| ShardVersion { generation, change });
    (version, 0u8..4).prop_map(|(version, index)| ShardName { version, index })
}

fn any_mandate() -> impl Strategy<Value = Mandate> {
    (0u64..3, 0u64..3).prop_map(|(generation, term)| Mandate { generation, term })
}

fn any_digest() -> impl Strategy<Value = Digest> {
    prop_oneof![any::<[u8; 32]>().prop_map(Digest), Just(Digest(blake3::hash(&[9; 40]).into()))]
}

fn any_piece() -> impl Strategy<Value = Piece> {
    let any = proptest::collection::vec(any::<u8>(), 0..50);
    prop_oneof![any, Just(vec![9; 40]), Just(vec![9; 20])].prop_map(|bytes| Piece(bytes.into()))
}

fn any_place() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..50, Just(20), Just(40), any::<u64>()]
}

fn of_members() -> impl Strategy<Value = Message> {
    let version = || (0u64..4, 0u64..4).prop_map(|(boot, seq)| Version { boot, seq });
    prop_oneof![
        (0u64..20, version(), any_digest()).prop_map(|(sent, version, digest)| Message::Refresh {
            sent,
            version,
            digest
        }),
        (0u64..20, any_description(), any_description()).prop_map(|(sent, base, result)| {
            Message::Change { sent, difference: Difference::between(&base, &result) }
        }),
        (0u64..20, any_description(), any::<bool>()).prop_map(|(sent, description, right)| {
            let digest = if right { description.digest() } else { Digest([0; 32]) };
            Message::Whole { sent, description, digest }
        }),
        (any_mandate(), any_shard(), any_place())
            .prop_map(|(mandate, shard, have)| Message::Received { mandate, shard, have }),
        (any_mandate(), any_shard())
            .prop_map(|(mandate, shard)| Message::Stored { mandate, shard }),
        (any_mandate(), any_shard())
            .prop_map(|(mandate, shard)| Message::Absent { mandate, shard }),
        (any_mandate(), any_shard(), any_place(), any_place(), any_piece()).prop_map(
            |(mandate, shard, len, offset, bytes)| Message::Piece {
                mandate,
                shard,
                len,
                offset,
                bytes
            }
        ),
    ]
}

fn of_super_peers() -> impl Strategy<Value = Message> {
    let version = || (0u64..4, 0u64..4).prop_map(|(boot, seq)| Version { boot, seq });
    prop_oneof![
        (any_mandate(), version())
            .prop_map(|(mandate, version)| Message::Registered { mandate, version }),
        (any_mandate(), 0u64..100).prop_map(|(mandate, sent)| Message::SendWhole { mandate, sent }),
        (any_mandate(), version(), any_digest())
            .prop_map(|(mandate, held, digest)| Message::Outdated { mandate, held, digest }),
        (
            any_mandate(),
            any_shard(),
            any_place(),
            any_digest(),
            any_shard(),
            any_place(),
            any_piece()
        )
            .prop_map(|(mandate, shard, len, digest, committed, offset, bytes)| {
                Message::Store {
                    mandate,
                    shard,
                    len,
                    digest,
                    committed: committed.version,
                    offset,
                    bytes,
                }
            }),
        (any_mandate(), any_shard(), any::<bool>()).prop_map(|(mandate, shard, asks)| {
            Message::Keep { mandate, committed: shard.version, index: asks.then_some(shard.index) }
        }),
        (any_mandate(), any_shard(), any_place())
            .prop_map(|(mandate, shard, offset)| Message::Fetch { mandate, shard, offset }),
    ]
}

/// Anything that can be read, whether or not it makes sense.
pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![of_members(), of_super_peers()]
}

#[test]
fn what_is_too_long_is_refused() {
    let shard = ShardName { version: ShardVersion::default(), index: 0 };
    let piece = |len: usize| {
        let (mandate, bytes) = (Mandate::default(), Piece(vec![1; len].into()));
        Message::Piece { mandate, shard, len: 1, offset: 0, bytes }.encode()
    };
    assert!(Message::decode(&piece(MAX_PIECE)).is_ok());
    assert!(matches!(Message::decode(&piece(MAX_PIECE + 1)), Err(DecodeError::Malformed(_))));
    let error = Message::decode(&piece(MAX_MESSAGE)).unwrap_err().to_string();
    assert!(error.ends_with("at most 1048576 are taken"), "{error}");
    let mut more = piece(9);
    more.push(0);
    assert_eq!(Message::decode(&more), Err(DecodeError::Trailing(1)));
    assert!(Message::decode(&[]).is_err());
}

proptest! {
    #[test]
    fn messages_read_as_written(message in any_message()) {
        prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(message) = Message::decode(&bytes) {
            // Numbers may be written longer than they need be; what is meant is the same.
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn damaged_messages_are_refused_or_within_the_bounds(
        message in any_message(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut bytes = message.encode();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }
}
