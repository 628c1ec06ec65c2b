//! The nodes of a session: what the client has been told about and may name again.
//!
//! A node is identified by mount, device, inode and birth time. Most nodes hold a reference
//! (`O_PATH`) to their inode; when there are too many of those, the ones unused for longest are
//! closed and found again by their name, and refused as stale if another inode stands there.
//! A node whose name was removed keeps its reference until it is forgotten.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::Statx;
use rustix::io::Errno;

use super::mask::Mask;
use crate::os;
use crate::proto::{FileKind, Name, NodeId};

/// Directories deeper than this are not found again once their references were closed.
const MAX_DEPTH: usize = 1024;

/// What makes two nodes the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) mount: u64,
    pub(super) dev: (u32, u32),
    pub(super) ino: u64,
    birth: (i64, u32),
}

impl Key {
    pub(super) fn of(stat: &Statx) -> Self {
        Self {
            mount: stat.stx_mnt_id,
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            birth: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        }
    }

    /// Equal to the key of no file.
    pub(super) fn of_nothing() -> Self {
        Self { mount: u64::MAX, dev: (u32::MAX, u32::MAX), ino: 0, birth: (0, 0) }
    }
}

/// What a node is, for those who use it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) key: Key,
    pub(super) kind: FileKind,
    /// Hidden places at and below a directory.
    pub(super) mask: Option<Arc<Mask>>,
    /// An empty directory that stands for something not served.
    pub(super) hidden: bool,
}

#[derive(Debug)]
struct Node {
    view: View,
    refs: u64,
    fd: Option<Arc<OwnedFd>>,
    place: Option<(NodeId, Name)>,
    /// Cannot be found by a name: the reference must stay.
    nameless: bool,
    used: bool,
    /// Stands in the clock's ring.
    ringed: bool,
}

#[derive(Debug)]
struct Inner {
    nodes: HashMap<NodeId, Node>,
    by_key: HashMap<Key, NodeId>,
    next: u64,
    /// Nodes that hold a closable reference, in the order of the clock's hand.
    open: VecDeque<NodeId>,
}

impl Inner {
    /// Puts a node into the clock's ring if its reference may be closed.
    fn ring(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id)
            && node.fd.is_some()
            && !node.nameless
            && !node.ringed
        {
            node.ringed = true;
            self.open.push_back(id);
        }
    }

    /// Second chance: a node used since the hand last passed stays open for another round.
    fn close_unused(&mut self, max_open: usize) {
        let mut steps = self.open.len() * 2;
        while self.open.len() > max_open && steps > 0 {
            steps -= 1;
            let Some(id) = self.open.pop_front() else {
                return;
            };
            let Some(node) = self.nodes.get_mut(&id) else {
                continue;
            };
            if node.used && !node.nameless {
                node.used = false;
                self.open.push_back(id);
                continue;
            }
            node.ringed = false;
            if !node.nameless {
                node.fd = None;
            }
        }
    }
}

/// All nodes of a session.
#[derive(Debug)]
pub(super) struct Nodes {
    inner: Mutex<Inner>,
    max_nodes: usize,
    max_open: usize,
}

/// A node to enter.
#[derive(Debug)]
pub(super) struct NewNode {
    pub(super) view: View,
    pub(super) fd: Option<OwnedFd>,
    pub(super) place: Option<(NodeId, Name)>,
}

impl Nodes {
    pub(super) fn new(root: Arc<OwnedFd>, view: View, max_nodes: usize, max_open: usize) -> Self {
        let key = view.key;
        let node = Node {
            view,
            refs: 1,
            fd: Some(root),
            place: None,
            nameless: true,
            used: true,
            ringed: false,
        };
        let inner = Inner {
            nodes: HashMap::from([(NodeId::ROOT, node)]),
            by_key: HashMap::from([(key, NodeId::ROOT)]),
            next: NodeId::ROOT.0 + 1,
            open: VecDeque::new(),
        };
        Self { inner: Mutex::new(inner), max_nodes, max_open }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a node in its directory, if it has one.
    pub(super) fn place(&self, id: NodeId) -> Option<(NodeId, Name)> {
        self.lock().nodes.get(&id).and_then(|node| node.place.clone())
    }

    /// What `id` is; `ESTALE` if the session has no such node.
    pub(super) fn view(&self, id: NodeId) -> Result<View, Errno> {
        self.lock().nodes.get(&id).map(|node| node.view.clone()).ok_or(Errno::STALE)
    }

    /// Adds one reference to the node, entering it if it is new.
    pub(super) fn enter(&self, new: NewNode) -> Result<NodeId, Errno> {
        let mut inner = self.lock();
        // Places that are hidden have no inode of their own: they are told apart by their name.
        let known = match new.view.hidden {
            true => inner
                .nodes
                .iter()
                .find(|(_, node)| node.view.hidden && node.place == new.place)
                .map(|(id, _)| *id),
            false => inner.by_key.get(&new.view.key).copied(),
        };
        if let Some(id) = known
            && let Some(node) = inner.nodes.get_mut(&id)
        {
            node.refs += 1;
            if id != NodeId::ROOT && new.place.is_some() {
                node.place = new.place;
            }
            if node.fd.is_none()
                && let Some(fd) = new.fd
            {
                node.fd = Some(Arc::new(fd));
                inner.ring(id);
                inner.close_unused(self.max_open);
            }
            return Ok(id);
        }
        if inner.nodes.len() >= self.max_nodes {
            return Err(Errno::NFILE);
        }
        let id = NodeId(inner.next);
        inner.next += 1;
        if !new.view.hidden {
            inner.by_key.insert(new.view.key, id);
        }
        let fd = new.fd.map(Arc::new);
        let nameless = new.place.is_none();
        let node = Node {
            view: new.view,
            refs: 1,
            fd,
            place: new.place,
            nameless,
            used: true,
            ringed: false,
        };
        inner.nodes.insert(id, node);
        inner.ring(id);
        inner.close_unused(self.max_open);
        Ok(id)
    }

    /// A reference to the node's inode.
    pub(super) fn fd(&self, id: NodeId) -> Result<Arc<OwnedFd>, Errno> {
        // Up to the nearest ancestor that has one, then down again.
        let mut missing = Vec::new();
        let mut at = id;
        let mut fd = loop {
            let mut inner = self.lock();
            let node = inner.nodes.get_mut(&at).ok_or(Errno::STALE)?;
            node.used = true;
            if let Some(fd) = &node.fd {
                break Arc::clone(fd);
            }
            let (parent, name) = node.place.clone().ok_or(Errno::STALE)?;
            if node.view.hidden || missing.len() == MAX_DEPTH {
                return Err(Errno::STALE);
            }
            missing.push((at, name, node.view.key));
            at = parent;
        };
        while let Some((id, name, key)) = missing.pop() {
            let found = os::open_entry(&*fd, name.as_bytes()).map_err(|_| Errno::STALE)?;
            if Key::of(&os::stat_fd(&found)?) != key {
                return Err(Errno::STALE);
            }
            fd = Arc::new(found);
            let mut inner = self.lock();
            if let Some(node) = inner.nodes.get_mut(&id)
                && node.fd.is_none()
            {
                node.fd = Some(Arc::clone(&fd));
                inner.ring(id);
                inner.close_unused(self.max_open);
            }
        }
        Ok(fd)
    }

    /// The entry is about to lose its name: if it is a node, it must keep its reference. The
    /// second step, after the removal, is [`Nodes::lost_name`].
    pub(super) fn before_removal(&self, dir: &OwnedFd, name: &Name) -> Option<NodeId> {
        let key = Key::of(&os::stat_entry(dir, name.as_bytes()).ok()?);
        let id = *self.lock().by_key.get(&key)?;
        let fd = match self.fd(id) {
            Ok(fd) => fd,
            Err(_) => {
                let fd = os::open_entry(dir, name.as_bytes()).ok()?;
                (Key::of(&os::stat_fd(&fd).ok()?) == key).then(|| Arc::new(fd))?
            }
        };
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.fd = Some(fd);
            node.nameless = true;
        }
        Some(id)
    }

    /// The removal announced by [`Nodes::before_removal`] failed: the node still has its name.
    pub(super) fn kept_name(&self, id: NodeId) {
        let mut inner = self.lock();
        if let Some(node) = inner.nodes.get_mut(&id) {
            node.nameless = node.place.is_none();
        }
        inner.ring(id);
    }

    /// A node got a new name.
    pub(super) fn renamed(&self, id: NodeId, parent: NodeId, name: Name) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.place = Some((parent, name));
        }
        self.kept_name(id);
    }

    /// Gives `count` references back.
    pub(super) fn forget(&self, id: NodeId, count: u64) {
        if id == NodeId::ROOT {
            return;
        }
        let mut inner = self.lock();
        let Some(node) = inner.nodes.get_mut(&id) else {
            return;
        };
        node.refs = node.refs.saturating_sub(count);
        if node.refs > 0 {
            return;
        }
        if let Some(node) = inner.nodes.remove(&id)
            && inner.by_key.get(&node.view.key) == Some(&id)
        {
            inner.by_key.remove(&node.view.key);
        }
        // Its place in the clock is dropped when the hand comes by; keep the ring in proportion.
        if inner.open.len() > 2 * inner.nodes.len() + 64 {
            let Inner { nodes, open, .. } = &mut *inner;
            open.retain(|id| nodes.get(id).is_some_and(|node| node.fd.is_some()));
        }
    }

    /// How many nodes there are, and how many of them hold references.
    #[cfg(test)]
    fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.nodes.len(), inner.nodes.values().filter(|node| node.fd.is_some()).count())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;

    fn view(stat: &Statx) -> View {
        let kind = FileKind::from_mode(stat.stx_mode.into());
        View { key: Key::of(stat), kind, mask: None, hidden: false }
    }

    fn table(dir: &Path, max_nodes: usize, max_open: usize) -> (Nodes, OwnedFd) {
        let root: OwnedFd = File::open(dir).unwrap().into();
        let stat = os::stat_fd(&root).unwrap();
        let nodes =
            Nodes::new(Arc::new(root.try_clone().unwrap()), view(&stat), max_nodes, max_open);
        (nodes, root)
    }

    fn enter(nodes: &Nodes, root: &OwnedFd, text: &str) -> Result<NodeId, Errno> {
        let name = Name::new(text.as_bytes()).unwrap();
        let fd = os::open_entry(root, name.as_bytes()).unwrap();
        let view = view(&os::stat_fd(&fd).unwrap());
        nodes.enter(NewNode { view, fd: Some(fd), place: Some((NodeId::ROOT, name)) })
    }

    #[test]
    fn references_are_bounded_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..50).map(|i| format!("file-{i}")).collect();
        for name in &names {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let (nodes, root) = table(dir.path(), 1000, 10);
        let ids: Vec<_> = names.iter().map(|name| enter(&nodes, &root, name).unwrap()).collect();
        assert_eq!(nodes.counts(), (51, 11), "ten and the root");
        for id in &ids {
            let stat = os::stat_fd(&*nodes.fd(*id).unwrap()).unwrap();
            assert_eq!(view(&stat).key, nodes.view(*id).unwrap().key);
        }
        assert!(nodes.counts().1 <= 11);
        // Another file in the place of one that was closed is not taken for it.
        let first = ids[0];
        fs::remove_file(dir.path().join("file-0")).unwrap();
        fs::write(dir.path().join("file-0"), "other").unwrap();
        assert_eq!(nodes.fd(first).unwrap_err(), Errno::STALE);
        for id in ids {
            nodes.forget(id, 1);
        }
        assert_eq!(nodes.counts(), (1, 1));
        nodes.forget(NodeId::ROOT, u64::MAX);
        assert_eq!(nodes.counts(), (1, 1), "the root stays");
    }

    #[test]
    fn what_loses_its_name_keeps_its_reference() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..5 {
            fs::write(dir.path().join(format!("{i}")), "x").unwrap();
        }
        let (nodes, root) = table(dir.path(), 1000, 1);
        let ids: Vec<_> = (0..5).map(|i| enter(&nodes, &root, &i.to_string()).unwrap()).collect();
        let name = Name::new(b"2").unwrap();
        assert_eq!(nodes.before_removal(&root, &name), Some(ids[2]));
        fs::remove_file(dir.path().join("2")).unwrap();
        for id in &ids {
            nodes.fd(*id).unwrap();
        }
        assert_eq!(os::stat_fd(&*nodes.fd(ids[2]).unwrap()).unwrap().stx_nlink, 0);
    }

    #[test]
    fn there_are_only_so_many() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..5 {
            fs::write(dir.path().join(format!("{i}")), "x").unwrap();
        }
        let (nodes, root) = table(dir.path(), 3, 10);
        let entered = |i: u32| enter(&nodes, &root, &i.to_string());
        let one = entered(0).unwrap();
        entered(1).unwrap();
        assert_eq!(entered(2), Err(Errno::NFILE));
        assert_eq!(entered(0), Ok(one), "known ones are still given out");
        nodes.forget(one, 1);
        assert_eq!(entered(2), Err(Errno::NFILE), "one reference is left");
        nodes.forget(one, 1);
        entered(2).unwrap();
    }
}
