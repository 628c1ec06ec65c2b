//! The registry of a sub-grid: what every member says of itself, at its super-peer.
//!
//! ```text
//!  every member                          the super-peer
//!    Registrant ── its description ──────▶ Registry ──┐ queries
//!               ◀──────── acknowledged ──             │ snapshot, while something changes
//!    Holder ◀──────────────── a shard ─── Archive ◀───┘
//!           ── on its disk ─────────────▶    └── enough are: Commit(placement) ─▶ elected group
//!           ◀─────────────── Fetch, once ── Rebuild ◀── the committed placement ──┘
//! ```
//!
//! The registry is soft: members say again what they have said. What only an archive can give back
//! are members that are away when the super-peer changes, and all of it at once. The archive lies on
//! all members as shards of an erasure code (PhantomOS, section 4.4.3); the elected group keeps only
//! who has which, and their digests.
//!
//! What holds:
//! - Members obey the super-peer that they were told of, in its mandate, and nobody else.
//! - The registry never has an older state of a member than it had before, and never one that the
//!   member did not have.
//! - A placement is committed when enough of its shards are on disks, and older shards go after that.
//! - What comes from others is bounded in length, count and rate, and every wait has an end.
//!
//! [`Member`] and [`SuperPeer`] are the machines put together. Whatever a node sends to itself (a
//! super-peer is a member too) its shell hands to its own machine.

mod archive;
mod bucket;
pub mod description;
mod holder;
mod member;
pub mod message;
mod placement;
mod rebuild;
mod registrant;
#[expect(clippy::module_inception, reason = "the registry is the heart of the registry")]
mod registry;
mod retry;
mod snapshot;
mod super_peer;

use phantom_erasure::{Refusal, Version as ShardVersion};
use phantom_model::NodeId;
use thiserror::Error;

pub use archive::Archive;
pub use description::{Attributes, Description, Difference};
pub use holder::{Holder, Kept, MAX_KEPT};
pub use member::Member;
pub use message::{Message, ShardName};
pub use placement::{BadPlacement, MAX_PLACEMENT, MAX_SHARD, Placement, is_of};
pub use rebuild::{Outcome, Progress, Rebuild};
pub use registrant::{KEEP_ALIVE, Registrant};
pub use registry::{Registration, Registry};
pub use snapshot::{MAX_SNAPSHOT, Snapshot, SnapshotError};
pub use super_peer::{Settings, SuperPeer};

use description::Version;

/// So many members a registry has at most.
pub const MAX_MEMBERS: usize = 1024;

/// What a machine of the registry wants done, in the order in which it says so: a shard that makes
/// room is discarded before the one that needs it is persisted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Send this to a member, which may be this node.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Tell the owner, and whoever judges members, what one has done.
    Complain {
        /// Who.
        member: NodeId,
        /// What.
        what: Offence,
    },
    /// Have the elected group commit this [`Placement`]. The group keeps one: that of the highest
    /// version, and refuses one that is not of the mandate of who asks ([`is_of`]).
    Commit(Vec<u8>),
    /// Bring this to the disk, durably, and say so ([`Holder::handle_persisted`]).
    Persist(Kept),
    /// This need not be on the disk any more.
    Discard(ShardName),
}

/// What no honest member does.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Offence {
    /// More messages than any member has to send.
    #[error("sends more about its description than is heard")]
    Flooding,
    /// Bytes that are no message.
    #[error("sends what is no message, or one beyond the bounds")]
    Malformed,
    /// A description or a shard that is not what it says.
    #[error("names a digest that is not that of what it sends")]
    WrongDigest,
    /// A difference that gives too large a description, or too large a shard.
    #[error("sends something that is beyond the bounds")]
    Oversized,
    /// An older version after a newer one.
    #[error("says version {version} of its description after version {held}, in one boot")]
    WentBack {
        /// What it said.
        version: Version,
        /// What it had said before.
        held: Version,
    },
    /// Two descriptions under one version.
    #[error("says two things under version {version} of its description")]
    TwoOfOneVersion {
        /// Which.
        version: Version,
    },
    /// A shard that is not the one.
    #[error("{0}")]
    Shard(Refusal),
    /// Two shards under one name.
    #[error("sends another {shard} than before")]
    TwoShards {
        /// Which.
        shard: ShardName,
    },
    /// A super-peer speaks of archives that are not of its time.
    #[error("speaks of version {version} of the archive, which its mandate does not give")]
    ForeignVersion {
        /// Which.
        version: ShardVersion,
    },
    /// A member did not confirm in time that it keeps its shard.
    #[error("did not confirm in time that it keeps {shard}")]
    NotStored {
        /// Which.
        shard: ShardName,
    },
}

impl Offence {
    /// How many kinds there are.
    const KINDS: usize = 10;

    /// Which kind it is.
    fn kind(&self) -> usize {
        match self {
            Self::Flooding => 0,
            Self::Malformed => 1,
            Self::WrongDigest => 2,
            Self::Oversized => 3,
            Self::WentBack { .. } => 4,
            Self::TwoOfOneVersion { .. } => 5,
            Self::Shard(_) => 6,
            Self::TwoShards { .. } => 7,
            Self::ForeignVersion { .. } => 8,
            Self::NotStored { .. } => 9,
        }
    }
}

#[cfg(test)]
mod simulation;
