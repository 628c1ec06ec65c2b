//! What a member says of itself, and what differs between two such descriptions.
//!
//! What holds: no [`Attributes`], [`Description`] or [`Difference`] exists that is beyond the bounds
//! below, wherever it came from; [`Difference::apply`] gives exactly the description that was meant,
//! or says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use phantom_classad::{Ad, Expr, Value};
use phantom_erasure::Digest;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// So many attributes a description has at most.
pub const MAX_ATTRIBUTES: usize = 256;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;
/// The longest text of an expression, in bytes.
pub const MAX_TEXT: usize = 8 << 10;
/// So long are all names and texts of a description together at most, in bytes.
pub const MAX_DESCRIPTION: usize = 64 << 10;
/// A difference removes everything and sets everything at most.
const MAX_CHANGES: usize = 2 * MAX_ATTRIBUTES;

/// Which state of a member's description: newer ones compare greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Version {
    /// Grows with each start of the member's daemon.
    pub boot: u64,
    /// Grows with each change in one boot.
    pub seq: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.boot, self.seq)
    }
}

/// A description that nobody may have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Excess {
    /// Too many attributes.
    #[error("a description has at most {MAX_ATTRIBUTES} attributes: leave some out")]
    Attributes,
    /// A name that is none, or too long.
    #[error(
        "`{0}` is no attribute's name: take letters, digits and `_`, no digit first, at most \
         {MAX_NAME} bytes"
    )]
    Name(String),
    /// Two names that differ in nothing but case, which ClassAds do not tell apart.
    #[error("the attribute `{0}` is there twice, in different case: keep one of them")]
    Twice(String),
    /// An expression that is too long.
    #[error("the expression of `{0}` is longer than {MAX_TEXT} bytes: shorten it")]
    Text(String),
    /// All of it.
    #[error("a description has at most {MAX_DESCRIPTION} bytes of names and texts: shorten it")]
    Whole,
}

/// Attributes of a ClassAd by name, each with the text of its expression; within the bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, String>);

impl Attributes {
    /// Takes these, if they are within the bounds. Whether the texts are expressions is not asked:
    /// see [`Attributes::ad`].
    pub fn new(attributes: BTreeMap<String, String>) -> Result<Self, Excess> {
        if attributes.len() > MAX_ATTRIBUTES {
            return Err(Excess::Attributes);
        }
        let mut folded = BTreeSet::new();
        let mut bytes = 0;
        for (name, text) in &attributes {
            check_name(name)?;
            check_text(name, text)?;
            if !folded.insert(name.to_ascii_lowercase()) {
                return Err(Excess::Twice(name.clone()));
            }
            bytes += name.len() + text.len();
        }
        if bytes > MAX_DESCRIPTION {
            return Err(Excess::Whole);
        }
        Ok(Self(attributes))
    }

    /// The text of an attribute's expression, by its name as written.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and texts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of names and texts there are.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, text)| name.len() + text.len()).sum()
    }

    /// As an ad to match with. An attribute whose text is no expression is ERROR there.
    pub fn ad(&self) -> Ad {
        let mut ad = Ad::default();
        for (name, text) in self.iter() {
            ad.insert(name, Expr::parse(text).unwrap_or_else(|_| Expr::from(Value::Error)));
        }
        ad
    }
}

fn check_name(name: &str) -> Result<(), Excess> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let first = name.bytes().next().is_some_and(|byte| plain(byte) && !byte.is_ascii_digit());
    if !first || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(Excess::Name(name.chars().take(40).collect()));
    }
    Ok(())
}

fn check_text(name: &str, text: &str) -> Result<(), Excess> {
    if text.len() > MAX_TEXT { Err(Excess::Text(name.to_owned())) } else { Ok(()) }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = deserializer.deserialize_map(Bounded::<String>(MAX_ATTRIBUTES, PhantomData))?;
        Self::new(map).map_err(D::Error::custom)
    }
}

/// Reads a map of which every name is there once, in order, and no more than so many.
struct Bounded<V>(usize, PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Bounded<V> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} attributes by name", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map: BTreeMap<String, V> = BTreeMap::new();
        while let Some((name, value)) = access.next_entry::<String, V>()? {
            if map.len() >= self.0 {
                return Err(A::Error::custom("too many attributes"));
            }
            // In order, as they are written: what reads as the same is the same bytes.
            if map.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(A::Error::custom("attributes out of order"));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

/// What a member says of itself, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Description {
    /// When.
    pub version: Version,
    /// What.
    pub attributes: Attributes,
}

impl Description {
    /// BLAKE3 of version and attributes.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let mut number = |number: u64| {
            hasher.update(&number.to_le_bytes());
        };
        number(self.version.boot);
        number(self.version.seq);
        number(self.attributes.len() as u64);
        for part in self.attributes.iter().flat_map(|(name, text)| [name, text]) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Digest(hasher.finalize().into())
    }
}

/// Why a difference does not give a description.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Mismatch {
    /// It is to something else: the whole has to be asked for.
    #[error("the difference is to another description than the one at hand: ask for the whole")]
    Base,
    /// It gives something beyond the bounds.
    #[error("the difference gives no description: {0}")]
    Excess(#[from] Excess),
    /// It does not give what it says.
    #[error("the difference does not give the description that it names: its digest differs")]
    Result,
}

/// What to do to one description to have another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Of the result.
    pub version: Version,
    /// Digest of what it is to be applied to.
    pub base: Digest,
    /// Digest of what comes out.
    pub result: Digest,
    changes: Changes,
}

/// By name: the new text, or none where the attribute goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
struct Changes(BTreeMap<String, Option<String>>);

impl<'de> Deserialize<'de> for Changes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let changes =
            deserializer.deserialize_map(Bounded::<Option<String>>(MAX_CHANGES, PhantomData))?;
        for (name, text) in &changes {
            check_name(name).map_err(D::Error::custom)?;
            let text = text.as_deref().unwrap_or_default();
            check_text(name, text).map_err(D::Error::custom)?;
        }
        Ok(Self(changes))
    }
}

impl Difference {
    /// From one to the other.
    pub fn between(base: &Description, result: &Description) -> Self {
        let (old, new) = (&base.attributes.0, &result.attributes.0);
        let removed = old.keys().filter(|name| !new.contains_key(*name));
        let removed = removed.map(|name| (name.clone(), None));
        let set = new.iter().filter(|(name, text)| old.get(*name) != Some(*text));
        let set = set.map(|(name, text)| (name.clone(), Some(text.clone())));
        Self {
            version: result.version,
            base: base.digest(),
            result: result.digest(),
            changes: Changes(removed.chain(set).collect()),
        }
    }

    /// How many bytes of names and texts it carries.
    pub fn len(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.changes.0.iter().map(|(name, change)| name.len() + text(change)).sum()
    }

    /// Whether it carries none: nothing but the version differs.
    pub fn is_empty(&self) -> bool {
        self.changes.0.is_empty()
    }

    /// The other description.
    pub fn apply(&self, base: &Description) -> Result<Description, Mismatch> {
        if base.digest() != self.base {
            return Err(Mismatch::Base);
        }
        let mut attributes = base.attributes.0.clone();
        for (name, change) in &self.changes.0 {
            match change {
                Some(text) => attributes.insert(name.clone(), text.clone()),
                None => attributes.remove(name),
            };
        }
        let attributes = Attributes::new(attributes)?;
        let result = Description { version: self.version, attributes };
        if result.digest() != self.result { Err(Mismatch::Result) } else { Ok(result) }
    }
}

#[cfg(test)]
pub(super) mod tests;
