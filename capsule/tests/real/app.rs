//! What the tests with real capsules share: a user with a home directory, and an app in a capsule
//! whose terminal the test plays.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use phantom_capsule::cgroup::Cgroup;
use phantom_capsule::ids::{ID_RANGE, LOWEST_BASE};
use phantom_capsule::os::{host, pty, spawn};
use phantom_capsule::plan::HostView;
use phantom_model::app::OsText;
use phantom_model::{AppSpec, Credentials, Limits, TermSize};

/// Long enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A home directory of user 1000 that goes away with the value.
pub struct Home {
    pub dir: tempfile::TempDir,
    pub uid: u32,
    pub gid: u32,
}

impl Home {
    pub fn new() -> Self {
        Self::of(1000, 1000)
    }

    pub fn of(uid: u32, gid: u32) -> Self {
        // Not below /tmp, which every capsule has of its own.
        let dir = tempfile::Builder::new().prefix("phcap-").tempdir_in("/srv").unwrap();
        let owner = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(gid));
        nix::unistd::chown(dir.path(), Some(owner.0), Some(owner.1)).unwrap();
        Self { dir, uid, gid }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec<T: AsRef<std::ffi::OsStr>>(&self, argv: &[T]) -> AppSpec {
        AppSpec {
            name: "test".into(),
            argv: argv.iter().map(OsText::from).collect(),
            env: ["PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm", "PS1=$ ", "LC_ALL=C.UTF-8"]
                .map(OsText::from)
                .to_vec(),
            cwd: self.path().into(),
            user: Credentials {
                user: "tester".into(),
                uid: self.uid,
                gid: self.gid,
                groups: vec![self.gid, 27],
                group_names: Vec::new(),
                home_dir: self.path().into(),
            },
            limits: Limits::default(),
            term_size: TermSize { rows: 30, cols: 100 },
            vo: None,
        }
    }

    pub fn start<T: AsRef<std::ffi::OsStr>>(&self, argv: &[T]) -> App {
        App::start(&self.spec(argv)).unwrap()
    }

    pub fn sh(&self, script: &str) -> App {
        self.start(&["/bin/sh", "-c", script])
    }
}

/// A range no other test uses.
pub fn id_base() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    LOWEST_BASE + (NEXT.fetch_add(1, Ordering::Relaxed) % 1000) * ID_RANGE
}

/// An app in a capsule.
pub struct App {
    pub started: spawn::Started,
    pub master: File,
    /// Kept, so that output may be read after the end.
    _slave: OwnedFd,
    pub output: Vec<u8>,
    ended: bool,
}

impl App {
    pub fn start(spec: &AppSpec) -> Result<Self, phantom_capsule::Error> {
        Self::start_in(spec, None)
    }

    pub fn start_in(
        spec: &AppSpec,
        cgroup: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<Self, phantom_capsule::Error> {
        // Nothing serves files here.
        let host = HostView { has_fuse: false, ..host::read(spec)? };
        let plan = phantom_capsule::plan::plan(spec, &host, id_base())?;
        let uid = plan.ids.uid_outside(plan.uid).unwrap();
        let gid = plan.ids.gid_outside(plan.gid).unwrap();
        let pair = pty::open_pair(uid, gid, spec.term_size)?;
        let started = spawn::start(&plan, None, pair.slave.as_fd(), cgroup)?;
        Ok(Self {
            started,
            master: File::from(pair.master),
            _slave: pair.slave,
            output: Vec::new(),
            ended: false,
        })
    }

    pub fn type_keys(&mut self, keys: impl AsRef<[u8]>) {
        self.master.write_all(keys.as_ref()).unwrap();
    }

    fn poll_master(&self, timeout: Duration) -> bool {
        let millis = PollTimeout::try_from(timeout.as_millis()).unwrap();
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, millis).unwrap_or(0) > 0
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
    }

    fn read_some(&mut self) {
        let mut chunk = [0; 4096];
        let count = self.master.read(&mut chunk).unwrap_or(0);
        self.output.extend_from_slice(&chunk[..count]);
    }

    /// Reads what comes within the time; false when nothing did.
    pub fn read_more(&mut self, timeout: Duration) -> bool {
        let more = self.poll_master(timeout);
        if more {
            self.read_some();
        }
        more
    }

    /// Reads until `text` has been put out; what came before it (and it) is taken away.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.output.windows(text.len()).position(|w| w == text.as_bytes()) {
                let taken: Vec<u8> = self.output.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            assert!(
                Instant::now() < deadline,
                "waited for {text:?}, got {:?}",
                String::from_utf8_lossy(&self.output)
            );
            if self.poll_master(Duration::from_millis(100)) {
                self.read_some();
            }
        }
    }

    /// Waits for the end; all output and the exit code.
    pub fn finish(mut self) -> (String, i32) {
        let deadline = Instant::now() + PATIENCE;
        let pid = nix::unistd::Pid::from_raw(self.started.capsule.init_pid);
        let code = loop {
            if self.poll_master(Duration::from_millis(20)) {
                self.read_some();
            }
            let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
            match nix::sys::wait::waitpid(pid, flags).unwrap() {
                nix::sys::wait::WaitStatus::Exited(_, code) => break code,
                nix::sys::wait::WaitStatus::StillAlive => {}
                other => panic!("{other:?}"),
            }
            assert!(
                Instant::now() < deadline,
                "still runs: {}",
                String::from_utf8_lossy(&self.output)
            );
        };
        self.ended = true;
        while self.poll_master(Duration::ZERO) {
            self.read_some();
        }
        (String::from_utf8_lossy(&self.output).replace("\r\n", "\n"), code)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if !self.ended {
            let pid = nix::unistd::Pid::from_raw(self.started.capsule.init_pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
        }
    }
}

/// A control group that goes with the value, whatever is in it.
pub struct Group(pub Cgroup);

impl Group {
    /// `None`, with a word, where there is no version 2 hierarchy.
    pub fn new(name: &str) -> Option<Self> {
        match Cgroup::create(&format!("phcap{}", std::process::id()), name) {
            Ok(group) => Some(Self(group)),
            Err(error) => {
                println!("SKIP {name}: {error}");
                None
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.thaw(PATIENCE);
        let _ = self.0.wait_empty(PATIENCE);
        let _ = self.0.remove();
    }
}
