//! Carries a plan out: makes the namespaces, the mounts and the first process.
//!
//! It may be called from a process with threads. What has to run in the new process before its
//! exec is compiled by the parent into a script of plain system calls (see [`super::child`]).

use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use phantom_model::app::OsText;

use super::child::{self, Script};
use super::failure::{Failure, Stage};
use super::prepare::prepare;
use super::sys;
use crate::Error;
use crate::capsule::Capsule;
use crate::ids::{IdMaps, map_text};
use crate::plan::{CONSOLE_PATH, CapsulePlan, INIT_PATH};

/// How long the set-up may take. It needs milliseconds; a hung network file system may hold it up.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET;

/// A capsule that has just been started.
#[derive(Debug)]
pub struct Started {
    /// Its description.
    pub capsule: Capsule,
    /// Its init; readable when it has ended. The caller is its parent and must reap it.
    pub pidfd: OwnedFd,
    /// Its namespaces, which outlive its processes while these are open.
    pub namespaces: Namespaces,
}

/// Namespaces of a capsule, open.
#[derive(Debug)]
pub struct Namespaces {
    /// User namespace.
    pub user: OwnedFd,
    /// Mount namespace.
    pub mount: OwnedFd,
    /// Network namespace.
    pub network: OwnedFd,
}

impl Namespaces {
    /// Those of a process.
    pub fn of(pid: i32) -> io::Result<Self> {
        let open = |name: &str| fs::File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from);
        Ok(Self { user: open("user")?, mount: open("mnt")?, network: open("net")? })
    }
}

/// Starts the capsule of `plan` on the terminal `slave`, in the control group `cgroup` (an open
/// folder of a v2 hierarchy) when there is one. What the plan has served is taken from `served`,
/// where the host's tree is mounted through Phantom's file server. The app's first instruction may
/// have run when this returns. On an error nothing is left behind.
pub fn start(
    plan: &CapsulePlan,
    served: Option<&Path>,
    slave: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Started, Error> {
    let tty = super::pty::identity(slave)?;
    let mut prepared = prepare(plan, served, slave)?;
    let (go, go_writer) = pipe()?;
    let (failure, failure_writer) = pipe()?;
    let texts = Texts::new(plan)?;
    let script = Script {
        root: prepared.root.as_raw_fd(),
        ops: std::mem::take(&mut prepared.ops),
        hostname: plan.hostname.0.clone(),
        console: c_string(OsStr::new(CONSOLE_PATH))?,
        uid: plan.uid,
        gid: plan.gid,
        groups: plan.groups.clone(),
        filter: crate::seccomp::filter(),
        cwd: c_text(&plan.cwd)?,
        program: c_string(OsStr::new(INIT_PATH))?,
        argv: pointers(&texts.argv),
        envp: pointers(&texts.env),
        go: go.as_raw_fd(),
        go_writer: go_writer.as_raw_fd(),
        failure: failure_writer.as_raw_fd(),
    };
    let cloned = clone_first_process(&script, cgroup)?;
    drop((go, failure_writer));
    let pid = cloned.pid;
    let outcome = finish(&cloned, plan, go_writer, failure, &script);
    match outcome {
        Ok(namespaces) => Ok(Started {
            capsule: Capsule::new(
                plan,
                (pid, start_time(pid).unwrap_or(0)),
                prepared.binds,
                tty,
                prepared.notes,
            ),
            pidfd: cloned.pidfd,
            namespaces,
        }),
        Err(error) => {
            end(&cloned);
            Err(error)
        }
    }
}

/// The parent's part after the clone: id maps, go, and the child's verdict.
fn finish(
    cloned: &sys::Cloned,
    plan: &CapsulePlan,
    go_writer: OwnedFd,
    failure: OwnedFd,
    script: &Script,
) -> Result<Namespaces, Error> {
    let clone_failed = |source| Error::Clone { source };
    write_maps(cloned.pid, &plan.ids).map_err(clone_failed)?;
    let namespaces = Namespaces::of(cloned.pid).map_err(clone_failed)?;
    fs::File::from(go_writer).write_all(&[1]).map_err(clone_failed)?;
    if !sys::wait_readable(failure.as_fd(), SETUP_TIMEOUT).map_err(clone_failed)? {
        return Err(Error::SetupTimeout { seconds: SETUP_TIMEOUT.as_secs() });
    }
    let mut bytes = [0; Failure::SIZE];
    match fs::File::from(failure).read_exact(&mut bytes) {
        // Closed without a word: the exec has happened (or the process was killed; the pidfd
        // tells).
        Err(_) => Ok(namespaces),
        Ok(()) => Err(describe(bytes, plan, script)),
    }
}

fn describe(bytes: [u8; Failure::SIZE], plan: &CapsulePlan, script: &Script) -> Error {
    let Some(failure) = Failure::from_bytes(bytes) else {
        let source = io::Error::from(io::ErrorKind::InvalidData);
        return Error::Setup { step: "read the child's report".into(), source };
    };
    let source = io::Error::from_raw_os_error(failure.errno);
    if failure.stage == Stage::WorkingDirectory {
        return Error::WorkingDirectory { cwd: plan.cwd.clone(), reason: source.to_string() };
    }
    let step = match (failure.stage, script.ops.get(failure.index as usize)) {
        (Stage::Op, Some(op)) => op.describe(),
        (stage, _) => stage.describe().to_owned(),
    };
    Error::Setup { step, source }
}

fn clone_first_process(
    script: &Script,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<sys::Cloned, Error> {
    // SAFETY: the child only runs the script, which is async-signal-safe by construction.
    match unsafe { sys::clone3(NAMESPACES as u64, cgroup) } {
        Ok(Some(cloned)) => Ok(cloned),
        Ok(None) => child::run(script),
        Err(source) => Err(Error::Clone { source }),
    }
}

/// Kills and reaps a process that is of no use.
pub(super) fn end(cloned: &sys::Cloned) {
    let pid = nix::unistd::Pid::from_raw(cloned.pid);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(pid, None);
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|errno| Error::Clone { source: errno.into() })
}

fn write_maps(pid: i32, ids: &IdMaps) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/uid_map"), map_text(&ids.uids))?;
    fs::write(format!("/proc/{pid}/gid_map"), map_text(&ids.gids))
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, so count from behind it.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A user namespace with these maps and nobody in it: it carries the id map of mounts.
pub fn id_namespace(ids: &IdMaps) -> Result<OwnedFd, Error> {
    let failed = |source| Error::IdNamespace { source };
    let (wait, release) = pipe()?;
    // SAFETY: the child reads from a pipe and ends, both async-signal-safe.
    let cloned = match unsafe { sys::clone3(libc::CLONE_NEWUSER as u64, None) }.map_err(failed)? {
        Some(cloned) => cloned,
        None => child::wait_and_exit(wait.as_raw_fd(), release.as_raw_fd()),
    };
    let made = write_maps(cloned.pid, ids)
        .and_then(|()| fs::File::open(format!("/proc/{}/ns/user", cloned.pid)));
    end(&cloned);
    made.map(OwnedFd::from).map_err(failed)
}

/// The strings argv and the environment point to.
struct Texts {
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Texts {
    fn new(plan: &CapsulePlan) -> Result<Self, Error> {
        let head = ["init", "--"].map(OsText::from);
        Ok(Self {
            argv: head.iter().chain(&plan.argv).map(c_text).collect::<Result<_, _>>()?,
            env: plan.env.iter().map(c_text).collect::<Result<_, _>>()?,
        })
    }
}

pub(super) fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

pub(super) fn c_text(text: &OsText) -> Result<CString, Error> {
    c_string(text.as_os_str())
}

pub(super) fn c_string(text: &OsStr) -> Result<CString, Error> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::Nul { what: Path::new(text).display().to_string() })
}
