//! Open files and directories.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use super::ops::{created, unexpected};
use super::{Client, Found, Ino};
use crate::manifest::Manifest;
use crate::proto::{Answer, Attr, Digest, HandleId, MAX_IO, Name, Op, OpenMode, SeekFor};

/// How the bytes of an open file are come by.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// From home, each time.
    Plain,
    /// A system file whose manifest has not been fetched yet.
    Unnamed,
    /// Through the verified cache.
    Verified(Arc<Content>),
}

/// A file or directory this client has open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) handle: HandleId,
    pub(super) ino: Ino,
    /// As it was when it was opened.
    pub(super) attr: Attr,
    pub(super) source: Mutex<Source>,
    /// Where the last read ended, and how much the next one may fetch ahead, in chunks.
    pub(super) ahead: Mutex<(u64, u32)>,
}

/// An opened file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// For the operations on it; to be given back by [`Client::release`].
    pub handle: HandleId,
    /// Its attributes.
    pub attr: Attr,
    /// Its content is what it was the last time, so what is cached of it still holds.
    pub unchanged: bool,
}

impl Client {
    /// Creates and opens a file.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn create(
        &self,
        parent: Ino,
        name: &Name,
        mode: u32,
        open: OpenMode,
    ) -> Result<(Found, HandleId), Errno> {
        let op = Op::Create { parent: self.node(parent)?, name: name.clone(), mode, open };
        let (entry, handle) = created(self.link.call(op, Vec::new())?.0)?;
        let found = match self.enter(&entry) {
            Ok(found) => found,
            Err(error) => {
                self.link.post(Op::Release { handle });
                return Err(error);
            }
        };
        self.table().unsee(found.ino);
        self.keep(handle, found.ino, found.attr, Source::Plain);
        Ok((found, handle))
    }

    /// Opens a file.
    ///
    /// # Errors
    /// As [`Client::lookup`]; `ENXIO` for pipes and sockets, `EACCES` for devices: they do not
    /// reach across machines.
    pub fn open(&self, ino: Ino, open: OpenMode) -> Result<Opened, Errno> {
        let known = self.table().digest(ino).filter(|digest| self.contents.has(digest));
        let op = Op::Open { node: self.node(ino)?, open, known };
        let (answer, payload) = self.link.call(op, Vec::new())?;
        let (handle, attr, digest) = match answer {
            Answer::Opened { handle, attr, digest } => (handle, attr, digest),
            other => return Err(unexpected(&other)),
        };
        let shown = self.shown(ino, attr)?;
        let source = self.source(&attr, open, digest, payload);
        let unchanged = match open.write {
            // What this program writes is not seen as a content of its own.
            true => {
                self.table().unsee(ino);
                false
            }
            false => self.table().see(ino, &attr, digest),
        };
        self.keep(handle, ino, attr, source);
        Ok(Opened { handle, attr: shown, unchanged })
    }

    fn source(
        &self,
        attr: &Attr,
        open: OpenMode,
        digest: Option<Digest>,
        payload: Vec<u8>,
    ) -> Source {
        if !attr.system || open.write {
            return Source::Plain;
        }
        let Some(digest) = digest else {
            return Source::Unnamed;
        };
        if let Some(content) = self.contents.known(&digest) {
            return Source::Verified(content);
        }
        let manifest = Manifest::of_bytes(&payload);
        if attr.size != payload.len() as u64 || manifest.digest() != digest {
            return Source::Unnamed;
        }
        let content = self.contents.add(digest, manifest);
        if !payload.is_empty() {
            content.put(&self.contents, 0, payload);
        }
        Source::Verified(content)
    }

    pub(super) fn keep(&self, handle: HandleId, ino: Ino, attr: Attr, source: Source) {
        let file =
            OpenFile { handle, ino, attr, source: Mutex::new(source), ahead: Mutex::new((0, 1)) };
        self.files().insert(handle, Arc::new(file));
    }

    fn files(&self) -> MutexGuard<'_, std::collections::HashMap<HandleId, Arc<OpenFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self, handle: HandleId) -> Result<Arc<OpenFile>, Errno> {
        self.files().get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// Closes a file or directory. Does not wait for home.
    pub fn release(&self, handle: HandleId) {
        if self.files().remove(&handle).is_some() {
            self.link.post(Op::Release { handle });
        }
    }

    /// Up to `len` bytes from `offset` on; fewer only at the end of the file.
    ///
    /// # Errors
    /// As [`Client::lookup`]; `EIO` also when home's bytes are not what their digest says.
    pub fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(handle)?;
        match self.file_source(&file)? {
            Source::Verified(content) => match self.read_verified(&file, &content, offset, len) {
                Ok(data) => Ok(data),
                Err(Errno::STALE) => {
                    // The file was changed in place while open: go on with what it is now.
                    *file.source.lock().unwrap_or_else(PoisonError::into_inner) = Source::Plain;
                    self.read_plain(file.handle, offset, len)
                }
                Err(error) => Err(error),
            },
            Source::Plain | Source::Unnamed => self.read_plain(handle, offset, len),
        }
    }

    pub(super) fn read_plain(
        &self,
        handle: HandleId,
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>, Errno> {
        let mut data = Vec::new();
        while (data.len() as u32) < len {
            let want = (len - data.len() as u32).min(MAX_IO);
            let offset = offset.checked_add(data.len() as u64).ok_or(Errno::INVAL)?;
            let mut part = self.data(Op::Read { handle, offset, len: want }, want as usize)?;
            let end = (part.len() as u32) < want;
            match data.is_empty() {
                true => data = part,
                false => data.append(&mut part),
            }
            if end {
                break;
            }
        }
        Ok(data)
    }

    /// Writes at `offset`, or at the end of the file whatever that is at home then. Returns how
    /// much was written; what was is at home.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        append: bool,
        data: &[u8],
    ) -> Result<u64, Errno> {
        let mut written = 0;
        for part in data.chunks(MAX_IO as usize) {
            let offset = offset.checked_add(written).ok_or(Errno::FBIG)?;
            let op = Op::Write { handle, offset, append };
            match self.count(op, part.to_vec()) {
                Ok(n) if n > part.len() as u64 => return Err(Errno::IO),
                Ok(n) => {
                    written += n;
                    if n < part.len() as u64 {
                        break;
                    }
                }
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(written)
    }

    /// Makes a file's or directory's changes durable at home.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn sync(&self, handle: HandleId, data_only: bool) -> Result<(), Errno> {
        self.done(Op::Fsync { handle, data_only }, Vec::new())
    }

    /// Makes or frees room; `mode` as in fallocate(2).
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn allocate(
        &self,
        handle: HandleId,
        mode: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), Errno> {
        self.done(Op::Fallocate { handle, mode, offset, len }, Vec::new())
    }

    /// The next data or hole from `offset` on.
    ///
    /// # Errors
    /// As [`Client::lookup`]; `ENXIO` behind the end.
    pub fn seek(&self, handle: HandleId, offset: u64, what: SeekFor) -> Result<u64, Errno> {
        self.count(Op::Seek { handle, offset, what }, Vec::new())
    }

    /// Copies up to `len` bytes between two open files at home. Returns how many.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn copy_range(
        &self,
        from: (HandleId, u64),
        to: (HandleId, u64),
        len: u64,
    ) -> Result<u64, Errno> {
        let op =
            Op::CopyRange { from: from.0, from_offset: from.1, to: to.0, to_offset: to.1, len };
        let copied = self.count(op, Vec::new())?;
        if copied > len { Err(Errno::IO) } else { Ok(copied) }
    }
}
