//! Namespaces of a thread.

use rustix::thread::UnshareFlags;

/// Gives the calling thread mounts and a working directory of its own.
pub fn own_mounts() -> rustix::io::Result<()> {
    // SAFETY: file descriptors stay shared; only mounts and the working directory are this
    // thread's own now.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }
}
