//! The datagrams: who is there, here I am, and what members tell each other.
//!
//! ```text
//!  byte  0..3   "PH1"
//!        3      kind: 1 query, 2 presence, 3 sealed
//!        4..    the rest, by kind
//! ```
//!
//! What members tell each other is sealed ([`crate::envelope`]); a byte before it says what it is for.

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

/// No datagram is longer: fits the minimum MTU of IPv6 (1280, RFC 8200) with its headers.
pub const MAX_DATAGRAM: usize = 1232;
const MAGIC: &[u8; 3] = b"PH1";
const QUERY: u8 = 1;
const PRESENCE: u8 = 2;
const SEALED: u8 = 3;
/// Of a sealed datagram: what it is for, and whether the sender hears datagrams of the receiver.
const PARCEL: u8 = 1;
const HEARS: u8 = 0x80;
/// A query is made so long, so that an answer is not longer than what it answers: nobody can have a
/// third party flooded by it.
const QUERY_BYTES: usize = 1200;

/// A datagram, whose inner parts are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// Who is there?
    Query(Query),
    /// A signed presence.
    Presence(&'a [u8]),
    /// Sealed for this node.
    Sealed(&'a [u8]),
}

/// What was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letter<'a> {
    /// Whether the sender hears datagrams of the receiver.
    pub hears: bool,
    /// What it is for.
    pub body: Body<'a>,
}

/// What a member tells another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// For [`crate::machine::Membership`].
    Gossip(&'a [u8]),
    /// For its part in the sub-grid.
    Parcel(&'a [u8]),
}

/// No parcel that goes as a datagram is longer.
pub const MAX_PARCEL: usize = 1100;

impl<'a> Letter<'a> {
    /// What is sealed.
    pub fn to_bytes(self) -> Vec<u8> {
        let (kind, bytes) = match self.body {
            Body::Gossip(bytes) => (0, bytes),
            Body::Parcel(bytes) => (PARCEL, bytes),
        };
        let hears = if self.hears { HEARS } else { 0 };
        [&[kind | hears], bytes].concat()
    }

    /// Reads it; `None` when it is for nothing that is known here.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let body = match first & !HEARS {
            0 => Body::Gossip(rest),
            PARCEL => Body::Parcel(rest),
            _ => return None,
        };
        Some(Self { hears: first & HEARS != 0, body })
    }
}

/// Asks members to tell where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// Who asks. Nobody has proven it.
    pub node: NodeId,
    /// Comes back in the answer.
    pub nonce: u64,
    /// Whether it will found a sub-grid of its own if nobody answers.
    pub founding: bool,
}

/// What a member says of where it is; signed as a whole, with its certificate, by the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Port on which it takes connections.
    pub port: u16,
    /// Port on which it takes datagrams.
    pub datagram_port: u16,
    /// Whether it may let others in.
    pub may_accept: bool,
    /// The nonce of the query it answers; 0 when nobody asked.
    pub echo: u64,
    /// When it was said, in milliseconds since 1970 by its own clock; grows from one to the next.
    pub at_ms: u64,
}

/// Reads a datagram; `None` when it is none of ours.
pub fn read(bytes: &[u8]) -> Option<Datagram<'_>> {
    if bytes.len() > MAX_DATAGRAM {
        return None;
    }
    let (kind, rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
    match *kind {
        QUERY if bytes.len() >= QUERY_BYTES => {
            postcard::take_from_bytes(rest).ok().map(|(query, _)| Datagram::Query(query))
        }
        PRESENCE => Some(Datagram::Presence(rest)),
        SEALED => Some(Datagram::Sealed(rest)),
        _ => None,
    }
}

/// A query as it is sent.
pub fn query(query: &Query) -> Vec<u8> {
    let mut bytes = datagram(QUERY, &encode(query));
    bytes.resize(QUERY_BYTES, 0);
    bytes
}

/// A presence as it is sent; `signed` is what the node has signed.
pub fn presence(signed: &[u8]) -> Vec<u8> {
    datagram(PRESENCE, signed)
}

/// A sealed letter as it is sent.
pub fn sealed(sealed: &[u8]) -> Vec<u8> {
    datagram(SEALED, sealed)
}

impl Presence {
    /// What the node signs.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads what the node has signed.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let presence: Self = postcard::from_bytes(bytes).ok()?;
        (presence.port != 0 && presence.datagram_port != 0).then_some(presence)
    }
}

fn datagram(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &[kind], rest].concat()
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs of numbers always serialize.
    postcard::to_stdvec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn datagrams_read_as_written_and_short_queries_are_not_answered() {
        let asked = Query { node: NodeId([7; 32]), nonce: 9, founding: true };
        let bytes = query(&asked);
        assert_eq!(read(&bytes), Some(Datagram::Query(asked)));
        assert_eq!(read(&bytes[..200]), None);
        assert_eq!(read(&presence(b"x")), Some(Datagram::Presence(b"x")));
        assert_eq!(read(&sealed(b"x")), Some(Datagram::Sealed(b"x")));
        for body in [Body::Gossip(b""), Body::Gossip(b"x"), Body::Parcel(b"y")] {
            for hears in [false, true] {
                let letter = Letter { hears, body };
                assert_eq!(Letter::read(&letter.to_bytes()), Some(letter));
            }
        }
        assert_eq!([Letter::read(&[]), Letter::read(&[2, 0])], [None, None]);
        let here = Presence { port: 1, datagram_port: 2, may_accept: true, echo: 3, at_ms: 4 };
        assert_eq!(Presence::read(&here.to_bytes()), Some(here.clone()));
        assert_eq!(Presence::read(&Presence { port: 0, ..here }.to_bytes()), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let _ = read(&bytes);
            let _ = Letter::read(&bytes);
            let _ = Presence::read(&bytes);
        }
    }
}
