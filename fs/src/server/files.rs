//! Operations on open files and directories.

use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, fdatasync, fsync};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::handles::Open;
use super::session::{Outcome, Session};
use crate::os;
use crate::proto::{
    Answer, Digest, Entry, FileKind, HandleId, INLINE, MANIFEST_PAGE, Name, NodeId, OpenMode,
};

impl Session {
    pub(super) fn open(&self, node: NodeId, open: OpenMode, known: Option<Digest>) -> Outcome {
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

    pub(super) fn create(&self, parent: NodeId, name: &Name, mode: u32, open: OpenMode) -> Outcome {
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

    pub(super) fn write(
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

    pub(super) fn sync(&self, handle: HandleId, data_only: bool) -> Result<(), Errno> {
        let open = self.handles.get(handle)?;
        match &*open {
            Open::File { fd } if data_only => fdatasync(fd),
            Open::File { fd } => fsync(fd),
            Open::Dir { fd: None, .. } => Ok(()),
            Open::Dir { fd: Some(fd), .. } => {
                // Not under the lock: a listing need not wait for the disk.
                let fd = fd.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
                fsync(fd.map_err(|_| Errno::NFILE)?)
            }
        }
    }

    pub(super) fn open_dir(&self, node: NodeId) -> Outcome {
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

    pub(super) fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        max_bytes: u32,
        attributes: bool,
    ) -> Outcome {
        let items = match &*self.handles.get(handle)? {
            Open::File { .. } => return Err(Errno::NOTDIR),
            Open::Dir { fd: None, .. } => Vec::new(),
            Open::Dir { node, fd: Some(fd) } => {
                self.list(*node, fd, offset, max_bytes, attributes)?
            }
        };
        Ok((Answer::Listing(items), Vec::new()))
    }

    pub(super) fn manifest(&self, handle: HandleId, first: u32) -> Outcome {
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

    /// Nothing but regular files is opened: a device does things when it is, a pipe waits, and
    /// neither leads to where the app is.
    pub(super) fn only_files(&self, node: NodeId) -> Result<(), Errno> {
        match self.nodes.view(node)?.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Errno::ISDIR),
            FileKind::Symlink => Err(Errno::LOOP),
            FileKind::Fifo | FileKind::Socket => Err(Errno::NXIO),
            FileKind::CharDevice | FileKind::BlockDevice => Err(Errno::ACCESS),
        }
    }
}

fn access_flags(open: OpenMode) -> OFlags {
    match (open.read, open.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    }
}
