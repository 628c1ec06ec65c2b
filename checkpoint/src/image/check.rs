//! Holds an image against what the app record allows, before CRIU sees a byte of it.
//!
//! A restored program can have exactly what its own user could have had in a capsule of this plan:
//! the app's ids, no capabilities, the capsule's own namespaces and no others, the planned mounts
//! and nothing from outside them. CRIU runs as root and rebuilds what an image says; so what an
//! image may say is decided here, and everything not known to be harmless is refused with the
//! field named.

mod files;
mod mounts;
mod tasks;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;

use super::ImageError;
use super::decode::{Messages, malformed, read};
use super::name::{FileKind, FileName};
use super::users::{IdMaps, read_maps};
use crate::plan::TerminalKey;
use crate::stream::MAX_FILES;

/// What a mount of the capsule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// The root of the tree, given at the restore.
    Root,
    /// Something outside, given at the restore under this key.
    External {
        /// Its name in the image.
        key: String,
    },
    /// Private memory.
    Tmpfs,
    /// The capsule's processes.
    Proc,
    /// The capsule's devices.
    Sysfs,
    /// Private pseudo terminals.
    Devpts,
}

/// A mount the plan has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedMount {
    /// Where, inside; absolute.
    pub inside: PathBuf,
    /// What.
    pub kind: MountKind,
    /// It must be read-only.
    pub read_only: bool,
    /// Device nodes on it may work.
    pub devices: bool,
}

/// What an image may hold: the app record and the capsule's plan in the terms of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// The app's user id inside.
    pub uid: u32,
    /// The app's group id inside.
    pub gid: u32,
    /// The app's further groups inside.
    pub groups: Vec<u32>,
    /// The maps of the capsule at the source.
    pub source_maps: IdMaps,
    /// All mounts of the capsule.
    pub mounts: Vec<AllowedMount>,
    /// The terminal at the source.
    pub terminal: Option<TerminalKey>,
    /// The capsule has a network namespace of its own.
    pub own_network: bool,
    /// Every task runs under the capsule's system call filter.
    pub filtered: bool,
    /// Most tasks, threads counted.
    pub max_tasks: usize,
}

/// What is known of an image that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The number of its user namespace, for [`super::users::rewrite`].
    pub user_ns: u32,
    /// Processes in it.
    pub processes: usize,
    /// Threads in it.
    pub threads: usize,
    /// Bytes of its page files.
    pub page_bytes: u64,
}

/// Checks the image in `directory`, which nobody else can change.
///
/// # Errors
/// The first thing found that is not allowed, with its file and field.
pub fn check(directory: &Path, allowed: &Allowed) -> Result<Checked, ImageError> {
    let image = Image::list(directory)?;
    let namespaces = tasks::namespaces(&image, allowed)?;
    let tasks = tasks::check(&image, allowed, &namespaces)?;
    let mounts = mounts::check(&image, allowed, namespaces.mnt)?;
    files::check(&image, allowed, &mounts, &namespaces)?;
    check_maps(&image, allowed, namespaces.user)?;
    Ok(Checked {
        user_ns: namespaces.user,
        processes: tasks.processes,
        threads: tasks.threads,
        page_bytes: image.page_bytes,
    })
}

/// The files of an image by kind and number.
struct Image {
    directory: PathBuf,
    files: BTreeMap<(FileKind, u32), FileName>,
    page_bytes: u64,
}

impl Image {
    fn list(directory: &Path) -> Result<Self, ImageError> {
        let error =
            |source| ImageError::File { action: "list", path: directory.to_owned(), source };
        let mut image =
            Self { directory: directory.to_owned(), files: BTreeMap::new(), page_bytes: 0 };
        for entry in fs::read_dir(directory).map_err(error)? {
            let entry = entry.map_err(error)?;
            let text = entry.file_name();
            let lossy = text.to_string_lossy();
            let name = FileName::parse(&lossy)?;
            let metadata = entry.metadata().map_err(error)?;
            if !metadata.is_file() {
                return Err(malformed(&name, "it is not a regular file".to_owned()));
            }
            if name.is_pages() {
                image.page_bytes = image.page_bytes.saturating_add(metadata.len());
            }
            image.files.insert((name.kind(), name.number()), name);
            if image.files.len() > MAX_FILES {
                return Err(ImageError::Stream(format!("more than {MAX_FILES} files")));
            }
        }
        Ok(image)
    }

    fn get(&self, kind: FileKind, number: u32) -> Result<&FileName, ImageError> {
        self.files.get(&(kind, number)).ok_or_else(|| ImageError::Malformed {
            file: format!("{kind:?} {number}"),
            reason: "it is missing from the image".to_owned(),
        })
    }

    fn of_kind(&self, kind: FileKind) -> impl Iterator<Item = &FileName> {
        self.files.range((kind, 0)..=(kind, u32::MAX)).map(|(_, name)| name)
    }

    /// The one message of a file that must exist.
    fn one<M: Message + Default>(&self, name: &FileName) -> Result<M, ImageError> {
        Messages::new(name, &read(&self.directory, name)?)?.one()
    }

    /// All messages of a file.
    fn all<M: Message + Default>(&self, name: &FileName) -> Result<Vec<M>, ImageError> {
        Messages::new(name, &read(&self.directory, name)?)?.all()
    }

    /// The first message of a file that goes on with something else.
    fn first<M: Message + Default>(&self, name: &FileName) -> Result<M, ImageError> {
        Messages::new(name, &read(&self.directory, name)?)?
            .next_message()?
            .ok_or_else(|| malformed(name, "it holds nothing".to_owned()))
    }
}

/// A path for a message.
fn shown(path: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(path)
}

/// A refusal; `found` and `wanted` as the user shall read them.
fn refuse<T>(
    name: &FileName,
    field: impl Display,
    found: impl Display,
    wanted: impl Display,
) -> Result<T, ImageError> {
    let short = |text: String| text.chars().take(200).collect();
    Err(ImageError::Refused {
        file: name.as_str().to_owned(),
        field: short(field.to_string()),
        found: short(found.to_string()),
        wanted: short(wanted.to_string()),
    })
}

/// The one user namespace maps what the home said, and nothing else of the machine.
fn check_maps(image: &Image, allowed: &Allowed, user_ns: u32) -> Result<(), ImageError> {
    let name = image.get(FileKind::UserNs, user_ns)?;
    let maps = read_maps(&image.directory, name)?;
    for (field, found, wanted) in [
        ("uid_map", &maps.uids, &allowed.source_maps.uids),
        ("gid_map", &maps.gids, &allowed.source_maps.gids),
    ] {
        if found != wanted {
            return refuse(name, field, format!("{found:?}"), format!("{wanted:?}"));
        }
    }
    match image.of_kind(FileKind::UserNs).find(|other| other.number() != user_ns) {
        Some(other) => refuse(other, "the file", "a second user namespace", "absent"),
        None => Ok(()),
    }
}
