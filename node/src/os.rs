//! Descriptors handed to this process when it was started.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes a descriptor over from whoever started this process for exactly this purpose. To be
/// called once for each number, before anything else could have opened a file under it.
pub fn inherited(number: RawFd) -> OwnedFd {
    // SAFETY: the numbers are agreed with the starting process (`phantom up`, or a shim), which
    // opened them for this one alone; nothing here owns them yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}
