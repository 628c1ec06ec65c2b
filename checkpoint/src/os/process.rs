//! Processes, namespaces and links.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

use super::criu::poll_timeout;

/// A descriptor that becomes readable when the process `pid` has ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Waits until the child `pid` has ended (it may be left to reap), at most `limit`.
pub fn wait_ended(pid: u32, limit: Duration) {
    // An error: it is gone already.
    let Ok(pidfd) = pidfd_open(pid) else { return };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(left)) {
            Err(Errno::EINTR) if !left.is_zero() => {}
            _ => return,
        }
    }
}

/// Makes the command the leader of a session of its own, with no files but the standard three:
/// whoever started this process may have left some open.
pub fn detached(command: &mut Command) {
    // SAFETY: setsid and close_range are async-signal-safe and nothing else runs between fork and
    // exec. Files are marked rather than closed: the one that reports a failed exec is needed.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
            match libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flags) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Brings the loopback link up in the network namespace of `pid`.
pub fn raise_loopback(pid: u32) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let namespace = open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    // A thread of its own: joining a namespace lasts for the thread's life.
    let worker = thread::Builder::new().name("loopback".into()).spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        set_loopback_up()
    })?;
    worker.join().unwrap_or_else(|_| Err(io::Error::other("the helper thread failed")))
}

fn set_loopback_up() -> io::Result<()> {
    let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is valid plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the name and flags of the ifreq, which lives across the call.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
