//! The capsule's first process between its clone and the exec of init.
//!
//! It is made from a process that may have other threads, so nothing here allocates, takes a lock
//! or panics: all texts and lists are made by the parent before ([`Script`]), and what goes wrong
//! is told over a pipe as a [`Failure`].

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;

use super::failure::{Failure, Stage};
use super::prepare::Op;
use super::rights::{done, drop_bounding_set, reset_signals, take_ids};
use super::sys;

/// Where the new root is put together before it becomes the root. Every system has this folder,
/// everyone may search it, and what is below it is not needed again.
const STAGING: &CStr = c"/proc";

/// Everything the child does, prepared by the parent.
pub(super) struct Script {
    /// The root mount.
    pub root: RawFd,
    /// The steps after it.
    pub ops: Vec<Op>,
    /// Name of the machine.
    pub hostname: Vec<u8>,
    /// The terminal, inside.
    pub console: CString,
    /// Ids inside.
    pub uid: u32,
    /// Ids inside.
    pub gid: u32,
    /// Ids inside.
    pub groups: Vec<libc::gid_t>,
    /// The system-call filter.
    pub filter: Vec<libc::sock_filter>,
    /// Working directory, inside.
    pub cwd: CString,
    /// The init.
    pub program: CString,
    /// NULL-terminated, pointing to strings the parent keeps.
    pub argv: Vec<*const libc::c_char>,
    /// NULL-terminated, pointing to strings the parent keeps.
    pub envp: Vec<*const libc::c_char>,
    /// Becomes readable when the id maps are written; closed without a byte when all is off.
    pub go: RawFd,
    /// The write end of `go`, open here too until it is closed.
    pub go_writer: RawFd,
    /// Takes a [`Failure`]; closed by a successful exec.
    pub failure: RawFd,
}

/// What failed: a stage, and for [`Stage::Op`] which.
type Wrong = (Stage, u32, io::Error);

/// Runs the script; never returns.
pub(super) fn run(script: &Script) -> ! {
    let (stage, index, error) = match follow(script) {
        Ok(never) => match never {},
        Err(wrong) => wrong,
    };
    let failure = Failure { stage, index, errno: error.raw_os_error().unwrap_or(0) };
    let bytes = failure.to_bytes();
    // SAFETY: a pointer with its length; then the process ends without running anything else.
    unsafe {
        libc::write(script.failure, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(125)
    }
}

enum Never {}

fn follow(script: &Script) -> Result<Never, Wrong> {
    let at = |stage: Stage| move |error: io::Error| (stage, 0, error);
    wait_for_go(script).map_err(at(Stage::Start))?;
    inside_root().map_err(at(Stage::InsideRoot))?;
    // SAFETY: takes nothing.
    done(unsafe { libc::setsid() }).map_err(at(Stage::Session))?;
    private_mounts().map_err(at(Stage::PrivateMounts))?;
    take_root(script.root).map_err(at(Stage::Root))?;
    for (op, index) in script.ops.iter().zip(0u32..) {
        perform(op).map_err(|error| (Stage::Op, index, error))?;
    }
    leave_old_root().map_err(at(Stage::LeaveOldRoot))?;
    // SAFETY: a pointer with its length.
    done(unsafe { libc::sethostname(script.hostname.as_ptr().cast(), script.hostname.len()) })
        .map_err(at(Stage::Hostname))?;
    loopback_up().map_err(at(Stage::Loopback))?;
    open_console(script).map_err(at(Stage::Console))?;
    install_filter(&script.filter).map_err(at(Stage::Filter))?;
    become_user(script).map_err(at(Stage::User))?;
    // SAFETY: a NUL-terminated path.
    done(unsafe { libc::chdir(script.cwd.as_ptr()) }).map_err(at(Stage::WorkingDirectory))?;
    reset_signals();
    // SAFETY: NUL-terminated path, NULL-terminated lists of strings the parent keeps alive.
    unsafe { libc::execve(script.program.as_ptr(), script.argv.as_ptr(), script.envp.as_ptr()) };
    Err((Stage::Exec, 0, io::Error::last_os_error()))
}

fn wait_for_go(script: &Script) -> io::Result<()> {
    let mut byte = 0u8;
    // SAFETY: our own copy of a descriptor; a one-byte buffer.
    let read = unsafe {
        libc::close(script.go_writer);
        libc::read(script.go, (&raw mut byte).cast(), 1)
    };
    match read {
        1 => Ok(()),
        0 => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The clone still has the ids of the host's root, which the capsule does not know.
fn inside_root() -> io::Result<()> {
    // SAFETY: numbers; the empty list may be NULL. The raw calls act on this thread, the only one.
    unsafe {
        done(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) as libc::c_int)?;
        done(libc::syscall(libc::SYS_setresgid, 0, 0, 0) as libc::c_int)?;
        done(libc::syscall(libc::SYS_setresuid, 0, 0, 0) as libc::c_int)?;
        libc::umask(0);
    }
    Ok(())
}

fn private_mounts() -> io::Result<()> {
    new_mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)
}

fn new_mount(
    source: &CStr,
    to: &CStr,
    fstype: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> io::Result<()> {
    let fstype = fstype.map_or(std::ptr::null(), CStr::as_ptr);
    let data = data.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: NUL-terminated strings or NULL.
    done(unsafe { libc::mount(source.as_ptr(), to.as_ptr(), fstype, flags, data.cast()) })
}

/// Makes the prepared mount the root and leaves the old root mounted on top of it: a fresh proc
/// and sysfs can only be had while the host's are still there to be seen.
fn take_root(root: RawFd) -> io::Result<()> {
    sys::move_mount(root, STAGING)?;
    // SAFETY: NUL-terminated paths.
    unsafe {
        done(libc::chdir(STAGING.as_ptr()))?;
        done(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as libc::c_int)?;
    }
    Ok(())
}

fn leave_old_root() -> io::Result<()> {
    // SAFETY: NUL-terminated paths. The old root is on top of the new one; "." leads to it.
    unsafe {
        done(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        done(libc::chdir(c"/".as_ptr()))
    }
}

fn perform(op: &Op) -> io::Result<()> {
    match op {
        Op::Attach { mount, to } => sys::move_mount(*mount, to),
        Op::Mount { fstype, to, flags, data } => {
            new_mount(fstype, to, Some(fstype), *flags, Some(data))
        }
        Op::Folder { path, mode, owner } => {
            // SAFETY: NUL-terminated paths and numbers.
            unsafe {
                done(libc::mkdir(path.as_ptr(), *mode))?;
                match owner {
                    Some((uid, gid)) => done(libc::chown(path.as_ptr(), *uid, *gid)),
                    None => Ok(()),
                }
            }
        }
        Op::Symlink { target, path } => {
            // SAFETY: NUL-terminated paths.
            done(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })
        }
        Op::File { path, mode, content } => write_file(path, *mode, content),
    }
}

fn write_file(path: &CStr, mode: libc::mode_t, mut content: &[u8]) -> io::Result<()> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    // SAFETY: a NUL-terminated path and numbers.
    let fd = unsafe { libc::open(path.as_ptr(), flags, mode) };
    done(fd)?;
    while !content.is_empty() {
        // SAFETY: a pointer with its length.
        let written = unsafe { libc::write(fd, content.as_ptr().cast(), content.len()) };
        if written <= 0 {
            return Err(io::Error::last_os_error());
        }
        content = content.get(written as usize..).unwrap_or(&[]);
    }
    // SAFETY: our own descriptor.
    done(unsafe { libc::close(fd) })
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which zeros are valid; the ioctl reads it.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        done(socket)?;
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let result = done(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request));
        libc::close(socket);
        result
    }
}

/// Descriptors 0 to 2 are the terminal as opened in here; all others end at the exec.
fn open_console(script: &Script) -> io::Result<()> {
    // SAFETY: a NUL-terminated path and numbers. Nothing but `failure` is used after this.
    unsafe {
        let fd = libc::open(script.console.as_ptr(), libc::O_RDWR | libc::O_NOCTTY);
        done(fd)?;
        for target in 0..3 {
            if fd != target {
                done(libc::dup2(fd, target))?;
            }
        }
        // Marked rather than closed: `failure` must last until the exec.
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        done(libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flags) as libc::c_int)
    }
}

/// With CAP_SYS_ADMIN still held the filter needs no `no_new_privs`, which the app would notice.
fn install_filter(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which only reads it.
    done(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    } as libc::c_int)
}

/// Takes the user's ids and gives up every capability, for good.
fn become_user(script: &Script) -> io::Result<()> {
    drop_bounding_set()?;
    take_ids(script.uid, script.gid, &script.groups)
}

/// Waits until the other end of a pipe is closed, then ends: keeps a namespace alive meanwhile.
pub(super) fn wait_and_exit(pipe: RawFd, writer: RawFd) -> ! {
    let mut byte = 0u8;
    // SAFETY: our own copies of descriptors, a one-byte buffer, and the end.
    unsafe {
        libc::close(writer);
        libc::read(pipe, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
