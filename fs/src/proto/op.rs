//! The operations and their answers.

use serde::{Deserialize, Serialize};

use super::{Attr, AttrChange, Digest, FileKind, HandleId, Name, NodeId};

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenMode {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Emptied first.
    pub truncate: bool,
    /// With create: the name must be free.
    pub exclusive: bool,
}

/// What can be made by [`Op::MakeNode`]; device nodes are never made across machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// An empty regular file.
    File,
}

/// How a rename treats what stands at the new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replaced.
    Replace,
    /// Kept: the rename fails.
    NoReplace,
    /// Gets the old name.
    Exchange,
}

/// How an extended attribute is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Made or replaced.
    Any,
    /// Must not exist.
    Create,
    /// Must exist.
    Replace,
}

/// What a seek looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeekFor {
    /// The next data.
    Data,
    /// The next hole.
    Hole,
}

/// An operation. Those that carry bytes (write, symlink, set attribute) have them as payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The fields are those of the system calls of the same name.
pub enum Op {
    /// Answered at once: proves that home is there.
    Ping,
    /// Looks a name up. Counts as one reference to the node.
    Lookup { parent: NodeId, name: Name },
    /// Gives references back.
    Forget { nodes: Vec<(NodeId, u64)> },
    /// Attributes.
    GetAttr { node: NodeId, handle: Option<HandleId> },
    /// Changes attributes.
    SetAttr { node: NodeId, handle: Option<HandleId>, change: AttrChange },
    /// Target of a symbolic link, as payload.
    ReadLink { node: NodeId },
    /// Creates and opens a file. Counts as one reference.
    Create { parent: NodeId, name: Name, mode: u32, open: OpenMode },
    /// Opens a file. `known` is the content the client holds for it already.
    Open { node: NodeId, open: OpenMode, known: Option<Digest> },
    /// Closes a file or directory.
    Release { handle: HandleId },
    /// Bytes of a file, as payload.
    Read { handle: HandleId, offset: u64, len: u32 },
    /// Writes the payload, at the end of the file if `append`.
    Write { handle: HandleId, offset: u64, append: bool },
    /// Makes a file's changes durable.
    Fsync { handle: HandleId, data_only: bool },
    /// Opens a directory.
    OpenDir { node: NodeId },
    /// Entries from `offset` on. With attributes each entry counts as one reference.
    ReadDir { handle: HandleId, offset: u64, max_bytes: u32, attributes: bool },
    /// Makes a directory. Counts as one reference.
    MakeDir { parent: NodeId, name: Name, mode: u32 },
    /// Makes a pipe, a socket name or a file. Counts as one reference.
    MakeNode { parent: NodeId, name: Name, mode: u32, kind: NodeKind },
    /// Makes a symbolic link to the payload. Counts as one reference.
    Symlink { parent: NodeId, name: Name },
    /// Makes a hard link. Counts as one reference.
    Link { node: NodeId, parent: NodeId, name: Name },
    /// Removes a name of a file.
    Unlink { parent: NodeId, name: Name },
    /// Removes a directory.
    RemoveDir { parent: NodeId, name: Name },
    /// Renames.
    Rename { parent: NodeId, name: Name, new_parent: NodeId, new_name: Name, mode: RenameMode },
    /// Room on the file system.
    StatFs { node: NodeId },
    /// Value of a `user.` attribute, as payload.
    GetXattr { node: NodeId, name: Name },
    /// Names of the `user.` attributes, each ended by NUL, as payload.
    ListXattr { node: NodeId },
    /// Sets a `user.` attribute to the payload.
    SetXattr { node: NodeId, name: Name, mode: XattrMode },
    /// Removes a `user.` attribute.
    RemoveXattr { node: NodeId, name: Name },
    /// Whether the app may access the node: bits 4 read, 2 write, 1 execute.
    Access { node: NodeId, mask: u8 },
    /// Room in a file; `mode` as in fallocate(2).
    Fallocate { handle: HandleId, mode: u32, offset: u64, len: u64 },
    /// Next data or hole.
    Seek { handle: HandleId, offset: u64, what: SeekFor },
    /// Copies between two files without the data leaving home.
    CopyRange { from: HandleId, from_offset: u64, to: HandleId, to_offset: u64, len: u64 },
    /// Digests of an open system file from chunk `first` on, as payload of 32 bytes each.
    Manifest { handle: HandleId, first: u32 },
}

impl Op {
    /// Whether carrying it out twice is the same as once. The replies to all others are kept
    /// until the client has them.
    pub fn is_repeatable(&self) -> bool {
        matches!(
            self,
            Op::Ping
                | Op::GetAttr { .. }
                | Op::ReadLink { .. }
                | Op::Read { .. }
                | Op::Fsync { .. }
                | Op::ReadDir { attributes: false, .. }
                | Op::StatFs { .. }
                | Op::GetXattr { .. }
                | Op::ListXattr { .. }
                | Op::Access { .. }
                | Op::Seek { .. }
                | Op::Manifest { .. }
        )
    }

    /// Whether it may rightly take longer than other operations, home being well.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Op::Fsync { .. } | Op::Fallocate { .. } | Op::CopyRange { .. } | Op::Manifest { .. }
        )
    }
}

/// A node and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub node: NodeId,
    /// Its attributes.
    pub attr: Attr,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirItem {
    /// Its name; `.` and `..` are not listed.
    pub name: Name,
    /// Inode number.
    pub ino: u64,
    /// Its kind.
    pub kind: FileKind,
    /// Where the listing goes on after it.
    pub next_offset: u64,
    /// The node, if attributes were asked for and it still existed.
    pub entry: Option<Entry>,
}

/// Room on a file system, as statvfs(3) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Space {
    pub block_size: u32,
    pub fragment_size: u32,
    pub blocks: u64,
    pub blocks_free: u64,
    pub blocks_available: u64,
    pub files: u64,
    pub files_free: u64,
    pub name_max: u32,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Answer {
    /// Done; there is nothing to say.
    Done,
    /// A node. For a name that does not exist see [`Answer::Absent`].
    Entry(Entry),
    /// The name does not exist; `system`: in a directory of the system, where this holds longer.
    Absent {
        system: bool,
    },
    Attr(Attr),
    /// An open file. `digest` is that of a system file where it is known; then the payload is its
    /// whole content, if that is short and not known to the client.
    Opened {
        handle: HandleId,
        attr: Attr,
        digest: Option<Digest>,
    },
    Created {
        entry: Entry,
        handle: HandleId,
    },
    /// The payload is the answer.
    Data,
    /// Bytes written or copied, or an offset.
    Count(u64),
    /// Entries; none at the end.
    Listing(Vec<DirItem>),
    Space(Space),
    /// The payload is a page of digests; `total` of them make the manifest named by `digest`.
    Manifest {
        digest: Digest,
        total: u32,
        size: u64,
    },
}
