//! What programs that play a person at a terminal ask of the system.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::pty::Winsize;

/// Makes the command's standard input its controlling terminal.
pub fn own_terminal(command: &mut Command) {
    // SAFETY: between fork and exec only the async-signal-safe setsid and ioctl are called.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

/// Changes a terminal's size.
pub fn resize(terminal: impl AsFd, size: &Winsize) -> std::io::Result<()> {
    // SAFETY: the descriptor is open and `size` is a winsize for the whole call.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) };
    nix::errno::Errno::result(result)?;
    Ok(())
}
