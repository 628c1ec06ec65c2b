//! What a dump and a restore are told. Whoever knows the capsule fills these in; nothing here
//! decides anything.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::Error;

/// What a reference out of the capsule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalKind {
    /// A directory the app may write to.
    Writable,
    /// A directory the app may only read.
    ReadOnly,
    /// A device node every Linux host has.
    Device,
    /// The slave of the app's terminal, bound on a path inside.
    Console,
}

/// A mount of the capsule whose content is outside: at the dump it is named, at the restore
/// something is put in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// Mount point inside, absolute.
    pub inside: PathBuf,
    /// Its name in the image: letters, digits, `.`, `-`, `_`.
    pub key: String,
    /// What it is.
    pub kind: ExternalKind,
}

/// The device of the app's terminal slave: how an image names the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TerminalKey {
    /// Device number of the slave (`st_rdev`).
    pub rdev: u64,
    /// Device of the file system the slave is on (`st_dev`).
    pub dev: u64,
}

impl TerminalKey {
    /// The name CRIU gives it.
    pub fn name(self) -> String {
        format!("tty[{:x}:{:x}]", self.rdev, self.dev)
    }
}

/// A dump.
#[derive(Debug, Clone)]
pub struct DumpPlan {
    /// The capsule's first process, as this machine numbers it.
    pub root_pid: u32,
    /// The v2 cgroup that holds exactly the capsule's tasks, frozen by the caller.
    pub cgroup: PathBuf,
    /// The empty directory for the image, on a tmpfs.
    pub images: PathBuf,
    /// The directory for CRIU's log and statistics.
    pub work: PathBuf,
    /// Mounts that stay outside.
    pub externals: Vec<External>,
    /// The terminal, if the app has one.
    pub terminal: Option<TerminalKey>,
    /// The capsule has a network namespace of its own with nothing but loopback in it.
    pub own_network: bool,
    /// Largest unlinked but open file that is taken along, in bytes.
    pub ghost_limit_bytes: u32,
    /// Time for the whole dump.
    pub limit: Duration,
}

/// What an external mount becomes at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided {
    /// The external's name in the image.
    pub key: String,
    /// What is bound there: a path of this machine.
    pub path: PathBuf,
}

/// A restore.
#[derive(Debug)]
pub struct RestorePlan {
    /// The directory with the checked image.
    pub images: PathBuf,
    /// The directory for CRIU's log and statistics.
    pub work: PathBuf,
    /// The root of the capsule: a mount point of this machine.
    pub root: PathBuf,
    /// The v2 cgroup the capsule will live in; it must exist and be empty.
    pub cgroup: PathBuf,
    /// One entry for each external of the image.
    pub externals: Vec<Provided>,
    /// The terminal's name in the image and the new slave.
    pub terminal: Option<(TerminalKey, OwnedFd)>,
    /// As at the dump.
    pub own_network: bool,
    /// Time until the tree is rebuilt and held.
    pub limit: Duration,
}

/// Keys go into option texts of CRIU whose syntax has brackets and colons.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if key.is_empty() || key.len() > 64 || !key.bytes().all(good) {
        return Err(Error::Plan(format!("`{key}` cannot be the key of an external mount")));
    }
    Ok(())
}

/// A path in one of those texts. It may hold anything but what would end it early.
pub(crate) fn bytes_of(path: &Path) -> Result<&[u8], Error> {
    let bytes = path.as_os_str().as_bytes();
    let ends_early = bytes.contains(&0) || bytes.windows(2).any(|pair| pair == b"]:");
    match path.is_absolute() && !ends_early {
        true => Ok(bytes),
        false => Err(Error::Plan(format!(
            "{} cannot be named to CRIU: the path must be absolute and without `]:`",
            path.display()
        ))),
    }
}

/// A path of Phantom's own, which CRIU takes as text.
pub(crate) fn text_of(path: &Path) -> Result<&str, Error> {
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains('\0') => Ok(text),
        _ => Err(Error::Plan(format!(
            "{} cannot be named to CRIU: the path must be absolute UTF-8",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn paths_need_not_be_text_but_may_not_end_their_option() {
        let path = |bytes: &'static [u8]| Path::new(OsStr::from_bytes(bytes));
        for good in [&b"/srv/caf\xe9 a]b:c"[..], b"/", b"/a\nb"] {
            assert_eq!(bytes_of(path(good)).unwrap(), good);
        }
        for bad in [&b"caf\xe9"[..], b"/a]:b", b"/a\0b", b""] {
            assert!(bytes_of(path(bad)).is_err(), "{bad:?}");
        }
        assert!(text_of(path(b"/caf\xe9")).is_err());
    }
}
