//! System files on disk, by content.
//!
//! An entry is named by the digest of its manifest and consists of three files: `HEX.list` (the
//! manifest), `HEX.have` (a byte for each chunk: 1 where it is here) and `HEX.data` (sparse).
//! Every chunk is verified when it is stored and again whenever it is read, so neither a crash
//! nor a bad disk nor another process can make it say anything wrong: what does not verify is
//! taken as missing. Several processes may use one directory; entries are shared between all
//! apps of a node, which is safe because whoever asks for one knows its digest from a home that
//! lets it read the file.
//!
//! The cap holds for the sum of all processes to within [`SLACK_PARTS`]th of it each. When it is
//! reached the entries unused for longest go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use crate::manifest::Manifest;
use crate::proto::{CHUNK, Digest, MAX_MANIFEST_FILE};

/// A process looks at what others have stored after each of this many parts of the cap.
pub const SLACK_PARTS: u64 = 32;

const MAGIC: &[u8; 8] = b"PHFSLST1";
const HEADER: usize = 16;

#[derive(Debug, Default)]
struct Room {
    /// Bytes in the directory when it was last looked at.
    seen: u64,
    /// Bytes stored by this process since.
    stored: u64,
}

/// A directory of verified contents.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    cap: u64,
    room: Mutex<Room>,
    /// Held while entries are evicted, against other processes.
    lock: File,
}

/// A content in the cache, perhaps in parts. Holds no files open: there may be thousands.
#[derive(Debug)]
pub struct Entry {
    data: PathBuf,
    have: PathBuf,
    /// What `have` said when it was read, and what was stored since. Another process may have
    /// stored more by now; then it is fetched twice.
    here: Vec<AtomicBool>,
    manifest: Manifest,
}

impl Entry {
    /// Whether chunk `index` seems to be here.
    pub fn holds(&self, index: u32) -> bool {
        self.here.get(index as usize).is_some_and(|here| here.load(Ordering::Relaxed))
    }

    /// Chunk `index`, verified; `None` if it is not here or not what it should be.
    pub fn read(&self, index: u32) -> Option<Vec<u8>> {
        if !self.holds(index) {
            return None;
        }
        let mut bytes = vec![0; self.manifest.chunk_len(index)];
        let offset = u64::from(index) * u64::from(CHUNK);
        let read = File::open(&self.data).and_then(|data| data.read_exact_at(&mut bytes, offset));
        if read.is_ok() && self.manifest.verify(index, &bytes) {
            return Some(bytes);
        }
        // Evicted since, or damaged.
        tracing::info!(chunk = index, file = %self.data.display(), "fetching a cached part again");
        self.here[index as usize].store(false, Ordering::Relaxed);
        if let Ok(have) = OpenOptions::new().write(true).open(&self.have) {
            let _ = have.write_all_at(&[0], index.into());
        }
        None
    }

    fn write(&self, index: u32, bytes: &[u8]) -> io::Result<()> {
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600).open(path)
        };
        open(&self.data)?.write_all_at(bytes, u64::from(index) * u64::from(CHUNK))?;
        // After the data. Should a crash keep this and lose that, the digest tells.
        open(&self.have)?.write_all_at(&[1], index.into())?;
        self.here[index as usize].store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Cache {
    /// Uses `dir`, made if it does not exist (mode 0700), for up to `cap` bytes.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path, cap: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let options = || OpenOptions::new();
        let lock = options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))?;
        let cache = Self { dir: dir.to_owned(), cap, room: Mutex::default(), lock };
        let seen = cache.scan()?.iter().map(|entry| entry.bytes).sum();
        cache.room.lock().unwrap_or_else(PoisonError::into_inner).seen = seen;
        Ok(cache)
    }

    fn path(&self, digest: &Digest, kind: &str) -> PathBuf {
        let hex = blake3::Hash::from_bytes(digest.0).to_hex();
        self.dir.join(format!("{hex}.{kind}"))
    }

    /// The entry named `digest` and its manifest, if there is one.
    pub fn find(&self, digest: &Digest) -> Option<(Entry, Manifest)> {
        let list = self.path(digest, "list");
        let manifest = read_list(&list).filter(|manifest| manifest.digest() == *digest)?;
        let entry = self.entry(digest, manifest.clone());
        // The age of the list is that of the last use.
        let _ = File::open(&list).and_then(|list| list.set_modified(SystemTime::now()));
        Some((entry, manifest))
    }

    /// Makes an entry, with none of its chunks yet, or opens the one there is.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn create(&self, digest: &Digest, manifest: &Manifest) -> io::Result<Entry> {
        if let Some((entry, _)) = self.find(digest) {
            return Ok(entry);
        }
        let entry = self.entry(digest, manifest.clone());
        let mut list = Vec::with_capacity(HEADER + manifest.chunks().len() * 32);
        list.extend_from_slice(MAGIC);
        list.extend_from_slice(&manifest.size().to_le_bytes());
        list.extend_from_slice(manifest.chunks().as_flattened());
        // Under a name of its own first: no reader ever sees half a list.
        let temporary = self.path(digest, &format!("new-{}", std::process::id()));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&list)?;
        fs::rename(&temporary, self.path(digest, "list"))?;
        self.add_room(list.len() as u64);
        Ok(entry)
    }

    fn entry(&self, digest: &Digest, manifest: Manifest) -> Entry {
        let (data, have) = (self.path(digest, "data"), self.path(digest, "have"));
        let mut map = vec![0; manifest.chunks().len()];
        // A short map says that the rest is not here; none, that nothing is.
        if let Ok(mut file) = File::open(&have) {
            let mut filled = 0;
            while let Ok(n @ 1..) = file.read(&mut map[filled..]) {
                filled += n;
            }
        }
        let here = map.iter().map(|byte| AtomicBool::new(*byte == 1)).collect();
        Entry { data, have, here, manifest }
    }

    /// Stores chunk `index` of `entry`, making room first. Does nothing if there is no room to
    /// be had.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn store(&self, entry: &Entry, index: u32, bytes: &[u8]) -> io::Result<()> {
        if !entry.manifest.verify(index, bytes) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.make_room(bytes.len() as u64)? {
            return Ok(());
        }
        entry.write(index, bytes)
    }

    fn add_room(&self, bytes: u64) {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).stored += bytes;
    }

    /// Counts `bytes` in; `false` if they exceed the cap even when all else is gone.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = bytes.next_multiple_of(4096) + 4096;
        let over = room.seen + room.stored + blocks > self.cap;
        if over || room.stored > self.cap / SLACK_PARTS {
            room.seen = self.evict(self.cap.saturating_sub(blocks))?;
            room.stored = 0;
        }
        if room.seen + room.stored + blocks > self.cap {
            return Ok(false);
        }
        room.stored += blocks;
        Ok(true)
    }

    /// Removes the entries unused for longest until no more than `limit` bytes are left; if any
    /// must go, enough that the next ones need not go at once. Returns what is left.
    fn evict(&self, limit: u64) -> io::Result<u64> {
        flock(&self.lock, FlockOperation::LockExclusive)?;
        let result = self.evict_locked(limit);
        flock(&self.lock, FlockOperation::Unlock)?;
        result
    }

    fn evict_locked(&self, limit: u64) -> io::Result<u64> {
        let mut entries = self.scan()?;
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        if total <= limit {
            return Ok(total);
        }
        entries.sort_by_key(|entry| entry.used);
        let goal = limit - limit / 8;
        for entry in entries {
            if total <= goal {
                break;
            }
            // The list first: without it there is no entry.
            for kind in ["list", "have", "data"] {
                match fs::remove_file(self.dir.join(format!("{}.{kind}", entry.hex))) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            total -= entry.bytes;
        }
        Ok(total)
    }

    fn scan(&self) -> io::Result<Vec<Scanned>> {
        let mut entries: std::collections::HashMap<String, Scanned> = Default::default();
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            let name = file.file_name();
            let Some((hex, kind)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let Ok(meta) = file.metadata() else { continue };
            let entry = entries.entry(hex.to_owned()).or_insert_with(|| Scanned {
                hex: hex.to_owned(),
                bytes: 0,
                used: (i64::MIN, 0),
            });
            entry.bytes += meta.blocks() * 512;
            if kind == "list" {
                entry.used = (meta.mtime(), meta.mtime_nsec());
            }
        }
        Ok(entries.into_values().collect())
    }
}

#[derive(Debug)]
struct Scanned {
    hex: String,
    bytes: u64,
    /// When it was last used; the beginning of time for one without a list.
    used: (i64, i64),
}

fn read_list(path: &Path) -> Option<Manifest> {
    let most = HEADER as u64 + Manifest::chunk_count(MAX_MANIFEST_FILE) * 32;
    if fs::metadata(path).ok()?.len() > most {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let (header, chunks) = bytes.split_at_checked(HEADER)?;
    let (magic, size) = header.split_at_checked(8)?;
    let (chunks, rest) = chunks.as_chunks::<32>();
    if magic != MAGIC || !rest.is_empty() {
        return None;
    }
    Manifest::new(u64::from_le_bytes(size.try_into().ok()?), chunks.to_vec())
}

#[cfg(test)]
mod tests;
