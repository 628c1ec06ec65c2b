//! System calls: thin wrappers over rustix that fix flags and shapes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What every attribute is made from.
const WANTED: StatxFlags =
    StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

/// Opens a reference (`O_PATH`) to the entry `name` of `dir`: never leaves `dir`, never follows a
/// link, never wakes a device or a pipe.
pub fn open_entry(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    beneath(dir, name, flags, Mode::empty())
}

/// Opens the entry `name` of `dir` without leaving `dir` or following a link.
pub fn beneath(dir: impl AsFd, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let resolve = match flags.contains(OFlags::PATH) {
        // With NO_SYMLINKS a reference to a link itself could not be taken; NOFOLLOW and the
        // single component suffice.
        true => resolve - ResolveFlags::NO_SYMLINKS,
        false => resolve,
    };
    loop {
        match openat2(dir.as_fd(), name, flags, mode, resolve) {
            // A rename somewhere else raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Attributes of what `fd` refers to.
pub fn stat_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// Attributes of the entry `name` of `dir`, a link not followed.
pub fn stat_entry(dir: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED)
}

/// Gives the calling thread its own working directory and file mode mask, and sets the mask to
/// zero, so that files get the very modes that were asked for.
pub fn own_file_mode_mask() -> Result<(), Errno> {
    // SAFETY: CLONE_FS only stops sharing the working directory, the root and the mask; file
    // descriptors stay shared, so no thread can see one that is not its own.
    unsafe { unshare_unsafe(UnshareFlags::FS)? };
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// The directory in which this process finds its own open files by number, whatever namespaces
/// it enters later.
#[derive(Debug)]
pub struct SelfFds(OwnedFd);

impl SelfFds {
    /// From the `/proc` this process sees. Where that belongs to another pid namespace, as in a
    /// capsule's mount namespace, it does not show this process: see [`SelfFds::below`].
    ///
    /// # Errors
    /// When `/proc` is not there or does not show this process.
    pub fn open() -> io::Result<Self> {
        Self::at(CWD, c"/proc/self/fd")
    }

    /// From `proc`, a directory on a proc file system of this process's own pid namespace,
    /// opened (`O_PATH` will do) by someone who sees one, and handed to this process.
    ///
    /// # Errors
    /// When `proc` does not show this process.
    pub fn below(proc: impl AsFd) -> io::Result<Self> {
        Self::at(proc, c"self/fd")
    }

    fn at(dir: impl AsFd, path: &CStr) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(dir, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::NOENT) => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "this /proc does not show this process: it is missing or belongs to another pid \
                 namespace; hand the process a directory on its own namespace's /proc",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// The directory; with [`SelfFds::name`] it makes a path to what `fd` refers to.
    pub fn dir(&self) -> &OwnedFd {
        &self.0
    }

    /// The entry of `fd`.
    pub fn name(fd: impl AsFd) -> String {
        fd.as_fd().as_raw_fd().to_string()
    }

    /// Opens what the reference `fd` refers to, with the rights of this process.
    pub fn reopen(&self, fd: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        openat(&self.0, Self::name(fd), flags, Mode::empty())
    }
}

/// Reads until `len` bytes or the end of the file.
pub fn read_at(fd: impl AsFd, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        let at = offset.checked_add(data.len() as u64).ok_or(Errno::INVAL)?;
        match rustix::io::pread(&fd, spare_capacity(&mut data), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(len);
    Ok(data)
}

/// How many files this process may have open.
pub fn file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Lets this process have as many files open as its hard limit allows.
pub fn raise_file_limit() -> Result<(), Errno> {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum })
}
