//! What a super-peer runs: registry, archive, and the rebuild that comes first.

use std::collections::BTreeSet;
use std::time::Duration;

use phantom_model::NodeId;

use super::registry::{Registration, Registry};
use super::{
    Archive, Command, MAX_MEMBERS, Message, Outcome, Placement, Progress, Rebuild, Snapshot,
};
use crate::machine::Mandate;

/// What may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long what a member said is kept after it is gone.
    pub keep_gone: Duration,
    /// While something changes, one archive in this time.
    pub archive_every: Duration,
    /// How long a new super-peer gathers what was archived; until then it archives nothing itself.
    pub rebuild_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_gone: Duration::from_secs(7 * 86_400),
            archive_every: Duration::from_secs(10),
            rebuild_within: Duration::from_secs(60),
        }
    }
}

/// The machine. It is made when the node's mandate begins and the group has committed everything of
/// mandates before, and dropped when it ends. All messages of the registry come to it and to the
/// node's [`Member`](super::Member); either takes what is for it.
#[derive(Debug)]
pub struct SuperPeer {
    own: NodeId,
    mandate: Mandate,
    settings: Settings,
    registry: Registry,
    archive: Archive,
    rebuild: Option<Rebuild>,
    roster: BTreeSet<NodeId>,
    live: BTreeSet<NodeId>,
}

impl SuperPeer {
    /// Takes office. `committed` is the latest placement that the elected group has committed.
    pub fn new(
        own: NodeId,
        mandate: Mandate,
        settings: Settings,
        committed: Option<Placement>,
        now: Duration,
    ) -> Self {
        let version = committed.as_ref().map(Placement::version).unwrap_or_default();
        let mut new = Self {
            own,
            mandate,
            settings,
            registry: Registry::new(mandate, settings.keep_gone),
            archive: Archive::new(own, mandate, &settings, version, now),
            rebuild: None,
            roster: BTreeSet::from([own]),
            live: BTreeSet::from([own]),
        };
        match committed {
            Some(placement) => {
                new.gather(placement, now);
            }
            None => new.archive.open(),
        }
        new.handle_roster([], now);
        new
    }

    fn gather(&mut self, placement: Placement, now: Duration) -> &mut Rebuild {
        let deadline = now + self.settings.rebuild_within;
        let rebuild = Rebuild::new(self.mandate, placement, &self.live, deadline, now);
        self.rebuild.insert(rebuild)
    }

    /// These are the members now. New ones count as gone until they are found to live.
    pub fn handle_roster(&mut self, members: impl IntoIterator<Item = NodeId>, now: Duration) {
        let others = members.into_iter().filter(|node| *node != self.own).take(MAX_MEMBERS - 1);
        self.roster = others.chain([self.own]).collect();
        self.registry.handle_roster(self.roster.iter().copied(), now);
        self.registry.handle_up(self.own);
        self.live.retain(|node| self.roster.contains(node));
        self.live_changed(now);
    }

    /// A member was found to live.
    pub fn handle_up(&mut self, node: NodeId, now: Duration) {
        if self.roster.contains(&node) && self.live.insert(node) {
            self.registry.handle_up(node);
            self.live_changed(now);
        }
    }

    /// A member was found to be gone.
    pub fn handle_down(&mut self, node: NodeId, now: Duration) {
        if node != self.own && self.live.remove(&node) {
            self.registry.handle_down(node, now);
            self.live_changed(now);
        }
    }

    fn live_changed(&mut self, now: Duration) {
        self.archive.handle_members(&self.live, now);
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.handle_members(&self.live, now);
        }
        self.after(now);
    }

    /// `from` has sent bytes that [`Message::decode`] refuses.
    pub fn handle_malformed(&mut self, from: NodeId, now: Duration) {
        self.registry.handle_malformed(from, now);
    }

    /// `from` has sent this. Who is no member, and what is for members, is passed over.
    pub fn handle_message(&mut self, from: NodeId, message: &Message, now: Duration) {
        if !self.roster.contains(&from) {
            return;
        }
        let boot = self.registry.boot_of(from);
        self.registry.handle_message(from, message, now);
        if self.registry.boot_of(from) != boot {
            self.archive.handle_restart(from, now);
        }
        self.archive.handle_message(from, message, now);
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.handle_message(from, message, now);
        }
        self.after(now);
    }

    /// The elected group has committed this.
    pub fn handle_committed(&mut self, placement: &Placement, now: Duration) {
        // One that was under way when this node took office is what there is to gather.
        let gathers = self.rebuild.as_ref().is_some_and(|it| it.outcome() == Outcome::Underway);
        let overtaken = self.archive.committed();
        if gathers && placement.version() > overtaken {
            let rebuild = self.gather(placement.clone(), now);
            rebuild.handle_overtaken(overtaken);
        }
        self.archive.handle_committed(placement, now);
        self.after(now);
    }

    /// When [`SuperPeer::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let rebuild = self.rebuild.as_ref().and_then(Rebuild::poll_timeout);
        [self.registry.poll_timeout(), self.archive.poll_timeout(), rebuild]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.registry.handle_timeout(now);
        self.archive.handle_timeout(now);
        if let Some(rebuild) = &mut self.rebuild {
            rebuild.handle_timeout(now);
        }
        self.after(now);
    }

    /// What follows in one part from what happened in another.
    fn after(&mut self, now: Duration) {
        if let Some(rebuild) = &mut self.rebuild {
            if let Some(snapshot) = rebuild.take() {
                self.registry.merge(snapshot, now);
            }
            if rebuild.outcome() != Outcome::Underway {
                self.archive.open();
            }
        }
        self.archive.handle_revision(self.registry.revision());
        self.archive.handle_count(self.registry.len());
        if self.archive.wants_snapshot(now) {
            self.archive.handle_snapshot(&self.registry.snapshot(), self.registry.revision(), now);
        }
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        let command = self.registry.poll_command().or_else(|| self.archive.poll_command());
        command.or_else(|| self.rebuild.as_mut().and_then(Rebuild::poll_command))
    }

    /// In whose name it acts.
    pub fn mandate(&self) -> Mandate {
        self.mandate
    }

    /// What every member says, by member.
    pub fn entries(&self, now: Duration) -> impl Iterator<Item = Registration<'_>> {
        self.registry.entries(now)
    }

    /// Grows whenever what a member says changes, or who is in it.
    pub fn revision(&self) -> u64 {
        self.registry.revision()
    }

    /// What there is, for a super-peer of the same sub-grid on another side of a parted network.
    pub fn snapshot(&self) -> Snapshot {
        self.registry.snapshot()
    }

    /// A super-peer that was deposed hands over what it knew; see [`Registry::handle_handover`].
    pub fn handle_handover(&mut self, other: Snapshot, now: Duration) {
        self.registry.handle_handover(other, now);
        self.after(now);
    }

    /// The network is whole again, and this is what the super-peer had that is none any more. Of
    /// each member the highest version stays.
    pub fn handle_merge(&mut self, other: Snapshot, now: Duration) {
        self.registry.merge(other, now);
        self.after(now);
    }

    /// How far gathering what was archived is; none when there was nothing to gather.
    pub fn progress(&self) -> Option<Progress> {
        self.rebuild.as_ref().map(Rebuild::progress)
    }

    /// The part that archives.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }
}

#[cfg(test)]
mod tests;
