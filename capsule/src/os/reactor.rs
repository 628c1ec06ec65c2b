//! Descriptors of this process in tokio's reactor.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits for a descriptor's readiness. It must be in non-blocking mode.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned and handed over, so it stays open, and the same file, for as
    // long as it is registered.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
}

/// The same for a descriptor that is only ever read.
pub fn register_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
