//! A member keeps shards of the registry's archive for the super-peer.
//!
//! What holds:
//! - Commands are taken from the super-peer in its own mandate only. Which mandate was the latest is
//!   in what is kept, so a restart does not bring an earlier one back.
//! - A shard is kept when its digest is right, and acknowledged when it is on the disk
//!   ([`Holder::handle_persisted`]).
//! - A shard goes when a newer archive is known to be committed, or when there are [`MAX_KEPT`]
//!   newer ones that are not, or no room for one: never the one that is committed.
//! - No more than [`MAX_KEPT`] shards are kept, and one that is coming; each is at most
//!   [`MAX_SHARD`] long.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use phantom_erasure::{Digest, Version as ShardVersion};
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

use super::bucket::Named;
use super::message::{MAX_PIECE, Message, Piece, ShardName};
use super::placement::{MAX_SHARD, is_of, version_of};
use super::{Command, Offence};
use crate::machine::Mandate;

/// So many shards a member keeps.
pub const MAX_KEPT: usize = 3;
/// A shard of which nothing more comes for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shard as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// In whose name it was sent.
    pub mandate: Mandate,
    /// Which.
    pub shard: ShardName,
    /// Of it.
    pub digest: Digest,
    /// It.
    pub bytes: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    mandate: Mandate,
    shard: ShardName,
    digest: Digest,
}

impl Kept {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let head = Head { mandate: self.mandate, shard: self.shard, digest: self.digest };
        // Plain structs of numbers always serialize.
        [&postcard::to_stdvec(&head).unwrap_or_default(), &self.bytes[..]].concat()
    }

    /// Reads what [`Kept::encode`] wrote; none when it is not what was written.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest): (Head, _) = postcard::take_from_bytes(bytes).ok()?;
        let Head { mandate, shard, digest } = head;
        let kept = Self { mandate, shard, digest, bytes: Bytes::copy_from_slice(rest) };
        kept.is_whole().then_some(kept)
    }

    fn is_whole(&self) -> bool {
        let fits = (1..=MAX_SHARD).contains(&(self.bytes.len() as u64));
        fits && digest_of(&self.bytes) == self.digest && is_of(self.shard.version, self.mandate)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest(blake3::hash(bytes).into())
}

/// A shard of which something is still to come.
#[derive(Debug)]
struct Incoming {
    shard: ShardName,
    len: u64,
    digest: Digest,
    bytes: BytesMut,
    last: Duration,
}

/// The machine of every member.
#[derive(Debug, Default)]
pub struct Holder {
    super_peer: Option<(NodeId, Mandate)>,
    latest: Mandate,
    committed: ShardVersion,
    /// By version, and whether it is on the disk.
    kept: BTreeMap<ShardVersion, (Kept, bool)>,
    incoming: Option<Incoming>,
    /// What the super-peer was named for.
    named: Named,
    commands: VecDeque<Command>,
}

impl Holder {
    /// A member that keeps what its disk has. What is damaged, or too much, is discarded.
    pub fn restore(disk: impl IntoIterator<Item = Kept>) -> Self {
        let mut holder = Self::default();
        for kept in disk {
            let (version, mandate) = (kept.shard.version, kept.mandate);
            if !kept.is_whole() || holder.kept.contains_key(&version) {
                holder.commands.push_back(Command::Discard(kept.shard));
                continue;
            }
            holder.latest = holder.latest.max(mandate);
            holder.kept.insert(version, (kept, true));
            if holder.kept.len() > 2 * MAX_KEPT
                && let Some((_, (oldest, _))) = holder.kept.pop_first()
            {
                holder.commands.push_back(Command::Discard(oldest.shard));
            }
        }
        holder
    }

    /// This node is super-peer, or nobody is. One of an earlier mandate than was heard of is none.
    pub fn handle_super_peer(&mut self, super_peer: Option<(NodeId, Mandate)>) {
        if super_peer.is_some_and(|(_, mandate)| mandate < self.latest)
            || super_peer == self.super_peer
        {
            return;
        }
        self.super_peer = super_peer;
        (self.incoming, self.named) = (None, Named::default());
        self.latest = super_peer.map_or(self.latest, |(_, mandate)| mandate);
    }

    /// The elected group has committed an archive of this version.
    pub fn handle_committed(&mut self, version: ShardVersion) {
        if version <= self.committed {
            return;
        }
        self.committed = version;
        let newer = self.kept.split_off(&version);
        for (kept, _) in std::mem::replace(&mut self.kept, newer).into_values() {
            self.commands.push_back(Command::Discard(kept.shard));
        }
        if self.incoming.as_ref().is_some_and(|incoming| incoming.shard.version < version) {
            self.incoming = None;
        }
    }

    /// `from` has sent this; what is not for a holder is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: Message, now: Duration) {
        let ours = |mandate: Mandate| self.super_peer == Some((from, mandate));
        match message {
            Message::Store { mandate, shard, len, digest, committed, offset, bytes }
                if ours(mandate) =>
            {
                // A super-peer speaks of archives of its own time and before.
                let last = version_of(mandate, u32::MAX);
                if !is_of(shard.version, mandate) || committed > last {
                    return self.offended(
                        from,
                        Offence::ForeignVersion { version: shard.version },
                        now,
                    );
                }
                if !(1..=MAX_SHARD).contains(&len) {
                    return self.offended(from, Offence::Oversized, now);
                }
                self.handle_committed(committed);
                if shard.version >= self.committed {
                    let piece = (offset, bytes.0);
                    self.handle_piece(from, mandate, shard, (len, digest), piece, now);
                }
            }
            Message::Keep { mandate, committed, index } if ours(mandate) => {
                if committed > version_of(mandate, u32::MAX) {
                    return self.offended(
                        from,
                        Offence::ForeignVersion { version: committed },
                        now,
                    );
                }
                self.handle_committed(committed);
                if let Some(index) = index {
                    let shard = ShardName { version: committed, index };
                    let answer = match self.durable(shard) {
                        Some(_) => Message::Stored { mandate, shard },
                        None => Message::Absent { mandate, shard },
                    };
                    self.answer(from, answer);
                }
            }
            Message::Fetch { mandate, shard, offset } if ours(mandate) => {
                let piece = self.durable(shard).and_then(|kept| {
                    let start = usize::try_from(offset).ok()?;
                    let end = kept.bytes.len().min(start.saturating_add(MAX_PIECE));
                    let bytes = (start < end).then(|| Piece(kept.bytes.slice(start..end)))?;
                    Some(Message::Piece {
                        mandate,
                        shard,
                        len: kept.bytes.len() as u64,
                        offset,
                        bytes,
                    })
                });
                self.answer(from, piece.unwrap_or(Message::Absent { mandate, shard }));
            }
            _ => {}
        }
    }

    fn durable(&self, shard: ShardName) -> Option<&Kept> {
        let (kept, durable) = self.kept.get(&shard.version)?;
        (*durable && kept.shard == shard).then_some(kept)
    }

    /// A piece of a shard that is to be kept, from the super-peer.
    fn handle_piece(
        &mut self,
        from: NodeId,
        mandate: Mandate,
        shard: ShardName,
        (len, digest): (u64, Digest),
        (offset, piece): (u64, Bytes),
        now: Duration,
    ) {
        if let Some((kept, durable)) = self.kept.get(&shard.version) {
            if kept.shard != shard || kept.digest != digest {
                self.offended(from, Offence::TwoShards { shard }, now);
            } else if *durable {
                self.answer(from, Message::Stored { mandate, shard });
            }
            return;
        }
        let same = |it: &Incoming| it.shard == shard && it.len == len && it.digest == digest;
        let mut incoming = match self.incoming.take() {
            Some(incoming) if same(&incoming) => incoming,
            // What is overtaken by a newer one is not begun again.
            Some(incoming) if incoming.shard.version > shard.version => {
                self.incoming = Some(incoming);
                return;
            }
            _ => Incoming { shard, len, digest, bytes: BytesMut::new(), last: now },
        };
        let have = incoming.bytes.len() as u64;
        if offset == have && have + piece.len() as u64 <= len {
            incoming.bytes.extend_from_slice(&piece);
            incoming.last = now;
        }
        if (incoming.bytes.len() as u64) < len {
            let have = incoming.bytes.len() as u64;
            self.incoming = Some(incoming);
            self.answer(from, Message::Received { mandate, shard, have });
        } else if digest_of(&incoming.bytes) == digest {
            self.keep(Kept { mandate, shard, digest, bytes: incoming.bytes.freeze() });
        } else {
            self.offended(from, Offence::WrongDigest, now);
        }
    }

    fn keep(&mut self, kept: Kept) {
        while self.kept.len() >= MAX_KEPT {
            let spare = self.kept.keys().copied().find(|version| *version != self.committed);
            let Some((spare, _)) = spare.and_then(|version| self.kept.remove(&version)) else {
                break;
            };
            self.commands.push_back(Command::Discard(spare.shard));
        }
        self.commands.push_back(Command::Persist(kept.clone()));
        self.kept.insert(kept.shard.version, (kept, false));
    }

    /// A shard that was to be persisted is on the disk, or could not be brought there.
    pub fn handle_persisted(&mut self, shard: ShardName, durable: bool) {
        let Some((kept, on_disk)) = self.kept.get_mut(&shard.version) else { return };
        if kept.shard != shard {
            return;
        }
        if !durable {
            self.kept.remove(&shard.version);
            return;
        }
        *on_disk = true;
        let mandate = kept.mandate;
        if let Some((to, now)) = self.super_peer
            && now == mandate
        {
            self.answer(to, Message::Stored { mandate, shard });
        }
    }

    /// When [`Holder::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.incoming.as_ref().map(|incoming| incoming.last + PATIENCE)
    }

    /// Gives up what no longer comes.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.incoming = None;
        }
    }

    /// The shards that are on the disk.
    pub fn kept(&self) -> impl Iterator<Item = ShardName> {
        self.kept.values().filter(|(_, durable)| *durable).map(|(kept, _)| kept.shard)
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn offended(&mut self, member: NodeId, what: Offence, now: Duration) {
        if self.named.offend(&what, now) {
            self.commands.push_back(Command::Complain { member, what });
        }
    }

    fn answer(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send { to, message });
    }
}

#[cfg(test)]
mod tests;
