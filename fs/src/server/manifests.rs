//! Digests of system files, worked out once per content.

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Statx;
use rustix::io::Errno;

use crate::manifest::{Manifest, chunk_digest};
use crate::os;
use crate::proto::{CHUNK, Digest, MAX_MANIFEST_FILE};

/// One content of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    dev: (u32, u32),
    ino: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Content {
    fn of(stat: &Statx) -> Self {
        Self {
            dev: (stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }
}

/// A manifest with its name.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) manifest: Manifest,
    pub(super) digest: Digest,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Content, Arc<Named>>,
    order: VecDeque<Content>,
    chunks: usize,
}

/// The manifests worked out so far, the oldest dropped when there are too many.
#[derive(Debug)]
pub(super) struct Manifests {
    inner: Mutex<Inner>,
    max_chunks: usize,
}

impl Manifests {
    pub(super) fn new(max_chunks: usize) -> Self {
        Self { inner: Mutex::default(), max_chunks }
    }

    /// The manifest of the content described by `stat`, if it is known.
    pub(super) fn known(&self, stat: &Statx) -> Option<Arc<Named>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.known.get(&Content::of(stat)).cloned()
    }

    /// The manifest of the open file `fd`. `EAGAIN` if it changes while it is read, `EFBIG` if
    /// it is too large for one.
    pub(super) fn of_file(&self, fd: impl AsFd) -> Result<Arc<Named>, Errno> {
        let stat = os::stat_fd(&fd)?;
        if let Some(named) = self.known(&stat) {
            return Ok(named);
        }
        if stat.stx_size > MAX_MANIFEST_FILE {
            return Err(Errno::FBIG);
        }
        let mut chunks = Vec::with_capacity(Manifest::chunk_count(stat.stx_size) as usize);
        let mut offset = 0;
        while offset < stat.stx_size {
            let chunk = os::read_at(&fd, offset, CHUNK as usize)?;
            chunks.push(chunk_digest(&chunk));
            offset += u64::from(CHUNK);
        }
        if Content::of(&os::stat_fd(&fd)?) != Content::of(&stat) {
            return Err(Errno::AGAIN);
        }
        let manifest = Manifest::new(stat.stx_size, chunks).ok_or(Errno::AGAIN)?;
        Ok(self.remember(&stat, manifest))
    }

    /// Keeps the manifest of the content described by `stat`.
    pub(super) fn remember(&self, stat: &Statx, manifest: Manifest) -> Arc<Named> {
        let digest = manifest.digest();
        let named = Arc::new(Named { manifest, digest });
        let content = Content::of(stat);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.known.insert(content, Arc::clone(&named)).is_none() {
            inner.order.push_back(content);
            // An empty file takes room, too.
            inner.chunks += named.manifest.chunks().len() + 1;
        }
        while inner.chunks > self.max_chunks && inner.order.len() > 1 {
            let Some(oldest) = inner.order.pop_front() else {
                break;
            };
            if let Some(old) = inner.known.remove(&oldest) {
                inner.chunks -= old.manifest.chunks().len() + 1;
            }
        }
        named
    }
}
