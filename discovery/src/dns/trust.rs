//! What to believe of a region's entry, and what is kept of it.
//!
//! What holds: nothing is kept of an answer before a node has proven the region's key, as an answer
//! may be forged as a whole. A forged mandate that nobody can surpass would otherwise keep the true
//! entries out for ever.

mod error;
mod stored;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Published};
use super::found::{FindError, Found};
use crate::machine::Mandate;
use crate::uri::GridUri;
pub use error::{CacheError, Refusal, RegionError};
use stored::Stored;

/// No more regions are kept.
pub const MAX_REGIONS: usize = 256;

/// Checks signatures; whoever has keys gives it.
pub trait Verify {
    /// Whether `proof` is a statement signed by the key `old` that `new` follows it.
    fn rotated(&self, old: &[u8; 32], new: &[u8; 32], proof: &[u8]) -> bool;
}

/// What is known of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    key: [u8; 32],
    last: Option<Last>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Last {
    entry: Entry,
    at: Duration,
}

impl Known {
    /// The pinned key.
    pub fn key(&self) -> [u8; 32] {
        self.key
    }

    /// The last entry whose node has proven the key, and when that was, since 1970.
    pub fn last(&self) -> Option<(&Entry, Duration)> {
        self.last.as_ref().map(|last| (&last.entry, last.at))
    }

    fn mandate(&self) -> Option<Mandate> {
        self.last.as_ref().map(|last| last.entry.at())
    }
}

/// Why an entry may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// No key is pinned: whoever is reached decides, and its key should be compared.
    First,
    /// It has the pinned key.
    Same,
    /// The pinned key has signed for its key.
    Rotated {
        /// The pinned key.
        from: [u8; 32],
    },
}

/// Decides what to believe of an answer.
pub struct Trust<'a> {
    /// What is known of the region.
    pub known: Option<&'a Known>,
    /// Who checks signatures.
    pub verify: &'a dyn Verify,
}

impl Trust<'_> {
    /// The entry to take: of those that may be taken the one with the highest mandate.
    ///
    /// # Errors
    /// When none may be.
    pub fn judge(&self, uri: &GridUri, published: &[Published]) -> Result<(Entry, How), Refusal> {
        let keyed = |one: &Published| self.how(&one.entry).map(|how| (one.clone(), how));
        let best = published.iter().filter_map(keyed).max_by_key(|(one, _)| rank(one));
        let Some((best, how)) = best else {
            let uri = uri.clone();
            return Err(match (self.known, published.iter().min_by_key(|one| one.priority)) {
                (Some(known), Some(one)) => {
                    let (pinned, offered) = (known.key, one.entry.key());
                    Refusal::OtherKey { uri, pinned, offered }
                }
                _ => Refusal::Nothing { uri },
            });
        };
        if how == How::First && published.iter().any(|one| one.entry.key() != best.entry.key()) {
            return Err(Refusal::SeveralKeys { uri: uri.clone() });
        }
        match self.known.and_then(Known::mandate) {
            Some(known) if best.entry.at() < known => {
                Err(Refusal::Older { uri: uri.clone(), known, offered: best.entry.at() })
            }
            _ => Ok((best.entry, how)),
        }
    }

    /// Why the key of an entry may be believed, if it may.
    fn how(&self, entry: &Entry) -> Option<How> {
        let Some(known) = self.known else { return Some(How::First) };
        let (old, new) = (known.key, entry.key());
        if old == new {
            return Some(How::Same);
        }
        let proven = entry.rotated().iter().any(|proof| self.verify.rotated(&old, &new, proof));
        proven.then_some(How::Rotated { from: old })
    }
}

/// A later mandate goes first, then what the records prefer.
fn rank(one: &Published) -> (Mandate, u16, u16) {
    (one.entry.at(), u16::MAX - one.priority, one.weight)
}

/// Where an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The DNS has just told it.
    Fresh(How),
    /// The DNS cannot be asked.
    Cached {
        /// How long ago a node at this entry has proven the key.
        age: Duration,
        /// Why there is nothing newer.
        why: FindError,
    },
}

/// The entry to try now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Where to connect. Whoever is there must prove the entry's key.
    pub entry: Entry,
    /// Where it comes from.
    pub source: Source,
}

/// The regions a node knows: pinned keys and last good entries. Stored as a list, of at most some
/// 400 KiB as JSON; what is read is checked as whatever comes from a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Stored>", try_from = "Vec<Stored>")]
pub struct RegionCache {
    regions: BTreeMap<GridUri, Known>,
}

impl RegionCache {
    /// Pins the key of a region, as an invitation has told it.
    ///
    /// # Errors
    /// When another is pinned, or there is no room.
    pub fn pin(&mut self, uri: &GridUri, key: [u8; 32]) -> Result<(), CacheError> {
        match self.regions.get(uri) {
            Some(known) if known.key != key => {
                let (pinned, offered) = (known.key, key);
                Err(CacheError::OtherKey { uri: uri.clone(), pinned, offered })
            }
            Some(_) => Ok(()),
            None => self.add(uri, Known { key, last: None }),
        }
    }

    /// What is known of a region.
    pub fn get(&self, uri: &GridUri) -> Option<&Known> {
        self.regions.get(uri)
    }

    /// The known regions.
    pub fn regions(&self) -> impl Iterator<Item = (&GridUri, &Known)> {
        self.regions.iter()
    }

    /// Forgets a region with its key; whether it was known.
    pub fn forget(&mut self, uri: &GridUri) -> bool {
        self.regions.remove(uri).is_some()
    }

    /// Decides which entry to try after the DNS was asked; changes nothing. `now` is the time since
    /// 1970.
    ///
    /// # Errors
    /// When there is none, or none that may be believed.
    pub fn settle(
        &self,
        uri: &GridUri,
        answer: Result<Found, FindError>,
        verify: &dyn Verify,
        now: Duration,
    ) -> Result<Current, RegionError> {
        let known = self.regions.get(uri);
        match answer {
            Ok(found) => {
                let (entry, how) = Trust { known, verify }.judge(uri, &found.published)?;
                Ok(Current { entry, source: Source::Fresh(how) })
            }
            Err(why) if why.is_outage() => match known.and_then(Known::last) {
                Some((entry, at)) => {
                    let age = now.saturating_sub(at);
                    Ok(Current { entry: entry.clone(), source: Source::Cached { age, why } })
                }
                None => Err(why.into()),
            },
            Err(why) => Err(why.into()),
        }
    }

    /// A node at this entry has proven the entry's key, and that it has the mandate `proven`. From
    /// now on the key is pinned. `now` is the time since 1970.
    ///
    /// # Errors
    /// When the entry says a later mandate than the node, or a key that does not follow the pinned
    /// one; when a later mandate is known; when there is no room.
    pub fn confirm(
        &mut self,
        uri: &GridUri,
        entry: &Entry,
        proven: Mandate,
        verify: &dyn Verify,
        now: Duration,
    ) -> Result<(), CacheError> {
        let known = self.regions.get(uri);
        let uri_of = || uri.clone();
        if (Trust { known, verify }).how(entry).is_none() {
            let pinned = known.map(Known::key).unwrap_or_default();
            return Err(CacheError::OtherKey { uri: uri_of(), pinned, offered: entry.key() });
        }
        // A node that was elected again may not have written yet.
        if entry.at() > proven {
            return Err(CacheError::Mandate { uri: uri_of(), told: entry.at(), proven });
        }
        if let Some(known) = known.and_then(Known::mandate).filter(|known| proven < *known) {
            return Err(CacheError::Older { uri: uri_of(), known, offered: proven });
        }
        let last = Some(Last { entry: entry.clone(), at: now });
        self.add(uri, Known { key: entry.key(), last })
    }

    fn add(&mut self, uri: &GridUri, known: Known) -> Result<(), CacheError> {
        if self.regions.len() >= MAX_REGIONS && !self.regions.contains_key(uri) {
            return Err(CacheError::Full { uri: uri.clone() });
        }
        self.regions.insert(uri.clone(), known);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
