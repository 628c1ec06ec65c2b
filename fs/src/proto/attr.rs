//! Attributes of files.

use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// From the type bits of `st_mode`; a regular file where they mean nothing.
    pub fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            0o020_000 => FileKind::CharDevice,
            0o060_000 => FileKind::BlockDevice,
            _ => FileKind::File,
        }
    }
}

/// A moment: seconds and nanoseconds since 1970.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub sec: i64,
    /// Nanoseconds on top, below 1,000,000,000.
    pub nsec: u32,
}

impl Timestamp {
    /// Within what every file system and calendar can hold, whatever the other side sent.
    #[must_use]
    pub fn clamped(self) -> Self {
        const FAR_S: i64 = 1 << 38;
        Self { sec: self.sec.clamp(-FAR_S, FAR_S), nsec: self.nsec.min(999_999_999) }
    }
}

/// Attributes as stat(2) gives them inside the app's namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number to show.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Kind.
    pub kind: FileKind,
    /// Permission bits with set-id and sticky bits.
    pub perm: u16,
    /// Hard links.
    pub nlink: u32,
    /// Owner, as the app sees it.
    pub uid: u32,
    /// Group, as the app sees it.
    pub gid: u32,
    /// Device major and minor number, of device nodes.
    pub rdev: (u32, u32),
    /// Preferred I/O size in bytes.
    pub block_size: u32,
    /// Part of the home's system: the app cannot write it, and it has not changed lately. Its
    /// attributes hold longer, and its content is verified and cached.
    pub system: bool,
}

impl Attr {
    /// What tells one content of the file from another.
    pub fn stamp(&self) -> Stamp {
        Stamp { ino: self.ino, size: self.size, mtime: self.mtime, ctime: self.ctime }
    }
}

/// Two contents of a file with the same stamp are the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Stamp {
    pub ino: u64,
    pub size: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetTime {
    /// Home's clock.
    Now,
    /// This one.
    At(Timestamp),
}

/// Attributes to change; those that are `None` stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AttrChange {
    pub size: Option<u64>,
    pub perm: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
}
