//! Starts the processes that serve files: with exactly the app's rights and view, which lives on
//! when the capsule's own processes have left for another host, or with those of its user.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::rights::{self, done};
use super::spawn::{Namespaces, c_text, pointers};
use super::sys;
use crate::Error;
use crate::capsule::Capsule;
use phantom_model::Credentials;
use phantom_model::app::OsText;

/// How long entering the namespaces and the exec may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The first number of what is handed on.
const FIRST_FD: RawFd = 3;

/// What the process may do and see. Nothing in it has a capability.
#[derive(Debug, Clone, Copy)]
pub struct Rights<'a> {
    uid: u32,
    gid: u32,
    groups: &'a [u32],
    namespaces: Option<&'a Namespaces>,
}

impl<'a> Rights<'a> {
    /// Those of the capsule's app.
    pub fn of_app(capsule: &'a Capsule, namespaces: &'a Namespaces) -> Self {
        let Capsule { uid, gid, groups, .. } = capsule;
        Self { uid: *uid, gid: *gid, groups, namespaces: Some(namespaces) }
    }

    /// Those of a user of this host, who sees what the caller sees.
    pub fn of_user(user: &'a Credentials) -> Self {
        Self { uid: user.uid, gid: user.gid, groups: &user.groups, namespaces: None }
    }
}

/// What to run.
#[derive(Debug)]
pub struct ServerCommand {
    /// The program, open (for example `/proc/self/exe`); it need not be visible inside.
    pub program: File,
    /// Its arguments, with the name first.
    pub argv: Vec<OsText>,
    /// Its environment.
    pub env: Vec<OsText>,
    /// Descriptors it gets as 3, 4 …, in this order. Standard input and output are /dev/null,
    /// standard error is the caller's.
    pub fds: Vec<OwnedFd>,
}

/// A server that runs. It is a child of the caller, which must reap it, and in the caller's pid
/// namespace and control groups. It ends when its sockets do: let it end itself at end of file.
#[derive(Debug)]
pub struct Server {
    /// Its process id.
    pub pid: i32,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
}

struct ServerScript {
    /// Namespaces to enter, if any.
    user: Option<RawFd>,
    mount: Option<RawFd>,
    null: RawFd,
    program: RawFd,
    fds: Vec<RawFd>,
    uid: u32,
    gid: u32,
    groups: Vec<libc::gid_t>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    failure: RawFd,
}

/// The steps, as they go over the pipe.
const STEPS: [&str; 6] = [
    "enter the user namespace",
    "enter the mount namespace",
    "drop rights",
    "become the user",
    "pass the descriptors",
    "start the program",
];

/// Starts `command` with these rights.
pub fn start(rights: Rights<'_>, command: ServerCommand) -> Result<Server, Error> {
    let wrong = |step: &'static str| move |source: io::Error| Error::FileServer { step, source };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(wrong("open /dev/null"))?;
    let (failure, failure_writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| wrong("make a pipe")(errno.into()))?;
    let argv: Vec<CString> = command.argv.iter().map(c_text).collect::<Result<_, _>>()?;
    let env: Vec<CString> = command.env.iter().map(c_text).collect::<Result<_, _>>()?;
    // Copies above the numbers that are given out, so that none overwrites another.
    let lowest = FIRST_FD + RawFd::try_from(command.fds.len()).unwrap_or(RawFd::MAX - FIRST_FD);
    let copy = |fd: &dyn AsFd| above(fd.as_fd(), lowest).map_err(wrong("copy a descriptor"));
    let user = rights.namespaces.map(|spaces| copy(&spaces.user)).transpose()?;
    let mount = rights.namespaces.map(|spaces| copy(&spaces.mount)).transpose()?;
    let [null, program, report] = [copy(&null)?, copy(&command.program)?, copy(&failure_writer)?];
    let fds = command.fds.iter().map(|fd| copy(fd)).collect::<Result<Vec<_>, _>>()?;
    let script = ServerScript {
        user: user.as_ref().map(AsRawFd::as_raw_fd),
        mount: mount.as_ref().map(AsRawFd::as_raw_fd),
        null: null.as_raw_fd(),
        program: program.as_raw_fd(),
        fds: fds.iter().map(AsRawFd::as_raw_fd).collect(),
        uid: rights.uid,
        gid: rights.gid,
        groups: rights.groups.to_vec(),
        argv: pointers(&argv),
        envp: pointers(&env),
        failure: report.as_raw_fd(),
    };
    // SAFETY: the child only runs the script, which is async-signal-safe by construction.
    let cloned = match unsafe { sys::clone3(0, None) }.map_err(wrong("start a process"))? {
        Some(cloned) => cloned,
        None => run(&script),
    };
    // The pipe ends when the child's copies do.
    drop((failure_writer, report));
    match verdict(failure) {
        Ok(()) => Ok(Server { pid: cloned.pid, pidfd: cloned.pidfd }),
        Err((step, source)) => {
            super::spawn::end(&cloned);
            Err(Error::FileServer { step, source })
        }
    }
}

fn verdict(failure: OwnedFd) -> Result<(), (&'static str, io::Error)> {
    let waiting = std::os::fd::AsFd::as_fd(&failure);
    match sys::wait_readable(waiting, START_TIMEOUT) {
        Ok(true) => {}
        Ok(false) => return Err(("wait for it", io::ErrorKind::TimedOut.into())),
        Err(error) => return Err(("wait for it", error)),
    }
    let mut bytes = [0; 5];
    if File::from(failure).read_exact(&mut bytes).is_err() {
        return Ok(());
    }
    let [step, a, b, c, d] = bytes;
    let error = io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d]));
    Err((STEPS.get(usize::from(step)).copied().unwrap_or("set it up"), error))
}

/// In the child; never returns, allocates or panics.
fn run(script: &ServerScript) -> ! {
    let (step, error) = follow(script);
    let [a, b, c, d] = error.raw_os_error().unwrap_or(0).to_le_bytes();
    let bytes = [step, a, b, c, d];
    // SAFETY: a pointer with its length; then the process ends without running anything else.
    unsafe {
        libc::write(script.failure, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(125)
    }
}

fn follow(script: &ServerScript) -> (u8, io::Error) {
    let steps: [&dyn Fn() -> io::Result<()>; 5] = [
        &|| enter(script.user, libc::CLONE_NEWUSER),
        &|| enter(script.mount, libc::CLONE_NEWNS),
        &rights::drop_bounding_set,
        &|| rights::take_ids(script.uid, script.gid, &script.groups),
        &|| pass_fds(script),
    ];
    for (step, number) in steps.iter().zip(0u8..) {
        if let Err(error) = step() {
            return (number, error);
        }
    }
    rights::reset_signals();
    // SAFETY: an open program, an empty path, NULL-terminated lists the parent's copy keeps.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            script.program,
            c"".as_ptr(),
            script.argv.as_ptr(),
            script.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    (5, io::Error::last_os_error())
}

fn enter(namespace: Option<RawFd>, kind: libc::c_int) -> io::Result<()> {
    match namespace {
        // SAFETY: numbers.
        Some(namespace) => done(unsafe { libc::setns(namespace, kind) }),
        None => Ok(()),
    }
}

/// Gives the descriptors their numbers; everything else is closed by the exec.
fn pass_fds(script: &ServerScript) -> io::Result<()> {
    // SAFETY: numbers. No source has a number that is a target, see `above`.
    unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_uint;
        done(libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flags) as libc::c_int)?;
        done(libc::dup2(script.null, 0))?;
        done(libc::dup2(script.null, 1))?;
        for (fd, number) in script.fds.iter().zip(FIRST_FD..) {
            done(libc::dup2(*fd, number))?;
        }
    }
    Ok(())
}

/// A copy of `fd` with a number that is not below `lowest`.
fn above(fd: impl AsFd, lowest: RawFd) -> io::Result<OwnedFd> {
    let copy = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the call has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
