use std::time::Duration;

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

use crate::machine::Mandate;
use crate::machine::group::{Op, State};

/// A packed state is at most so long.
pub const MAX_PACKED: usize = 48 << 10;
const MAX_EXIT: usize = 256;
/// No lease is longer; a claim that says so is not believed.
const MAX_LEASE: Duration = Duration::from_secs(120);
const FORMAT: u8 = 1;
const PREFIX: &str = "follow/";

/// Under which name the group has the service.
pub fn name(service: &str) -> String {
    format!("{PREFIX}{service}")
}

/// What the group keeps of a service: who runs it, and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who runs it, or ran it last.
    pub node: NodeId,
    /// The mandate in which that was written.
    pub mandate: Mandate,
    /// How long a lease was there.
    pub lease: Duration,
    /// The claim: drawn anew by each node that takes the service over.
    pub run: u64,
    /// Counts what was written in the claim's name.
    pub count: u64,
    /// All of it has ended.
    pub stopped: bool,
    /// Since when it runs, in seconds since 1970.
    pub since_unix_s: u64,
    /// How it last ended, in words.
    pub exit: Option<String>,
    /// Its state; `None` before it was first saved.
    pub saved: Option<Saved>,
}

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// When, in seconds since 1970.
    pub unix_s: u64,
    /// The files.
    pub packed: Vec<u8>,
}

impl Record {
    /// As the group keeps it.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![FORMAT]).unwrap_or_default()
    }

    /// From the group; another node may have written anything.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        let record: Self = (*format == FORMAT).then(|| postcard::from_bytes(rest).ok())??;
        let sound = record.lease <= MAX_LEASE
            && record.exit.as_ref().is_none_or(|exit| exit.len() <= MAX_EXIT)
            && record.saved.as_ref().is_none_or(|saved| saved.packed.len() <= MAX_PACKED);
        sound.then_some(record)
    }

    /// Of the services that nobody wants any more and that have ended, the one whose record was
    /// written first: what the group may forget when it has no room. `None`: none may go.
    pub fn expendable(state: &State, is_wanted: impl Fn(&str) -> bool) -> Option<Op> {
        let stopped = state.with_prefix(PREFIX).filter(|(name, bytes)| {
            let service = name.strip_prefix(PREFIX).unwrap_or_default();
            !is_wanted(service) && Self::decode(bytes).is_some_and(|record| record.stopped)
        });
        let (at, name) = stopped.map(|(name, _)| (state.stamp(name), name)).min()?;
        Some(Op::Set { name: name.to_owned(), expect: Some(at), bytes: None, sure: true })
    }

    /// Words that fit into a record.
    pub fn exit_words(words: &str) -> String {
        words.chars().take(MAX_EXIT / 4).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::group::{Stamp, Value};

    #[test]
    fn of_what_nobody_wants_and_has_ended_the_oldest_may_go() {
        let record = |stopped| Record {
            node: NodeId([1; 32]),
            mandate: Mandate::default(),
            lease: Duration::from_secs(10),
            run: 1,
            count: 1,
            stopped,
            since_unix_s: 0,
            exit: None,
            saved: None,
        };
        let value = |name: &str, index, stopped| {
            let at = Stamp { index, ..Stamp::default() };
            (name.to_owned(), Value { bytes: Some(record(stopped).encode()), at })
        };
        let mut values = vec![
            value("follow/wanted", 1, true),
            value("follow/runs", 2, false),
            value("follow/late", 9, true),
            value("follow/early", 4, true),
            value("other", 3, true),
        ];
        let gone = |values: &[(String, Value)]| {
            let state = State::of_values(values.iter().cloned());
            let op = Record::expendable(&state, |service| service == "wanted")?;
            let Op::Set { name, expect, bytes: None, sure: true } = op else { panic!("{op:?}") };
            Some((name, expect?.index))
        };
        assert_eq!(gone(&values), Some(("follow/early".to_owned(), 4)));
        values.remove(3);
        assert_eq!(gone(&values), Some(("follow/late".to_owned(), 9)));
        values.remove(2);
        assert_eq!(gone(&values), None);
    }
}
