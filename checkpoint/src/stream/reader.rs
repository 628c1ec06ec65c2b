//! The source's side of the stream.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};
use phantom_model::handoff::{ImageFile, ImageManifest};

use super::{Extent, MAX_EXTENT_BYTES, MAX_FILES};
use crate::cancel::Cancel;
use crate::error::{Error, Task};
use crate::image::ImageError;
use crate::image::name::FileName;
use crate::os::watch::Watch;

/// While the dump runs, pieces smaller than this wait for more.
const WORTH_SENDING_BYTES: u64 = 256 * 1024;
/// How often page files are looked at for new pages.
const RECHECK: Duration = Duration::from_millis(2);

/// Written by CRIU all the same, although Phantom treats cgroups itself; a target refuses it.
const NOT_SENT: &str = "cgroup.img";

const RUNNING: u8 = 0;
const COMPLETE: u8 = 1;
const FAILED: u8 = 2;

/// Tells the reader how the dump that writes the image ended. Dropped without a word it means that
/// the dump failed.
#[derive(Debug)]
pub struct Completion {
    state: Arc<AtomicU8>,
    marker: PathBuf,
}

impl Completion {
    /// The image is complete.
    pub fn complete(self) {
        self.state.store(COMPLETE, Ordering::Release);
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let _ = self.state.compare_exchange(RUNNING, FAILED, Ordering::AcqRel, Ordering::Acquire);
        // Wakes the reader: it watches the directory. Not a name of an image file, and gone at
        // once; should it fail, the reader looks again by itself.
        let _ = File::create(&self.marker);
        let _ = fs::remove_file(&self.marker);
    }
}

/// Reads an image in pieces while it is being written. Page files are emptied as they are read: an
/// image that was streamed cannot be restored from its source.
#[derive(Debug)]
pub struct ImageReader {
    directory: PathBuf,
    state: Arc<AtomicU8>,
    watch: Watch,
    pages: BTreeMap<String, Follow>,
    /// There may be page files that are not in `pages`.
    new_files: bool,
    /// Files still to be sent once the dump is complete.
    rest: Option<Vec<FileName>>,
    current: Option<Follow>,
    manifest: ImageManifest,
    deadline: Instant,
    limit: Duration,
    cancel: Cancel,
}

#[derive(Debug)]
struct Follow {
    name: FileName,
    file: File,
    sent: u64,
    hasher: Option<Box<blake3::Hasher>>,
}

impl Follow {
    fn open(directory: &Path, name: FileName) -> Result<Self, Error> {
        let path = directory.join(name.as_str());
        // What was read of a page file is freed at once, which takes the right to write.
        let file = File::options()
            .read(true)
            .write(name.is_pages())
            .open(&path)
            .map_err(Error::io("read", &path))?;
        let hasher = (!name.is_pages()).then(|| Box::new(blake3::Hasher::new()));
        Ok(Self { name, file, sent: 0, hasher })
    }

    fn unsent(&self) -> Result<u64, Error> {
        let size = self.file.metadata().map_err(self.error())?.len();
        Ok(size.saturating_sub(self.sent))
    }

    /// The next piece; `None` at the present end.
    fn next(&mut self) -> Result<Option<Extent>, Error> {
        let length = self.unsent()?.min(MAX_EXTENT_BYTES as u64) as usize;
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        let count = self.file.read_at(&mut bytes, self.sent).map_err(self.error())?;
        if count == 0 {
            return Ok(None);
        }
        bytes.truncate(count);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        if self.name.is_pages() {
            self.free(self.sent, count);
        }
        let extent = Extent { file: self.name.as_str().to_owned(), offset: self.sent, bytes };
        self.sent += count as u64;
        Ok(Some(extent))
    }

    /// Gives the memory of what was read back: image and program together would need twice as
    /// much. A file system that cannot do it keeps the file whole.
    fn free(&self, offset: u64, length: usize) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let _ = fallocate(&self.file, flags, offset as i64, length as i64);
    }

    fn error(&self) -> impl FnOnce(std::io::Error) -> Error {
        let path = PathBuf::from(self.name.as_str());
        move |source| Error::Image(ImageError::File { action: "read", path, source })
    }

    fn summary(&self) -> ImageFile {
        ImageFile {
            name: self.name.as_str().to_owned(),
            size: self.sent,
            digest: self.hasher.as_ref().map(|hasher| *hasher.finalize().as_bytes()),
        }
    }
}

impl ImageReader {
    /// Follows the image that will be written into the empty `directory`. Call it before the dump
    /// starts and give the [`Completion`] to whoever runs the dump. All of it must be read within
    /// `limit`.
    pub fn follow(
        directory: &Path,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<(Self, Completion), Error> {
        let watch = Watch::new(directory).map_err(Error::io("watch", directory))?;
        let state = Arc::new(AtomicU8::new(RUNNING));
        let marker = directory.join(".complete");
        let completion = Completion { state: Arc::clone(&state), marker };
        let reader = Self {
            directory: directory.to_owned(),
            state,
            watch,
            pages: BTreeMap::new(),
            new_files: true,
            rest: None,
            current: None,
            manifest: ImageManifest::default(),
            deadline: Instant::now() + limit,
            limit,
            cancel: cancel.clone(),
        };
        Ok((reader, completion))
    }

    /// Waits for the next piece. `None`: the image is complete and all of it was given out;
    /// [`ImageReader::into_manifest`] has the rest.
    ///
    /// # Errors
    /// [`Error::Cancelled`] also when the dump failed (its own error says why),
    /// [`Error::Deadline`].
    pub fn next_extent(&mut self) -> Result<Option<Extent>, Error> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled { task: Task::Dump });
            }
            // The state is read before the files: what was written before it changed is seen.
            match self.state.load(Ordering::Acquire) {
                RUNNING => {
                    if let Some(extent) = self.growing(WORTH_SENDING_BYTES)? {
                        return Ok(Some(extent));
                    }
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::Deadline { task: Task::Dump, limit: self.limit });
                    }
                    self.new_files = self
                        .watch
                        .wait(left.min(RECHECK))
                        .map_err(Error::io("watch", &self.directory))?;
                }
                COMPLETE => return self.remaining(),
                _ => return Err(Error::Cancelled { task: Task::Dump }),
            }
        }
    }

    /// A piece of a page file that has at least `worth` unsent bytes.
    fn growing(&mut self, worth: u64) -> Result<Option<Extent>, Error> {
        let names = if std::mem::take(&mut self.new_files) { self.names()? } else { Vec::new() };
        for name in names {
            if name.is_pages() && !self.pages.contains_key(name.as_str()) {
                let key = name.as_str().to_owned();
                self.pages.insert(key, Follow::open(&self.directory, name)?);
            }
        }
        for follow in self.pages.values_mut() {
            if follow.unsent()? >= worth {
                return follow.next();
            }
        }
        Ok(None)
    }

    /// What is left of a complete image.
    fn remaining(&mut self) -> Result<Option<Extent>, Error> {
        if self.rest.is_none() {
            let mut names = self.names()?;
            names.reverse();
            self.rest = Some(names);
        }
        loop {
            if let Some(current) = &mut self.current {
                if let Some(extent) = current.next()? {
                    return Ok(Some(extent));
                }
                self.manifest.files.push(current.summary());
                self.current = None;
            }
            let Some(name) = self.rest.as_mut().and_then(Vec::pop) else {
                return Ok(None);
            };
            self.current = Some(match self.pages.remove(name.as_str()) {
                Some(follow) => follow,
                None => Follow::open(&self.directory, name)?,
            });
        }
    }

    /// The image's files, sorted; other files in the directory are CRIU's own affairs.
    fn names(&self) -> Result<Vec<FileName>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(Error::io("list", &self.directory))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &self.directory))?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(|text| FileName::parse(text).ok()) {
                names.push(name);
            } else if self.state.load(Ordering::Acquire) == COMPLETE
                && name.as_encoded_bytes().ends_with(b".img")
                && name != NOT_SENT
            {
                let name = name.to_string_lossy().into_owned();
                return Err(ImageError::Name { name }.into());
            }
            if names.len() > MAX_FILES {
                return Err(ImageError::Stream(format!("more than {MAX_FILES} files")).into());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The closing manifest; call it after [`ImageReader::next_extent`] gave `None`.
    pub fn into_manifest(mut self) -> ImageManifest {
        self.manifest.files.sort_by(|a, b| a.name.cmp(&b.name));
        self.manifest
    }
}
