//! What every member says of itself, at the super-peer.
//!
//! What holds:
//! - Of a member there is what that member has said, by a connection of its own, or what an archive
//!   has of it; never something older than was there before, by version.
//! - Who is no member is not heard, and what was known of it is forgotten at once.
//! - Each member is heard so often and no more ([`bucket`](super::bucket)); it delays nobody else.
//!   Each message is answered by one at most, and never by a longer one.
//! - A member is called a liar for what cannot have come about by loss, delay or repetition only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use phantom_erasure::Digest;
use phantom_model::NodeId;

use super::bucket::Bucket;
use super::description::{Description, Difference, Mismatch, Version};
use super::message::Message;
use super::snapshot::Snapshot;
use super::{Command, MAX_MEMBERS, Offence};
use crate::machine::Mandate;

/// One registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration<'a> {
    /// Whose.
    pub member: NodeId,
    /// What it says.
    pub description: &'a Description,
    /// How long ago the member has last said so; of what comes from an archive alone, how long ago
    /// it was taken from there.
    pub age: Duration,
    /// Whether this super-peer has heard it of the member itself.
    pub confirmed: bool,
    /// [`Description::digest`].
    pub digest: Digest,
}

#[derive(Debug)]
struct Entry {
    description: Description,
    digest: Digest,
    heard: Duration,
    confirmed: bool,
}

#[derive(Debug)]
struct Member {
    /// Since when it is not known to live.
    down: Option<Duration>,
    bucket: Bucket,
    /// The boot and the count of the latest message of it.
    latest: Option<(u64, u64)>,
}

/// The machine of the super-peer.
#[derive(Debug)]
pub struct Registry {
    mandate: Mandate,
    /// How long what a member said is kept after it is gone.
    keep: Duration,
    members: BTreeMap<NodeId, Member>,
    entries: BTreeMap<NodeId, Entry>,
    revision: u64,
    commands: VecDeque<Command>,
}

impl Registry {
    /// An empty one. What a member said is kept for `keep` after it is gone.
    pub fn new(mandate: Mandate, keep: Duration) -> Self {
        Self {
            mandate,
            keep,
            members: BTreeMap::new(),
            entries: BTreeMap::new(),
            revision: 0,
            commands: VecDeque::new(),
        }
    }

    /// These are the members now, the super-peer itself among them; of more than [`MAX_MEMBERS`] the
    /// rest is passed over. New ones count as gone until they are heard of.
    pub fn handle_roster(&mut self, members: impl IntoIterator<Item = NodeId>, now: Duration) {
        let roster: BTreeSet<NodeId> = members.into_iter().take(MAX_MEMBERS).collect();
        self.members.retain(|node, _| roster.contains(node));
        let before = self.entries.len();
        self.entries.retain(|node, _| roster.contains(node));
        self.revision += u64::from(self.entries.len() != before);
        for node in roster {
            let new = || Member { down: Some(now), bucket: Bucket::new(now), latest: None };
            self.members.entry(node).or_insert_with(new);
        }
    }

    /// A member was found to live.
    pub fn handle_up(&mut self, node: NodeId) {
        if let Some(member) = self.members.get_mut(&node) {
            member.down = None;
        }
    }

    /// A member was found to be gone.
    pub fn handle_down(&mut self, node: NodeId, now: Duration) {
        if let Some(member) = self.members.get_mut(&node) {
            member.down.get_or_insert(now);
        }
    }

    /// `from` has sent bytes that are no message.
    pub fn handle_malformed(&mut self, from: NodeId, now: Duration) {
        if self.hears(from, now) {
            self.offended(from, Offence::Malformed, now);
        }
    }

    /// `from` has sent this; what is not about descriptions is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now: Duration) {
        let (sent, version) = match message {
            Message::Refresh { sent, version, .. } => (*sent, *version),
            Message::Change { sent, difference } => (*sent, difference.version),
            Message::Whole { sent, description, .. } => (*sent, description.version),
            _ => return,
        };
        if !self.hears(from, now) {
            return;
        }
        let later = self.is_later(from, version.boot, sent);
        let held = self.entries.get(&from);
        if let Some(held) = held.filter(|held| held.description.version > version) {
            let (held, digest) = (held.description.version, held.digest);
            if later && held.boot == version.boot && self.is_confirmed(from) {
                self.offended(from, Offence::WentBack { version, held }, now);
            }
            self.answer(from, Message::Outdated { mandate: self.mandate, held, digest });
            return;
        }
        let same = held.filter(|held| held.description.version == version);
        if let Some(digest) = same.map(|held| held.digest) {
            self.handle_same(from, message, version, digest, now);
            return;
        }
        match message {
            Message::Whole { description, digest, .. } if description.digest() == *digest => {
                self.register(from, description.clone(), *digest, now);
            }
            Message::Whole { .. } => self.offended(from, Offence::WrongDigest, now),
            Message::Change { difference, .. } => self.handle_change(from, sent, difference, now),
            _ => self.answer(from, Message::SendWhole { mandate: self.mandate, sent }),
        }
    }

    /// A message about the version that is there, which has this digest.
    fn handle_same(
        &mut self,
        from: NodeId,
        message: &Message,
        version: Version,
        held: Digest,
        now: Duration,
    ) {
        let said = match message {
            Message::Refresh { digest, .. } => *digest,
            Message::Change { difference, .. } => difference.result,
            Message::Whole { description, .. } => description.digest(),
            _ => return,
        };
        if said != held {
            if self.is_confirmed(from) {
                self.offended(from, Offence::TwoOfOneVersion { version }, now);
            }
            let (mandate, digest) = (self.mandate, held);
            self.answer(from, Message::Outdated { mandate, held: version, digest });
            return;
        }
        if let Some(entry) = self.entries.get_mut(&from) {
            (entry.heard, entry.confirmed) = (now, true);
        }
        self.answer(from, Message::Registered { mandate: self.mandate, version });
    }

    fn handle_change(&mut self, from: NodeId, sent: u64, difference: &Difference, now: Duration) {
        let applied = self.entries.get(&from).map(|held| difference.apply(&held.description));
        match applied {
            Some(Ok(description)) => self.register(from, description, difference.result, now),
            None | Some(Err(Mismatch::Base)) => {
                self.answer(from, Message::SendWhole { mandate: self.mandate, sent });
            }
            Some(Err(Mismatch::Excess(_))) => self.offended(from, Offence::Oversized, now),
            Some(Err(Mismatch::Result)) => self.offended(from, Offence::WrongDigest, now),
        }
    }

    fn register(&mut self, from: NodeId, description: Description, digest: Digest, now: Duration) {
        let version = description.version;
        let entry = Entry { description, digest, heard: now, confirmed: true };
        self.entries.insert(from, entry);
        self.revision += 1;
        self.answer(from, Message::Registered { mandate: self.mandate, version });
    }

    /// Whether one more message of this node is heard.
    fn hears(&mut self, from: NodeId, now: Duration) -> bool {
        let Some(member) = self.members.get_mut(&from) else { return false };
        if member.bucket.take(now) {
            if member.down.is_some() {
                member.down = Some(now);
            }
            return true;
        }
        self.offended(from, Offence::Flooding, now);
        false
    }

    /// Whether this message was sent after all others of the member's boot that have come.
    fn is_later(&mut self, from: NodeId, boot: u64, sent: u64) -> bool {
        let Some(member) = self.members.get_mut(&from) else { return false };
        let later = member.latest.is_some_and(|latest| latest.0 == boot && latest.1 < sent);
        member.latest = member.latest.max(Some((boot, sent)));
        later
    }

    fn is_confirmed(&self, node: NodeId) -> bool {
        self.entries.get(&node).is_some_and(|entry| entry.confirmed)
    }

    fn offended(&mut self, node: NodeId, what: Offence, now: Duration) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.bucket.offend(&what, now) {
            self.commands.push_back(Command::Complain { member: node, what });
        }
    }

    fn answer(&mut self, to: NodeId, message: Message) {
        self.commands.push_back(Command::Send { to, message });
    }

    /// When [`Registry::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.entries.keys().filter_map(|node| self.ends(*node)).min()
    }

    /// Until when what a member said is kept, if it is not known to live.
    fn ends(&self, node: NodeId) -> Option<Duration> {
        self.members.get(&node)?.down.map(|down| down.saturating_add(self.keep))
    }

    /// Forgets who is gone for too long.
    pub fn handle_timeout(&mut self, now: Duration) {
        let gone: Vec<NodeId> = self
            .entries
            .keys()
            .filter(|node| self.ends(**node).is_some_and(|ends| ends <= now))
            .copied()
            .collect();
        for node in gone {
            self.entries.remove(&node);
            self.revision += 1;
        }
    }

    /// Takes what another registry, or this one at another time, had: of each member the highest
    /// version stays, and nothing is lost. Who is no member now is passed over.
    pub fn merge(&mut self, other: Snapshot, now: Duration) {
        for (node, description) in other.into_descriptions() {
            if !self.members.contains_key(&node) {
                continue;
            }
            let digest = description.digest();
            let key = (description.version, digest.0);
            // Of two under one version, which only a liar has, both sides keep the same.
            let newer = self.entries.get(&node).is_none_or(|held| {
                let same = held.description.version == description.version;
                key > (held.description.version, held.digest.0) && !(same && held.confirmed)
            });
            if newer {
                let entry = Entry { description, digest, heard: now, confirmed: false };
                self.entries.insert(node, entry);
                self.revision += 1;
            }
        }
    }

    /// Takes over what another super-peer, deposed meanwhile, knows of members of which nothing is
    /// known here: those that are away, and had told only that one. What is known is left: each
    /// member tells it itself, and nobody else can change it.
    pub fn handle_handover(&mut self, other: Snapshot, now: Duration) {
        for (node, description) in other.into_descriptions() {
            if !self.members.contains_key(&node) || self.entries.contains_key(&node) {
                continue;
            }
            let digest = description.digest();
            let entry = Entry { description, digest, heard: now, confirmed: false };
            self.entries.insert(node, entry);
            self.revision += 1;
        }
    }

    /// What there is, to be archived.
    pub fn snapshot(&self) -> Snapshot {
        let entries = self.entries.iter();
        Snapshot::new(entries.map(|(node, entry)| (*node, entry.description.clone())))
    }

    /// Which boot a member's description is of.
    pub fn boot_of(&self, member: NodeId) -> Option<u64> {
        self.entries.get(&member).map(|entry| entry.description.version.boot)
    }

    /// Grows whenever a snapshot would differ from the one before.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How many members there are in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What every member says, by member.
    pub fn entries(&self, now: Duration) -> impl Iterator<Item = Registration<'_>> {
        self.entries.iter().map(move |(node, entry)| Registration {
            member: *node,
            description: &entry.description,
            age: now.saturating_sub(entry.heard),
            confirmed: entry.confirmed,
            digest: entry.digest,
        })
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
}

#[cfg(test)]
mod tests;
