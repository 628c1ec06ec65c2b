//! The sub-grid's policy document, as far as the network carries it: a text that the sub-grid's key
//! has signed, with a version. What it says is the node's matter.

use iroh_base::{PublicKey, Signature};
use phantom_model::SubgridId;
use serde::{Deserialize, Serialize};

use super::CLOCK_SKEW_S;
use crate::key::SubgridKey;

const CONTEXT: &[u8] = b"phantom policy document 1\0";
/// No document is longer.
pub const MAX_DOCUMENT: usize = 64 << 10;

/// A signed policy document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    subgrid: SubgridId,
    version: u64,
    at: u64,
    text: String,
    signature: Signature,
}

impl Document {
    /// Signs `text` as that version, at this time (seconds since 1970).
    pub fn sign(key: &SubgridKey, version: u64, at: u64, text: String) -> Self {
        let subgrid = key.id();
        let signature = key.0.sign(&signed_bytes(subgrid, version, at, &text));
        Self { subgrid, version, at, text, signature }
    }

    /// Counts from 1; the highest counts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When it was signed, in seconds since 1970.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What it says.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the key of `subgrid` has signed it, not in the future.
    pub fn is_genuine(&self, subgrid: SubgridId, now: u64) -> bool {
        let bytes = signed_bytes(subgrid, self.version, self.at, &self.text);
        self.subgrid == subgrid
            && self.text.len() <= MAX_DOCUMENT
            && self.at <= now.saturating_add(CLOCK_SKEW_S)
            && PublicKey::from_bytes(&subgrid.0)
                .is_ok_and(|key| key.verify(&bytes, &self.signature).is_ok())
    }

    /// Whether it takes the place of `known`: a higher version does. Two of one version, signed
    /// where the key was copied or its store set back, are told apart the same way everywhere.
    pub fn replaces(&self, known: &Self) -> bool {
        (self.version, self.at, &self.text) > (known.version, known.at, &known.text)
    }

    /// Differs from that of any other document.
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&signed_bytes(self.subgrid, self.version, self.at, &self.text)).as_bytes()
    }
}

fn signed_bytes(subgrid: SubgridId, version: u64, at: u64, text: &str) -> Vec<u8> {
    let (version, at) = (version.to_le_bytes(), at.to_le_bytes());
    [CONTEXT, &subgrid.0, &version, &at, text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn only_the_sub_grids_key_makes_one_and_the_newest_counts() {
        let (key, stranger) = (SubgridKey::ephemeral(), SubgridKey::ephemeral());
        let old = Document::sign(&key, 1, NOW, "a = 1".to_owned());
        let new = Document::sign(&key, 2, NOW, "a = 2".to_owned());
        assert!(old.is_genuine(key.id(), NOW) && new.is_genuine(key.id(), NOW));
        assert!(new.replaces(&old) && !old.replaces(&new) && !new.replaces(&new));
        let forged = Document::sign(&stranger, 9, NOW, "a = 3".to_owned());
        assert!(!forged.is_genuine(key.id(), NOW));
        let renamed = Document { subgrid: key.id(), ..forged };
        assert!(!renamed.is_genuine(key.id(), NOW), "it names our sub-grid");
        let edited = Document { text: "a = 9".to_owned(), ..new.clone() };
        assert!(!edited.is_genuine(key.id(), NOW));
        let raised = Document { version: 3, ..old };
        assert!(!raised.is_genuine(key.id(), NOW));
        assert!(!new.is_genuine(key.id(), NOW - 3600), "from the future");
        let long = Document::sign(&key, 3, NOW, "#".repeat(MAX_DOCUMENT + 1));
        assert!(!long.is_genuine(key.id(), NOW));
    }
}
