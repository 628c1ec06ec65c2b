//! What desktops need of this machine's kernel.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// A new network namespace. It lives as long as the descriptor, or something in it.
pub fn new_network() -> io::Result<OwnedFd> {
    // A thread of its own, because the caller's stays where it is.
    let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    made.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Has the command run in this network, and end with the thread that starts it.
pub fn bind_to(command: &mut Command, network: &OwnedFd) {
    let network: RawFd = network.as_raw_fd();
    // SAFETY: between fork and exec only the async-signal-safe setns and prctl are called; the
    // descriptor is open in the child because its owner outlives the spawn.
    unsafe {
        command.pre_exec(move || {
            if libc::setns(network, libc::CLONE_NEWNET) != 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// The rate of this machine's time stamp counter in kHz, rounded to a MHz.
pub fn tsc_khz() -> u64 {
    let read = || {
        let at = Instant::now();
        // SAFETY: rdtsc only reads a counter; every x86-64 has it.
        (at, unsafe { std::arch::x86_64::_rdtsc() })
    };
    let (began, first) = read();
    // A measurement, not a wait for something.
    std::thread::sleep(Duration::from_millis(50));
    let (ended, last) = read();
    let khz = (last - first) as f64 / (ended - began).as_secs_f64() / 1e3;
    (khz / 1e3).round() as u64 * 1000
}

/// Random bytes.
pub fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}
