//! The operations, each a system call or few with the rights of this process.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{
    Access, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, Timestamps,
    XattrFlags, accessat, chmodat, chownat, copy_file_range, fallocate, fdatasync, fgetxattr,
    flistxattr, fremovexattr, fsetxattr, fstatvfs, fsync, ftruncate, linkat, mkdirat, mknodat,
    readlinkat, renameat_with, seek, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::handles::Open;
use super::nodes::View;
use super::session::{Outcome, Session};
use crate::os::{self, SelfFds};
use crate::proto::{
    Answer, AttrChange, Digest, Entry, FileKind, HandleId, INLINE, MANIFEST_PAGE, MAX_IO,
    MAX_VALUE, Name, NodeId, NodeKind, Op, OpenMode, RenameMode, SeekFor, SetTime, Space,
    XattrMode,
};

/// Only these attributes are served: all others mean something to the kernel they are on.
const XATTR_PREFIX: &[u8] = b"user.";
/// The longest copy in one operation, in bytes, so that none takes beyond its deadline.
const MAX_COPY: u64 = 64 << 20;

impl Session {
    /// Carries out one operation.
    pub(super) fn perform(&self, op: Op, payload: Vec<u8>) -> Outcome {
        let done = |()| (Answer::Done, Vec::new());
        let data = |data| (Answer::Data, data);
        let count = |count| (Answer::Count(count), Vec::new());
        match op {
            Op::Ping => Ok(done(())),
            Op::Forget { nodes } => {
                nodes.into_iter().for_each(|(node, refs)| self.nodes.forget(node, refs));
                Ok(done(()))
            }
            Op::Lookup { parent, name } => self.lookup(parent, &name),
            Op::GetAttr { node, handle } => self.get_attr(node, handle),
            Op::SetAttr { node, handle, change } => self.set_attr(node, handle, &change),
            Op::ReadLink { node } => self.read_link(node).map(data),
            Op::Create { parent, name, mode, open } => self.create(parent, &name, mode, open),
            Op::Open { node, open, known } => self.open(node, open, known),
            Op::Release { handle } => {
                self.handles.remove(handle);
                Ok(done(()))
            }
            Op::Read { handle, offset, len } => {
                let open = self.handles.get(handle)?;
                os::read_at(open.file()?, offset, len.min(MAX_IO) as usize).map(data)
            }
            Op::Write { handle, offset, append } => {
                self.write(handle, offset, append, &payload).map(count)
            }
            Op::Fsync { handle, data_only } => self.sync(handle, data_only).map(done),
            Op::OpenDir { node } => self.open_dir(node),
            Op::ReadDir { handle, offset, max_bytes, attributes } => {
                self.read_dir(handle, offset, max_bytes, attributes)
            }
            Op::MakeDir { parent, name, mode } => {
                let dir = self.dir(parent)?;
                mkdirat(&*dir, name.as_bytes(), Mode::from_raw_mode(mode & 0o7777))?;
                self.entry(parent, &name)
            }
            Op::MakeNode { parent, name, mode, kind } => self.make_node(parent, &name, mode, kind),
            Op::Symlink { parent, name } => {
                let dir = self.dir(parent)?;
                symlinkat(payload.as_slice(), &*dir, name.as_bytes())?;
                self.entry(parent, &name)
            }
            Op::Link { node, parent, name } => self.link(node, parent, &name),
            Op::Unlink { parent, name } => self.remove(parent, &name, AtFlags::empty()).map(done),
            Op::RemoveDir { parent, name } => {
                self.remove(parent, &name, AtFlags::REMOVEDIR).map(done)
            }
            Op::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename((parent, name), (new_parent, new_name), mode).map(done)
            }
            Op::StatFs { node } => self.space(node),
            Op::GetXattr { node, name } => self.get_xattr(node, &name).map(data),
            Op::ListXattr { node } => self.list_xattr(node).map(data),
            Op::SetXattr { node, name, mode } => {
                self.set_xattr(node, &name, &payload, mode).map(done)
            }
            Op::RemoveXattr { node, name } => self.remove_xattr(node, &name).map(done),
            Op::Access { node, mask } => self.access(node, mask).map(done),
            Op::Fallocate { handle, mode, offset, len } => {
                let open = self.handles.get(handle)?;
                let mode = FallocateFlags::from_bits_retain(mode);
                fallocate(open.file()?, mode, offset, len).map(done)
            }
            Op::Seek { handle, offset, what } => {
                let open = self.handles.get(handle)?;
                let to = match what {
                    SeekFor::Data => SeekFrom::Data(offset),
                    SeekFor::Hole => SeekFrom::Hole(offset),
                };
                seek(open.file()?, to).map(count)
            }
            Op::CopyRange { from, from_offset, to, to_offset, len } => {
                let (from, to) = (self.handles.get(from)?, self.handles.get(to)?);
                let (mut at, mut to_at) = (from_offset, to_offset);
                let len = usize::try_from(len.min(MAX_COPY)).map_err(|_| Errno::INVAL)?;
                copy_file_range(from.file()?, Some(&mut at), to.file()?, Some(&mut to_at), len)
                    .map(|copied| count(copied as u64))
            }
            Op::Manifest { handle, first } => self.manifest(handle, first),
        }
    }

    /// A directory in which something can be made or removed.
    fn dir(&self, node: NodeId) -> Result<Arc<OwnedFd>, Errno> {
        let view = self.nodes.view(node)?;
        match view {
            View { kind, .. } if kind != FileKind::Directory => Err(Errno::NOTDIR),
            View { hidden: true, .. } => Err(Errno::ROFS),
            _ => self.nodes.fd(node),
        }
    }

    /// A reference to a node's inode; hidden directories have none to work on.
    fn inode(&self, node: NodeId) -> Result<Arc<OwnedFd>, Errno> {
        match self.nodes.view(node)?.hidden {
            true => Err(Errno::ROFS),
            false => self.nodes.fd(node),
        }
    }

    fn lookup(&self, parent: NodeId, name: &Name) -> Outcome {
        let shared = &self.shared;
        let answer = match shared.tree.lookup(&self.nodes, &shared.pins, parent, name)? {
            Ok(entry) => Answer::Entry(entry),
            Err(system) => Answer::Absent { system },
        };
        Ok((answer, Vec::new()))
    }

    /// What was just made at `name`.
    fn entry(&self, parent: NodeId, name: &Name) -> Outcome {
        Ok((Answer::Entry(self.made(parent, name)?), Vec::new()))
    }

    fn made(&self, parent: NodeId, name: &Name) -> Result<Entry, Errno> {
        let shared = &self.shared;
        shared.tree.lookup(&self.nodes, &shared.pins, parent, name)?.map_err(|_| Errno::STALE)
    }

    fn attr_of(&self, fd: &OwnedFd) -> Result<crate::proto::Attr, Errno> {
        let tree = &self.shared.tree;
        let stat = os::stat_fd(fd)?;
        Ok(tree.attr(&stat, tree.is_read_only(&stat, || Ok(fd))))
    }

    fn get_attr(&self, node: NodeId, handle: Option<HandleId>) -> Outcome {
        let open = handle.and_then(|handle| self.handles.get(handle).ok());
        let attr = match open.as_deref() {
            Some(Open::File { fd }) => self.attr_of(fd)?,
            _ if self.nodes.view(node)?.hidden => {
                let (parent, name) = self.nodes.place(node).ok_or(Errno::STALE)?;
                self.shared.tree.hidden_attr(&*self.nodes.fd(parent)?, &name)
            }
            _ => self.attr_of(&*self.nodes.fd(node)?)?,
        };
        Ok((Answer::Attr(attr), Vec::new()))
    }

    fn set_attr(&self, node: NodeId, handle: Option<HandleId>, change: &AttrChange) -> Outcome {
        let open = handle.and_then(|handle| self.handles.get(handle).ok());
        let opened = open.as_deref().and_then(|open| open.file().ok());
        let inode;
        let fd: &OwnedFd = match opened {
            Some(fd) => fd,
            None => {
                inode = self.inode(node)?;
                &inode
            }
        };
        let self_fds = self.shared.tree.self_fds();
        if let Some(size) = change.size {
            match opened {
                Some(file) => ftruncate(file, size)?,
                None => {
                    self.only_files(node)?;
                    ftruncate(self_fds.reopen(fd, OFlags::WRONLY)?, size)?;
                }
            }
        }
        let (dir, name) = (self_fds.dir(), SelfFds::name(fd));
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(rustix::fs::Uid::from_raw);
            let gid = change.gid.map(rustix::fs::Gid::from_raw);
            chownat(dir, &*name, uid, gid, AtFlags::empty())?;
        }
        if let Some(perm) = change.perm {
            let mode = Mode::from_raw_mode(u32::from(perm) & 0o7777);
            chmodat(dir, &*name, mode, AtFlags::empty())?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            utimensat(dir, &*name, &times, AtFlags::empty())?;
        }
        Ok((Answer::Attr(self.attr_of(fd)?), Vec::new()))
    }

    fn read_link(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        match self.nodes.view(node)?.kind {
            FileKind::Symlink => {
                Ok(readlinkat(&*self.nodes.fd(node)?, c"", Vec::new())?.into_bytes())
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Nothing but regular files is opened: a device does things when it is, a pipe waits, and
    /// neither leads to where the app is.
    fn only_files(&self, node: NodeId) -> Result<(), Errno> {
        match self.nodes.view(node)?.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Errno::ISDIR),
            FileKind::Symlink => Err(Errno::LOOP),
            FileKind::Fifo | FileKind::Socket => Err(Errno::NXIO),
            FileKind::CharDevice | FileKind::BlockDevice => Err(Errno::ACCESS),
        }
    }

    fn open(&self, node: NodeId, open: OpenMode, known: Option<Digest>) -> Outcome {
        self.only_files(node)?;
        let mut flags = access_flags(open);
        flags.set(OFlags::TRUNC, open.truncate && open.write);
        let fd = self.shared.tree.self_fds().reopen(&*self.nodes.fd(node)?, flags)?;
        let stat = os::stat_fd(&fd)?;
        let tree = &self.shared.tree;
        let attr = tree.attr(&stat, tree.is_read_only(&stat, || Ok(&fd)));
        let (mut digest, mut content) = (None, Vec::new());
        if attr.system && !open.write {
            digest = self.shared.manifests.known(&stat).map(|named| named.digest);
            if attr.size <= INLINE && (digest.is_none() || digest != known) {
                let named = self.shared.manifests.of_file(&fd).ok();
                let bytes = os::read_at(&fd, 0, INLINE as usize)?;
                // What is sent is what was digested, or nothing is.
                if let Some(named) =
                    named.filter(|named| named.manifest.size() == bytes.len() as u64)
                {
                    digest = Some(named.digest);
                    content = bytes;
                }
            }
        }
        let handle = self.handles.add(Open::File { fd })?;
        Ok((Answer::Opened { handle, attr, digest }, content))
    }

    fn create(&self, parent: NodeId, name: &Name, mode: u32, open: OpenMode) -> Outcome {
        let dir = self.dir(parent)?;
        let flags = access_flags(open) | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match os::beneath(&*dir, name.as_bytes(), flags | OFlags::NOFOLLOW, mode) {
            Ok(fd) => {
                let entry = self.made(parent, name)?;
                let handle = self.handles.add(Open::File { fd })?;
                Ok((Answer::Created { entry, handle }, Vec::new()))
            }
            Err(Errno::EXIST) if !open.exclusive => {
                let entry = self.made(parent, name)?;
                match self.open(entry.node, open, None) {
                    Ok((Answer::Opened { handle, attr, .. }, _)) => {
                        let entry = Entry { node: entry.node, attr };
                        Ok((Answer::Created { entry, handle }, Vec::new()))
                    }
                    other => {
                        self.nodes.forget(entry.node, 1);
                        other
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    fn write(
        &self,
        handle: HandleId,
        offset: u64,
        append: bool,
        data: &[u8],
    ) -> Result<u64, Errno> {
        let open = self.handles.get(handle)?;
        let file = open.file()?;
        let flags = if append { ReadWriteFlags::APPEND } else { ReadWriteFlags::empty() };
        let mut written = 0;
        while written < data.len() {
            let slice = std::io::IoSlice::new(&data[written..]);
            let at = offset.checked_add(written as u64).ok_or(Errno::FBIG)?;
            match pwritev2(file, &[slice], at, flags) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(Errno::INTR) => {}
                // What was written before the error is told first, as write(2) does.
                Err(_) if written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written as u64)
    }

    fn sync(&self, handle: HandleId, data_only: bool) -> Result<(), Errno> {
        let open = self.handles.get(handle)?;
        match &*open {
            Open::File { fd } if data_only => fdatasync(fd),
            Open::File { fd } => fsync(fd),
            Open::Dir { fd: None, .. } => Ok(()),
            Open::Dir { fd: Some(fd), .. } => {
                // Not under the lock: a listing need not wait for the disk.
                let fd = fd.lock().unwrap_or_else(std::sync::PoisonError::into_inner).try_clone();
                fsync(fd.map_err(|_| Errno::NFILE)?)
            }
        }
    }

    fn open_dir(&self, node: NodeId) -> Outcome {
        let view = self.nodes.view(node)?;
        if view.kind != FileKind::Directory {
            return Err(Errno::NOTDIR);
        }
        let fd = match view.hidden {
            true => None,
            false => {
                let inode = self.nodes.fd(node)?;
                Some(os::beneath(
                    &*inode,
                    b".",
                    OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)
            }
        };
        let attr = match &fd {
            Some(fd) => self.attr_of(fd)?,
            None => match self.get_attr(node, None)? {
                (Answer::Attr(attr), _) => attr,
                _ => return Err(Errno::IO),
            },
        };
        let handle = self.handles.add(Open::Dir { node, fd: fd.map(Mutex::new) })?;
        Ok((Answer::Opened { handle, attr, digest: None }, Vec::new()))
    }

    fn read_dir(&self, handle: HandleId, offset: u64, max_bytes: u32, attributes: bool) -> Outcome {
        let items = match &*self.handles.get(handle)? {
            Open::File { .. } => return Err(Errno::NOTDIR),
            Open::Dir { fd: None, .. } => Vec::new(),
            Open::Dir { node, fd: Some(fd) } => {
                self.list(*node, fd, offset, max_bytes, attributes)?
            }
        };
        Ok((Answer::Listing(items), Vec::new()))
    }

    fn make_node(&self, parent: NodeId, name: &Name, mode: u32, kind: NodeKind) -> Outcome {
        let dir = self.dir(parent)?;
        let kind = match kind {
            NodeKind::Fifo => FileType::Fifo,
            NodeKind::Socket => FileType::Socket,
            NodeKind::File => FileType::RegularFile,
        };
        mknodat(&*dir, name.as_bytes(), kind, Mode::from_raw_mode(mode & 0o7777), 0)?;
        self.entry(parent, name)
    }

    fn link(&self, node: NodeId, parent: NodeId, name: &Name) -> Outcome {
        let (inode, dir) = (self.inode(node)?, self.dir(parent)?);
        let self_fds = self.shared.tree.self_fds().dir();
        let from = SelfFds::name(&*inode);
        linkat(self_fds, &*from, &*dir, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)?;
        self.entry(parent, name)
    }

    fn remove(&self, parent: NodeId, name: &Name, flags: AtFlags) -> Result<(), Errno> {
        let dir = self.dir(parent)?;
        let node = self.nodes.before_removal(&dir, name);
        let result = unlinkat(&*dir, name.as_bytes(), flags);
        if let (Err(_), Some(node)) = (&result, node) {
            self.nodes.kept_name(node);
        }
        result
    }

    fn rename(
        &self,
        from: (NodeId, Name),
        to: (NodeId, Name),
        mode: RenameMode,
    ) -> Result<(), Errno> {
        let (dir, new_dir) = (self.dir(from.0)?, self.dir(to.0)?);
        let flags = match mode {
            RenameMode::Replace => RenameFlags::empty(),
            RenameMode::NoReplace => RenameFlags::NOREPLACE,
            RenameMode::Exchange => RenameFlags::EXCHANGE,
        };
        // Both may lose their names; what keeps or gets one is told so afterwards.
        let moved = self.nodes.before_removal(&dir, &from.1);
        let replaced = self.nodes.before_removal(&new_dir, &to.1);
        let (old_name, new_name) = (from.1.as_bytes(), to.1.as_bytes());
        if let Err(error) = renameat_with(&*dir, old_name, &*new_dir, new_name, flags) {
            moved.into_iter().chain(replaced).for_each(|node| self.nodes.kept_name(node));
            return Err(error);
        }
        if let Some(node) = moved {
            self.nodes.renamed(node, to.0, to.1.clone());
        }
        if let (Some(node), RenameMode::Exchange) = (replaced, mode) {
            self.nodes.renamed(node, from.0, from.1);
        }
        Ok(())
    }

    fn space(&self, node: NodeId) -> Outcome {
        let at = if self.nodes.view(node)?.hidden { NodeId::ROOT } else { node };
        let vfs = fstatvfs(&*self.nodes.fd(at)?)?;
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let space = Space {
            block_size: small(vfs.f_bsize),
            fragment_size: small(vfs.f_frsize),
            blocks: vfs.f_blocks,
            blocks_free: vfs.f_bfree,
            blocks_available: vfs.f_bavail,
            files: vfs.f_files,
            files_free: vfs.f_ffree,
            name_max: small(vfs.f_namemax),
        };
        Ok((Answer::Space(space), Vec::new()))
    }

    /// The node, opened so that its attributes can be worked on.
    fn for_xattr(&self, node: NodeId, name: Option<&Name>, write: bool) -> Result<OwnedFd, Errno> {
        if name.is_some_and(|name| !name.as_bytes().starts_with(XATTR_PREFIX)) {
            return Err(if write { Errno::NOTSUP } else { Errno::NODATA });
        }
        let inode = self.inode(node)?;
        let self_fds = self.shared.tree.self_fds();
        match self.nodes.view(node)?.kind {
            FileKind::Directory => self_fds.reopen(&*inode, OFlags::RDONLY | OFlags::DIRECTORY),
            FileKind::File => match self_fds.reopen(&*inode, OFlags::RDONLY) {
                // A file one may write but not read.
                Err(Errno::ACCESS) if write => self_fds.reopen(&*inode, OFlags::WRONLY),
                other => other,
            },
            _ if write => Err(Errno::PERM),
            _ => Err(Errno::NODATA),
        }
    }

    fn get_xattr(&self, node: NodeId, name: &Name) -> Result<Vec<u8>, Errno> {
        let fd = self.for_xattr(node, Some(name), false)?;
        let mut value = vec![0; MAX_VALUE];
        let len = fgetxattr(fd, name.as_bytes(), &mut value)?;
        value.truncate(len);
        Ok(value)
    }

    fn list_xattr(&self, node: NodeId) -> Result<Vec<u8>, Errno> {
        let fd = match self.for_xattr(node, None, false) {
            // Their names may be listed by anyone, but only through a path; they are not worth one.
            Err(Errno::NODATA | Errno::ACCESS) => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = vec![0; MAX_VALUE];
        let len = flistxattr(fd, &mut names)?;
        let served = names[..len].split_inclusive(|byte| *byte == 0);
        let served = served.filter(|name| name.starts_with(XATTR_PREFIX));
        Ok(served.flatten().copied().collect())
    }

    fn set_xattr(
        &self,
        node: NodeId,
        name: &Name,
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), Errno> {
        if value.len() > MAX_VALUE {
            return Err(Errno::TOOBIG);
        }
        let fd = self.for_xattr(node, Some(name), true)?;
        let flags = match mode {
            XattrMode::Any => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        fsetxattr(fd, name.as_bytes(), value, flags)
    }

    fn remove_xattr(&self, node: NodeId, name: &Name) -> Result<(), Errno> {
        fremovexattr(self.for_xattr(node, Some(name), true)?, name.as_bytes())
    }

    fn access(&self, node: NodeId, mask: u8) -> Result<(), Errno> {
        let mut access = Access::EXISTS;
        access.set(Access::READ_OK, mask & 4 != 0);
        access.set(Access::WRITE_OK, mask & 2 != 0);
        access.set(Access::EXEC_OK, mask & 1 != 0);
        if self.nodes.view(node)?.hidden {
            return if mask & 2 == 0 { Ok(()) } else { Err(Errno::ROFS) };
        }
        let inode = self.nodes.fd(node)?;
        let self_fds = self.shared.tree.self_fds().dir();
        accessat(self_fds, &*SelfFds::name(&*inode), access, AtFlags::EACCESS)
    }

    fn manifest(&self, handle: HandleId, first: u32) -> Outcome {
        let open = self.handles.get(handle)?;
        let file = open.file()?;
        if !self.attr_of(file)?.system {
            return Err(Errno::NOTSUP);
        }
        let named = self.shared.manifests.of_file(file)?;
        let chunks = named.manifest.chunks();
        let page = chunks.iter().skip(first as usize).take(MANIFEST_PAGE as usize);
        let payload = page.flatten().copied().collect();
        let total = u32::try_from(chunks.len()).map_err(|_| Errno::FBIG)?;
        let size = named.manifest.size();
        Ok((Answer::Manifest { digest: named.digest, total, size }, payload))
    }
}

fn access_flags(open: OpenMode) -> OFlags {
    match (open.read, open.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    }
}

fn timespec(time: Option<SetTime>) -> rustix::fs::Timespec {
    match time {
        None => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        Some(SetTime::Now) => rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        Some(SetTime::At(at)) => {
            let at = at.clamped();
            rustix::fs::Timespec { tv_sec: at.sec, tv_nsec: at.nsec.into() }
        }
    }
}
