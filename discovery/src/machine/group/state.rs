use std::collections::BTreeMap;

use phantom_model::{AppId, Epoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::machine::Mandate;

/// So many names and apps at most.
pub const MAX_NAMES: usize = 1024;
const MAX_GRANTS: usize = 4096;
const MAX_NAME: usize = 256;
const MAX_VALUE: usize = 64 << 10;
/// All values together.
const MAX_BYTES: usize = 512 << 10;

/// When something was decided. Later decisions have later stamps, through all generations.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Stamp {
    /// In whose name.
    pub mandate: Mandate,
    /// Its place in that generation's log.
    pub index: u64,
}

/// Who may act for an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The epoch that was granted last.
    pub epoch: Epoch,
    /// To which node.
    pub host: NodeId,
}

/// A named value; `None` where it was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes.
    pub bytes: Option<Vec<u8>>,
    /// Since when.
    pub at: Stamp,
}

/// What the group replicates: little, as every elector keeps a copy of it while a group is founded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    grants: BTreeMap<AppId, Grant>,
    values: BTreeMap<String, Value>,
}

/// A change of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// What another group had decided; see [`State::merge`].
    Merge(Box<State>),
    /// The app's next epoch goes to `host`, if `after` is the one granted last.
    Grant {
        /// Which app.
        app: AppId,
        /// The epoch it has.
        after: Epoch,
        /// Who gets the next one.
        host: NodeId,
    },
    /// The app is over.
    Forget {
        /// Which app.
        app: AppId,
        /// The epoch it has.
        epoch: Epoch,
    },
    /// Sets or removes a value.
    Set {
        /// Its name.
        name: String,
        /// Only if it has this stamp; without a value the stamp is the lowest. `None`: whatever it
        /// has.
        expect: Option<Stamp>,
        /// `None` removes it.
        bytes: Option<Vec<u8>>,
        /// Whether its outcome waits until a majority of the electors knows it, so that it
        /// outlives the voters.
        sure: bool,
    },
}

impl Op {
    /// Whether it is within bounds.
    pub fn is_sound(&self) -> bool {
        match self {
            Op::Set { name, bytes, .. } => {
                (1..=MAX_NAME).contains(&name.len())
                    && bytes.as_ref().is_none_or(|bytes| bytes.len() <= MAX_VALUE)
            }
            Op::Merge(state) => state.is_sound(),
            Op::Grant { .. } | Op::Forget { .. } => true,
        }
    }
}

/// What came of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It happened.
    Done(Stamp),
    /// Another epoch was granted meanwhile, or the app is not known here.
    NotItsEpoch(Option<Grant>),
    /// The value has another stamp.
    Changed(Stamp),
    /// There is no room for it.
    Full,
}

impl State {
    /// Who may act for an app.
    pub fn grant(&self, app: AppId) -> Option<Grant> {
        self.grants.get(&app).copied()
    }

    /// All of them.
    pub fn grants(&self) -> impl Iterator<Item = (AppId, Grant)> + '_ {
        self.grants.iter().map(|(app, grant)| (*app, *grant))
    }

    /// A value.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name)?.bytes.as_deref()
    }

    /// The stamp of a value, for a later [`Op::Set`].
    pub fn stamp(&self, name: &str) -> Stamp {
        self.values.get(name).map(|value| value.at).unwrap_or_default()
    }

    /// All values whose names begin so.
    pub fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a [u8])> + 'a {
        let begin = self.values.range(prefix.to_owned()..);
        let found = begin.take_while(move |(name, _)| name.starts_with(prefix));
        found.filter_map(|(name, value)| Some((name.as_str(), value.bytes.as_deref()?)))
    }

    /// The part of the state that an op has set, if it has to outlive the voters.
    pub(super) fn fragment(&self, op: &Op) -> Option<State> {
        let mut fragment = State::default();
        match op {
            Op::Grant { app, .. } => drop(fragment.grants.insert(*app, self.grant(*app)?)),
            Op::Set { name, sure: true, .. } => {
                fragment.values.insert(name.clone(), self.values.get(name)?.clone());
            }
            Op::Set { .. } | Op::Forget { .. } | Op::Merge(_) => return None,
        }
        Some(fragment)
    }

    pub(super) fn apply(&mut self, op: Op, at: Stamp) -> Outcome {
        match op {
            Op::Merge(other) => {
                self.merge(*other);
                Outcome::Done(at)
            }
            Op::Grant { app, after, host } => {
                let known = self.grants.get(&app).copied();
                // An app that left its home with the epoch it had then.
                if known.is_some_and(|known| known.epoch != after) {
                    return Outcome::NotItsEpoch(known);
                }
                if known.is_none() && self.grants.len() >= MAX_GRANTS {
                    return Outcome::Full;
                }
                let Some(epoch) = after.0.checked_add(1).map(Epoch) else {
                    return Outcome::NotItsEpoch(known);
                };
                self.grants.insert(app, Grant { epoch, host });
                Outcome::Done(at)
            }
            Op::Forget { app, epoch } => match self.grants.get(&app).copied() {
                Some(known) if known.epoch == epoch => {
                    self.grants.remove(&app);
                    Outcome::Done(at)
                }
                known => Outcome::NotItsEpoch(known),
            },
            Op::Set { name, expect, bytes, .. } => {
                let known = self.stamp(&name);
                if expect.is_some_and(|expect| expect != known) {
                    return Outcome::Changed(known);
                }
                if !self.has_room(&name, bytes.as_ref().map_or(0, Vec::len)) {
                    return Outcome::Full;
                }
                self.values.insert(name, Value { bytes, at });
                Outcome::Done(at)
            }
        }
    }

    fn has_room(&mut self, name: &str, len: usize) -> bool {
        let bytes = |value: &Value| value.bytes.as_ref().map_or(0, Vec::len);
        if !self.values.contains_key(name) && self.values.len() >= MAX_NAMES {
            // What was removed long ago is remembered only for a group that comes back.
            let removed = self.values.iter().filter(|(_, value)| value.bytes.is_none());
            let Some(oldest) =
                removed.min_by_key(|(_, value)| value.at).map(|(name, _)| name.clone())
            else {
                return false;
            };
            self.values.remove(&oldest);
        }
        let others = self.values.iter().filter(|(other, _)| *other != name);
        others.map(|(_, value)| bytes(value)).sum::<usize>() + len <= MAX_BYTES
    }

    /// Takes over what another group has decided later than this one: of grants the highest epoch,
    /// of values the latest.
    pub fn merge(&mut self, other: State) {
        for (app, grant) in other.grants {
            let known = self.grants.get(&app).is_some_and(|known| known.epoch >= grant.epoch);
            if !known && (self.grants.contains_key(&app) || self.grants.len() < MAX_GRANTS) {
                self.grants.insert(app, grant);
            }
        }
        for (name, value) in other.values {
            let len = value.bytes.as_ref().map_or(0, Vec::len);
            if self.stamp(&name) < value.at && self.has_room(&name, len) {
                self.values.insert(name, value);
            }
        }
    }

    /// Whether it is within bounds; from another node it may not be.
    pub fn is_sound(&self) -> bool {
        let sizes = self.values.values().map(|value| value.bytes.as_ref().map_or(0, Vec::len));
        self.grants.len() <= MAX_GRANTS
            && self.values.len() <= MAX_NAMES
            && self.values.keys().all(|name| (1..=MAX_NAME).contains(&name.len()))
            && sizes.clone().all(|len| len <= MAX_VALUE)
            && sizes.sum::<usize>() <= MAX_BYTES
    }
}
