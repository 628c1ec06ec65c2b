//! Pairs of pseudo terminals and the raw operations on them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::OFlag;
use phantom_model::TermSize;

use crate::Error;
use crate::capsule::TtyIdentity;

/// A master and its slave.
#[derive(Debug)]
pub struct PtyPair {
    /// The side of the shim.
    pub master: OwnedFd,
    /// The side of the app. Keep it open until the app has it, and while it is being restored.
    pub slave: OwnedFd,
    /// The slave's path on this host.
    pub slave_path: std::path::PathBuf,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Terminal { action, source }
}

/// Makes a pair of the given size whose slave belongs to `uid` and `gid` of this host, readable
/// and writable for the owner, writable for the group.
pub fn open_pair(uid: u32, gid: u32, size: TermSize) -> Result<PtyPair, Error> {
    let opened = nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .map_err(|errno| failed("open a pseudo terminal")(errno.into()))?;
    nix::pty::unlockpt(&opened)
        .map_err(|errno| failed("unlock a pseudo terminal")(errno.into()))?;
    let slave_path = nix::pty::ptsname_r(&opened)
        .map_err(|errno| failed("name a pseudo terminal")(errno.into()))?
        .into();
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: numbers; the result is checked.
    let fd = unsafe { libc::ioctl(opened.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(failed("open the slave of a pseudo terminal")(io::Error::last_os_error()));
    }
    // SAFETY: the call has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(fd) };
    let uid_gid = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
    nix::unistd::fchown(&slave, Some(uid_gid.0), Some(uid_gid.1))
        .map_err(|errno| failed("give the terminal to the app")(errno.into()))?;
    nix::sys::stat::fchmod(&slave, nix::sys::stat::Mode::from_bits_truncate(0o620))
        .map_err(|errno| failed("set the terminal's permissions")(errno.into()))?;
    // SAFETY: the descriptor is moved out of `opened`, which owned it.
    let master = unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(opened)) };
    set_size(master.as_fd(), size)?;
    Ok(PtyPair { master, slave, slave_path })
}

/// Which terminal a slave is.
pub fn identity(slave: BorrowedFd<'_>) -> Result<TtyIdentity, Error> {
    let copy = slave.try_clone_to_owned().map_err(failed("look at the terminal"))?;
    let meta = File::from(copy).metadata().map_err(failed("look at the terminal"))?;
    Ok(TtyIdentity { rdev: meta.rdev(), dev: meta.dev() })
}

/// Sets the size; the app gets SIGWINCH when it differs.
pub fn set_size(tty: BorrowedFd<'_>, size: TermSize) -> Result<(), Error> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads the struct.
    match unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(failed("set the terminal's size")(io::Error::last_os_error())),
    }
}

/// The size now.
pub fn size(tty: BorrowedFd<'_>) -> Result<TermSize, Error> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl writes the struct.
    match unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } {
        0 => Ok(TermSize { rows: size.ws_row, cols: size.ws_col }),
        _ => Err(failed("read the terminal's size")(io::Error::last_os_error())),
    }
}

/// Opens the slave of a master, not to be waited for.
pub fn open_slave(master: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: numbers; the result is checked.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if fd < 0 {
        return Err(failed("open the slave of a pseudo terminal")(io::Error::last_os_error()));
    }
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The terminal's settings.
pub fn get_termios(tty: BorrowedFd<'_>) -> io::Result<libc::termios> {
    // SAFETY: `termios` is plain data for which zeros are valid; the call fills it.
    unsafe {
        let mut termios: libc::termios = std::mem::zeroed();
        check(libc::tcgetattr(tty.as_raw_fd(), &raw mut termios))?;
        Ok(termios)
    }
}

/// Changes the terminal's settings, at once.
pub fn set_termios(tty: BorrowedFd<'_>, termios: &libc::termios) -> io::Result<()> {
    // SAFETY: the call reads the struct.
    check(unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, termios) })
}

/// Puts one byte through the line discipline as if it had been typed, before this returns: what
/// is written to a master instead is processed some time later. Needs CAP_SYS_ADMIN.
pub(crate) fn type_byte(slave: BorrowedFd<'_>, byte: u8) -> io::Result<()> {
    // SAFETY: the ioctl reads one byte.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSTI, &raw const byte) })
}

/// Suspends (`TCOOFF`) or resumes (`TCOON`) output.
pub(crate) fn flow(slave: BorrowedFd<'_>, action: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers.
    check(unsafe { libc::tcflow(slave.as_raw_fd(), action) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether output can be written now.
pub(crate) fn is_writable(slave: BorrowedFd<'_>) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout};
    let mut fds = [PollFd::new(slave, PollFlags::POLLOUT)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)))
}

/// How many bytes of input wait.
#[cfg(test)]
pub(crate) fn waiting(tty: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut count = 0;
    // SAFETY: the ioctl writes one int.
    match unsafe { libc::ioctl(tty.as_raw_fd(), libc::FIONREAD, &raw mut count) } {
        0 => Ok(count),
        _ => Err(io::Error::last_os_error()),
    }
}
