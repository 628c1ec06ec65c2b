//! The log of one generation as raft wants to read it, and what of it has to be made durable.

use std::collections::VecDeque;

use prost::Message as _;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use super::durable::{Change, Key};

/// Entries are folded into a snapshot when there are more.
const MAX_ENTRIES: usize = 128;

#[derive(Debug, Default, PartialEq)]
pub struct Log {
    hard: HardState,
    snapshot: Snapshot,
    /// Those after the snapshot.
    entries: VecDeque<Entry>,
    changes: Vec<Change>,
}

impl Log {
    /// The log of a new generation, which begins with what the founding says.
    pub fn begin(voters: Vec<u64>, state: Vec<u8>) -> Self {
        let mut log = Self::default();
        let meta = log.snapshot.mut_metadata();
        (meta.index, meta.term) = (1, 1);
        meta.set_conf_state(ConfState { voters, ..ConfState::default() });
        log.snapshot.data = state;
        log.hard = HardState { term: 1, vote: 0, commit: 1 };
        log.changes.push(Change::Put(Key::Snapshot, log.snapshot.encode_to_vec()));
        log.changes.push(Change::Put(Key::Hard, log.hard.encode_to_vec()));
        log
    }

    /// As it was saved.
    pub fn load(hard: &[u8], snapshot: Option<&[u8]>, entries: Vec<&[u8]>) -> Option<Self> {
        let hard = HardState::decode(hard).ok()?;
        let snapshot = snapshot.map_or(Ok(Snapshot::default()), Snapshot::decode).ok()?;
        let mut log = Self { hard, snapshot, ..Self::default() };
        for bytes in entries {
            let entry = Entry::decode(bytes).ok()?;
            // What the snapshot has may have been left behind.
            if entry.index > log.last() {
                log.entries.push_back(entry);
            }
        }
        let indices = log.entries.iter().map(|entry| entry.index);
        let gapless = indices.eq((log.snapshot.get_metadata().index + 1..).take(log.entries.len()));
        (gapless && log.hard.commit <= log.last()).then_some(log)
    }

    /// What has to be made durable since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    pub fn snapshot_data(&self) -> &[u8] {
        &self.snapshot.data
    }

    pub fn snapshot_index(&self) -> u64 {
        self.snapshot.get_metadata().index
    }

    pub fn conf(&self) -> &ConfState {
        self.snapshot.get_metadata().get_conf_state()
    }

    pub fn set_hard(&mut self, hard: HardState) {
        if hard != self.hard {
            self.changes.push(Change::Put(Key::Hard, hard.encode_to_vec()));
            self.hard = hard;
        }
    }

    pub fn set_commit(&mut self, commit: u64) {
        self.set_hard(HardState { commit, ..self.hard.clone() });
    }

    /// New entries; they replace those that had their places.
    pub fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        let last = self.last();
        for index in first..=last {
            self.entries.pop_back();
            self.changes.push(Change::Drop(Key::Entry(index)));
        }
        for entry in entries {
            self.changes.push(Change::Put(Key::Entry(entry.index), entry.encode_to_vec()));
            self.entries.push_back(entry);
        }
    }

    /// A snapshot of the leader's in place of everything.
    pub fn replace(&mut self, snapshot: Snapshot) {
        self.drop_entries(u64::MAX);
        self.changes.push(Change::Put(Key::Snapshot, snapshot.encode_to_vec()));
        let meta = snapshot.get_metadata();
        let hard = HardState {
            term: self.hard.term.max(meta.term),
            commit: self.hard.commit.max(meta.index),
            vote: self.hard.vote,
        };
        self.snapshot = snapshot;
        self.set_hard(hard);
    }

    /// Whether it is time to fold what is applied into a snapshot.
    pub fn is_long(&self, applied: u64) -> bool {
        applied.saturating_sub(self.snapshot_index()) as usize > MAX_ENTRIES
    }

    /// Folds everything up to `applied` into a snapshot.
    pub fn fold(&mut self, applied: u64, conf: ConfState, state: Vec<u8>) {
        let Ok(term) = self.term(applied) else { return };
        let meta = self.snapshot.mut_metadata();
        (meta.index, meta.term) = (applied, term);
        meta.set_conf_state(conf);
        self.snapshot.data = state;
        self.changes.push(Change::Put(Key::Snapshot, self.snapshot.encode_to_vec()));
        self.drop_entries(applied);
    }

    fn drop_entries(&mut self, up_to: u64) {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= up_to) {
            self.changes.push(Change::Drop(Key::Entry(entry.index)));
            self.entries.pop_front();
        }
    }

    pub fn last(&self) -> u64 {
        self.entries.back().map_or(self.snapshot_index(), |entry| entry.index)
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.snapshot_index() + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard.clone(), conf_state: self.conf().clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        let mut left = max_size.into().unwrap_or(u64::MAX);
        let mut found = Vec::new();
        for index in low..high {
            let entry = self.at(index).ok_or(Error::Store(StorageError::Unavailable))?;
            let size = entry.encoded_len() as u64;
            if !found.is_empty() && size > left {
                break;
            }
            left = left.saturating_sub(size);
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.snapshot_index() {
            return Ok(self.snapshot.get_metadata().term);
        }
        if index < self.snapshot_index() {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.at(index).map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot_index() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        if self.snapshot_index() < request_index || self.snapshot_index() == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        Ok(self.snapshot.clone())
    }
}
