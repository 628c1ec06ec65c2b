//! Thin wrappers of the system calls the libraries in use do not offer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::poll::{PollFd, PollFlags, PollTimeout};

const OPEN_TREE_CLONE: libc::c_uint = 1;
/// libc's constant does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;

/// Mount attributes (`MOUNT_ATTR_*`).
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const IDMAP: u64 = 0x0010_0000;
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A reference to `path`, which must have no symbolic link in it.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(AT_FDCWD, path, how)?)
}

/// A detached copy of the mount that the open file or folder `place` is on, with `place` as its
/// root.
pub fn open_tree(place: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    // SAFETY: an empty path and numbers.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_open_tree, place.as_raw_fd(), c"".as_ptr(), flags)
    })?;
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sets attributes of the mount `fd`; with a user namespace, maps its ids.
pub fn mount_setattr(
    fd: BorrowedFd<'_>,
    attributes: u64,
    id_map: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut request = [0u64; 4]; // attr_set, attr_clr, propagation, userns_fd
    request[0] = attributes;
    if let Some(namespace) = id_map {
        request[0] |= attr::IDMAP;
        request[3] = namespace.as_raw_fd() as u64;
    }
    // SAFETY: an empty path, and a `struct mount_attr` (four u64) with its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            request.as_ptr(),
            size_of_val(&request),
        )
    })
    .map(drop)
}

/// Attaches a detached mount on `to`.
pub fn move_mount(mount: i32, to: &CStr) -> io::Result<()> {
    // SAFETY: NUL-terminated paths and numbers.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount,
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// A child made by [`clone3`].
pub struct Cloned {
    /// Its process id.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
}

/// Signal number the parent gets when the child ends.
const SIGCHLD: u64 = libc::SIGCHLD as u64;

/// Makes a child in new namespaces (`CLONE_NEW*` in `flags`); `None` in the child.
///
/// All signals are blocked in the child, so that no handler of this process runs there.
///
/// # Safety
/// The process may have other threads, which do not exist in the child while their locks do: the
/// child must do nothing but async-signal-safe work (no allocation) until it execs or ends.
pub unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Cloned>> {
    let mut pidfd: i32 = -1;
    let mut request = [0u64; 11]; // struct clone_args
    request[0] = flags | libc::CLONE_PIDFD as u64;
    request[1] = &raw mut pidfd as u64;
    request[4] = SIGCHLD;
    if let Some(cgroup) = cgroup {
        request[0] |= CLONE_INTO_CGROUP;
        request[10] = cgroup.as_raw_fd() as u64;
    }
    let mut all = nix::sys::signal::SigSet::all();
    let before = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    // SAFETY: no shared memory and no new stack: as fork. The rest is the caller's promise.
    let result = check(unsafe {
        libc::syscall(libc::SYS_clone3, request.as_mut_ptr(), size_of_val(&request))
    });
    if matches!(result, Ok(0)) {
        return Ok(None);
    }
    all = before;
    all.thread_set_mask()?;
    let pid = result? as i32;
    // SAFETY: the kernel has stored a new descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Cloned { pid, pidfd }))
}

/// Waits until `fd` can be read or its other end is gone; false when the time is over.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let millis = PollTimeout::try_from(left.as_millis().saturating_add(1).min(60_000))
            .unwrap_or(PollTimeout::MAX);
        match nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], millis) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
