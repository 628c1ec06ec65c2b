//! What the agent asks of the kernel.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, pipe2};

/// Does what systemd would have done at boot. /proc, /sys and /dev come from the initrd.
pub fn boot() -> anyhow::Result<()> {
    if let Ok(name) = std::fs::read_to_string("/etc/hostname") {
        nix::unistd::sethostname(name.trim()).context("setting the host name")?;
    }
    for (kind, place, options) in [
        ("devpts", "/dev/pts", Some("gid=5,mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", Some("mode=1777")),
        ("cgroup2", "/sys/fs/cgroup", None),
        ("tmpfs", "/tmp", Some("mode=1777")),
    ] {
        std::fs::create_dir_all(place).with_context(|| format!("creating {place}"))?;
        mount(Some(kind), place, Some(kind), MsFlags::MS_NOSUID, options)
            .with_context(|| format!("mounting {place}"))?;
    }
    Ok(())
}

/// A descriptor that becomes readable when a child has ended.
pub fn ended_children() -> anyhow::Result<OwnedFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&set, flags)?;
    Ok(signals.as_fd().try_clone_to_owned()?)
}

/// Reads it empty.
pub fn forget_signals(signals: &OwnedFd) {
    let mut buffer = [0; 4096];
    while nix::unistd::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Opens the port to the host.
pub fn open_port(device: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(device)?.into())
}

/// A pipe: the end that a command reads, and ours, which never blocks.
pub fn pipe_writing() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    make_private_nonblocking(&write)?;
    Ok((read, write))
}

/// A pipe: our end, which never blocks, and the end that a command writes to.
pub fn pipe_reading() -> nix::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    make_private_nonblocking(&read)?;
    Ok((read, write))
}

/// Commands started later do not inherit the descriptor.
pub fn make_private(fd: &OwnedFd) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// The same, and it never blocks.
pub fn make_private_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    make_private(fd)?;
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop)
}

/// Has the command run as this user, leading a session of its own, with its standard input as
/// controlling terminal where that is one.
pub fn lead_session(command: &mut Command, uid: Uid, gid: Gid, terminal: bool) {
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            if terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            let unblocked = SigSet::empty();
            unblocked.thread_set_mask()?;
            if libc::setgroups(1, &raw const gid) != 0
                || libc::setgid(gid) != 0
                || libc::setuid(uid) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

nix::ioctl_none!(reseed_now, b'R', 0x07);

/// Seeds the kernel's random number generator and has it forget what it was seeded with before
/// (random(4): RNDADDENTROPY, RNDRESEEDCRNG).
pub fn reseed(seed: &[u8]) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    // struct rand_pool_info: entropy in bits, size in bytes, the bytes in words.
    let mut info = vec![(seed.len() * 8) as u32, seed.len() as u32];
    info.extend(seed.chunks(4).map(|word| {
        let mut bytes = [0; 4];
        bytes[..word.len()].copy_from_slice(word);
        u32::from_ne_bytes(bytes)
    }));
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    // SAFETY: the descriptor is open, and `info` is a rand_pool_info with as many bytes as it says.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, info.as_ptr()) };
    nix::errno::Errno::result(result)?;
    // SAFETY: the descriptor is open; the request takes no argument.
    unsafe { reseed_now(random.as_raw_fd()) }?;
    Ok(())
}
