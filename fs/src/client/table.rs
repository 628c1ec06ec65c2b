//! The inodes the client has handed out. No I/O.
//!
//! An [`Ino`] is what the kernel (or whoever uses the client) calls a file: where possible the
//! very number the file has at home. The home's own name for it is a [`NodeId`].

use std::collections::HashMap;

use crate::proto::{Attr, Digest, Entry, FileKind, NodeId, Stamp};

/// A file as the client's user names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The top of the tree.
    pub const ROOT: Ino = Ino(1);
}

/// Numbers above this are given where a file's own number is taken.
const SPARE: u64 = 1 << 61;

#[derive(Debug)]
struct Known {
    node: NodeId,
    kind: FileKind,
    /// References home counts for this session.
    home_refs: u64,
    /// References the client's user holds.
    refs: u64,
    /// The content that was last seen, for keeping caches of it.
    seen: Option<(Stamp, Option<Digest>)>,
}

/// All inodes handed out and not given back.
#[derive(Debug)]
pub(super) struct Table {
    known: HashMap<Ino, Known>,
    by_node: HashMap<NodeId, Ino>,
    spare: u64,
}

impl Table {
    pub(super) fn new() -> Self {
        let root = Known {
            node: NodeId::ROOT,
            kind: FileKind::Directory,
            home_refs: 1,
            refs: 1,
            seen: None,
        };
        Self {
            known: HashMap::from([(Ino::ROOT, root)]),
            by_node: HashMap::from([(NodeId::ROOT, Ino::ROOT)]),
            spare: SPARE,
        }
    }

    /// Home told of `entry`, which counts as one reference there. Adds one reference here and
    /// returns its number; `None` if home contradicts itself.
    pub(super) fn enter(&mut self, entry: &Entry) -> Option<Ino> {
        if entry.node == NodeId::ROOT {
            // The root is no entry of any directory.
            return None;
        }
        if let Some(ino) = self.by_node.get(&entry.node)
            && let Some(known) = self.known.get_mut(ino)
        {
            known.home_refs += 1;
            known.refs += 1;
            return (known.kind == entry.attr.kind).then_some(*ino);
        }
        let own = Ino(entry.attr.ino);
        let ino = match own.0 > Ino::ROOT.0 && own.0 < SPARE << 2 && !self.known.contains_key(&own)
        {
            true => own,
            false => {
                self.spare += 1;
                Ino(self.spare)
            }
        };
        let known = Known {
            node: entry.node,
            kind: entry.attr.kind,
            home_refs: 1,
            refs: 1,
            seen: None,
        };
        self.known.insert(ino, known);
        self.by_node.insert(entry.node, ino);
        Some(ino)
    }

    /// Home's name for `ino`.
    pub(super) fn node(&self, ino: Ino) -> Option<NodeId> {
        self.known.get(&ino).map(|known| known.node)
    }

    /// What `ino` is.
    pub(super) fn kind(&self, ino: Ino) -> Option<FileKind> {
        self.known.get(&ino).map(|known| known.kind)
    }

    /// Gives `count` references back. When none is left, what home is to forget.
    pub(super) fn release(&mut self, ino: Ino, count: u64) -> Option<(NodeId, u64)> {
        if ino == Ino::ROOT {
            return None;
        }
        let known = self.known.get_mut(&ino)?;
        known.refs = known.refs.saturating_sub(count);
        if known.refs > 0 {
            return None;
        }
        let known = self.known.remove(&ino)?;
        self.by_node.remove(&known.node);
        Some((known.node, known.home_refs))
    }

    /// The file's content is now `attr`'s, named by `digest` where that is known. Whether it is
    /// the same as the last time.
    pub(super) fn see(&mut self, ino: Ino, attr: &Attr, digest: Option<Digest>) -> bool {
        let Some(known) = self.known.get_mut(&ino) else {
            return false;
        };
        let now = (attr.stamp(), digest);
        let same = known.seen.is_some_and(|(stamp, _)| stamp == now.0);
        let digest = digest.or(known.seen.filter(|_| same).and_then(|(_, digest)| digest));
        known.seen = Some((now.0, digest));
        same
    }

    /// The file is being written: nothing seen of it before holds any more.
    pub(super) fn unsee(&mut self, ino: Ino) {
        if let Some(known) = self.known.get_mut(&ino) {
            known.seen = None;
        }
    }

    /// The content last seen, by name.
    pub(super) fn digest(&self, ino: Ino) -> Option<Digest> {
        self.known.get(&ino)?.seen?.1
    }

    /// How many inodes are handed out.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
