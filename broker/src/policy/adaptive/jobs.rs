//! Jobs that wait or are at a node, in lists by node.

use std::collections::HashMap;

use crate::Job;

/// No job, the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits here; a node is planned for it.
    Planned,
    /// It was given to its node.
    Given,
    /// Its data is there too.
    Sent,
}

/// A job that has not finished.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub id: u32,
    /// What it is expected to take where its data has to be sent.
    pub job: Job,
    /// Where its data lies already.
    pub data_at: Option<u32>,
    /// By which factor that may be off.
    pub doubt: f64,
    /// By which factor it may be off when what is known of other jobs is reckoned with.
    pub risk: f64,
    /// By which factor it may be larger at most.
    pub most: f64,
    pub stage: Stage,
    /// Whether it came with others at once, whose common end counts, and not alone.
    pub batch: bool,
    /// What puts it before others, if it came in a batch whose sizes are in doubt, and whether it
    /// waits in the line of those.
    pub rank: f64,
    pub in_line: bool,
    pub node: u32,
    pub given_at: f64,
    pub sent_at: f64,
    /// When it is expected to be done at the latest, as far as is known now; and as it was given.
    pub end: f64,
    pub expected: f64,
    /// Whether its transfer was looked at.
    pub looked: bool,
    /// Where it had hardly begun when all was planned anew.
    pub fresh_at: u32,
    /// How often it went on to another node.
    pub moves: u8,
    pub previous: u32,
    pub next: u32,
}

impl Entry {
    /// What it takes at a node.
    pub fn at(&self, node: u32) -> Job {
        let bytes = if self.data_at == Some(node) { 0.0 } else { self.job.bytes };
        Job { bytes, ..self.job }
    }

    /// What it takes at the node that is planned for it or that it was given to.
    pub fn here(&self) -> Job {
        self.at(self.node)
    }
}

/// All of them. Slots are used again: once enough jobs were held at a time, nothing is allocated.
#[derive(Debug, Clone, Default)]
pub(super) struct Jobs {
    entries: Vec<Entry>,
    free: Vec<u32>,
    slots: HashMap<u32, u32>,
}

/// The two ends of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub first: u32,
    pub last: u32,
}

impl List {
    pub const EMPTY: Self = Self { first: NONE, last: NONE };
}

impl Jobs {
    /// Makes room for so many jobs at a time.
    pub fn with_room(count: usize) -> Self {
        Self {
            entries: Vec::with_capacity(count),
            free: Vec::with_capacity(count),
            slots: HashMap::with_capacity(2 * count),
        }
    }

    pub fn add(&mut self, entry: Entry) -> u32 {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        if let Some(before) = self.slots.insert(entry.id, slot) {
            // An id that is used twice: the older job is forgotten, not leaked.
            self.entries[before as usize].id = NONE;
        }
        slot
    }

    pub fn remove(&mut self, slot: u32) {
        let id = self.entries[slot as usize].id;
        if self.slots.get(&id) == Some(&slot) {
            self.slots.remove(&id);
        }
        self.free.push(slot);
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub fn find(&self, id: u32) -> Option<u32> {
        self.slots.get(&id).copied()
    }

    pub fn get(&self, slot: u32) -> &Entry {
        &self.entries[slot as usize]
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.entries[slot as usize]
    }

    pub fn push(&mut self, list: &mut List, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        (entry.previous, entry.next) = (list.last, NONE);
        match list.last {
            NONE => list.first = slot,
            last => self.entries[last as usize].next = slot,
        }
        list.last = slot;
    }

    pub fn unlink(&mut self, list: &mut List, slot: u32) {
        let Entry { previous, next, .. } = self.entries[slot as usize];
        match previous {
            NONE => list.first = next,
            previous => self.entries[previous as usize].next = next,
        }
        match next {
            NONE => list.last = previous,
            next => self.entries[next as usize].previous = previous,
        }
    }
}
