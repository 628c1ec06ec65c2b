//! Gossip is authenticated, not secret: a tag over each datagram by a key that two members share,
//! and a counter against replays, as in RFC 4303, section 3.4.3.
//!
//! ```text
//!  byte  0..8   sender, the first bytes of its node id
//!        8..16  counter, little-endian, of the sender towards this receiver
//!       16..32  tag: keyed BLAKE3 of sender, receiver, counter and payload
//!       32..    payload
//! ```

use phantom_model::NodeId;

/// How far a datagram may come late.
const WINDOW: u64 = 64;
const TAG: usize = 16;
const HEAD: usize = 8 + 8 + TAG;

/// The first bytes of a node id: enough to tell members apart, and nobody can choose them so that
/// they are another's at less than 2^64 tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortId(pub [u8; 8]);

impl std::fmt::Display for ShortId {
    /// As [`NodeId::short`] of the node.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().take(5).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<NodeId> for ShortId {
    fn from(node: NodeId) -> Self {
        let mut short = [0; 8];
        short.copy_from_slice(&node.0[..8]);
        Self(short)
    }
}

/// Who seems to have sent a sealed datagram; whether that is so, [`Pair::open`] tells.
pub fn sender(sealed: &[u8]) -> Option<ShortId> {
    sealed.first_chunk::<8>().map(|short| ShortId(*short))
}

/// What this node and another share for their datagrams.
#[derive(Debug)]
pub struct Pair {
    own: ShortId,
    peer: ShortId,
    key: [u8; 32],
    sent: u64,
    /// The highest counter received, and which of those below it.
    highest: u64,
    seen: u64,
}

impl Pair {
    /// With the `key` they share. `start` is above every counter this node has used towards the
    /// other before: the time in microseconds since 1970 is.
    pub fn new(own: NodeId, peer: NodeId, key: [u8; 32], start: u64) -> Self {
        Self { own: own.into(), peer: peer.into(), key, sent: start, highest: 0, seen: 0 }
    }

    /// Seals `payload` for the other.
    pub fn seal(&mut self, payload: &[u8]) -> Vec<u8> {
        self.sent += 1;
        let counter = self.sent.to_le_bytes();
        let tag = tag(&self.key, self.own, self.peer, counter, payload);
        [&self.own.0[..], &counter, &tag, payload].concat()
    }

    /// The payload, if the other has sealed it and it was not received before.
    pub fn open<'a>(&mut self, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (head, payload) = sealed.split_at_checked(HEAD)?;
        let (from, rest) = head.split_first_chunk::<8>()?;
        let (counter, given) = rest.split_first_chunk::<8>()?;
        if ShortId(*from) != self.peer {
            return None;
        }
        let expected = tag(&self.key, self.peer, self.own, *counter, payload);
        // Every byte is looked at, so that the time tells nothing.
        let differs = expected.iter().zip(given).fold(0, |all, (a, b)| all | (a ^ b));
        (differs == 0 && self.is_new(u64::from_le_bytes(*counter))).then_some(payload)
    }

    fn is_new(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let ahead = counter - self.highest;
            self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 } | 1;
            self.highest = counter;
            return true;
        }
        let behind = self.highest - counter;
        if behind >= WINDOW || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

fn tag(key: &[u8; 32], from: ShortId, to: ShortId, counter: [u8; 8], payload: &[u8]) -> [u8; TAG] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&from.0).update(&to.0).update(&counter).update(payload);
    let mut tag = [0; TAG];
    hasher.finalize_xof().fill(&mut tag);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Pair, Pair) {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        (Pair::new(a, b, [5; 32], 10), Pair::new(b, a, [5; 32], 900))
    }

    #[test]
    fn each_datagram_counts_once_and_only_between_the_two() {
        let (mut a, mut b) = pair();
        let first = a.seal(b"one");
        let second = a.seal(b"two");
        assert_eq!(sender(&first), Some(NodeId([1; 32]).into()));
        assert_eq!(ShortId::from(NodeId([18; 32])).to_string(), NodeId([18; 32]).short());
        assert_eq!(b.open(&second), Some(&b"two"[..]), "out of order");
        assert_eq!(b.open(&first), Some(&b"one"[..]));
        assert_eq!(b.open(&first), None, "a replay");
        assert_eq!(a.open(&first), None, "sent back");
        let mut stranger = Pair::new(NodeId([2; 32]), NodeId([1; 32]), [6; 32], 0);
        assert_eq!(stranger.open(&first), None);
    }

    #[test]
    fn what_is_too_old_to_be_told_from_a_replay_is_not_taken() {
        let (mut a, mut b) = pair();
        let sealed: Vec<_> = (0..100).map(|_| a.seal(b"x")).collect();
        assert!(b.open(&sealed[99]).is_some());
        let taken = sealed.iter().filter(|sealed| b.open(sealed).is_some()).count();
        assert_eq!(taken, WINDOW as usize - 1);
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(at in 0usize..40, bit in 0u8..8) {
            let (mut a, mut b) = pair();
            let mut sealed = a.seal(b"payload!");
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(b.open(&sealed), None);
        }

        #[test]
        fn any_order_and_repetition_gives_each_once(order in proptest::collection::vec(0usize..40, 0..200)) {
            let (mut a, mut b) = pair();
            let sealed: Vec<_> = (0..40u8).map(|number| a.seal(&[number])).collect();
            let mut got = [0; 40];
            for at in order {
                got[at] += usize::from(b.open(&sealed[at]).is_some());
            }
            prop_assert!(got.iter().all(|times| *times <= 1));
        }
    }
}
