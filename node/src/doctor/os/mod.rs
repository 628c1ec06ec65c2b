//! The system calls of the probes: the only place of this module with `unsafe`.
//!
//! Everything here works on private copies (own namespaces, detached mounts, throw-away processes)
//! that end with the value or the thread that holds them.

pub mod bpf;
pub mod command;
pub mod held;
#[cfg(target_arch = "x86_64")]
pub mod kvm;
pub mod memory;
pub mod mount;
pub mod network;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};

/// Turns the result of a raw system call into the library's form.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over the descriptor a raw system call returned.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the caller passes the result of a system call that returns a new descriptor, which
    // nothing else owns; descriptors fit in an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until one of `wanted` has something; false past `deadline`.
pub fn poll_until(wanted: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Rounded up, so that the last fraction of a millisecond is not spent spinning.
        let millis = left.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(wanted, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the kernel lets a seccomp filter answer a call with an error number.
pub fn seccomp_can_answer() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the operation reads one u32 from a valid address and changes nothing.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    })?;
    Ok(())
}
