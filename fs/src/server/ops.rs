//! The operations, each a system call or few with the rights of this process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    Access, AtFlags, FallocateFlags, Mode, OFlags, SeekFrom, Timestamps, accessat, chmodat,
    chownat, copy_file_range, fallocate, fstatvfs, ftruncate, mkdirat, readlinkat, seek, symlinkat,
    utimensat,
};
use rustix::io::Errno;

use super::handles::Open;
use super::nodes::View;
use super::session::{Outcome, Session};
use crate::os::{self, SelfFds};
use crate::proto::{
    Answer, Attr, AttrChange, Entry, FileKind, HandleId, MAX_IO, Name, NodeId, Op, SeekFor,
    SetTime, Space,
};

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
    pub(super) fn dir(&self, node: NodeId) -> Result<Arc<OwnedFd>, Errno> {
        let view = self.nodes.view(node)?;
        match view {
            View { kind, .. } if kind != FileKind::Directory => Err(Errno::NOTDIR),
            View { hidden: true, .. } => Err(Errno::ROFS),
            _ => self.nodes.fd(node),
        }
    }

    /// A reference to a node's inode; hidden directories have none to work on.
    pub(super) fn inode(&self, node: NodeId) -> Result<Arc<OwnedFd>, Errno> {
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
    pub(super) fn entry(&self, parent: NodeId, name: &Name) -> Outcome {
        Ok((Answer::Entry(self.made(parent, name)?), Vec::new()))
    }

    pub(super) fn made(&self, parent: NodeId, name: &Name) -> Result<Entry, Errno> {
        let shared = &self.shared;
        shared.tree.lookup(&self.nodes, &shared.pins, parent, name)?.map_err(|_| Errno::STALE)
    }

    pub(super) fn attr_of(&self, fd: &OwnedFd) -> Result<Attr, Errno> {
        let tree = &self.shared.tree;
        let stat = os::stat_fd(fd)?;
        Ok(tree.attr(&stat, tree.is_read_only(&stat, || Ok(fd))))
    }

    pub(super) fn get_attr(&self, node: NodeId, handle: Option<HandleId>) -> Outcome {
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
