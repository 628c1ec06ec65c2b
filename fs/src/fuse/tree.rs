//! The kernel's requests, each turned into the client's operation.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use super::Owners;
use super::convert::{
    O_APPEND, SEEK_DATA, SEEK_HOLE, XATTR_CREATE, XATTR_REPLACE, errno, file_type, fopen_flags,
    handle, ino, name_of, open_mode, set_time, system_time,
};
use super::listing::{AFTER_DOT, AFTER_DOTS, Pages, Take};
use super::reply::{negotiate, reply_data, reply_empty, reply_xattr, user_xattr};
use crate::client::{Client, Found, Lookup};
use crate::proto::{Attr, AttrChange, MAX_IO, NodeKind, RenameMode, SeekFor, XattrMode};

/// A client's tree as the kernel sees it.
#[derive(Debug)]
pub(crate) struct Tree {
    client: Arc<Client>,
    owners: Owners,
    pages: Pages,
}

impl Tree {
    pub(super) fn new(client: Arc<Client>, owners: Owners) -> Self {
        Self { client, owners, pages: Pages::default() }
    }

    fn file_attr(&self, attr: &Attr) -> FileAttr {
        let (major, minor) = attr.rdev;
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.blocks,
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: UNIX_EPOCH,
            kind: file_type(attr.kind),
            perm: attr.perm,
            nlink: attr.nlink,
            uid: self.owners.uids.outside(attr.uid),
            gid: self.owners.gids.outside(attr.gid),
            rdev: (major & 0xfff) << 8 | (minor & 0xff) | (minor & 0xfff00) << 12,
            blksize: attr.block_size.clamp(512, MAX_IO),
            flags: 0,
        }
    }

    fn reply_entry(&self, reply: ReplyEntry, found: Result<Found, Errno>) {
        match found {
            Ok(found) => reply.entry(&found.ttl, &self.file_attr(&found.attr), Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn reply_attr(&self, reply: ReplyAttr, found: Result<Found, Errno>) {
        match found {
            Ok(found) => reply.attr(&found.ttl, &self.file_attr(&found.attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn change(
        &self,
        mode: Option<u32>,
        owner: (Option<u32>, Option<u32>),
        size: Option<u64>,
        times: (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> Result<AttrChange, Errno> {
        // An id the app cannot have means nothing at home.
        let uid =
            owner.0.map(|uid| self.owners.uids.inside(uid).ok_or(Errno::INVAL)).transpose()?;
        let gid =
            owner.1.map(|gid| self.owners.gids.inside(gid).ok_or(Errno::INVAL)).transpose()?;
        Ok(AttrChange {
            size,
            perm: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            atime: times.0.map(set_time),
            mtime: times.1.map(set_time),
        })
    }
}

impl Filesystem for Tree {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = name_of(name).and_then(|name| self.client.lookup(ino(parent), &name));
        match found {
            Ok(Lookup::Found(found)) => self.reply_entry(reply, Ok(found)),
            Ok(Lookup::Absent { ttl }) if ttl.is_zero() => reply.error(fuser::Errno::ENOENT),
            Ok(Lookup::Absent { ttl }) => {
                // An inode of number 0 says that the name does not exist, and for how long.
                let mut attr = self.file_attr(&self.client.root_attr());
                attr.ino = INodeNo(0);
                reply.entry(&ttl, &attr, Generation(0));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _req: &Request, number: INodeNo, nlookup: u64) {
        self.client.forget(ino(number), nlookup);
    }

    fn getattr(&self, _req: &Request, number: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.reply_attr(reply, self.client.get_attr(ino(number), fh.map(handle)));
    }

    fn setattr(
        &self,
        _req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = self.change(mode, (uid, gid), size, (atime, mtime));
        let found =
            change.and_then(|change| self.client.set_attr(ino(number), fh.map(handle), change));
        self.reply_attr(reply, found);
    }

    fn readlink(&self, _req: &Request, number: INodeNo, reply: ReplyData) {
        reply_data(reply, self.client.read_link(ino(number)));
    }

    fn mknod(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = match mode & 0o170_000 {
            0o010_000 => Ok(NodeKind::Fifo),
            0o140_000 => Ok(NodeKind::Socket),
            0o100_000 | 0 => Ok(NodeKind::File),
            _ => Err(Errno::PERM),
        };
        let made = kind.and_then(|kind| {
            self.client.make_node(ino(parent), &name_of(name)?, mode & 0o7777, kind)
        });
        self.reply_entry(reply, made);
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made =
            name_of(name).and_then(|name| self.client.make_dir(ino(parent), &name, mode & 0o7777));
        self.reply_entry(reply, made);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, name_of(name).and_then(|n| self.client.unlink(ino(parent), &n)));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(reply, name_of(name).and_then(|n| self.client.remove_dir(ino(parent), &n)));
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let made = name_of(name).and_then(|name| self.client.symlink(ino(parent), &name, target));
        self.reply_entry(reply, made);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            _ if flags.is_empty() => Ok(RenameMode::Replace),
            RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
            RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
            _ => Err(Errno::INVAL),
        };
        let result = mode.and_then(|mode| {
            let (from, to) = (name_of(name)?, name_of(new_name)?);
            self.client.rename((ino(parent), &from), (ino(new_parent), &to), mode)
        });
        reply_empty(reply, result);
    }

    fn link(
        &self,
        _req: &Request,
        number: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let made = name_of(new_name)
            .and_then(|name| self.client.link(ino(number), ino(new_parent), &name));
        self.reply_entry(reply, made);
    }

    fn open(&self, _req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.client.open(ino(number), open_mode(flags.0)) {
            Ok(opened) => {
                reply.opened(FileHandle(opened.handle.0), fopen_flags(flags.0, opened.unchanged))
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = name_of(name).and_then(|name| {
            self.client.create(ino(parent), &name, mode & 0o7777, open_mode(flags))
        });
        match created {
            Ok((found, handle)) => reply.created(
                &found.ttl,
                &self.file_attr(&found.attr),
                Generation(0),
                FileHandle(handle.0),
                fopen_flags(flags, false),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply_data(reply, self.client.read(handle(fh), offset, size));
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages of a shared mapping have their place, whatever the descriptor's flags are.
        let append = flags.0 & O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        match self.client.write(handle(fh), offset, append, data) {
            Ok(written) => reply.written(written as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.client.release(handle(fh));
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.client.sync(handle(fh), datasync));
    }

    fn opendir(&self, _req: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.client.open_dir(ino(number)) {
            Ok(opened) => {
                let mut flags = FopenFlags::empty();
                flags.set(FopenFlags::FOPEN_CACHE_DIR, opened.attr.system);
                flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.unchanged);
                reply.opened(FileHandle(opened.handle.0), flags);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut offset = offset;
        for (at, after, name) in [(0, AFTER_DOT, "."), (AFTER_DOT, AFTER_DOTS, "..")] {
            if offset == at {
                if reply.add(number, after, FileType::Directory, name) {
                    return reply.ok();
                }
                offset = after;
            }
        }
        let offset = if offset == AFTER_DOTS { 0 } else { offset };
        let result = self.pages.list(&self.client, handle(fh), offset, false, |entry| {
            let item = &entry.item;
            let kind = file_type(item.kind);
            let name = item.name.as_os_str();
            Take::of(reply.add(INodeNo(item.ino), item.next_offset, kind, name))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut offset = offset;
        for (at, after, name) in [(0, AFTER_DOT, "."), (AFTER_DOT, AFTER_DOTS, "..")] {
            if offset == at {
                // The kernel takes neither attributes nor a reference from these two.
                let mut attr = self.file_attr(&self.client.root_attr());
                attr.ino = number;
                if reply.add(number, after, name, &Duration::ZERO, &attr, Generation(0)) {
                    return reply.ok();
                }
                offset = after;
            }
        }
        let offset = if offset == AFTER_DOTS { 0 } else { offset };
        let result = self.pages.list(&self.client, handle(fh), offset, true, |entry| {
            // What is gone by now is not listed.
            let Some(found) = &entry.found else {
                return Take::Passed;
            };
            let attr = self.file_attr(&found.attr);
            let name = entry.item.name.as_os_str();
            let next = entry.item.next_offset;
            Take::of(reply.add(attr.ino, next, name, &found.ttl, &attr, Generation(0)))
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.pages.close(&self.client, handle(fh));
        self.client.release(handle(fh));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.client.sync(handle(fh), datasync));
    }

    fn statfs(&self, _req: &Request, number: INodeNo, reply: ReplyStatfs) {
        match self.client.space(ino(number)) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.blocks_free,
                space.blocks_available,
                space.files,
                space.files_free,
                space.block_size,
                space.name_max,
                space.fragment_size,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => Ok(XattrMode::Any),
            XATTR_CREATE => Ok(XattrMode::Create),
            XATTR_REPLACE => Ok(XattrMode::Replace),
            _ => Err(Errno::INVAL),
        };
        let result = mode.and_then(|mode| {
            let name = user_xattr(name, Errno::NOTSUP)?;
            self.client.set_xattr(ino(number), &name, value, mode)
        });
        reply_empty(reply, result);
    }

    fn getxattr(
        &self,
        _req: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        // Access control lists are not served: that is known without asking home.
        let system = name.as_bytes().starts_with(b"system.");
        let otherwise = if system { Errno::NOTSUP } else { Errno::NODATA };
        let value =
            user_xattr(name, otherwise).and_then(|name| self.client.get_xattr(ino(number), &name));
        reply_xattr(reply, size, value);
    }

    fn listxattr(&self, _req: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        reply_xattr(reply, size, self.client.list_xattr(ino(number)));
    }

    fn removexattr(&self, _req: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let result = user_xattr(name, Errno::NOTSUP)
            .and_then(|name| self.client.remove_xattr(ino(number), &name));
        reply_empty(reply, result);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.client.allocate(handle(fh), mode as u32, offset, length));
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            SEEK_DATA => Ok(SeekFor::Data),
            SEEK_HOLE => Ok(SeekFor::Hole),
            _ => Err(Errno::INVAL),
        };
        let found = what.and_then(|what| {
            let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
            let to = self.client.seek(handle(fh), offset, what)?;
            i64::try_from(to).map_err(|_| Errno::OVERFLOW)
        });
        match found {
            Ok(to) => reply.offset(to),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The answer has 32 bits; the caller goes on where it ended.
        let len = len.min(1 << 30);
        let (from, to) = ((handle(fh_in), offset_in), (handle(fh_out), offset_out));
        match self.client.copy_range(from, to, len) {
            Ok(copied) => reply.written(copied as u32),
            Err(error) => reply.error(errno(error)),
        }
    }
}
