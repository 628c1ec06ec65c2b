//! What a process of Phantom's has from its start: descriptors handed to it, its allocator's ways,
//! the rights of a service.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

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

/// Has the command run with these ids and no way to more rights, in the control group whose
/// `cgroup.procs` is open in `group`, and end with the thread that starts it.
pub fn confine(command: &mut Command, group: OwnedFd, uid: u32, gid: u32, groups: &[u32]) {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid, parent) = (Uid::from_raw(uid), Gid::from_raw(gid), nix::unistd::getpid());
    let confined = move || {
        nix::unistd::write(&group, b"0")?;
        // The guard holds signals back that the service shall hear.
        SigSet::empty().thread_set_mask()?;
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        nix::unistd::setgroups(&groups)?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
        nix::sys::prctl::set_no_new_privs()?;
        // A change of ids would take it back.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        match nix::unistd::getppid() == parent {
            true => Ok(()),
            false => Err(std::io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: between fork and exec it only makes system calls, with memory that was there before.
    unsafe {
        command.pre_exec(confined);
    }
}
