//! Names of attributes: written as somebody wrote them, looked up without case.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

/// An attribute's name, as it was written and as it is looked up.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    /// What was written, and behind it the same in lower case: as long, in one piece of memory.
    both: Box<str>,
    hash: u64,
}

impl Name {
    pub(crate) fn new(written: &str) -> Self {
        let mut both = String::with_capacity(2 * written.len());
        both.push_str(written);
        both.extend(written.chars().map(|c| c.to_ascii_lowercase()));
        let hash = hash(&both[written.len()..]);
        Self { both: both.into(), hash }
    }

    pub(crate) fn written(&self) -> &str {
        &self.both[..self.both.len() / 2]
    }

    /// In lower case.
    pub(crate) fn key(&self) -> &str {
        &self.both[self.both.len() / 2..]
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether both name the same attribute.
    pub(crate) fn is(&self, other: &Name) -> bool {
        self.hash == other.hash && self.key() == other.key()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.both == other.both
    }
}

/// With a key that nobody outside knows, so that nobody can write names that collide.
fn hash(key: &str) -> u64 {
    static STATE: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = STATE.get_or_init(RandomState::new).build_hasher();
    hasher.write(key.as_bytes());
    hasher.finish()
}
