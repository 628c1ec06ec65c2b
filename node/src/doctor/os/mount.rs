//! FUSE and id-mapped mounts.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CloneFlags, unshare};

use super::{check, descriptor, poll_until};

/// What the kernel says when it greets a FUSE server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FuseGreeting {
    /// Major version of the protocol.
    pub major: u32,
    /// Minor version of the protocol.
    pub minor: u32,
    /// Whether reads and writes can go straight to a local file.
    pub passthrough: bool,
}

/// Mounts a FUSE file system where only this thread sees it, reads the kernel's greeting and
/// unmounts it. The calling thread keeps its own view of the mounts: it must end soon.
pub fn fuse_greeting(limit: Duration) -> io::Result<FuseGreeting> {
    const TARGET: &str = "/proc";
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/fuse")?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("phantom-doctor"), TARGET, Some("fuse"), flags, Some(options.as_str()))?;
    let greeting = read_greeting(&mut device, Instant::now() + limit);
    umount2(TARGET, MntFlags::MNT_DETACH)?;
    greeting
}

/// Reads the first request: `struct fuse_in_header`, then `struct fuse_init_in`.
fn read_greeting(device: &mut File, deadline: Instant) -> io::Result<FuseGreeting> {
    const HEADER: usize = 40;
    const FUSE_INIT: u32 = 26;
    const FUSE_INIT_EXT: u32 = 1 << 30;
    const FUSE_PASSTHROUGH_HIGH: u32 = 1 << (37 - 32);
    if !poll_until(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], deadline)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // The smallest buffer the kernel accepts.
    let mut request = vec![0; 8192];
    let len = device.read(&mut request)?;
    let word = |at: usize| {
        let bytes = request[..len].get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).unwrap_or(0)
    };
    if word(4) != FUSE_INIT {
        return Err(io::Error::other(format!("the first request is number {}", word(4))));
    }
    let (flags, high_flags) = (word(HEADER + 12), word(HEADER + 16));
    Ok(FuseGreeting {
        major: word(HEADER),
        minor: word(HEADER + 4),
        passthrough: flags & FUSE_INIT_EXT != 0 && high_flags & FUSE_PASSTHROUGH_HIGH != 0,
    })
}

/// Owner of `path` as seen through a detached mount of it, mapped by the user namespace `ids`.
pub fn owner_when_mapped(path: &Path, ids: BorrowedFd<'_>) -> io::Result<u32> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is a valid C string; the call returns a new descriptor of a mount that is
    // attached nowhere and goes with it.
    let tree = descriptor(unsafe {
        libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags)
    })?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: ids.as_raw_fd() as u64,
    };
    // SAFETY: an empty path and a structure of the size given, both valid during the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(File::from(tree).metadata()?.uid())
}
