//! A child that does nothing, held to be looked at, and gone with its handle.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::{check, poll_until};

// Flags that only clone3(2) takes: they do not fit in an int.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// A process that only waits to be killed. It shares this process's descriptors, has no signal
/// handlers, sends no signal when it ends, and dies with the thread that made it.
pub struct Held {
    pid: libc::pid_t,
    pidfd: OwnedFd,
}

impl Held {
    /// Starts one with the given namespaces (`CLONE_NEW…`), in the given cgroup if any.
    pub fn start(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let mut pidfd: i32 = -1;
        // SAFETY: all fields are numbers, for which zero is valid and means "none".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags =
            (libc::CLONE_PIDFD | libc::CLONE_FILES | namespaces) as u64 | CLONE_CLEAR_SIGHAND;
        args.pidfd = &raw mut pidfd as u64;
        if let Some(cgroup) = cgroup {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: without CLONE_VM the child gets a copy of this address space, like fork(2); the
        // structure is valid for the size given.
        let result = unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>())
        };
        if result == 0 {
            // SAFETY: in a copy of a process with threads only async-signal-safe calls are
            // allowed: these are, and this never returns.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
        }
        let pid = check(result)? as libc::pid_t;
        // SAFETY: CLONE_PIDFD stored a new descriptor here, which nothing else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid, pidfd })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it ended within `limit`.
    pub fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let mut wanted = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        poll_until(&mut wanted, Instant::now() + limit)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: a signal to our own child by its descriptor, without extra information.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        // A child without an exit signal is only seen with __WALL.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), flags);
    }
}
