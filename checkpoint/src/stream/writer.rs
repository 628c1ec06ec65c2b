//! The target's side of the stream.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use phantom_model::handoff::{ImageFile, ImageManifest};

use super::{MAX_EXTENT_BYTES, MAX_FILES};
use crate::image::ImageError;
use crate::image::name::FileName;

/// Most separate pieces of one file that wait for the gaps between them to be filled.
const MAX_PIECES: usize = 4096;

/// Takes the extents of an image in any order, from several threads at once.
#[derive(Debug)]
pub struct ImageWriter {
    directory: PathBuf,
    limit_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arrived>,
    total_bytes: u64,
}

#[derive(Debug)]
struct Arrived {
    file: std::sync::Arc<File>,
    covered: Coverage,
}

/// Which bytes of a file have arrived: disjoint, non-adjacent pieces, start to end.
#[derive(Debug, Default)]
struct Coverage(BTreeMap<u64, u64>);

impl Coverage {
    /// Adds `start..end`; an error text when a byte of it is there already.
    fn add(&mut self, start: u64, end: u64) -> Result<(), String> {
        if let Some((_, &before)) = self.0.range(..end).next_back()
            && before > start
        {
            return Err(format!("bytes {start} to {end} overlap what arrived before"));
        }
        let (mut start, mut end) = (start, end);
        if let Some((&previous, &stop)) = self.0.range(..start).next_back()
            && stop == start
        {
            self.0.remove(&previous);
            start = previous;
        }
        if let Some(stop) = self.0.remove(&end) {
            end = stop;
        }
        self.0.insert(start, end);
        if self.0.len() > MAX_PIECES {
            return Err(format!("more than {MAX_PIECES} separate pieces"));
        }
        Ok(())
    }

    /// Whether exactly `0..size` is there.
    fn is_complete(&self, size: u64) -> bool {
        match size {
            0 => self.0.is_empty(),
            _ => self.0.len() == 1 && self.0.get(&0) == Some(&size),
        }
    }
}

impl ImageWriter {
    /// Writes into the empty `directory`, at most `limit_bytes` in all.
    pub fn new(directory: &Path, limit_bytes: u64) -> Self {
        Self { directory: directory.to_owned(), limit_bytes, state: Mutex::default() }
    }

    /// Writes one piece.
    ///
    /// # Errors
    /// A name that no image has, a piece beyond the agreed total, a byte that came before.
    pub fn write(&self, file: &str, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let name = FileName::parse(file)?;
        let wrong = |reason: String| ImageError::Stream(format!("{name}: {reason}"));
        if bytes.is_empty() || bytes.len() > MAX_EXTENT_BYTES {
            return Err(wrong(format!("a piece of {} bytes", bytes.len())));
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .filter(|&end| end <= self.limit_bytes)
            .ok_or(ImageError::TooLarge { limit: self.limit_bytes })?;
        let target = {
            let mut state = self.lock();
            let total = state.total_bytes + bytes.len() as u64;
            if total > self.limit_bytes {
                return Err(ImageError::TooLarge { limit: self.limit_bytes });
            }
            let arrived = self.arrived(&mut state, &name)?;
            arrived.covered.add(offset, end).map_err(wrong)?;
            let file = std::sync::Arc::clone(&arrived.file);
            state.total_bytes = total;
            file
        };
        // The copy itself needs no lock: no two pieces overlap.
        target.write_all_at(bytes, offset).map_err(self.file_error("write", &name))
    }

    /// Bytes written so far.
    pub fn bytes_written(&self) -> u64 {
        self.lock().total_bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while the lock is held cannot leave the account half-changed in a way that lets
        // a check pass: a piece is counted before it is written.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn arrived<'a>(
        &self,
        state: &'a mut State,
        name: &FileName,
    ) -> Result<&'a mut Arrived, ImageError> {
        if !state.files.contains_key(name.as_str()) {
            if state.files.len() >= MAX_FILES {
                return Err(ImageError::Stream(format!("more than {MAX_FILES} files")));
            }
            let file = self.create(name)?;
            let arrived = Arrived { file: file.into(), covered: Coverage::default() };
            state.files.insert(name.as_str().to_owned(), arrived);
        }
        state
            .files
            .get_mut(name.as_str())
            .ok_or_else(|| ImageError::Stream(format!("{name} vanished")))
    }

    fn create(&self, name: &FileName) -> Result<File, ImageError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            // Some files are read by the restored root, which owns nothing here; the directory is
            // what keeps everybody else out.
            .mode(0o644)
            .open(self.directory.join(name.as_str()))
            .map_err(self.file_error("create", name))
    }

    fn file_error(
        &self,
        action: &'static str,
        name: &FileName,
    ) -> impl FnOnce(std::io::Error) -> ImageError {
        let path = self.directory.join(name.as_str());
        move |source| ImageError::File { action, path, source }
    }

    /// Ends the stream: every file of the manifest has arrived whole and unchanged, and no other.
    pub fn finish(self, manifest: &ImageManifest) -> Result<(), ImageError> {
        let wrong = |reason: String| Err(ImageError::Stream(reason));
        if manifest.files.len() > MAX_FILES {
            return wrong(format!("more than {MAX_FILES} files"));
        }
        let mut state = std::mem::take(&mut *self.lock());
        for listed in &manifest.files {
            let name = FileName::parse(&listed.name)?;
            match state.files.remove(name.as_str()) {
                Some(arrived) => self.check(&name, listed, &arrived)?,
                // An empty file has no piece to arrive in.
                None if listed.size == 0 => drop(self.create(&name)?),
                None => return wrong(format!("{name} did not arrive")),
            }
        }
        match state.files.keys().next() {
            Some(name) => wrong(format!("{name} is not in the manifest")),
            None => Ok(()),
        }
    }

    fn check(
        &self,
        name: &FileName,
        listed: &ImageFile,
        arrived: &Arrived,
    ) -> Result<(), ImageError> {
        let wrong = |reason: &str| Err(ImageError::Stream(format!("{name} {reason}")));
        if !arrived.covered.is_complete(listed.size) {
            return wrong("did not arrive whole");
        }
        let Some(digest) = listed.digest else {
            return if name.is_pages() { Ok(()) } else { wrong("has no digest") };
        };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; MAX_EXTENT_BYTES];
        let mut offset = 0;
        while offset < listed.size {
            let count =
                arrived.file.read_at(&mut buffer, offset).map_err(self.file_error("read", name))?;
            if count == 0 {
                return wrong("is shorter than what arrived");
            }
            hasher.update(&buffer[..count]);
            offset += count as u64;
        }
        // blake3's own comparison takes constant time.
        if hasher.finalize() == blake3::Hash::from_bytes(digest) {
            Ok(())
        } else {
            wrong("was changed on the way")
        }
    }
}
