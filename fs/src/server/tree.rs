//! The served tree: its root, which of its mounts are the system's, what is hidden.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{StatVfsMountFlags, Statx, fstatvfs};
use rustix::io::Errno;

use super::mask::{Mask, Masked};
use super::nodes::{Key, NewNode, Nodes, View};
use super::pins::Pins;
use crate::os::{self, SelfFds};
use crate::proto::{Attr, Entry, FileKind, Name, NodeId, Timestamp};

/// More mounts than this are not remembered.
const MAX_MOUNTS: usize = 4096;

/// The top of what is served.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<OwnedFd>,
    self_fds: SelfFds,
    mask: Arc<Mask>,
    root_dev: (u32, u32),
    /// Mounts seen so far: whether they are read-only.
    mounts: Mutex<HashMap<u64, bool>>,
    settle: Duration,
}

impl Tree {
    pub(super) fn new(
        root: OwnedFd,
        self_fds: SelfFds,
        mask: Mask,
        settle: Duration,
    ) -> Result<Self, Errno> {
        let stat = os::stat_fd(&root)?;
        if FileKind::from_mode(stat.stx_mode.into()) != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        Ok(Self {
            root: Arc::new(root),
            self_fds,
            mask: Arc::new(mask),
            root_dev: (stat.stx_dev_major, stat.stx_dev_minor),
            mounts: Mutex::default(),
            settle,
        })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn self_fds(&self) -> &SelfFds {
        &self.self_fds
    }

    /// A fresh table of nodes with nothing but the root in it.
    pub(super) fn nodes(&self, max_nodes: usize, max_open: usize) -> Nodes {
        // The root was looked at when the tree was made. Should it fail now, every operation
        // will say so; the key only has to differ from all others.
        let key = os::stat_fd(&*self.root).map(|stat| Key::of(&stat));
        let view = View {
            key: key.unwrap_or_else(|_| Key::of_nothing()),
            kind: FileKind::Directory,
            mask: Some(Arc::clone(&self.mask)),
            hidden: false,
        };
        Nodes::new(Arc::clone(&self.root), view, max_nodes, max_open)
    }

    pub(super) fn root_entry(&self) -> Result<Entry, Errno> {
        let stat = os::stat_fd(&*self.root)?;
        let attr = self.attr(&stat, self.is_read_only(&stat, || Ok(Arc::clone(&self.root))));
        Ok(Entry { node: NodeId::ROOT, attr })
    }

    /// Whether the mount `stat` comes from cannot be written. `fd` is asked for if that is not
    /// known yet.
    pub(super) fn is_read_only<F: AsFd>(
        &self,
        stat: &Statx,
        fd: impl FnOnce() -> Result<F, Errno>,
    ) -> bool {
        let lock = || self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read_only) = lock().get(&stat.stx_mnt_id) {
            return *read_only;
        }
        let flags = fd().and_then(fstatvfs).map(|vfs| vfs.f_flag);
        let Ok(flags) = flags else { return false };
        let read_only = flags.contains(StatVfsMountFlags::RDONLY);
        let mut mounts = lock();
        if mounts.len() < MAX_MOUNTS {
            mounts.insert(stat.stx_mnt_id, read_only);
        }
        read_only
    }

    /// Attributes as the client gets them.
    pub(super) fn attr(&self, stat: &Statx, read_only: bool) -> Attr {
        let time = |t: rustix::fs::StatxTimestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
        let kind = FileKind::from_mode(stat.stx_mode.into());
        Attr {
            ino: self.shown_ino(stat, kind),
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
            kind,
            perm: stat.stx_mode & 0o7777,
            nlink: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: (stat.stx_rdev_major, stat.stx_rdev_minor),
            block_size: stat.stx_blksize,
            system: read_only && self.has_settled(stat),
        }
    }

    /// Files keep the inode number they have at home, because programs remember it: SQLite does
    /// not write to a database whose number has changed. Directories of other file systems than
    /// the root's get a mixed number instead: the whole tree looks like one file system to the
    /// app, and tree walkers take a directory with the number of one above it for a loop.
    fn shown_ino(&self, stat: &Statx, kind: FileKind) -> u64 {
        let dev = (stat.stx_dev_major, stat.stx_dev_minor);
        if kind != FileKind::Directory || dev == self.root_dev {
            return stat.stx_ino;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&dev.0.to_le_bytes());
        hasher.update(&dev.1.to_le_bytes());
        hasher.update(&stat.stx_ino.to_le_bytes());
        let mut mixed = [0; 8];
        mixed.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        // Positive for programs that take it as signed, and above every real number in practice.
        (u64::from_le_bytes(mixed) >> 1) | 1 << 62
    }

    /// A log that is being written lies on a read-only mount, too; it is no content to cache.
    fn has_settled(&self, stat: &Statx) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = stat.stx_ctime.tv_sec.max(stat.stx_mtime.tv_sec).max(0) as u64;
        let age = now.saturating_sub(Duration::from_secs(changed));
        self.settle.is_zero() || age > self.settle
    }

    /// What stands at `name` of the node `parent`, with one reference added.
    /// `Ok(Err(system))`: nothing.
    pub(super) fn lookup(
        &self,
        nodes: &Nodes,
        pins: &Pins,
        parent: NodeId,
        name: &Name,
    ) -> Result<Result<Entry, bool>, Errno> {
        let view = nodes.view(parent)?;
        if view.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        if view.hidden {
            return Ok(Err(true));
        }
        let dir = nodes.fd(parent)?;
        let mask = view.mask.as_ref().and_then(|mask| mask.get(name)).cloned();
        if let Some(Masked::Hidden) = mask {
            let attr = self.hidden_attr(&dir, name);
            return self.enter_hidden(nodes, view.key, parent, name, attr).map(Ok);
        }
        if let Some(pinned) = pins.get(view.key, name, false) {
            return self.enter_pinned(nodes, &pinned).map(Ok);
        }
        let fd = match os::open_entry(&*dir, name.as_bytes()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                if let Some(pinned) = pins.get(view.key, name, true) {
                    return self.enter_pinned(nodes, &pinned).map(Ok);
                }
                let stat = os::stat_fd(&*dir)?;
                return Ok(Err(self.is_read_only(&stat, || Ok(Arc::clone(&dir)))));
            }
            Err(error) => return Err(error),
        };
        let stat = os::stat_fd(&fd)?;
        let attr = self.attr(&stat, self.is_read_only(&stat, || Ok(&fd)));
        let below = match mask {
            Some(Masked::Inside(mask)) => Some(mask),
            _ => None,
        };
        let view = View { key: Key::of(&stat), kind: attr.kind, mask: below, hidden: false };
        let place = Some((parent, name.clone()));
        let node = nodes.enter(NewNode { view, fd: Some(fd), place })?;
        Ok(Ok(Entry { node, attr }))
    }

    fn enter_pinned(&self, nodes: &Nodes, pinned: &OwnedFd) -> Result<Entry, Errno> {
        let stat = os::stat_fd(pinned)?;
        let attr = self.attr(&stat, self.is_read_only(&stat, || Ok(pinned)));
        let view = View { key: Key::of(&stat), kind: attr.kind, mask: None, hidden: false };
        let fd = Some(pinned.try_clone().map_err(|_| Errno::NFILE)?);
        let node = nodes.enter(NewNode { view, fd, place: None })?;
        Ok(Entry { node, attr })
    }

    pub(super) fn enter_hidden(
        &self,
        nodes: &Nodes,
        parent_key: Key,
        parent: NodeId,
        name: &Name,
        attr: Attr,
    ) -> Result<Entry, Errno> {
        let view = View { key: parent_key, kind: FileKind::Directory, mask: None, hidden: true };
        let place = Some((parent, name.clone()));
        let node = nodes.enter(NewNode { view, fd: None, place })?;
        Ok(Entry { node, attr })
    }

    /// The attributes of an empty directory in place of what is not served.
    pub(super) fn hidden_attr(&self, dir: &OwnedFd, name: &Name) -> Attr {
        let real = os::stat_entry(dir, name.as_bytes());
        let directory =
            |stat: &Statx| FileKind::from_mode(stat.stx_mode.into()) == FileKind::Directory;
        if let Some(stat) = real.ok().filter(directory) {
            let attr = self.attr(&stat, true);
            return Attr { nlink: 2, size: 0, blocks: 0, system: true, ..attr };
        }
        // Nothing is there: a number made from the name, so that it stays the same.
        let hash = blake3::hash(name.as_bytes());
        let mut ino = [0; 8];
        ino.copy_from_slice(&hash.as_bytes()[..8]);
        Attr {
            ino: (u64::from_le_bytes(ino) >> 1) | 1 << 62,
            size: 0,
            blocks: 0,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            kind: FileKind::Directory,
            perm: 0o755,
            nlink: 2,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            block_size: 4096,
            system: true,
        }
    }
}
