//! The CRIU program, driven through its RPC protocol: one `criu swrk` process per operation, a
//! SEQPACKET socket, a deadline on every wait.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, sendmsg, shutdown, socketpair,
};
use prost::Message;

use super::rpc;
use crate::cancel::Cancel;
use crate::error::{Error, Task};

/// What is said when CRIU dies.
const ENDED: &str = "CRIU ended without an answer";
/// Longest answer taken from CRIU.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// How long a CRIU that was asked to give up may take to put the tree back as it was.
const UNWIND_LIMIT: Duration = Duration::from_secs(5);
/// How long a killed CRIU may take to disappear.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// Where distributions and `make install` put CRIU.
const USUAL_PLACES: [&str; 4] =
    ["/usr/local/sbin/criu", "/usr/sbin/criu", "/usr/local/bin/criu", "/usr/bin/criu"];

/// The CRIU program of this machine.
#[derive(Debug, Clone)]
pub struct Criu {
    program: PathBuf,
}

/// Which release CRIU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 4 of 4.2.1.
    pub major: u32,
    /// 2 of 4.2.1.
    pub minor: u32,
    /// 1 of 4.2.1.
    pub sublevel: u32,
}

impl Version {
    /// The oldest release that saves what Phantom runs.
    pub const MINIMUM: Version = Version { major: 4, minor: 2, sublevel: 0 };

    /// `major * 10000 + minor * 100 + sublevel`, as node facts carry it.
    pub fn as_number(self) -> u32 {
        self.major * 10_000 + self.minor * 100 + self.sublevel
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.sublevel)
    }
}

impl Criu {
    /// The CRIU at `program`; nothing is checked before the first use.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// The first of `preferred` and the usual places that exists.
    pub fn find<'a>(preferred: impl IntoIterator<Item = &'a Path>) -> Result<Self, Error> {
        let places: Vec<&Path> =
            preferred.into_iter().chain(USUAL_PLACES.iter().map(Path::new)).collect();
        match places.iter().find(|place| place.is_file()) {
            Some(place) => Ok(Self::at(*place)),
            None => {
                let looked: Vec<_> =
                    places.iter().map(|place| place.display().to_string()).collect();
                Err(Error::NotFound { looked_at: looked.join(", ") })
            }
        }
    }

    /// Where the program is.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Asks for the version.
    pub fn version(&self, limit: Duration) -> Result<Version, Error> {
        let request = rpc::Request { kind: rpc::Kind::Version as i32, ..Default::default() };
        let response = self.ask(Task::Version, &request, limit)?;
        let version = response.version.ok_or_else(|| Error::Conversation {
            task: Task::Version,
            reason: "the answer has no version".into(),
        })?;
        let part = |number: i32| u32::try_from(number).unwrap_or(0);
        Ok(Version {
            major: part(version.major),
            minor: part(version.minor),
            sublevel: part(version.sublevel.unwrap_or(0)),
        })
    }

    /// Asks which of soft-dirty tracking and userfaultfd work here.
    pub fn features(&self, limit: Duration) -> Result<rpc::Features, Error> {
        let request = rpc::Request {
            kind: rpc::Kind::FeatureCheck as i32,
            features: Some(rpc::Features { mem_track: Some(true), lazy_pages: Some(true) }),
            ..Default::default()
        };
        Ok(self.ask(Task::Features, &request, limit)?.features.unwrap_or_default())
    }

    /// Whether it gives running children their controlling terminal back: `xtask/criu` carries the
    /// patch that does, and makes it known as this feature.
    pub fn restores_job_control(&self) -> bool {
        Command::new(&self.program)
            .args(["check", "--feature", "ext_ctl_tty"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn ask(
        &self,
        task: Task,
        request: &rpc::Request,
        limit: Duration,
    ) -> Result<rpc::Response, Error> {
        let mut session = Session::start(self, task, &Surroundings::default())?;
        session.send(request)?;
        let response = session.receive(Instant::now() + limit, limit, &Cancel::never())?;
        if !response.success {
            return Err(Error::Conversation { task, reason: response_text(&response) });
        }
        Ok(response)
    }
}

fn response_text(response: &rpc::Response) -> String {
    match (&response.message, response.errno) {
        (Some(text), _) => text.clone(),
        (None, Some(errno)) => Errno::from_raw(errno).desc().to_owned(),
        (None, None) => "no reason given".to_owned(),
    }
}

/// What the CRIU process gets from its parent.
#[derive(Default)]
pub struct Surroundings<'a> {
    /// The v2 cgroup it starts in, and with it all it restores.
    pub cgroup: Option<&'a Path>,
    /// Descriptors it inherits under their own numbers.
    pub inherit: &'a [BorrowedFd<'a>],
    /// A /tmp of its own, in a mount namespace of its own: CRIU leaves folders in /tmp when a
    /// restore fails.
    pub private_tmp: bool,
    /// Writing beyond a file size limit gives an error instead of a deadly signal: with it a
    /// running dump can be made to fail in an orderly way.
    pub ignore_file_size_signal: bool,
}

/// One running `criu swrk`. Dropping it kills the process.
pub struct Session {
    task: Task,
    child: Child,
    /// Readable when the process has ended. Its socket alone does not tell: what it restores
    /// inherits the other end.
    ended: OwnedFd,
    socket: OwnedFd,
}

impl Session {
    /// Starts the process.
    pub fn start(criu: &Criu, task: Task, around: &Surroundings<'_>) -> Result<Self, Error> {
        let fail = |source: io::Error| Error::Start { program: criu.program.clone(), source };
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|errno| fail(errno.into()))?;
        let procs = match around.cgroup {
            Some(path) => {
                Some(fs::OpenOptions::new().write(true).open(path.join("cgroup.procs")).map_err(
                    |source| Error::Cgroup { action: "enter", path: path.to_owned(), source },
                )?)
            }
            None => None,
        };
        let keep: Vec<RawFd> =
            around.inherit.iter().map(AsRawFd::as_raw_fd).chain([theirs.as_raw_fd()]).collect();
        let procs_fd = procs.as_ref().map(AsRawFd::as_raw_fd);
        let (ignore_file_size, private_tmp) = (around.ignore_file_size_signal, around.private_tmp);
        let mut command = Command::new(&criu.program);
        command
            .arg("swrk")
            .arg(theirs.as_raw_fd().to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: the closure runs between fork and exec and calls only async-signal-safe
        // functions (unshare, mount, fcntl, write, signal, setsid); it does not allocate.
        unsafe {
            command.pre_exec(move || {
                if private_tmp {
                    hide_tmp()?;
                }
                prepare_child(&keep, procs_fd, ignore_file_size)
            });
        }
        let mut child = command.spawn().map_err(fail)?;
        match super::process::pidfd_open(child.id()) {
            Ok(ended) => Ok(Self { task, child, ended, socket: ours }),
            Err(source) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(fail(source))
            }
        }
    }

    /// The CRIU process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one message.
    pub fn send(&self, request: &rpc::Request) -> Result<(), Error> {
        let bytes = request.encode_to_vec();
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            &[],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(self.broken("a message was cut short")),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Err(self.broken(ENDED)),
            Err(errno) => Err(self.broken(errno.desc())),
        }
    }

    /// Waits for the next message until `deadline`; `limit` is what the deadline stood for.
    pub fn receive(
        &mut self,
        deadline: Instant,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<rpc::Response, Error> {
        self.wait_readable(deadline, limit, cancel)?;
        let mut buffer = vec![0; MAX_RESPONSE_BYTES];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        match recv(self.socket.as_raw_fd(), &mut buffer, flags) {
            Ok(0) => Err(self.broken(ENDED)),
            Ok(length) if length > buffer.len() => Err(self.broken("an answer is too long")),
            Ok(length) => rpc::Response::decode(&buffer[..length])
                .map_err(|error| self.broken(&format!("an answer makes no sense: {error}"))),
            Err(Errno::ECONNRESET) => Err(self.broken(ENDED)),
            Err(errno) => Err(self.broken(errno.desc())),
        }
    }

    fn wait_readable(
        &self,
        deadline: Instant,
        limit: Duration,
        cancel: &Cancel,
    ) -> Result<(), Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Deadline { task: self.task, limit });
            }
            let mut fds = vec![
                PollFd::new(as_fd(&self.socket), PollFlags::POLLIN),
                PollFd::new(as_fd(&self.ended), PollFlags::POLLIN),
            ];
            if let Some(fd) = cancel.fd() {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            match poll(&mut fds, poll_timeout(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.broken(errno.desc())),
            }
            if cancel.is_cancelled() {
                return Err(Error::Cancelled { task: self.task });
            }
            // A last answer counts before the end.
            if fds[0].any().unwrap_or(false) {
                return Ok(());
            }
            if fds[1].any().unwrap_or(false) {
                return Err(self.broken(ENDED));
            }
        }
    }

    fn broken(&self, reason: &str) -> Error {
        Error::Conversation { task: self.task, reason: reason.to_owned() }
    }

    /// Makes a running dump fail at its next write, so that CRIU itself puts the tree back as it
    /// was, and waits for that; a CRIU that does not end in time is killed. A killed CRIU leaves
    /// the tree to the code it injected, which undoes itself when its socket closes, except for a
    /// moment at the start; the orderly way has no such moment.
    pub fn give_up(mut self) {
        if limit_file_size(self.child.id()).is_ok() {
            let deadline = Instant::now() + UNWIND_LIMIT;
            // Answers to steps are refusals from here on.
            let refuse = rpc::Request {
                kind: rpc::Kind::Notify as i32,
                notify_success: Some(false),
                ..Default::default()
            };
            while let Ok(response) = self.receive(deadline, UNWIND_LIMIT, &Cancel::never()) {
                if response.kind != rpc::Kind::Notify as i32 || self.send(&refuse).is_err() {
                    break;
                }
            }
            self.reap(deadline);
        }
    }

    /// Hangs up and waits for the process to take back what it has begun, at most `limit`.
    pub fn unwind(&mut self, limit: Duration) -> bool {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        self.reap(Instant::now() + limit)
    }

    /// Waits for the process to end after its last answer.
    pub fn finish(mut self) {
        self.reap(Instant::now() + REAP_LIMIT);
    }

    fn reap(&mut self, deadline: Instant) -> bool {
        loop {
            // An error means that someone else has reaped it.
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut fds = [PollFd::new(as_fd(&self.ended), PollFlags::POLLIN)];
            if !matches!(poll(&mut fds, poll_timeout(left)), Ok(_) | Err(Errno::EINTR)) {
                return false;
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Not yet reaped, so the id is still this process's.
            let _ = self.child.kill();
            if !self.reap(Instant::now() + REAP_LIMIT) {
                tracing::warn!(pid = self.child.id(), "a killed CRIU process does not end");
            }
        }
    }
}

fn as_fd(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

/// Milliseconds for poll, rounded up so that a short rest does not spin.
pub(crate) fn poll_timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds.min(60_000) as u64).unwrap_or(PollTimeout::MAX)
}

/// Runs in the child between fork and exec.
fn prepare_child(keep: &[RawFd], procs: Option<RawFd>, ignore_file_size: bool) -> io::Result<()> {
    // A session of its own: no terminal of the parent reaches it or what it restores.
    nix::unistd::setsid()?;
    for &fd in keep {
        // SAFETY: the descriptors belong to the parent, which keeps them open across the fork.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    // Restored tasks inherit dispositions that the image calls default.
    for signal in 1..=31 {
        // SAFETY: sets dispositions of this single-threaded child; failure (KILL, STOP) is harmless.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    if ignore_file_size {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }
    if let Some(fd) = procs {
        // SAFETY: as for the kept descriptors; `0` names the writing process.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        nix::unistd::write(fd, b"0")?;
    }
    Ok(())
}

/// Runs in the child between fork and exec: an empty /tmp that goes away with the process.
fn hide_tmp() -> io::Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), flags, Some("mode=755"))?;
    Ok(())
}

/// From now on `pid` cannot make a file longer.
fn limit_file_size(pid: u32) -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` lives across the call and the old limit is not asked for.
    let done = unsafe {
        libc::prlimit(pid as libc::pid_t, libc::RLIMIT_FSIZE, &none, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
