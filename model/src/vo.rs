//! Virtual organisations by their names. What one consists of is a signed document, which the
//! network carries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{NodeId, SubgridId};

/// No name has more bytes: with its owner behind it, `NAME@0123456789`, there are 64 at most.
pub const MAX_VO_NAME: usize = 53;

/// The nodes of the own sub-grid that are members, for each name by which an organisation is known.
pub type VoMembers = BTreeMap<String, BTreeSet<NodeId>>;

/// A virtual organisation. Two sub-grids may each have one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct VoId {
    owner: SubgridId,
    name: String,
}

#[derive(Deserialize)]
struct Unchecked {
    owner: SubgridId,
    name: String,
}

/// A text that cannot be the name of a virtual organisation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` cannot be the name of a virtual organisation: use letters, digits, `.`, `-` and `_`, at \
     most {MAX_VO_NAME}, a letter or digit first"
)]
pub struct VoNameError(pub String);

impl VoId {
    /// What `owner` calls `name`.
    ///
    /// # Errors
    /// That is no name.
    pub fn new(owner: SubgridId, name: &str) -> Result<Self, VoNameError> {
        let valid = name.len() <= MAX_VO_NAME
            && name.starts_with(|first: char| first.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if !valid {
            let shown = name.chars().filter(|c| !c.is_control()).take(MAX_VO_NAME + 1);
            return Err(VoNameError(shown.collect()));
        }
        Ok(Self { owner, name: name.to_owned() })
    }

    /// The sub-grid that says who is in it.
    pub fn owner(&self) -> SubgridId {
        self.owner
    }

    /// Its name, without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for VoId {
    /// With its owner: `NAME@0123456789`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.owner.short())
    }
}

impl TryFrom<Unchecked> for VoId {
    type Error = VoNameError;

    fn try_from(Unchecked { owner, name }: Unchecked) -> Result<Self, VoNameError> {
        Self::new(owner, &name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_also_from_the_wire() {
        let owner = SubgridId([7; 32]);
        let id = VoId::new(owner, &"v".repeat(MAX_VO_NAME)).unwrap();
        assert_eq!(id.to_string().len(), 64);
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!(postcard::from_bytes::<VoId>(&bytes).unwrap(), id);
        for name in ["", "-x", "a b", "a@b", "vo:a", "a/b", "ä", &"v".repeat(MAX_VO_NAME + 1)] {
            assert!(VoId::new(owner, name).is_err(), "{name}");
            let bytes = postcard::to_stdvec(&(owner, name)).unwrap();
            assert!(postcard::from_bytes::<VoId>(&bytes).is_err(), "{name}");
        }
    }
}
