//! What a user started, where it runs, and who may grant its next epoch.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::handoff::MoveId;
use crate::{AppId, Epoch, Limits, NodeId, VoId};

/// A string the kernel takes as it is: arguments, environment, paths. Not always UTF-8.
///
/// In JSON it is a string, or a list of bytes where it is not UTF-8; in binary formats bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OsText(pub Vec<u8>);

impl OsText {
    /// The same bytes as the standard library's type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The same bytes as a path.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }
}

impl<T: AsRef<OsStr>> From<T> for OsText {
    fn from(text: T) -> Self {
        Self(text.as_ref().as_bytes().to_vec())
    }
}

impl fmt::Display for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(OsTextVisitor)
        } else {
            deserializer.deserialize_byte_buf(OsTextVisitor)
        }
    }
}

struct OsTextVisitor;

impl<'de> Visitor<'de> for OsTextVisitor {
    type Value = OsText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of bytes")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OsText, E> {
        Ok(OsText(text.as_bytes().to_vec()))
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<OsText, E> {
        Ok(OsText(bytes.to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OsText, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = list.next_element::<u8>()? {
            bytes.push(byte);
        }
        if bytes.contains(&0) {
            return Err(A::Error::custom("a NUL byte cannot stand in an argument or a path"));
        }
        Ok(OsText(bytes))
    }
}

/// The user an app runs as: numeric ids as they stand in the home's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Login name, for messages.
    pub user: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Names of all its groups, as far as they have one.
    pub group_names: Vec<String>,
    /// Home directory.
    pub home_dir: OsText,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

impl Default for TermSize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// Everything needed to start an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppSpec {
    /// What people call it: unique among its user's running apps.
    pub name: String,
    /// The command and its arguments; never empty.
    pub argv: Vec<OsText>,
    /// Environment, `NAME=value`.
    pub env: Vec<OsText>,
    /// Working directory.
    pub cwd: OsText,
    /// Who runs it.
    pub user: Credentials,
    /// When it shall move.
    pub limits: Limits,
    /// Terminal size at the start.
    pub term_size: TermSize,
    /// The virtual organisation it runs under: it moves to members of it only.
    #[serde(default)]
    pub vo: Option<VoId>,
}

/// A move that has begun and not ended, kept with the record so that a restart can settle it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingMove {
    /// Which move.
    pub id: MoveId,
    /// Where the frozen copy is.
    pub source: NodeId,
    /// Where the new copy is made.
    pub target: NodeId,
    /// The epoch the app has at the source. After the commit the record's own epoch is higher.
    pub source_epoch: Epoch,
}

/// The record of an app, kept durably at its home: the one place that grants its epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppRecord {
    /// Which app.
    pub app: AppId,
    /// Of two copies only the one with this epoch may have effects.
    pub epoch: Epoch,
    /// Where it runs.
    pub host: NodeId,
    /// Where it was started.
    pub home: NodeId,
    /// The move under way, if any.
    pub pending: Option<PendingMove>,
    /// What was started.
    pub spec: AppSpec,
    /// Seconds since 1970 when it was started.
    pub started_unix_s: u64,
}

impl AppRecord {
    /// Whether effects of `node`'s copy with `epoch` on terminal, network or files are accepted.
    pub fn may_act(&self, node: NodeId, epoch: Epoch) -> bool {
        self.host == node && self.epoch == epoch
    }

    /// Whether it runs away from home.
    pub fn is_away(&self) -> bool {
        self.host != self.home
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_survives_json_and_postcard() {
        for bytes in [b"plain".to_vec(), vec![b'a', 0xff, b'b'], vec![]] {
            let text = OsText(bytes);
            let json = serde_json::to_string(&text).unwrap();
            assert_eq!(serde_json::from_str::<OsText>(&json).unwrap(), text);
            let binary = postcard::to_stdvec(&text).unwrap();
            assert_eq!(postcard::from_bytes::<OsText>(&binary).unwrap(), text);
        }
    }
}
