//! The kernel's requests, each turned into the client's operation.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use super::Owners;
use super::convert::{
    O_APPEND, errno, fopen_flags, handle, ino, name_of, node_kind, open_mode, rename_mode,
    seek_for, xattr_mode,
};
use super::listing::Pages;
use super::reply::{
    negotiate, reply_data, reply_empty, reply_space, reply_written, reply_xattr, user_xattr,
};
use crate::client::{Client, Found, Lookup};

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

    fn reply_entry(&self, reply: ReplyEntry, found: Result<Found, Errno>) {
        match found {
            Ok(found) => reply.entry(&found.ttl, &self.owners.shown(&found.attr), Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn reply_attr(&self, reply: ReplyAttr, found: Result<Found, Errno>) {
        match found {
            Ok(found) => reply.attr(&found.ttl, &self.owners.shown(&found.attr)),
            Err(error) => reply.error(errno(error)),
        }
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
                let mut attr = self.owners.shown(&self.client.root_attr());
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
        let change = self.owners.change(mode, (uid, gid), size, (atime, mtime));
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
        let made = node_kind(mode).and_then(|kind| {
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
        let result = rename_mode(flags).and_then(|mode| {
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
                &self.owners.shown(&found.attr),
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
        reply_written(reply, self.client.write(handle(fh), offset, append, data));
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
        let result = self.pages.names(&self.client, (number, handle(fh)), offset, &mut reply);
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
        let dir = (number, handle(fh));
        let result = self.pages.entries(&self.client, &self.owners, dir, offset, &mut reply);
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
        reply_space(reply, self.client.space(ino(number)));
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
        let result = xattr_mode(flags).and_then(|mode| {
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
        let found = seek_for(whence).and_then(|what| {
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
        reply_written(reply, self.client.copy_range(from, to, len));
    }
}
