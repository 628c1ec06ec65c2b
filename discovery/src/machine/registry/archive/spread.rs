//! One archive on its way to its holders.

use std::time::Duration;

use bytes::Bytes;
use phantom_erasure::{MAX_SHARDS, Scheme, Shard, Version as ShardVersion, split};
use phantom_model::NodeId;

use super::super::Command;
use super::super::message::{MAX_PIECE, Message, Piece, ShardName};
use super::super::placement::{MAX_SHARD, Placement, version_of};
use super::super::retry::Retry;
use crate::machine::Mandate;

/// A holder has so long to have its shard on its disk, and a second more for so many bytes.
const DEADLINE: Duration = Duration::from_secs(20);
const BYTES_EACH_SECOND: u64 = 128 << 10;
/// When a piece is sent again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// A shard on its way to its holder.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) to: NodeId,
    pub(super) bytes: Bytes,
    /// So much of it has arrived.
    pub(super) arrived: u64,
    pub(super) stored: bool,
    pub(super) retry: Retry,
    /// How many more pieces are sent: a holder that has them sent over and over is given up.
    budget: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Storing,
    /// The group is asked to commit it, and is asked again then.
    Committing(Duration),
    /// It is committed; who has not stored it yet still may.
    Committed,
}

/// An archive on its way.
#[derive(Debug)]
pub(super) struct Spread {
    mandate: Mandate,
    pub(super) placement: Placement,
    /// In the order of the shards.
    pub(super) uploads: Vec<Upload>,
    pub(super) phase: Phase,
    /// Until when shards are sent; none when that is over and only the group is waited for.
    pub(super) deadline: Option<Duration>,
    /// Which state of the registry it is.
    pub(super) revision: u64,
    /// Members in it.
    pub(super) members: usize,
}

impl Spread {
    /// The `count`-th archive of a mandate, over these members, of which each is away with this
    /// probability.
    pub(super) fn new(
        (mandate, count): (Mandate, u32),
        (holders, away): (Vec<NodeId>, f64),
        bytes: &[u8],
        revision: u64,
        now: Duration,
    ) -> Self {
        let scheme = scheme_for(holders.len(), away, bytes.len() as u64);
        // No shard is without a holder, and no holder without a shard.
        let holders: Vec<NodeId> = holders.into_iter().take(scheme.total()).collect();
        let (manifest, shards) = split(bytes, version_of(mandate, count), scheme);
        let pieces = manifest.shard_len().div_ceil(MAX_PIECE as u64);
        let upload = |(to, shard): (&NodeId, Shard)| Upload {
            to: *to,
            bytes: shard.bytes.into(),
            arrived: 0,
            stored: false,
            retry: Retry::new(now),
            budget: 8 * pieces + 32,
        };
        let uploads = holders.iter().zip(shards).map(upload).collect();
        let more = Duration::from_secs(manifest.shard_len() / BYTES_EACH_SECOND);
        let deadline = Some(now + DEADLINE + more);
        let placement = Placement { manifest, holders };
        Self { mandate, placement, uploads, phase: Phase::Storing, deadline, revision, members: 0 }
    }

    /// Who has its shard on its disk.
    pub(super) fn stored(&self) -> impl Iterator<Item = NodeId> {
        self.uploads.iter().filter(|upload| upload.stored).map(|upload| upload.to)
    }

    /// The piece that a holder lacks, or the last one again if it lacks none.
    pub(super) fn piece(
        &mut self,
        at: usize,
        committed: ShardVersion,
        now: Duration,
    ) -> Option<Command> {
        let shard = ShardName { version: self.placement.version(), index: u8::try_from(at).ok()? };
        let digest = *self.placement.manifest.shards.get(at)?;
        let upload = self.uploads.get_mut(at)?;
        upload.retry.again(FIRST_PAUSE, LONGEST_PAUSE, now);
        upload.budget = upload.budget.checked_sub(1)?;
        let len = upload.bytes.len();
        let start = usize::try_from(upload.arrived).ok()?.min(len.saturating_sub(1));
        let bytes = Piece(upload.bytes.slice(start..len.min(start + MAX_PIECE)));
        let (mandate, len, offset) = (self.mandate, len as u64, start as u64);
        let message = Message::Store { mandate, shard, len, digest, committed, offset, bytes };
        Some(Command::Send { to: upload.to, message })
    }

    /// When there is something to do.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        let again = match self.phase {
            Phase::Committing(again) => Some(again),
            _ => None,
        };
        let waits = self.uploads.iter().filter(|upload| !upload.stored);
        // Who had time enough is not sent to any more.
        let retries = waits.filter_map(|it| Some(it.retry.at.min(self.deadline?)));
        again.into_iter().chain(retries).min()
    }
}

/// The scheme for so many holders of so many bytes, whose shards are not too long.
pub(super) fn scheme_for(holders: usize, away: f64, len: u64) -> Scheme {
    let chosen = Scheme::choose(holders, away);
    let needed = usize::try_from(len.div_ceil(MAX_SHARD)).unwrap_or(MAX_SHARDS);
    let data = chosen.data().max(needed.min(chosen.total()));
    Scheme::new(data, chosen.total() - data).unwrap_or(chosen)
}
