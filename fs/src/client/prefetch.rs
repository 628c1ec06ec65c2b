//! Fetching files before they are needed.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::files::Source;
use super::{Client, Ino, Lookup};
use crate::proto::{FileKind, Name, OpenMode};

/// Files fetched at once.
const THREADS: usize = 8;

/// What [`Client::prefetch`] came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefetched {
    /// Files that are here now as a whole.
    pub files: u64,
    /// Bytes fetched from home for them.
    pub fetched_bytes: u64,
    /// Paths that are no system files, so that there is nothing to keep of them.
    pub passed_over: u64,
    /// Paths that could not be fetched.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    passed_over: AtomicU64,
    failed: AtomicU64,
}

impl Client {
    /// Brings the contents of system files here: those a program has mapped or open, before it
    /// goes on. Paths are absolute inside the tree and without symbolic links. Failures are
    /// counted, not fatal: what is missing is fetched when it is read.
    pub fn prefetch(&self, paths: &[Vec<u8>]) -> Prefetched {
        let counts = Counts::default();
        let queue = Mutex::new(paths.iter());
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(paths.len()) {
                scope.spawn(|| {
                    let mut dirs = Dirs::new(self);
                    while let Some(path) = next() {
                        self.prefetch_one(&mut dirs, path, &counts);
                    }
                });
            }
        });
        Prefetched {
            files: counts.files.into_inner(),
            fetched_bytes: counts.bytes.into_inner(),
            passed_over: counts.passed_over.into_inner(),
            failed: counts.failed.into_inner(),
        }
    }

    fn prefetch_one(&self, dirs: &mut Dirs<'_>, path: &[u8], counts: &Counts) {
        let counter = match dirs.file(path).and_then(|ino| {
            let result = self.fetch_whole(ino);
            self.forget(ino, 1);
            result
        }) {
            Ok(Some(bytes)) => {
                counts.bytes.fetch_add(bytes, Ordering::Relaxed);
                &counts.files
            }
            Ok(None) => &counts.passed_over,
            Err(error) => {
                let path = String::from_utf8_lossy(path);
                tracing::debug!(%path, %error, "a file could not be sent ahead");
                &counts.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Fetches all of a system file; the bytes that were missing. `None`: it is none.
    fn fetch_whole(&self, ino: Ino) -> Result<Option<u64>, Errno> {
        if self.table().kind(ino) != Some(FileKind::File) {
            return Ok(None);
        }
        let read = OpenMode { read: true, ..OpenMode::default() };
        let handle = self.open(ino, read)?.handle;
        let result = self.fetch_missing(handle);
        self.release(handle);
        result
    }

    fn fetch_missing(&self, handle: crate::proto::HandleId) -> Result<Option<u64>, Errno> {
        let file = self.file(handle)?;
        let Source::Verified(content) = self.file_source(&file)? else {
            return Ok(None);
        };
        let missing = |index| !content.holds(&self.contents, index);
        let count = content.manifest().chunks().len() as u32;
        let fetched = (0..count)
            .filter(|index| missing(*index))
            .map(|index| content.manifest().chunk_len(index) as u64)
            .sum();
        for index in 0..count {
            if missing(index) {
                self.fetch(&file, &content, index, u32::MAX)?;
            }
        }
        Ok(Some(fetched))
    }
}

/// Directories on the way to files, looked up once.
struct Dirs<'a> {
    client: &'a Client,
    known: HashMap<Vec<u8>, Ino>,
}

impl<'a> Dirs<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    /// The file at `path`: one reference.
    fn file(&mut self, path: &[u8]) -> Result<Ino, Errno> {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        let dir = self.dir(dir)?;
        self.step(dir, name)
    }

    fn dir(&mut self, path: &[u8]) -> Result<Ino, Errno> {
        let mut at = Ino::ROOT;
        let mut end = 0;
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            end += part.len() + 1;
            let so_far = &path[..(end - 1).min(path.len())];
            at = match self.known.get(so_far) {
                Some(ino) => *ino,
                None => {
                    let ino = self.step(at, part)?;
                    self.known.insert(so_far.to_vec(), ino);
                    ino
                }
            };
        }
        Ok(at)
    }

    fn step(&self, dir: Ino, name: &[u8]) -> Result<Ino, Errno> {
        let name = Name::new(name).map_err(|_| Errno::INVAL)?;
        match self.client.lookup(dir, &name)? {
            Lookup::Found(found) => Ok(found.ino),
            Lookup::Absent { .. } => Err(Errno::NOENT),
        }
    }
}

impl Drop for Dirs<'_> {
    fn drop(&mut self) {
        for ino in self.known.values() {
            self.client.forget(*ino, 1);
        }
    }
}
