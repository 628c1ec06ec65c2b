//! What a process of Phantom's has from its start: descriptors handed to it, its allocator's ways.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes a descriptor over from whoever started this process for exactly this purpose. To be
/// called once for each number, before anything else could have opened a file under it.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the numbers are agreed with the starting process (`phantom up`, or a shim), which
    // opened them for this one alone; nothing here owns them yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Keeps the allocator to two places that threads share. By itself it gives every thread one of its
/// own, and each keeps as much as a transfer ever needed there: six megabytes a thread for a daemon
/// that passes images on. To be called before there are threads.
pub fn share_memory_between_threads() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and no other thread allocates while it sets one.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2);
    }
}
