//! Reading system files through the verified cache.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::io::Errno;

use super::Client;
use super::files::{OpenFile, Source};
use super::ops::unexpected;
use crate::cache::{Cache, Entry};
use crate::manifest::Manifest;
use crate::proto::{Answer, CHUNK, Digest, HandleId, MANIFEST_PAGE, MAX_IO, MAX_MANIFEST_FILE, Op};

/// Contents whose manifests are kept though no file with them is open.
const MAX_KEPT: usize = 4096;

/// A verified chunk in memory.
type Chunk = Arc<Vec<u8>>;

/// One content: what it must be, and the place on disk it is kept at, if any.
#[derive(Debug)]
pub(super) struct Content {
    digest: Digest,
    manifest: Manifest,
    entry: Option<Entry>,
}

impl Content {
    /// Takes a chunk that was fetched; `false` if it is not what it should be.
    pub(super) fn put(&self, contents: &Contents, index: u32, bytes: Vec<u8>) -> bool {
        if !self.manifest.verify(index, &bytes) {
            return false;
        }
        if let (Some(entry), Some(cache)) = (&self.entry, &contents.cache)
            && let Err(error) = cache.store(entry, index, &bytes)
        {
            tracing::warn!(%error, "a part of a system file cannot be kept in the cache");
        }
        contents.remember(self.digest, index, Arc::new(bytes));
        true
    }

    /// A chunk that is here already.
    fn get(&self, contents: &Contents, index: u32) -> Option<Chunk> {
        if let Some(chunk) = contents.recall(self.digest, index) {
            return Some(chunk);
        }
        let bytes = self.entry.as_ref()?.read(index)?;
        let chunk = Arc::new(bytes);
        contents.remember(self.digest, index, Arc::clone(&chunk));
        Some(chunk)
    }

    /// Whether chunk `index` seems to be here; reading it may still show that it is not.
    pub(super) fn holds(&self, contents: &Contents, index: u32) -> bool {
        contents.recall(self.digest, index).is_some()
            || self.entry.as_ref().is_some_and(|entry| entry.holds(index))
    }

    /// What it must be.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

#[derive(Debug, Default)]
struct Recent {
    chunks: HashMap<(Digest, u32), Chunk>,
    order: VecDeque<(Digest, u32)>,
}

#[derive(Debug, Default)]
struct Manifests {
    known: HashMap<Digest, Weak<Content>>,
    kept: VecDeque<Arc<Content>>,
}

/// The contents this client knows.
#[derive(Debug)]
pub(super) struct Contents {
    cache: Option<Arc<Cache>>,
    manifests: Mutex<Manifests>,
    recent: Mutex<Recent>,
    max_recent: usize,
}

impl Contents {
    pub(super) fn new(cache: Option<Arc<Cache>>, max_recent: usize) -> Self {
        Self { cache, manifests: Mutex::default(), recent: Mutex::default(), max_recent }
    }

    /// The content named `digest`, from memory or from disk.
    pub(super) fn known(&self, digest: &Digest) -> Option<Arc<Content>> {
        {
            let manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(content) = manifests.known.get(digest).and_then(Weak::upgrade) {
                return Some(content);
            }
        }
        let (entry, manifest) = self.cache.as_ref()?.find(digest)?;
        Some(self.enter(Content { digest: *digest, manifest, entry: Some(entry) }))
    }

    /// Whether the content is known and its first chunk at hand, so that home need not send it
    /// along.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let content = self.known(digest);
        content.is_some_and(|c| c.manifest.size() == 0 || c.holds(self, 0))
    }

    /// Adds a content whose manifest has been checked against its digest.
    pub(super) fn add(&self, digest: Digest, manifest: Manifest) -> Arc<Content> {
        if let Some(content) = self.known(&digest) {
            return content;
        }
        let entry = self.cache.as_ref().and_then(|cache| {
            let entry = cache.create(&digest, &manifest);
            entry.map_err(|error| tracing::warn!(%error, "the file cache cannot be used")).ok()
        });
        self.enter(Content { digest, manifest, entry })
    }

    fn enter(&self, content: Content) -> Arc<Content> {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = manifests.known.get(&content.digest).and_then(Weak::upgrade) {
            return known;
        }
        let content = Arc::new(content);
        manifests.known.insert(content.digest, Arc::downgrade(&content));
        manifests.kept.push_back(Arc::clone(&content));
        if manifests.kept.len() > MAX_KEPT {
            manifests.kept.pop_front();
            manifests.known.retain(|_, content| content.strong_count() > 0);
        }
        content
    }

    fn remember(&self, digest: Digest, index: u32, chunk: Chunk) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.chunks.insert((digest, index), chunk).is_none() {
            recent.order.push_back((digest, index));
        }
        while recent.order.len() > self.max_recent {
            if let Some(oldest) = recent.order.pop_front() {
                recent.chunks.remove(&oldest);
            }
        }
    }

    fn recall(&self, digest: Digest, index: u32) -> Option<Chunk> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.chunks.get(&(digest, index)).cloned()
    }
}

impl Client {
    /// Reads an open system file. `ESTALE`: it was changed in place since it was opened.
    pub(super) fn read_verified(
        &self,
        file: &OpenFile,
        content: &Content,
        offset: u64,
        len: u32,
    ) -> Result<Vec<u8>, Errno> {
        let size = content.manifest.size();
        let end = offset.saturating_add(u64::from(len)).min(size);
        if offset >= end {
            return Ok(Vec::new());
        }
        let window = self.window(file, offset, end);
        let mut data = Vec::with_capacity((end - offset) as usize);
        let mut at = offset;
        while at < end {
            let index = u32::try_from(at / u64::from(CHUNK)).map_err(|_| Errno::FBIG)?;
            let last = u32::try_from((end - 1) / u64::from(CHUNK)).map_err(|_| Errno::FBIG)?;
            let chunk = match content.get(&self.contents, index) {
                Some(chunk) => chunk,
                None => self.fetch(file, content, index, (last - index + 1).max(window))?,
            };
            let from = (at % u64::from(CHUNK)) as usize;
            let to = chunk.len().min(from + (end - at) as usize);
            let part = chunk.get(from..to).filter(|part| !part.is_empty()).ok_or(Errno::IO)?;
            data.extend_from_slice(part);
            at += part.len() as u64;
        }
        Ok(data)
    }

    /// Fetches chunk `index` and those missing behind it, up to `most` and one request's worth.
    pub(super) fn fetch(
        &self,
        file: &OpenFile,
        content: &Content,
        index: u32,
        most: u32,
    ) -> Result<Chunk, Errno> {
        let most = most.min(MAX_IO / CHUNK);
        let behind = (1..most).take_while(|step| {
            let next = index.saturating_add(*step);
            content.manifest.chunk_len(next) > 0 && !content.holds(&self.contents, next)
        });
        let count = 1 + behind.count() as u32;
        let offset = u64::from(index) * u64::from(CHUNK);
        let bytes = self.read_plain(file.handle, offset, count * CHUNK)?;
        let mut first = None;
        for (chunk, index) in bytes.chunks(CHUNK as usize).zip(index..) {
            if !content.put(&self.contents, index, chunk.to_vec()) {
                break;
            }
            first = first.or_else(|| self.contents.recall(content.digest, index));
        }
        match first {
            Some(chunk) => Ok(chunk),
            None if self.has_changed(file)? => Err(Errno::STALE),
            None => {
                tracing::error!(ino = file.ino.0, "home sent bytes that are not the file's");
                Err(Errno::IO)
            }
        }
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
                || size > MAX_MANIFEST_FILE;
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
        let most = MAX_IO / CHUNK;
        let window = if ahead.0 == offset { (ahead.1 * 2).min(most) } else { 1 };
        *ahead = (end, window);
        window
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
}
