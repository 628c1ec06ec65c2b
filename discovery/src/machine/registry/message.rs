//! What members and their super-peer say to each other about the registry.
//!
//! ```text
//!  member                                     super-peer
//!    Refresh, Change, Whole ─────────────────▶  its description, or only that it is as it was
//!    ◀───────────── Registered, SendWhole, Outdated
//!    ◀──────────────────────────────── Store    a piece of the shard that it is to keep
//!    Received, Stored ───────────────────────▶
//!    ◀───────────────────────────────── Keep    what is committed, and: do you still have yours?
//!    ◀──────────────────────────────── Fetch    a new super-peer gathers what was archived
//!    Piece, Absent ──────────────────────────▶
//! ```
//!
//! What holds: what [`Message::decode`] gives is within every bound of this module and of
//! [`description`](super::description). Who sent a message, the connection proves; nothing in a
//! message says so.

use std::fmt;

use bytes::Bytes;
use phantom_erasure::{Digest, Version as ShardVersion};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::description::{Description, Difference, Version};
use crate::machine::Mandate;

/// No message is longer, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// So much of a shard one message carries at most, in bytes.
pub const MAX_PIECE: usize = 256 << 10;

/// One message. `sent` counts what a member sends of its description within one boot, so that what
/// was overtaken on the way is known from what is a lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A member's description is this one.
    Refresh {
        /// Grows with each message about the description.
        sent: u64,
        /// Which.
        version: Version,
        /// Of it.
        digest: Digest,
    },
    /// It has changed.
    Change {
        /// As above.
        sent: u64,
        /// How.
        difference: Difference,
    },
    /// All of it.
    Whole {
        /// As above.
        sent: u64,
        /// It.
        description: Description,
        /// Of it.
        digest: Digest,
    },
    /// The registry has this version.
    Registered {
        /// In whose name.
        mandate: Mandate,
        /// Which.
        version: Version,
    },
    /// The registry needs the whole description.
    SendWhole {
        /// In whose name.
        mandate: Mandate,
        /// The count of the message that it answers.
        sent: u64,
    },
    /// The registry has this description, which is not older than what was sent, and not that.
    Outdated {
        /// In whose name.
        mandate: Mandate,
        /// Which it has.
        held: Version,
        /// Of it.
        digest: Digest,
    },
    /// A piece of the shard that a member is to keep.
    Store {
        /// In whose name.
        mandate: Mandate,
        /// Which shard.
        shard: ShardName,
        /// How long the shard is, in bytes.
        len: u64,
        /// Of the whole shard.
        digest: Digest,
        /// What is committed: older shards may go.
        committed: ShardVersion,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        bytes: Piece,
    },
    /// A member has the shard up to here.
    Received {
        /// In whose name it was sent.
        mandate: Mandate,
        /// Which.
        shard: ShardName,
        /// So many bytes from its beginning.
        have: u64,
    },
    /// A member has the shard on its disk.
    Stored {
        /// In whose name it is asked.
        mandate: Mandate,
        /// Which.
        shard: ShardName,
    },
    /// What is committed, so that older shards may go, and whether a shard of it is still there.
    Keep {
        /// In whose name.
        mandate: Mandate,
        /// The version that is committed.
        committed: ShardVersion,
        /// The shard that is asked for, if one is.
        index: Option<u8>,
    },
    /// A new super-peer wants a shard.
    Fetch {
        /// In whose name.
        mandate: Mandate,
        /// Which.
        shard: ShardName,
        /// From where on.
        offset: u64,
    },
    /// A piece of it.
    Piece {
        /// In whose name it was fetched.
        mandate: Mandate,
        /// Which shard.
        shard: ShardName,
        /// How long the shard is, in bytes.
        len: u64,
        /// Where the piece begins.
        offset: u64,
        /// The piece.
        bytes: Piece,
    },
    /// A member does not have that shard.
    Absent {
        /// In whose name it is asked.
        mandate: Mandate,
        /// Which.
        shard: ShardName,
    },
}

/// Which shard of which version of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardName {
    /// Of the archive.
    pub version: ShardVersion,
    /// Which of its shards.
    pub index: u8,
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} of version {}", self.index, self.version)
    }
}

/// Bytes of a shard, at most [`MAX_PIECE`] where they come from a message.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Piece(pub Bytes);

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;

        impl Visitor<'_> for Octets {
            type Value = Piece;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_PIECE} bytes")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Piece, E> {
                if bytes.len() > MAX_PIECE {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(Piece(Bytes::copy_from_slice(bytes)))
            }
        }

        deserializer.deserialize_bytes(Octets)
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Too long.
    #[error("a message about the registry has {0} bytes; at most {MAX_MESSAGE} are taken")]
    TooLong(usize),
    /// Not one, or one that is beyond the bounds.
    #[error("no message about the registry, or one beyond the bounds: {0}")]
    Malformed(postcard::Error),
    /// Something comes after it.
    #[error("{0} bytes come after a message about the registry")]
    Trailing(usize),
}

impl Message {
    /// Reads one, whose every part is within the bounds then.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let (message, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::Malformed)?;
        if !rest.is_empty() {
            return Err(DecodeError::Trailing(rest.len()));
        }
        Ok(message)
    }

    /// As it is sent, at most [`MAX_MESSAGE`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Plain structs of numbers, texts and bytes always serialize.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

#[cfg(test)]
pub(super) mod tests;
