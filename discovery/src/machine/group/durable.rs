use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::replica::Replica;
use super::synod::{Acceptor, Founding, Progress};
use super::view::Life;

/// What a node keeps of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Which life of this memory it is.
    Life,
    /// The founding this node knows, and what it has promised for the next.
    Founding,
    /// What this elector knows of what was decided in its generation, for the next.
    Witnessed,
    /// Raft's term and vote.
    Hard,
    /// The state up to some entry.
    Snapshot,
    /// An entry of the log after that.
    Entry(u64),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Life => f.write_str("life"),
            Key::Founding => f.write_str("founding"),
            Key::Witnessed => f.write_str("witnessed"),
            Key::Hard => f.write_str("hard"),
            Key::Snapshot => f.write_str("snapshot"),
            Key::Entry(index) => write!(f, "entry/{index:020}"),
        }
    }
}

impl FromStr for Key {
    type Err = UnknownKey;

    fn from_str(text: &str) -> Result<Self, UnknownKey> {
        let unknown = || UnknownKey(text.to_owned());
        Ok(match text {
            "life" => Key::Life,
            "founding" => Key::Founding,
            "witnessed" => Key::Witnessed,
            "hard" => Key::Hard,
            "snapshot" => Key::Snapshot,
            _ => {
                let index = text.strip_prefix("entry/").ok_or_else(unknown)?;
                Key::Entry(index.parse().map_err(|_| unknown())?)
            }
        })
    }
}

/// A key that this version does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a part of a group's memory")]
pub struct UnknownKey(String);

/// A change of what a node keeps. Those of one command are made together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Keep this.
    Put(Key, Vec<u8>),
    /// Keep it no longer.
    Drop(Key),
    /// Keep nothing of a generation: its log, and what was witnessed in it.
    DropLog,
}

/// What a node has kept, as it is found when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept(pub BTreeMap<Key, Vec<u8>>);

impl Kept {
    /// As it is after a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put(key, value) => drop(self.0.insert(key, value)),
            Change::Drop(key) => drop(self.0.remove(&key)),
            Change::DropLog => self.0.retain(|key, _| matches!(key, Key::Life | Key::Founding)),
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&[u8]> {
        self.0.get(&key).map(Vec::as_slice)
    }

    pub(super) fn entries(&self) -> Vec<&[u8]> {
        let entries = self.0.range(Key::Entry(0)..=Key::Entry(u64::MAX));
        entries.map(|(_, bytes)| bytes.as_slice()).collect()
    }
}

/// What was kept, read.
pub(super) struct Memory {
    pub life: Life,
    pub founding: Option<(Founding, Acceptor)>,
    pub replica: Option<Replica>,
    pub witnessed: Progress,
}

impl Memory {
    /// Nothing but a life, random and unlike any before.
    pub fn of_somebody_new(rng: &mut StdRng) -> Self {
        let life = Life(rng.random_range(1..=u64::MAX));
        Self { life, founding: None, replica: None, witnessed: Progress::default() }
    }

    /// `None` if there is none, or some of it cannot be read.
    pub fn read(kept: &Kept, rng: &mut StdRng) -> Option<Self> {
        let life = Life(u64::from_le_bytes(kept.get(Key::Life)?.try_into().ok()?));
        let founding = kept.get(Key::Founding).map(postcard::from_bytes::<(Founding, Acceptor)>);
        let founding = founding.transpose().ok()?;
        let witnessed = kept.get(Key::Witnessed).map(postcard::from_bytes).transpose().ok()?;
        let replica = match &founding {
            Some((founding, _)) if kept.get(Key::Hard).is_some() => {
                let rng = StdRng::from_rng(rng);
                Some(Replica::load(founding.view.generation, life, kept, rng)?)
            }
            _ => None,
        };
        Some(Self { life, founding, replica, witnessed: witnessed.unwrap_or_default() })
    }
}
