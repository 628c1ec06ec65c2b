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
        let known =
            Known { node: entry.node, kind: entry.attr.kind, home_refs: 1, refs: 1, seen: None };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Timestamp;

    fn entry(node: u64, ino: u64, kind: FileKind) -> Entry {
        let t = Timestamp::default();
        let attr = Attr {
            ino,
            size: 0,
            blocks: 0,
            atime: t,
            mtime: t,
            ctime: t,
            kind,
            perm: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            block_size: 4096,
            system: false,
        };
        Entry { node: NodeId(node), attr }
    }

    #[test]
    fn files_keep_their_number_unless_it_is_taken() {
        let mut table = Table::new();
        let file = |node, ino| entry(node, ino, FileKind::File);
        assert_eq!(table.enter(&file(5, 77)), Some(Ino(77)));
        assert_eq!(table.enter(&file(5, 77)), Some(Ino(77)), "the same file");
        let other = table.enter(&file(6, 77)).unwrap();
        assert_ne!(other, Ino(77), "the same number on another file system");
        for (node, ino) in [(7, 0), (8, 1), (9, u64::MAX)] {
            let given = table.enter(&file(node, ino)).unwrap();
            assert!(given.0 > 1 && given.0 < 1 << 63, "{given:?}");
        }
        assert_eq!(table.release(Ino(77), 1), None);
        assert_eq!(table.release(Ino(77), 1), Some((NodeId(5), 2)), "all of home's references");
        assert_eq!(table.node(Ino(77)), None);
        assert_eq!(table.enter(&file(10, 77)), Some(Ino(77)));
    }

    #[test]
    fn a_home_that_contradicts_itself_is_not_believed() {
        let mut table = Table::new();
        assert_eq!(table.enter(&entry(1, 9, FileKind::Directory)), None, "the root in the tree");
        table.enter(&entry(2, 9, FileKind::File)).unwrap();
        assert_eq!(table.enter(&entry(2, 9, FileKind::Directory)), None, "a file become directory");
        assert_eq!(table.release(Ino::ROOT, u64::MAX), None);
        assert!(table.node(Ino::ROOT).is_some());
    }

    #[test]
    fn contents_are_recognised() {
        let mut table = Table::new();
        let mut e = entry(2, 9, FileKind::File);
        let ino = table.enter(&e).unwrap();
        let digest = Digest([1; 32]);
        assert!(!table.see(ino, &e.attr, Some(digest)));
        assert!(table.see(ino, &e.attr, None));
        assert_eq!(table.digest(ino), Some(digest), "the same content keeps its name");
        e.attr.mtime.nsec = 1;
        assert!(!table.see(ino, &e.attr, None));
        assert_eq!(table.digest(ino), None);
        table.unsee(ino);
        assert!(!table.see(ino, &e.attr, None));
    }
}
