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

/// A terminal's size: rows and columns; `None` for what is no terminal.
pub fn size(terminal: &impl AsFd) -> Option<(u16, u16)> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and `size` is a winsize for the whole call.
    let result =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}
