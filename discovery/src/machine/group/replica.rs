//! Raft (Ongaro, Ousterhout, 2014) by the crate raft, in one generation: the log, the state it
//! gives, and a wall that lets through only messages the crate does not panic at.

use std::collections::BTreeSet;

use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType, Message, MessageType, Snapshot,
};
use raft::{RawNode, StateRole};
use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::durable::{Change, Kept, Key};
use super::log::Log;
use super::state::{Op, Outcome, Stamp, State};
use super::view::Life;
use crate::machine::Mandate;

/// A super-peer that is silent for so many ticks, or up to twice as many, is taken for gone.
const ELECTION_TICKS: usize = 8;
const HEARTBEAT_TICKS: usize = 2;
/// Entries that are not yet agreed on, bytes.
const MAX_UNCOMMITTED: u64 = 1 << 20;
const MAX_APPEND: u64 = 256 << 10;
/// No term grows by more at once: each is an election.
const MAX_TERMS_AHEAD: u64 = 100_000;

/// One op in the log, and who waits for it.
#[derive(Debug, Serialize, Deserialize)]
struct Proposal {
    by: Life,
    ticket: u64,
    op: Op,
}

/// What came of a proposal.
#[derive(Debug)]
pub struct Applied {
    pub by: Life,
    pub ticket: u64,
    pub at: Stamp,
    pub outcome: Outcome,
    /// What of the state has to outlive the voters.
    pub fragment: Option<State>,
}

pub struct Replica {
    generation: u64,
    raft: RawNode<Log>,
    conf: ConfState,
    state: State,
    applied: u64,
    rng: StdRng,
    /// Ticks of silence before this node wants to be elected; drawn anew for each term and role.
    timeout: usize,
    turn: (u64, StateRole),
    changes: Vec<Change>,
    messages: Vec<Message>,
    done: Vec<Applied>,
}

/// Who is what in the log's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conf {
    pub voters: BTreeSet<Life>,
    pub learners: BTreeSet<Life>,
    /// Between two configurations.
    pub is_joint: bool,
}

/// A message that may not be let in.
pub type Refused = &'static str;

impl Replica {
    /// With the state that the founding of the generation begins with; empty for somebody who is
    /// not among its first voters.
    pub fn begin(
        generation: u64,
        own: Life,
        founded: Option<(&BTreeSet<Life>, &State)>,
        rng: StdRng,
    ) -> Option<Self> {
        let log = match founded {
            Some((voters, state)) => {
                let state = postcard::to_stdvec(state).ok()?;
                Log::begin(voters.iter().map(|life| life.0).collect(), state)
            }
            None => Log::default(),
        };
        Self::over(generation, own, log, rng)
    }

    /// As it was kept; `None` if it cannot be read.
    pub fn load(generation: u64, own: Life, kept: &Kept, rng: StdRng) -> Option<Self> {
        let hard = kept.get(Key::Hard)?;
        let log = Log::load(hard, kept.get(Key::Snapshot), kept.entries())?;
        Self::over(generation, own, log, rng)
    }

    fn over(generation: u64, own: Life, mut log: Log, rng: StdRng) -> Option<Self> {
        let config = raft::Config {
            id: own.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: log.snapshot_index(),
            max_size_per_msg: MAX_APPEND,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            max_uncommitted_size: MAX_UNCOMMITTED,
            ..raft::Config::default()
        };
        let state = match log.snapshot_data() {
            [] => State::default(),
            bytes => postcard::from_bytes(bytes).ok()?,
        };
        let (applied, conf) = (log.snapshot_index(), log.conf().clone());
        let changes = log.take_changes();
        let quiet = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&config, log, &quiet).ok()?;
        let mut replica = Self {
            generation,
            raft,
            conf,
            state,
            applied,
            rng,
            timeout: ELECTION_TICKS,
            turn: (0, StateRole::Leader),
            changes,
            messages: Vec::new(),
            done: Vec::new(),
        };
        replica.pump();
        Some(replica)
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    #[cfg(test)]
    pub fn log(&self) -> &Log {
        self.raft.store()
    }

    /// How far the state has come.
    pub fn stamp(&self) -> Stamp {
        let term = self.raft.raft.raft_log.term(self.applied).unwrap_or(0);
        self.stamp_of(term, self.applied)
    }

    fn stamp_of(&self, term: u64, index: u64) -> Stamp {
        Stamp { mandate: Mandate { generation: self.generation, term }, index }
    }

    pub fn mandate(&self) -> Mandate {
        Mandate { generation: self.generation, term: self.raft.raft.term }
    }

    /// Leads, and has applied all that was decided before.
    pub fn leads(&self) -> bool {
        let raft = &self.raft.raft;
        raft.state == StateRole::Leader && raft.commit_to_current_term()
    }

    pub fn conf(&self) -> Conf {
        let lives = |ids: &[u64]| ids.iter().copied().map(Life).collect::<BTreeSet<Life>>();
        let ConfState { voters, learners, voters_outgoing, learners_next, .. } = &self.conf;
        let mut conf = Conf {
            voters: lives(voters),
            learners: lives(learners),
            is_joint: !voters_outgoing.is_empty(),
        };
        conf.learners.extend(lives(learners_next));
        conf
    }

    /// Whether a peer has all of the log but what is just on its way.
    pub fn keeps_up(&self, peer: Life) -> bool {
        let tail = self.raft.raft.raft_log.committed;
        self.raft.raft.prs().get(peer.0).is_some_and(|peer| peer.matched >= tail)
    }

    /// Whether entries of changed configurations are still to come.
    pub fn is_settled(&self) -> bool {
        self.raft.raft.raft_log.applied == self.raft.raft.raft_log.last_index()
    }

    pub fn tick(&mut self) {
        self.raft.tick();
        self.pump();
    }

    /// Asks to be elected at once.
    pub fn campaign(&mut self) {
        let _ = self.raft.campaign();
        self.pump();
    }

    pub fn transfer(&mut self, to: Life) {
        self.raft.transfer_leader(to.0);
        self.pump();
    }

    /// Proposes; false if this is not the place or there is no room now.
    pub fn propose(&mut self, by: Life, ticket: u64, op: Op) -> bool {
        let Ok(data) = postcard::to_stdvec(&Proposal { by, ticket, op }) else { return false };
        let proposed = self.leads() && self.raft.propose(Vec::new(), data).is_ok();
        self.pump();
        proposed
    }

    /// Proposes another configuration: voters are made by joint consensus.
    pub fn reconfigure(&mut self, voters: &BTreeSet<Life>, learners: &BTreeSet<Life>) -> bool {
        let now = self.conf();
        let mut changes = Vec::new();
        let mut change = |kind: ConfChangeType, life: Life| {
            let mut one = ConfChangeSingle { node_id: life.0, ..ConfChangeSingle::default() };
            one.set_change_type(kind);
            changes.push(one);
        };
        for life in voters.difference(&now.voters) {
            change(ConfChangeType::AddNode, *life);
        }
        for life in learners.difference(&now.learners) {
            change(ConfChangeType::AddLearnerNode, *life);
        }
        for life in now.voters.union(&now.learners) {
            if !voters.contains(life) && !learners.contains(life) {
                change(ConfChangeType::RemoveNode, *life);
            }
        }
        if changes.is_empty() || !self.leads() {
            return false;
        }
        let mut wanted = ConfChangeV2 { changes, ..ConfChangeV2::default() };
        wanted.set_transition(ConfChangeTransition::Auto);
        let proposed = self.raft.propose_conf_change(Vec::new(), wanted).is_ok();
        self.pump();
        proposed
    }

    /// A message from a peer; `from` is who has really sent it.
    pub fn step(&mut self, from: Life, bytes: &[u8]) -> Result<(), Refused> {
        let message = Message::decode(bytes).map_err(|_| "a message that is none")?;
        self.let_in(from, &message)?;
        // Errors are of messages that come too late.
        let _ = self.raft.step(message);
        self.pump();
        Ok(())
    }

    /// The crate ends the process where a message contradicts what only a broken or lying peer
    /// would contradict.
    fn let_in(&self, from: Life, message: &Message) -> Result<(), Refused> {
        use MessageType as T;
        let log = &self.raft.raft.raft_log;
        if message.to != self.raft.raft.id || message.from != from.0 {
            return Err("a message in another's name");
        }
        if message.term == 0 || message.term > self.raft.raft.term + MAX_TERMS_AHEAD {
            return Err("a term out of all proportion");
        }
        let first = message.index.saturating_add(1);
        match message.get_msg_type() {
            // Of a term that is over: raft answers nothing but that.
            T::MsgHeartbeat | T::MsgAppend | T::MsgSnapshot
                if message.term < self.raft.raft.term =>
            {
                return Ok(());
            }
            _ => {}
        }
        match message.get_msg_type() {
            T::MsgHeartbeat if message.commit > log.last_index() => {
                Err("it claims as decided what this node has not got")
            }
            // The crate takes the term of what is not there for 0.
            T::MsgAppend if message.log_term == 0 => Err("entries that follow nothing"),
            T::MsgAppend => {
                let mut indices = message.entries.iter().map(|entry| entry.index);
                if !indices.by_ref().eq(first..first.saturating_add(message.entries.len() as u64)) {
                    return Err("entries out of order");
                }
                let terms = message.entries.iter().map(|entry| entry.term);
                if terms.clone().any(|term| term == 0 || term > message.term) {
                    return Err("entries of terms to come");
                }
                let conflicts = message.entries.iter().any(|entry| {
                    entry.index <= log.committed
                        && log.term(entry.index).is_ok_and(|term| term != entry.term)
                        && entry.index > log.store.snapshot_index()
                });
                if conflicts {
                    return Err("it contradicts what was decided");
                }
                let sound = message.entries.iter().all(|entry| match entry.get_entry_type() {
                    EntryType::EntryNormal => true,
                    EntryType::EntryConfChange => false,
                    EntryType::EntryConfChangeV2 => {
                        ConfChangeV2::decode(entry.data.as_slice()).is_ok_and(|it| is_small(&it))
                    }
                });
                if sound { Ok(()) } else { Err("a change of voters that is none") }
            }
            T::MsgSnapshot => is_sound(message.get_snapshot()),
            T::MsgAppendResponse if message.index > log.last_index() => {
                Err("it claims to have what nobody has sent")
            }
            T::MsgAppendResponse
            | T::MsgRequestVote
            | T::MsgRequestVoteResponse
            | T::MsgRequestPreVote
            | T::MsgRequestPreVoteResponse
            | T::MsgHeartbeat
            | T::MsgHeartbeatResponse
            | T::MsgTimeoutNow => Ok(()),
            _ => Err("a kind of message that peers do not send"),
        }
    }

    /// Does what raft is ready for until it is idle.
    fn pump(&mut self) {
        while self.raft.has_ready() {
            let mut ready = self.raft.ready();
            self.messages.extend(ready.take_messages());
            let snapshot = ready.snapshot().clone();
            if !snapshot.is_empty() {
                self.take_snapshot(snapshot);
            }
            let entries = ready.take_entries();
            self.raft.mut_store().append(entries);
            if let Some(hard) = ready.hs().cloned() {
                self.raft.mut_store().set_hard(hard);
            }
            let persisted = ready.take_persisted_messages();
            self.messages.extend(persisted);
            let committed = ready.take_committed_entries();
            self.apply(committed);
            let mut light = self.raft.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raft.mut_store().set_commit(commit);
            }
            self.messages.extend(light.take_messages());
            self.apply(light.take_committed_entries());
            self.raft.advance_apply();
        }
        // Who is new takes a snapshot only if it is named in it.
        let is_outdated = *self.raft.store().conf() != self.conf;
        if (is_outdated || self.raft.store().is_long(self.applied))
            && let Ok(state) = postcard::to_stdvec(&self.state)
        {
            let (applied, conf) = (self.applied, self.conf.clone());
            self.raft.mut_store().fold(applied, conf, state);
        }
        let changes = self.raft.mut_store().take_changes();
        self.changes.extend(changes);
        // The crate draws from a generator of its own; whole sub-grids must run alike twice.
        let turn = (self.raft.raft.term, self.raft.raft.state);
        if turn != self.turn {
            self.turn = turn;
            self.timeout = self.rng.random_range(ELECTION_TICKS..2 * ELECTION_TICKS);
        }
        self.raft.raft.set_randomized_election_timeout(self.timeout);
    }

    fn take_snapshot(&mut self, snapshot: Snapshot) {
        // Was checked when it came in.
        self.state = postcard::from_bytes(&snapshot.data).unwrap_or_default();
        self.conf = snapshot.get_metadata().get_conf_state().clone();
        self.applied = snapshot.get_metadata().index;
        self.raft.mut_store().replace(snapshot);
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied = entry.index;
            let at = self.stamp_of(entry.term, entry.index);
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    // All replicas read the same, or the same nothing.
                    let Ok(proposal) = postcard::from_bytes::<Proposal>(&entry.data) else {
                        continue;
                    };
                    if !proposal.op.is_sound() {
                        continue;
                    }
                    let Proposal { by, ticket, op } = proposal;
                    let outcome = self.state.apply(op.clone(), at);
                    let fragment = self.state.fragment(&op);
                    let fragment = fragment.filter(|_| matches!(outcome, Outcome::Done(_)));
                    self.done.push(Applied { by, ticket, at, outcome, fragment });
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    let change = ConfChangeV2::decode(entry.data.as_slice()).unwrap_or_default();
                    if let Ok(conf) = self.raft.apply_conf_change(&change) {
                        self.conf = conf;
                    }
                }
            }
        }
    }

    /// What has to be durable before [`Replica::take_messages`] goes out.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// To whom, what, and whether it is said again before long.
    pub fn take_messages(&mut self) -> impl Iterator<Item = (Life, Vec<u8>, bool)> + use<> {
        use MessageType::{MsgHeartbeat, MsgHeartbeatResponse};
        let messages = std::mem::take(&mut self.messages);
        messages.into_iter().map(|message| {
            let repeats = matches!(message.get_msg_type(), MsgHeartbeat | MsgHeartbeatResponse);
            (Life(message.to), message.encode_to_vec(), repeats)
        })
    }

    pub fn take_done(&mut self) -> Vec<Applied> {
        std::mem::take(&mut self.done)
    }

    /// The snapshots that were on their way have arrived or not; either way they may be sent again.
    pub fn free_snapshots(&mut self) {
        let waiting: Vec<u64> = self
            .raft
            .raft
            .prs()
            .iter()
            .filter(|(_, peer)| peer.state == raft::ProgressState::Snapshot)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.raft.report_snapshot(id, raft::SnapshotStatus::Finish);
        }
        self.pump();
    }
}

fn is_small(change: &ConfChangeV2) -> bool {
    change.changes.len() <= 4 * super::MAX_VOTERS
        && change.changes.iter().all(|one| one.node_id != 0)
}

fn is_sound(snapshot: &Snapshot) -> Result<(), Refused> {
    let meta = snapshot.get_metadata();
    let ConfState { voters, learners, voters_outgoing, learners_next, .. } = meta.get_conf_state();
    let all = [voters, learners, voters_outgoing, learners_next];
    let unique = |ids: &Vec<u64>| ids.iter().collect::<BTreeSet<_>>().len() == ids.len();
    let disjoint = |ids: &Vec<u64>, of: &Vec<u64>| ids.iter().all(|id| !of.contains(id));
    let sound = meta.index > 0
        && meta.term > 0
        && !voters.is_empty()
        && all.iter().all(|ids| ids.len() <= 64 && unique(ids) && !ids.contains(&0))
        && disjoint(learners, voters)
        && disjoint(learners, voters_outgoing)
        && disjoint(learners_next, learners)
        && disjoint(learners_next, voters)
        && learners_next.iter().all(|id| voters_outgoing.contains(id));
    if !sound {
        return Err("a snapshot with impossible voters");
    }
    let state = postcard::from_bytes::<State>(&snapshot.data);
    if state.is_ok_and(|state| state.is_sound()) { Ok(()) } else { Err("a snapshot of no state") }
}
