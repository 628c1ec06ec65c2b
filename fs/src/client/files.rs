//! Open files and directories.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::content::Content;
use super::ops::{created, opened, unexpected};
use super::{Client, Found, Ino};
use crate::manifest::Manifest;
use crate::proto::{
    Answer, Attr, Digest, DirItem, HandleId, MANIFEST_PAGE, MAX_IO, MAX_LISTING, Name, Op,
    OpenMode, SeekFor,
};

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
    attr: Attr,
    source: Mutex<Source>,
    /// Where the last read ended, and how much the next one may fetch ahead, in chunks.
    ahead: Mutex<(u64, u32)>,
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

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// As home has it.
    pub item: DirItem,
    /// The file, if attributes were asked for: one reference.
    pub found: Option<Found>,
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

    fn keep(&self, handle: HandleId, ino: Ino, attr: Attr, source: Source) {
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

    /// How the file's bytes are come by; fetches its manifest first if need be.
    pub(super) fn file_source(&self, file: &OpenFile) -> Result<Source, Errno> {
        let source = file.source.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !matches!(source, Source::Unnamed) {
            return Ok(source);
        }
        // Two threads may do this at once; both come to the same.
        let source = match self.fetch_manifest(file.handle) {
            Ok((digest, manifest)) => {
                self.table().see(file.ino, &file.attr, Some(digest));
                Source::Verified(self.contents.add(digest, manifest))
            }
            // It is changing, or too large: read it as it is.
            Err(Errno::AGAIN | Errno::NOTSUP | Errno::FBIG) => Source::Plain,
            Err(error) => return Err(error),
        };
        *file.source.lock().unwrap_or_else(PoisonError::into_inner) = source.clone();
        Ok(source)
    }

    fn fetch_manifest(&self, handle: HandleId) -> Result<(Digest, Manifest), Errno> {
        let mut chunks: Vec<[u8; 32]> = Vec::new();
        loop {
            let first = u32::try_from(chunks.len()).map_err(|_| Errno::FBIG)?;
            let (answer, payload) = self.link.call(Op::Manifest { handle, first }, Vec::new())?;
            let Answer::Manifest { digest, total, size } = answer else {
                return Err(unexpected(&answer));
            };
            let wrong = Manifest::chunk_count(size) != u64::from(total)
                || payload.len() % 32 != 0
                || payload.len() > MANIFEST_PAGE as usize * 32
                || size > crate::proto::MAX_MANIFEST_FILE;
            if wrong {
                return Err(Errno::IO);
            }
            chunks.extend(payload.as_chunks::<32>().0);
            if chunks.len() < total as usize && !payload.is_empty() {
                continue;
            }
            let manifest = Manifest::new(size, chunks).filter(|m| m.digest() == digest);
            // Pages of two different contents: it changed in between.
            return manifest.map(|manifest| (digest, manifest)).ok_or(Errno::AGAIN);
        }
    }

    /// Whether the open file has changed since it was opened.
    pub(super) fn has_changed(&self, file: &OpenFile) -> Result<bool, Errno> {
        let op = Op::GetAttr { node: self.node(file.ino)?, handle: Some(file.handle) };
        match self.link.call(op, Vec::new())?.0 {
            Answer::Attr(attr) => Ok(attr.stamp() != file.attr.stamp()),
            other => Err(unexpected(&other)),
        }
    }

    /// How many chunks a read at `offset` that ends at `end` may fetch at once: more with each
    /// read that goes on where the last one ended.
    pub(super) fn window(&self, file: &OpenFile, offset: u64, end: u64) -> u32 {
        let mut ahead = file.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let most = MAX_IO / crate::proto::CHUNK;
        let window = if ahead.0 == offset { (ahead.1 * 2).min(most) } else { 1 };
        *ahead = (end, window);
        window
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

    /// Opens a directory.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn open_dir(&self, ino: Ino) -> Result<Opened, Errno> {
        let op = Op::OpenDir { node: self.node(ino)? };
        let (handle, attr) = opened(self.link.call(op, Vec::new())?.0)?;
        let unchanged = self.table().see(ino, &attr, None) && attr.system;
        self.keep(handle, ino, attr, Source::Plain);
        Ok(Opened { handle, attr: self.shown(ino, attr)?, unchanged })
    }

    /// Entries of an open directory from `offset` on (0 or a `next_offset`), about `max_bytes`
    /// of them; none at the end. With `attributes` each found one is one reference.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub fn read_dir(
        &self,
        handle: HandleId,
        offset: u64,
        max_bytes: u32,
        attributes: bool,
    ) -> Result<Vec<DirEntry>, Errno> {
        let max_bytes = max_bytes.min(MAX_LISTING);
        let op = Op::ReadDir { handle, offset, max_bytes, attributes };
        let items = match self.link.call(op, Vec::new())?.0 {
            Answer::Listing(items) => items,
            other => return Err(unexpected(&other)),
        };
        let enter = |item: DirItem| {
            let found = item.entry.and_then(|entry| self.enter(&entry).ok());
            DirEntry { item, found }
        };
        Ok(items.into_iter().map(enter).collect())
    }
}
