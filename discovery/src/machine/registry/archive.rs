//! The super-peer spreads the registry over the members, as shards of an erasure code.
//!
//! ```text
//!  changes ─▶ snapshot ─▶ split ─▶ Store to each holder ─▶ Stored by enough ─▶ Commit ─▶ Keep to all
//!                                        └ not by enough in time: who is silent is left out for a
//!                                          while, and it begins again
//! ```
//!
//! What holds:
//! - Only one archive is on its way at a time; the one before stays until the newer is committed.
//! - It is committed when [`Placement::enough`] of its shards are on disks: `k + ceil(m / 2)`.
//! - As long as something changes there is one in [`Settings::archive_every`] at most. It is spread
//!   anew at once (but not twice in [`GAP`]) when fewer than enough of the holders live, and after
//!   [`SETTLE`] when who lives is not who holds.
//! - Every holder is asked from time to time whether it still has its shard.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use phantom_erasure::{MAX_SHARDS, Version as ShardVersion};
use phantom_model::NodeId;

use self::spread::{Phase, Spread, Upload};
use super::message::{Message, ShardName};
use super::placement::{Placement, version_of};
use super::retry::Retry;
use super::snapshot::Snapshot;
use super::{Command, MAX_MEMBERS, Offence, Settings};
use crate::machine::Mandate;

mod spread;

/// The least time from one spreading to the next.
const GAP: Duration = Duration::from_secs(1);
/// So long those who live have to stay the same before it is spread anew because of them alone.
const SETTLE: Duration = Duration::from_secs(30);
/// How often the elected group is asked again to commit.
const COMMIT_AGAIN: Duration = Duration::from_secs(10);
/// Who did not store in time is left out for so long.
const LEFT_OUT: Duration = Duration::from_secs(300);
/// How often holders are asked whether they have their shards, how often one that does not answer,
/// and when again.
const AUDIT: Duration = Duration::from_secs(600);
const AUDITS: u32 = 4;
const AUDIT_AGAIN: Duration = Duration::from_secs(5);
/// Departures of so long ago are forgotten, and so many are counted.
const CHURN: Duration = Duration::from_secs(3600);
const MAX_DEPARTURES: usize = 4 * MAX_MEMBERS;

/// The archive that is committed.
#[derive(Debug)]
struct Standing {
    placement: Placement,
    /// Whose shards are known to be on their disks.
    stored: BTreeSet<NodeId>,
}

/// The machine of the super-peer.
#[derive(Debug)]
pub struct Archive {
    own: NodeId,
    mandate: Mandate,
    every: Duration,
    open: bool,
    live: BTreeSet<NodeId>,
    departures: VecDeque<Duration>,
    left_out: BTreeMap<NodeId, Duration>,
    /// The version that is committed, whoever made it.
    committed: ShardVersion,
    standing: Option<Standing>,
    spread: Option<Spread>,
    count: u32,
    /// The registry's state, and that of it which is committed.
    revision: u64,
    archived: Option<u64>,
    /// Members in the registry, and in what is committed.
    members: usize,
    archived_members: usize,
    uneven_since: Option<Duration>,
    last: Option<Duration>,
    audits: BTreeMap<NodeId, Retry>,
    next_audit: Duration,
    commands: VecDeque<Command>,
}

impl Archive {
    /// Nothing yet, of a super-peer that knows what is `committed`. It begins with
    /// [`Archive::open`], when what the super-peer before had archived is there or lost.
    pub fn new(
        own: NodeId,
        mandate: Mandate,
        settings: &Settings,
        committed: ShardVersion,
        now: Duration,
    ) -> Self {
        Self {
            own,
            mandate,
            every: settings.archive_every,
            open: false,
            live: BTreeSet::from([own]),
            departures: VecDeque::new(),
            left_out: BTreeMap::new(),
            committed,
            standing: None,
            spread: None,
            count: 0,
            revision: 0,
            archived: Some(0),
            members: 0,
            archived_members: 0,
            uneven_since: None,
            last: None,
            audits: BTreeMap::new(),
            next_audit: now + AUDIT,
            commands: VecDeque::new(),
        }
    }

    /// From now on it archives.
    pub fn open(&mut self) {
        self.open = true;
    }

    /// These members live now; this node always does.
    pub fn handle_members(&mut self, live: &BTreeSet<NodeId>, now: Duration) {
        let mut live: BTreeSet<NodeId> = live.iter().take(MAX_MEMBERS).copied().collect();
        live.insert(self.own);
        for _ in self.live.difference(&live) {
            self.departures.push_back(now);
        }
        self.departures.retain(|at| *at + CHURN > now);
        while self.departures.len() > MAX_DEPARTURES {
            self.departures.pop_front();
        }
        for node in &live.difference(&self.live).copied().collect::<Vec<_>>() {
            // It may have come back with another disk, or with room on it.
            self.left_out.remove(node);
            self.handle_restart(*node, now);
        }
        self.left_out.retain(|node, _| live.contains(node));
        self.audits.retain(|node, _| live.contains(node));
        self.live = live;
        let hopeless = self.spread.as_ref().is_some_and(|spread| {
            let could = |upload: &&Upload| upload.stored || self.live.contains(&upload.to);
            let left = spread.uploads.iter().filter(could).count();
            spread.phase == Phase::Storing && left < spread.placement.enough()
        });
        if hopeless {
            self.abandon();
        }
        self.judge(now);
    }

    /// A member was started anew, perhaps with another disk: it is asked for its shard.
    pub fn handle_restart(&mut self, node: NodeId, now: Duration) {
        let uploads = self.spread.iter_mut().flat_map(|spread| &mut spread.uploads);
        for upload in uploads.filter(|upload| upload.to == node) {
            // If it has it still, it says so at the first piece.
            (upload.stored, upload.arrived, upload.retry) = (false, 0, Retry::new(now));
        }
        if self.standing.as_ref().is_some_and(|standing| standing.stored.contains(&node)) {
            self.audits.insert(node, Retry::new(now));
        }
    }

    /// The registry is in this state now, which grows with every change.
    pub fn handle_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    /// So many members are in the registry now. One that was not archived yet would be forgotten with
    /// this super-peer if it went at the same time.
    pub fn handle_count(&mut self, members: usize) {
        self.members = members;
    }

    /// How many members are in what is committed.
    pub fn covers(&self) -> usize {
        self.archived_members
    }

    /// The elected group has committed this. What is not newer than what is known changes nothing.
    pub fn handle_committed(&mut self, placement: &Placement, now: Duration) {
        if placement.version() <= self.committed {
            return;
        }
        self.committed = placement.version();
        self.audits.clear();
        self.standing = None;
        self.archived = None;
        if let Some(spread) = &mut self.spread
            && spread.placement == *placement
        {
            spread.phase = Phase::Committed;
            self.archived = Some(spread.revision);
            self.archived_members = spread.members;
            let stored = spread.stored().collect();
            self.standing = Some(Standing { placement: placement.clone(), stored });
        } else {
            self.spread = None;
        }
        if self.is_over() {
            return;
        }
        self.next_audit = now + AUDIT;
        for node in self.live.clone() {
            self.tell(node, None);
        }
        self.advance(now);
        self.judge(now);
    }

    /// Whether a later super-peer has archived something: this one will be told that it is none any
    /// more, and until then commands nothing.
    fn is_over(&self) -> bool {
        self.committed > version_of(self.mandate, u32::MAX)
    }

    /// What is committed, and perhaps whether a shard of it is still there.
    fn tell(&mut self, to: NodeId, index: Option<u8>) {
        let message = Message::Keep { mandate: self.mandate, committed: self.committed, index };
        self.commands.push_back(Command::Send { to, message });
    }

    /// `from` has sent this; what does not answer this archive is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now: Duration) {
        match message {
            Message::Received { mandate, shard, have } if *mandate == self.mandate => {
                if let Some(at) = self.upload_of(from, *shard) {
                    self.handle_received(at, *have, now);
                }
            }
            Message::Stored { mandate, shard } if *mandate == self.mandate => {
                if let Some(at) = self.upload_of(from, *shard) {
                    self.handle_stored(at, now);
                }
                self.handle_audited(from, *shard, true, now);
            }
            Message::Absent { mandate, shard } if *mandate == self.mandate => {
                self.handle_audited(from, *shard, false, now);
            }
            _ => {}
        }
    }

    fn upload_of(&self, from: NodeId, shard: ShardName) -> Option<usize> {
        let spread = self.spread.as_ref()?;
        let at = usize::from(shard.index);
        let upload = spread.uploads.get(at)?;
        let wanted = upload.to == from && spread.placement.version() == shard.version;
        (wanted && !upload.stored).then_some(at)
    }

    fn handle_received(&mut self, at: usize, have: u64, now: Duration) {
        let Some(upload) = self.spread.as_mut().and_then(|it| it.uploads.get_mut(at)) else {
            return;
        };
        if have == upload.arrived || have >= upload.bytes.len() as u64 {
            return;
        }
        // It may have less than before: it was started anew.
        upload.arrived = have;
        upload.retry = Retry::new(now);
        self.send_piece(at, now);
    }

    fn handle_stored(&mut self, at: usize, now: Duration) {
        let Some(spread) = &mut self.spread else { return };
        if let Some(upload) = spread.uploads.get_mut(at) {
            upload.stored = true;
            if spread.phase == Phase::Committed
                && let Some(standing) = &mut self.standing
            {
                standing.stored.insert(upload.to);
            }
        }
        if spread.phase == Phase::Storing && spread.stored().count() >= spread.placement.enough() {
            spread.phase = Phase::Committing(now);
        }
        self.advance(now);
        self.judge(now);
    }

    /// A holder has said whether it still has its shard.
    fn handle_audited(&mut self, from: NodeId, shard: ShardName, has: bool, now: Duration) {
        let Some(standing) = &mut self.standing else { return };
        let name = standing.placement.index_of(from);
        let name = name.map(|index| ShardName { version: standing.placement.version(), index });
        if name != Some(shard) {
            return;
        }
        self.audits.remove(&from);
        if has {
            standing.stored.insert(from);
            self.left_out.remove(&from);
        } else {
            standing.stored.remove(&from);
        }
        self.judge(now);
    }

    fn send_piece(&mut self, at: usize, now: Duration) {
        let spread = self.spread.as_mut();
        self.commands.extend(spread.and_then(|it| it.piece(at, self.committed, now)));
    }

    /// Whom shards are given to: all that live and were not left out, or of too many those that
    /// have one already, and this node in any case.
    fn eligible(&self) -> Vec<NodeId> {
        let has = |node: &NodeId| {
            self.standing.as_ref().is_some_and(|standing| standing.stored.contains(node))
        };
        let mut nodes: Vec<NodeId> =
            self.live.iter().filter(|node| !self.left_out.contains_key(node)).copied().collect();
        nodes.sort_by_key(|node| (*node != self.own, !has(node), *node));
        nodes.truncate(MAX_SHARDS);
        if nodes.is_empty() {
            nodes.push(self.own);
        }
        nodes
    }

    /// How likely a member goes away within an hour, from how many did so in the last one: a
    /// super-peer may be missed for as long before shards are spread anew.
    fn away(&self) -> f64 {
        let departures = self.departures.len() as f64;
        ((departures + 1.0) / (self.live.len() as f64 + 10.0)).clamp(0.02, 0.5)
    }

    /// Looks whether who holds is who should.
    fn judge(&mut self, now: Duration) {
        self.left_out.retain(|_, until| *until > now);
        let wanted: BTreeSet<NodeId> = self.eligible().into_iter().collect();
        let uneven = self.standing.as_ref().is_some_and(|standing| standing.stored != wanted);
        self.uneven_since = uneven.then(|| self.uneven_since.unwrap_or(now));
    }

    /// Whether fewer holders live than enough of the archive takes.
    fn is_endangered(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| {
            let left = standing.stored.intersection(&self.live).count();
            left < standing.placement.enough()
        })
    }

    /// When a snapshot is wanted.
    fn due(&self) -> Option<Duration> {
        let busy = match &self.spread {
            Some(spread) => spread.phase != Phase::Committed || !self.is_endangered(),
            None => false,
        };
        if busy || !self.open || self.is_over() {
            return None;
        }
        let after = |pause| self.last.map_or(Duration::ZERO, |last: Duration| last + pause);
        if self.is_endangered() {
            return Some(after(GAP));
        }
        let pause = match self.members > self.archived_members {
            true => self.every.min(GAP),
            false => self.every,
        };
        let changed = (self.archived != Some(self.revision)).then(|| after(pause));
        let uneven = self.uneven_since.map(|since| (since + SETTLE).max(after(self.every)));
        [changed, uneven].into_iter().flatten().min()
    }

    /// Whether a snapshot is wanted now: [`Archive::handle_snapshot`].
    pub fn wants_snapshot(&self, now: Duration) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Spreads the registry, which is in this state.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot, revision: u64, now: Duration) {
        if !self.wants_snapshot(now) {
            return;
        }
        self.last = Some(now);
        self.count = self.count.saturating_add(1);
        let (name, holders) = ((self.mandate, self.count), (self.eligible(), self.away()));
        let mut spread = Spread::new(name, holders, &snapshot.encode(), revision, now);
        spread.members = snapshot.len();
        let count = spread.uploads.len();
        self.spread = Some(spread);
        for at in 0..count {
            self.send_piece(at, now);
        }
    }

    /// When [`Archive::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let spread = self.spread.iter().filter_map(Spread::poll_timeout);
        let audit = self.standing.is_some().then_some(self.next_audit);
        let audits = self.audits.values().map(|retry| retry.at);
        let left_out = self.left_out.values().copied();
        spread.chain(self.due()).chain(audit).chain(audits).chain(left_out).min()
    }

    /// Does what is due, but for the snapshot: [`Archive::wants_snapshot`].
    pub fn handle_timeout(&mut self, now: Duration) {
        self.advance(now);
        if self.standing.is_some() && now >= self.next_audit {
            self.next_audit = now + AUDIT;
            let stored = self.standing.iter().flat_map(|standing| &standing.stored);
            for node in stored.filter(|node| self.live.contains(node)) {
                self.audits.entry(*node).or_insert(Retry::new(now));
            }
            // Of the others each hears what is committed, should it have missed it.
            let others = self.live.iter().filter(|node| !self.audits.contains_key(node));
            for node in others.copied().collect::<Vec<_>>() {
                self.tell(node, None);
            }
        }
        self.audit(now);
        self.judge(now);
    }

    fn audit(&mut self, now: Duration) {
        let due = self.audits.iter().filter(|(_, retry)| retry.at <= now);
        for (node, mut retry) in due.map(|(node, retry)| (*node, *retry)).collect::<Vec<_>>() {
            let Some(standing) = &mut self.standing else { break };
            let index = standing.placement.index_of(node).filter(|_| retry.times() < AUDITS);
            if index.is_none() {
                self.audits.remove(&node);
                standing.stored.remove(&node);
                continue;
            }
            retry.again(AUDIT_AGAIN, AUDIT_AGAIN, now);
            self.audits.insert(node, retry);
            self.tell(node, index);
        }
    }

    /// Moves the archive that is on its way on.
    fn advance(&mut self, now: Duration) {
        let Some(spread) = &mut self.spread else { return };
        if let Phase::Committing(again) = &mut spread.phase
            && *again <= now
        {
            *again = now + COMMIT_AGAIN;
            self.commands.push_back(Command::Commit(spread.placement.encode()));
        }
        let all = spread.uploads.iter().all(|upload| upload.stored);
        let Some(deadline) = spread.deadline.filter(|_| !all) else {
            if spread.phase == Phase::Committed {
                self.spread = None;
            }
            return;
        };
        if now >= deadline {
            self.give_up(now);
            return;
        }
        let due = |(at, upload): (usize, &Upload)| {
            (!upload.stored && upload.retry.at <= now).then_some(at)
        };
        let due: Vec<usize> = spread.uploads.iter().enumerate().filter_map(due).collect();
        for at in due {
            self.send_piece(at, now);
        }
    }

    /// The time is over and not all have stored it.
    fn give_up(&mut self, now: Duration) {
        let Some(spread) = &mut self.spread else { return };
        let version = spread.placement.version();
        let silent = spread.uploads.iter().enumerate().filter(|(_, upload)| !upload.stored);
        for (at, upload) in silent {
            let shard = ShardName { version, index: at as u8 };
            self.left_out.insert(upload.to, now + LEFT_OUT);
            if self.live.contains(&upload.to) {
                let what = Offence::NotStored { shard };
                self.commands.push_back(Command::Complain { member: upload.to, what });
            }
        }
        match spread.phase {
            Phase::Storing => self.abandon(),
            Phase::Committed => self.spread = None,
            Phase::Committing(_) => spread.deadline = None,
        }
        self.judge(now);
    }

    /// Begins again, with those who are there then.
    fn abandon(&mut self) {
        (self.spread, self.archived) = (None, None);
    }

    /// The version of the archive that is committed.
    pub fn committed(&self) -> ShardVersion {
        self.committed
    }

    /// How many of the shards that are committed are known to be on disks of members that live, and
    /// how many suffice; none while nothing of this mandate is committed.
    pub fn safety(&self) -> Option<(usize, usize)> {
        let standing = self.standing.as_ref()?;
        let held = standing.stored.intersection(&self.live).count();
        Some((held, standing.placement.manifest.scheme.data()))
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }
}

#[cfg(test)]
mod tests;
