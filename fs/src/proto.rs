//! What home and target say to each other about files.
//!
//! A frame is `length: u32 LE`, `head length: u32 LE`, the head ([`ToServer`] or [`ToClient`] in
//! postcard) and the payload: file data, link targets and attribute values travel outside the
//! head, so they are never copied through the encoder. Many requests are in flight at once and
//! their replies come in any order; [`RequestId`]s pair them.
//!
//! A session outlives its connections. A client that lost one connects anew, says [`Hello`] with
//! the same [`SessionId`] and sends again every request it has no reply to; the server answers
//! those it has carried out already from memory. So an operation takes effect exactly once
//! however often the stream is cut.

mod attr;
mod frame;
mod name;
mod op;

use phantom_model::{AppId, Epoch};
use serde::{Deserialize, Serialize};

pub use attr::{Attr, AttrChange, FileKind, SetTime, Stamp, Timestamp};
pub use frame::{FrameError, MAX_FRAME, MAX_HEAD, read_frame, write_frame};
pub(crate) use frame::{encode_head, write_both};
pub use name::{Name, NameError};
pub use op::{
    Answer, DirItem, Entry, NodeKind, Op, OpenMode, RenameMode, SeekFor, Space, XattrMode,
};

/// The version this side speaks; sides with different versions do not talk.
pub const VERSION: u16 = 1;
/// Largest read or write in one request, in bytes.
pub const MAX_IO: u32 = 1 << 20;
/// Largest symbolic link target or extended attribute, in bytes: the kernel's own bound.
pub const MAX_VALUE: usize = 64 << 10;
/// Largest listing in one reply, in bytes of names and attributes.
pub const MAX_LISTING: u32 = 256 << 10;
/// Bytes of file content covered by one digest of a manifest.
pub const CHUNK: u32 = 128 << 10;
/// Digests in one manifest reply.
pub const MANIFEST_PAGE: u32 = 16_384;
/// A system file up to this size comes with the reply to its open.
pub const INLINE: u64 = 64 << 10;
/// Largest system file that gets a manifest; larger ones are read through without a cache.
pub const MAX_MANIFEST_FILE: u64 = 4 << 30;

/// A session, chosen at random by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

/// A request within its session: counts up from 1, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// A file or directory as the server names it in a session; never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The top of the served tree.
    pub const ROOT: NodeId = NodeId(1);
}

/// An open file or directory in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandleId(pub u64);

/// A BLAKE3 digest of a manifest; it names a content in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the client.
    pub version: u16,
    /// The session to open or to go on with.
    pub session: SessionId,
    /// Whose files.
    pub app: AppId,
    /// The epoch the copy of the app has, or will have once its move is committed; one that was
    /// fenced is refused.
    pub epoch: Epoch,
    /// Whether the session has had a connection before; if the server does not know it then, it
    /// is lost and the client must not go on as if nothing happened.
    pub resumed: bool,
}

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToServer {
    /// Opens a connection.
    Hello(Hello),
    /// Asks for an operation.
    Request {
        /// Pairs it with its reply.
        id: RequestId,
        /// Every request below this id has been answered: its reply may be forgotten.
        answered_below: RequestId,
        /// What to do.
        op: Op,
    },
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient {
    /// The session is open.
    Welcome {
        /// The top of the tree.
        root: Entry,
    },
    /// The session cannot be opened, now or ever.
    Refused(Refusal),
    /// The outcome of a request.
    Reply {
        /// Which.
        id: RequestId,
        /// What came of it.
        result: Result<Answer, i32>,
    },
}

/// Why a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another protocol version.
    #[error("home speaks version {0} of the file protocol, this node version {VERSION}")]
    Version(u16),
    /// Another app's files.
    #[error("home serves the files of another app here")]
    App,
    /// The app has moved on since.
    #[error("the app has moved on: its epoch is {0} now")]
    Epoch(Epoch),
    /// The session is not known (any more).
    #[error("home has lost this session")]
    Unknown,
    /// Too many sessions.
    #[error("home serves too many sessions already")]
    Full,
}
