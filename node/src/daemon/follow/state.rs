//! The state of a followed service: a folder's files as few bytes, and back.
//!
//! The folder belongs to the service, which may do in it what it likes while this looks: nothing that
//! is no regular file or folder of its user's is opened, no link is followed, and all is counted.
//! What lies above the folder must be root's alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use phantom_discovery::machine::follow::{MAX_PACKED, Seen};
use phantom_model::app::OsText;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Files and folders at most.
const MAX_ENTRIES: usize = 512;
const MAX_DEPTH: usize = 16;
/// What all files hold together, before it is packed.
const MAX_BYTES: u64 = 4 << 20;
const MAX_NAME: usize = 255;
/// Links on the way to the folder.
const MAX_LINKS: usize = 16;
/// A folder whose files change while they are read is read so often.
const READINGS: usize = 3;
const UNREST: Duration = Duration::from_millis(50);
/// What has changed this lately may change again without another time of change.
const FRESH: Duration = Duration::from_secs(2);

/// The folder and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// What is in the folder, without what the files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    items: Vec<Item>,
    /// Names of what cannot be taken along.
    left_out: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    path: Vec<u8>,
    is_folder: bool,
    mode: u32,
    bytes: u64,
    /// Seconds and nanoseconds; of a file's last change and of its status'.
    times: [i64; 4],
    inode: u64,
}

/// One file or folder, packed.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// Below the folder; empty for itself.
    path: OsText,
    mode: u32,
    /// `None` for a folder.
    content: Option<Vec<u8>>,
}

impl Folder {
    /// Looks what is there; `last` is what the last look has found, and then what this one has.
    pub fn look(&self, last: &mut Option<Listing>) -> Seen {
        match self.read(last) {
            Ok(Some(packed)) => Seen::Content(packed),
            Ok(None) => Seen::Same,
            Err(error) => Seen::Refused(format!("{error:#}")),
        }
    }

    fn read(&self, last: &mut Option<Listing>) -> anyhow::Result<Option<Vec<u8>>> {
        let mut found = self.list()?;
        if last.as_ref() == Some(&found) {
            return Ok(None);
        }
        *last = None;
        let mut entries = Vec::new();
        for reading in 1..=READINGS {
            entries = self.take(&found)?;
            let again = self.list()?;
            if again == found || reading == READINGS {
                break;
            }
            found = again;
            std::thread::sleep(UNREST);
        }
        let packed = pack(&entries)?;
        ensure!(
            packed.len() <= MAX_PACKED,
            "{} holds {} KiB when packed, and at most {} KiB can be kept",
            self.path.display(),
            packed.len().div_ceil(1024),
            MAX_PACKED / 1024
        );
        if found.is_settled() {
            *last = Some(found);
        }
        Ok(Some(packed))
    }

    fn open(&self) -> anyhow::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        nix::fcntl::open(&self.path, flags, Mode::empty())
            .with_context(|| format!("cannot open {}", self.path.display()))
    }

    fn list(&self) -> anyhow::Result<Listing> {
        let root = self.open()?;
        let mut listing = Listing::default();
        listing.items.push(Item::of(Vec::new(), &fstat(&root)?));
        let mut count = 0;
        self.list_in(root, b"", 0, &mut count, &mut listing)?;
        let bytes: u64 = listing.items.iter().map(|item| item.bytes).sum();
        ensure!(
            bytes <= MAX_BYTES,
            "the files in {} hold {} KiB, and at most {} KiB can be kept",
            self.path.display(),
            bytes.div_ceil(1024),
            MAX_BYTES / 1024
        );
        listing.items.sort_by(|a, b| a.path.cmp(&b.path));
        listing.left_out.sort();
        Ok(listing)
    }

    fn list_in(
        &self,
        folder: OwnedFd,
        below: &[u8],
        depth: usize,
        count: &mut usize,
        listing: &mut Listing,
    ) -> anyhow::Result<()> {
        ensure!(depth < MAX_DEPTH, "{}: its folders are too deep", self.path.display());
        let mut dir = Dir::from_fd(folder)?;
        let names: Vec<_> = dir
            .iter()
            .take(MAX_ENTRIES + 3)
            .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
            .collect::<Result<_, _>>()?;
        for name in names {
            if [&b"."[..], b".."].contains(&name.to_bytes()) {
                continue;
            }
            *count += 1;
            ensure!(
                *count <= MAX_ENTRIES,
                "{} has more than {MAX_ENTRIES} files and folders",
                self.path.display()
            );
            let mut path = below.to_vec();
            if !below.is_empty() {
                path.push(b'/');
            }
            path.extend(name.to_bytes());
            let stat = match fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It has just gone.
                Err(nix::errno::Errno::ENOENT) => continue,
                Err(errno) => bail!("{}: {errno}", self.path.display()),
            };
            match kind(&stat) {
                SFlag::S_IFDIR if stat.st_uid == self.uid => {
                    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    let Ok(inner) = openat(&dir, name.as_c_str(), flags, Mode::empty()) else {
                        continue;
                    };
                    listing.items.push(Item::of(path.clone(), &stat));
                    self.list_in(inner, &path, depth + 1, count, listing)?;
                }
                SFlag::S_IFREG if stat.st_uid == self.uid => {
                    listing.items.push(Item::of(path, &stat));
                }
                _ => listing.left_out.push(String::from_utf8_lossy(&path).into_owned()),
            }
        }
        Ok(())
    }

    /// Reads what was listed; what has gone or become something else since then is left out.
    fn take(&self, listing: &Listing) -> anyhow::Result<Vec<Entry>> {
        let root = self.open()?;
        let mut left = MAX_BYTES;
        let mut entries = Vec::new();
        for item in &listing.items {
            let (path, mode) = (OsText(item.path.clone()), item.mode);
            if item.is_folder {
                entries.push(Entry { path, mode, content: None });
                continue;
            }
            let Some(file) = self.open_file(&root, &item.path)? else { continue };
            let mut content = Vec::new();
            let count = file.take(left + 1).read_to_end(&mut content)? as u64;
            left = left.checked_sub(count).with_context(|| {
                format!("the files in {} grow too large to be kept", self.path.display())
            })?;
            entries.push(Entry { path, mode, content: Some(content) });
        }
        Ok(entries)
    }

    /// Step by step, so that no link is followed.
    fn open_file(&self, root: &OwnedFd, path: &[u8]) -> anyhow::Result<Option<File>> {
        let mut folder = root.try_clone()?;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let is_last = parts.peek().is_none();
            let kind = if is_last { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
            match openat(&folder, part, flags, Mode::empty()) {
                Ok(opened) => folder = opened,
                Err(_) => return Ok(None),
            }
        }
        let stat = fstat(&folder)?;
        let is_its = kind(&stat) == SFlag::S_IFREG && stat.st_uid == self.uid;
        Ok(is_its.then(|| File::from(folder)))
    }

    /// Puts a state in place of what is there, which is kept once as `FOLDER.before`.
    pub fn fill(&self, packed: &[u8]) -> anyhow::Result<()> {
        let entries = unpack(packed).context("what the sub-grid keeps of it makes no sense")?;
        self.real()?.put(&entries)
    }

    fn put(&self, entries: &[Entry]) -> anyhow::Result<()> {
        self.check_own()?;
        let new = self.beside("new");
        remove(&new)?;
        let written = self.write(&new, entries);
        if written.is_err() {
            let _ = remove(&new);
        }
        written.with_context(|| format!("cannot write {}", new.display()))?;
        let before = self.beside("before");
        if self.path.exists() {
            remove(&before)?;
            fs::rename(&self.path, &before)
                .with_context(|| format!("cannot put {} aside", self.path.display()))?;
        }
        fs::rename(&new, &self.path)
            .with_context(|| format!("cannot put its state at {}", self.path.display()))
    }

    /// Makes the folder where it is missing.
    pub fn ensure(&self) -> anyhow::Result<()> {
        let real = self.real()?;
        if real.check_own()? {
            return Ok(());
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&real.path)
            .and_then(|()| real.own(&real.path))
            .with_context(|| format!("cannot make {}", real.path.display()))
    }

    /// Whether it is there; an error when something else is.
    fn check_own(&self) -> anyhow::Result<bool> {
        let found = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found.with_context(|| format!("cannot look at {}", self.path.display()))?,
        };
        ensure!(found.is_dir(), "{} is no folder: move it away", self.path.display());
        ensure!(
            found.uid() == self.uid,
            "{} belongs to user {}, and the service runs as user {}: change one of them",
            self.path.display(),
            found.uid(),
            self.uid
        );
        Ok(true)
    }

    /// The same by a path without links, whose folders above it are there. Nobody but root may change
    /// what lies above: each name is looked at before the next, and what is missing is only made
    /// where all before it is root's.
    fn real(&self) -> anyhow::Result<Self> {
        let (above, name) = self.path.parent().zip(self.path.file_name()).with_context(|| {
            format!("{} is no folder below another: choose another `state`", self.path.display())
        })?;
        let mut real = PathBuf::from("/");
        check_root(&real, &fs::symlink_metadata(&real)?)?;
        let mut names = names_last_first(above);
        let mut links = 0;
        while let Some(part) = names.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(part);
            let found = match fs::symlink_metadata(&next) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::DirBuilder::new()
                        .mode(0o755)
                        .create(&next)
                        .with_context(|| format!("cannot make {}", next.display()))?;
                    fs::symlink_metadata(&next)
                }
                found => found,
            };
            let found = found.with_context(|| format!("cannot look at {}", next.display()))?;
            check_root(&next, &found)?;
            if !found.is_symlink() {
                real = next;
                continue;
            }
            links += 1;
            ensure!(
                links <= MAX_LINKS,
                "{} leads through too many links: choose another `state`",
                self.path.display()
            );
            let target = fs::read_link(&next)
                .with_context(|| format!("cannot look at {}", next.display()))?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            names.extend(names_last_first(&target));
        }
        Ok(Self { path: real.join(name), ..self.clone() })
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{what}"));
        path.into()
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }

    /// Below a folder that is root's alone until all is there.
    fn write(&self, new: &Path, entries: &[Entry]) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(new)?;
        for entry in entries.iter().filter(|entry| !entry.path.0.is_empty()) {
            let path = new.join(entry.path.to_path());
            match &entry.content {
                None => fs::DirBuilder::new().mode(0o700).create(&path)?,
                Some(content) => {
                    let mut options = File::options();
                    let mut file = options.write(true).create_new(true).mode(0o600).open(&path)?;
                    file.write_all(content)?;
                    file.sync_all()?;
                }
            }
        }
        // From the inside out.
        for entry in entries.iter().rev() {
            let path = new.join(entry.path.to_path());
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))?;
            self.own(&path)?;
        }
        Ok(())
    }
}

impl Listing {
    /// Names of what is there and cannot be taken along: links, sockets, files of others.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Whether a later change would show.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let border = now.saturating_sub(FRESH).as_secs();
        self.items.iter().all(|item| {
            u64::try_from(item.times[2].max(item.times[0])).is_ok_and(|time| time < border)
        })
    }
}

impl Item {
    fn of(path: Vec<u8>, stat: &FileStat) -> Self {
        let is_folder = kind(stat) == SFlag::S_IFDIR;
        Self {
            path,
            is_folder,
            mode: stat.st_mode & 0o777,
            bytes: if is_folder { 0 } else { u64::try_from(stat.st_size).unwrap_or(u64::MAX) },
            times: [stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec],
            inode: stat.st_ino,
        }
    }
}

/// Whether nobody but root may change what is at a path.
fn check_root(path: &Path, found: &fs::Metadata) -> anyhow::Result<()> {
    let open = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
    ensure!(
        found.uid() == 0 && (found.is_symlink() || !open),
        "others than root may change {}: choose a `state` below /var/lib, for example",
        path.display()
    );
    ensure!(
        found.is_dir() || found.is_symlink(),
        "{} is no folder: choose another `state`",
        path.display()
    );
    Ok(())
}

/// The parts of a path, the last one first.
fn names_last_first(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    }
    .with_context(|| format!("cannot remove {}", path.display()))
}

fn pack(entries: &[Entry]) -> anyhow::Result<Vec<u8>> {
    let plain = postcard::to_stdvec(entries)?;
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&plain)?;
    Ok(packer.finish()?)
}

/// The entries of a packed state, every folder before what is in it. It may come from anybody.
fn unpack(packed: &[u8]) -> anyhow::Result<Vec<Entry>> {
    ensure!(packed.len() <= MAX_PACKED, "it is too large");
    // What is packed besides what files hold: names, modes, lengths.
    let most = MAX_BYTES + (MAX_ENTRIES * (MAX_DEPTH * (MAX_NAME + 1) + 64)) as u64;
    let mut plain = Vec::new();
    flate2::read::ZlibDecoder::new(packed).take(most + 1).read_to_end(&mut plain)?;
    ensure!(plain.len() as u64 <= most, "it is too large");
    let entries: Vec<Entry> = postcard::from_bytes(&plain)?;
    ensure!(entries.len() <= MAX_ENTRIES + 1, "it has too many files");
    let root = entries.first().context("it is empty")?;
    ensure!(root.path.0.is_empty() && root.content.is_none(), "its folder is missing");
    let mut folders = BTreeSet::from([Vec::new()]);
    let mut known = BTreeSet::from([Vec::new()]);
    for entry in &entries {
        ensure!(entry.mode & !0o777 == 0, "a file with special rights");
    }
    for Entry { path, content, .. } in &entries[1..] {
        let parts: Vec<&[u8]> = path.0.split(|byte| *byte == b'/').collect();
        let sound = |part: &&[u8]| {
            (1..=MAX_NAME).contains(&part.len())
                && ![&b"."[..], b".."].contains(part)
                && !part.contains(&0)
        };
        ensure!(parts.len() <= MAX_DEPTH + 1 && parts.iter().all(sound), "a path that is none");
        let above = path.to_path().parent().map(|it| it.as_os_str().as_bytes().to_vec());
        ensure!(above.is_some_and(|above| folders.contains(&above)), "a file in no folder");
        ensure!(known.insert(path.0.clone()), "a file that is there twice");
        if content.is_none() {
            folders.insert(path.0.clone());
        }
    }
    Ok(entries)
}
