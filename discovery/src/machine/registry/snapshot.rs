//! The registry as bytes.

use std::collections::BTreeMap;
use std::fmt;

use phantom_model::NodeId;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

use super::MAX_MEMBERS;
use super::description::{Description, MAX_DESCRIPTION};

/// What it begins with: what it is, and in which form.
const MAGIC: &[u8; 4] = b"PHR1";
/// No snapshot is longer, in bytes: so many members at the bound, and what is around them.
pub const MAX_SNAPSHOT: usize = MAX_MEMBERS * (MAX_DESCRIPTION + 2048);

/// Bytes that are no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Another format.
    #[error("the archive of the registry has no known format: a newer Phantom may have written it")]
    Format,
    /// Damaged, or beyond the bounds.
    #[error("the archive of the registry does not read: {0}")]
    Malformed(postcard::Error),
}

/// Descriptions of members, as a registry had them at one time; at most [`MAX_MEMBERS`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Snapshot(BTreeMap<NodeId, Description>);

impl Snapshot {
    /// Of these; beyond [`MAX_MEMBERS`] the rest is passed over.
    pub fn new(descriptions: impl IntoIterator<Item = (NodeId, Description)>) -> Self {
        Self(descriptions.into_iter().take(MAX_MEMBERS).collect())
    }

    /// How many members are in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Plain structs of numbers and texts always serialize.
        [&MAGIC[..], &postcard::to_stdvec(self).unwrap_or_default()].concat()
    }

    /// Reads what [`Snapshot::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Format)?;
        let (snapshot, rest) = postcard::take_from_bytes(rest).map_err(SnapshotError::Malformed)?;
        if !rest.is_empty() {
            return Err(SnapshotError::Malformed(postcard::Error::DeserializeBadEncoding));
        }
        Ok(snapshot)
    }

    /// By member.
    pub fn descriptions(&self) -> &BTreeMap<NodeId, Description> {
        &self.0
    }

    /// By member.
    pub fn into_descriptions(self) -> BTreeMap<NodeId, Description> {
        self.0
    }
}

impl<'de> Deserialize<'de> for Snapshot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = BTreeMap<NodeId, Description>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "descriptions of at most {MAX_MEMBERS} members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((node, description)) = map.next_entry()? {
                    if members.len() >= MAX_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.insert(node, description);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

#[cfg(test)]
mod tests;
