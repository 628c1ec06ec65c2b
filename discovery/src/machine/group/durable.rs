use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

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
