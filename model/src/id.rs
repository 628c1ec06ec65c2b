//! Names of things: nodes and sub-grids are public keys, apps are random numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A text that is not the id it should be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not {wanted}")]
pub struct IdError {
    /// What was given.
    pub text: String,
    /// What was expected, with its article.
    pub wanted: &'static str,
}

macro_rules! key_id {
    ($name:ident, $wanted:literal, $doc:literal) => {
        #[doc = $doc]
        ///
        /// In formats that people read it is written as its hexadecimal digits, else as its bytes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The first ten hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.to_string()[..10].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match serializer.is_human_readable() {
                    true => serializer.collect_str(self),
                    false => self.0.serialize(serializer),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match deserializer.is_human_readable() {
                    true => {
                        let text = String::deserialize(deserializer)?;
                        text.parse().map_err(serde::de::Error::custom)
                    }
                    false => Deserialize::deserialize(deserializer).map(Self),
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError { text: text.to_owned(), wanted: $wanted };
                if text.len() != 64 || !text.is_ascii() {
                    return Err(wrong());
                }
                let mut key = [0; 32];
                for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
                }
                Ok(Self(key))
            }
        }
    };
}

key_id!(
    NodeId,
    "a node id (64 hexadecimal digits)",
    "A node: the Ed25519 public key it proves on every connection."
);
key_id!(
    SubgridId,
    "a sub-grid id (64 hexadecimal digits)",
    "A sub-grid: the Ed25519 public key that signs its membership certificates."
);

/// An app, unique across the grid: a random 64-bit number, shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct AppId(pub u64);

impl AppId {
    /// The first eight digits: names of cgroups, links and folders.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppId({self})")
    }
}

impl FromStr for AppId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong =
            || IdError { text: text.to_owned(), wanted: "an app id (16 hexadecimal digits)" };
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 16 || !digits {
            return Err(wrong());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| wrong())
    }
}

impl From<AppId> for String {
    fn from(id: AppId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for AppId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

/// Grows by one each time an app changes hosts. Of two copies only the one with the registered
/// epoch may have effects.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch an app has when it is started.
    pub const FIRST: Epoch = Epoch(1);

    /// The epoch of the next grant.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let node = NodeId([0xab; 32]);
        assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        let app = AppId(0x1f);
        assert_eq!(app.to_string(), "000000000000001f");
        assert_eq!(app.to_string().parse::<AppId>().unwrap(), app);
    }

    #[test]
    fn keys_are_digits_for_people_and_bytes_for_machines() {
        let node = NodeId([0xab; 32]);
        let json = serde_json::to_string(&node).unwrap();
        assert_eq!(json, format!("\"{node}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), node);
        assert!(serde_json::from_str::<NodeId>("\"ab\"").is_err());
        let bytes = postcard::to_stdvec(&node).unwrap();
        assert_eq!(bytes, node.0);
        assert_eq!(postcard::from_bytes::<NodeId>(&bytes).unwrap(), node);
    }

    #[test]
    fn wrong_ids_are_named() {
        let error = "xyz".parse::<NodeId>().unwrap_err();
        assert_eq!(error.to_string(), "`xyz` is not a node id (64 hexadecimal digits)");
        for text in ["", "+000000000000001", "00000000000000001", "000000000000000G"] {
            assert!(text.parse::<AppId>().is_err(), "{text}");
        }
        assert!("é".repeat(32).parse::<NodeId>().is_err());
    }
}
