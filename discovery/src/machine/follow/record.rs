use std::time::Duration;

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

use crate::machine::Mandate;

/// A packed state is at most so long.
pub const MAX_PACKED: usize = 48 << 10;
const MAX_EXIT: usize = 256;
/// No lease is longer; a claim that says so is not believed.
const MAX_LEASE: Duration = Duration::from_secs(120);
const FORMAT: u8 = 1;

/// Under which name the group has the service.
pub fn name(service: &str) -> String {
    format!("follow/{service}")
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

    /// Words that fit into a record.
    pub fn exit_words(words: &str) -> String {
        words.chars().take(MAX_EXIT / 4).collect()
    }
}
