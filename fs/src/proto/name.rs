//! Names of directory entries.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that cannot name a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing.
    #[error("the name is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("the name has {0} bytes, more than 255")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("`.` and `..` are no names of entries")]
    Dots,
    /// A slash or a NUL byte.
    #[error("a slash or a NUL byte cannot stand in a name")]
    Byte,
}

/// The name of one directory entry or extended attribute: 1 to 255 bytes of any encoding,
/// neither `.` nor `..`, without slash and NUL. Whatever comes from another machine has been
/// checked by the time it is one of these.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Longest name in bytes.
    pub const MAX: usize = 255;

    /// Checks `bytes`.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            b"" => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > Self::MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(NameError::Byte),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as the standard library's type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a directory entry")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Name, E> {
        Name::new(bytes).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Name, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = list.next_element::<u8>()? {
            if bytes.len() == Name::MAX {
                return Err(A::Error::custom(NameError::TooLong(bytes.len() + 1)));
            }
            bytes.push(byte);
        }
        Name::new(&bytes).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for (bytes, error) in [
            (&b""[..], NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/b", NameError::Byte),
            (b"/", NameError::Byte),
            (b"a\0", NameError::Byte),
            (&[b'x'; 256], NameError::TooLong(256)),
        ] {
            assert_eq!(Name::new(bytes), Err(error));
            // The same when they come over the wire.
            let wire = postcard::to_stdvec(&bytes.to_vec()).unwrap();
            assert!(postcard::from_bytes::<Name>(&wire).is_err(), "{bytes:?}");
        }
        assert!(Name::new(&[b'x'; 255]).is_ok());
        assert!(Name::new(b"...").is_ok());
    }

    proptest! {
        #[test]
        fn names_survive_the_wire(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::new(&bytes) {
                let wire = postcard::to_stdvec(&name).unwrap();
                prop_assert_eq!(postcard::from_bytes::<Name>(&wire).unwrap(), name);
            }
        }
    }
}
