//! A new super-peer gathers what the one before it has archived.
//!
//! ```text
//!  committed placement ─▶ Fetch to every holder that lives ─▶ Piece, Piece, … ─▶ Assembly ─▶ Snapshot
//!                                                         └─▶ Absent, corrupt, stale: not asked again
//! ```
//!
//! What holds: a shard that the manifest does not vouch for is never used, and its holder is named;
//! any `k` right ones are enough, whatever the others do; it ends at its deadline, and earlier when
//! nobody is left who could have enough.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use phantom_erasure::{Assembly, Refusal, Shard, Version as ShardVersion};
use phantom_model::NodeId;

use super::message::{MAX_PIECE, Message, ShardName};
use super::placement::Placement;
use super::retry::Retry;
use super::snapshot::Snapshot;
use super::{Command, Offence};
use crate::machine::Mandate;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Shards that are there and right.
    pub have: usize,
    /// Shards that suffice.
    pub need: usize,
    /// Holders from which one is awaited.
    pub awaited: usize,
    /// Holders that had none, or a wrong one.
    pub failed: usize,
    /// Whether it goes on.
    pub outcome: Outcome,
}

/// Whether a rebuild goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Underway,
    /// Everything is there.
    Complete,
    /// Too few shards came before the deadline, or what they give is no archive: the registry fills
    /// from the members alone.
    Failed,
}

#[derive(Debug)]
struct Source {
    index: u8,
    bytes: BytesMut,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// It is not known to live.
    Away,
    Asked(Retry),
    Done,
    Failed,
}

/// The machine of a new super-peer, for one placement.
#[derive(Debug)]
pub struct Rebuild {
    mandate: Mandate,
    placement: Placement,
    assembly: Option<Assembly>,
    sources: BTreeMap<NodeId, Source>,
    deadline: Duration,
    outcome: Outcome,
    /// What was gathered before in the same mandate: its pieces may still come.
    overtaken: Option<ShardVersion>,
    result: Option<Snapshot>,
    commands: VecDeque<Command>,
}

impl Rebuild {
    /// Begins; `live` are the members that are known to live, this node among them.
    pub fn new(
        mandate: Mandate,
        placement: Placement,
        live: &BTreeSet<NodeId>,
        deadline: Duration,
        now: Duration,
    ) -> Self {
        let indices = 0..=u8::MAX;
        let source = |(node, index): (&NodeId, u8)| {
            (*node, Source { index, bytes: BytesMut::new(), state: State::Away })
        };
        let sources = placement.holders.iter().zip(indices).map(source).collect();
        let assembly = Assembly::new(placement.manifest.clone()).ok();
        let outcome = if assembly.is_some() { Outcome::Underway } else { Outcome::Failed };
        let mut rebuild = Self {
            mandate,
            placement,
            assembly,
            sources,
            deadline,
            outcome,
            overtaken: None,
            result: None,
            commands: VecDeque::new(),
        };
        rebuild.handle_members(live, now);
        rebuild
    }

    /// What was gathered by this node, in this mandate, before this was committed.
    pub fn handle_overtaken(&mut self, version: ShardVersion) {
        self.overtaken = Some(version);
    }

    /// These members live now. Who is gone is asked again when it is back.
    pub fn handle_members(&mut self, live: &BTreeSet<NodeId>, now: Duration) {
        for (node, source) in &mut self.sources {
            match source.state {
                State::Away if live.contains(node) => source.state = State::Asked(Retry::new(now)),
                State::Asked(_) if !live.contains(node) => source.state = State::Away,
                _ => {}
            }
        }
        self.handle_timeout(now);
    }

    /// `from` has sent this; what is no answer to this rebuild is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now: Duration) {
        if self.outcome != Outcome::Underway {
            return;
        }
        match message {
            Message::Piece { mandate, shard, len, offset, bytes }
                if *mandate == self.mandate
                    && self.overtaken.is_none_or(|version| shard.version > version) =>
            {
                self.handle_piece(from, *shard, *len, *offset, &bytes.0, now);
            }
            Message::Absent { mandate, shard } if *mandate == self.mandate => {
                let version = self.placement.version();
                if let Some(source) = self.sources.get_mut(&from)
                    && *shard == (ShardName { version, index: source.index })
                    && matches!(source.state, State::Asked(_))
                {
                    source.state = State::Failed;
                    self.despair();
                }
            }
            _ => {}
        }
    }

    /// Ends it when even all who have not answered yet would not be enough.
    fn despair(&mut self) {
        let missing = self.assembly.as_ref().map_or(0, Assembly::missing);
        let open = |source: &&Source| matches!(source.state, State::Away | State::Asked(_));
        if self.outcome == Outcome::Underway && self.sources.values().filter(open).count() < missing
        {
            self.outcome = Outcome::Failed;
        }
    }

    fn handle_piece(
        &mut self,
        from: NodeId,
        shard: ShardName,
        len: u64,
        offset: u64,
        piece: &Bytes,
        now: Duration,
    ) {
        let manifest = &self.placement.manifest;
        let Some(source) = self.sources.get_mut(&from) else { return };
        if !matches!(source.state, State::Asked(_)) {
            return;
        }
        if shard.version != manifest.version || shard.index != source.index {
            // The assembly says what is wrong with it, before its bytes are of any interest.
            let wrong = Shard { version: shard.version, index: shard.index, bytes: Vec::new() };
            let refusal = self.assembly.as_mut().and_then(|assembly| assembly.offer(wrong).err());
            let refusal = refusal.unwrap_or(Refusal::Corrupt { index: shard.index });
            return self.refused(from, refusal);
        }
        let have = source.bytes.len() as u64;
        if offset != have {
            // Repeated on the way.
            return;
        }
        let whole = manifest.shard_len();
        if len != whole || piece.len() as u64 != (whole - have).min(MAX_PIECE as u64) {
            return self.refused(from, Refusal::Corrupt { index: shard.index });
        }
        source.bytes.extend_from_slice(piece);
        if (source.bytes.len() as u64) < whole {
            source.state = State::Asked(Retry::new(now));
            self.ask(from, now);
            return;
        }
        source.state = State::Done;
        let bytes = std::mem::take(&mut source.bytes).into();
        let offered = Shard { version: shard.version, index: shard.index, bytes };
        let refusal = self.assembly.as_mut().and_then(|assembly| assembly.offer(offered).err());
        match refusal {
            Some(refusal) => self.refused(from, refusal),
            None => self.finish(),
        }
    }

    fn refused(&mut self, from: NodeId, refusal: Refusal) {
        if let Some(source) = self.sources.get_mut(&from) {
            (source.state, source.bytes) = (State::Failed, BytesMut::new());
        }
        self.commands.push_back(Command::Complain { member: from, what: Offence::Shard(refusal) });
        self.despair();
    }

    /// Puts it together, if there is enough.
    fn finish(&mut self) {
        if self.assembly.as_ref().is_none_or(|assembly| assembly.missing() > 0) {
            return;
        }
        let bytes = self.assembly.take().and_then(Assembly::bytes);
        self.result = bytes.and_then(|bytes| Snapshot::decode(&bytes).ok());
        let complete = self.result.is_some();
        self.outcome = if complete { Outcome::Complete } else { Outcome::Failed };
    }

    fn ask(&mut self, to: NodeId, now: Duration) {
        let version = self.placement.version();
        let Some(source) = self.sources.get_mut(&to) else { return };
        let State::Asked(retry) = &mut source.state else { return };
        retry.again(FIRST_PAUSE, LONGEST_PAUSE, now);
        let shard = ShardName { version, index: source.index };
        let offset = source.bytes.len() as u64;
        let message = Message::Fetch { mandate: self.mandate, shard, offset };
        self.commands.push_back(Command::Send { to, message });
    }

    fn next_asks(&self) -> impl Iterator<Item = (NodeId, Duration)> {
        self.sources.iter().filter_map(|(node, source)| match source.state {
            State::Asked(retry) => Some((*node, retry.at)),
            _ => None,
        })
    }

    /// When [`Rebuild::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let next = self.next_asks().map(|(_, at)| at).chain([self.deadline]).min();
        next.filter(|_| self.outcome == Outcome::Underway)
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.outcome != Outcome::Underway {
            return;
        }
        if now >= self.deadline {
            self.outcome = Outcome::Failed;
            return;
        }
        let due: Vec<_> = self.next_asks().filter(|(_, at)| *at <= now).collect();
        for (node, _) in due {
            self.ask(node, now);
        }
    }

    /// Whether it goes on.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let need = self.placement.manifest.scheme.data();
        let missing = match self.outcome {
            Outcome::Complete => 0,
            _ => self.assembly.as_ref().map_or(need, Assembly::missing),
        };
        let count = |wanted: fn(&State) -> bool| {
            self.sources.values().filter(|source| wanted(&source.state)).count()
        };
        Progress {
            have: need - missing,
            need,
            awaited: count(|state| matches!(state, State::Asked(_))),
            failed: count(|state| *state == State::Failed),
            outcome: self.outcome,
        }
    }

    /// What was archived, once, when it is complete.
    pub fn take(&mut self) -> Option<Snapshot> {
        self.result.take()
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
}

#[cfg(test)]
mod tests;
