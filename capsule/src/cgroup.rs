//! The control group of a capsule on the version 2 hierarchy: it says which processes belong to
//! it, stops and starts all of them at once, and ends them.
//!
//! Only holding an app to a limit needs controllers. All else is what the core of version 2 offers, so
//! it works where the controllers still sit on version 1 hierarchies; there the app stays in its
//! shim's groups. All waits block the calling
//! thread, with a deadline.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::Error;
use crate::mountinfo;

/// How long an emptied group may take to be removable.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time over which the kernel applies `cpu.max`: its default.
const CPU_PERIOD_US: u64 = 100_000;

/// The control group of one capsule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

/// Where version 2 is mounted, from the kernel's mount table.
pub fn hierarchy() -> Result<PathBuf, Error> {
    let table = fs::read("/proc/thread-self/mountinfo")
        .map_err(|source| Error::ReadHost { what: "/proc/thread-self/mountinfo".into(), source })?;
    let mounts = mountinfo::parse(&table)?;
    mountinfo::reachable(&mounts)
        .into_iter()
        .find(|mount| mount.fstype == "cgroup2")
        .map(|mount| mount.mount_point.clone())
        .ok_or(Error::NoCgroup2)
}

impl Cgroup {
    /// Makes `phantom/NODE/APP` below the hierarchy; one that is there already is taken as it is.
    pub fn create(node_short: &str, app_short: &str) -> Result<Self, Error> {
        let path = hierarchy()?.join("phantom").join(node_short).join(app_short);
        fs::create_dir_all(&path).map_err(fail("make", &path))?;
        Ok(Self { path })
    }

    /// One made before.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id the kernel and its tracing programs know it by.
    pub fn id(&self) -> Result<u64, Error> {
        fs::metadata(&self.path).map(|meta| meta.ino()).map_err(fail("look at", &self.path))
    }

    /// Open, to start a capsule in it.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let flags = libc::O_DIRECTORY | libc::O_PATH;
        let folder = fs::OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        folder.map(OwnedFd::from).map_err(fail("open", &self.path))
    }

    /// Takes a process in; its later children follow it.
    pub fn add(&self, pid: i32) -> Result<(), Error> {
        self.write("cgroup.procs", &pid.to_string(), "put a process into")
    }

    /// The processes in it, as this host numbers them.
    pub fn processes(&self) -> Result<Vec<i32>, Error> {
        let list = fs::read_to_string(self.path.join("cgroup.procs"))
            .map_err(fail("list the processes of", &self.path))?;
        Ok(list.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Stops every process in it; done when all have stopped.
    pub fn freeze(&self, timeout: Duration) -> Result<(), Error> {
        self.write("cgroup.freeze", "1", "freeze")?;
        self.wait_for("frozen 1", "frozen", timeout)
    }

    /// Lets every process in it go on.
    pub fn thaw(&self, timeout: Duration) -> Result<(), Error> {
        self.write("cgroup.freeze", "0", "thaw")?;
        self.wait_for("frozen 0", "thawed", timeout)
    }

    /// Sends SIGKILL to every process in it, frozen ones too.
    pub fn kill(&self) -> Result<(), Error> {
        match fs::write(self.path.join("cgroup.kill"), "1") {
            // Before Linux 5.14 there is no such file. One that forks while it is listed is
            // stopped first.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.write("cgroup.freeze", "1", "freeze")?;
                for pid in self.processes()? {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
                self.write("cgroup.freeze", "0", "thaw")
            }
            other => other.map_err(fail("kill the processes of", &self.path)),
        }
    }

    /// Waits until no process is left in it (zombies count as gone).
    pub fn wait_empty(&self, timeout: Duration) -> Result<(), Error> {
        self.wait_for("populated 0", "empty", timeout)
    }

    /// Removes it, and the node's folder above when it was the last.
    pub fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir(&self.path) {
            // Its last processes are just ending: that is an event of the group.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                self.wait_empty(REMOVE_TIMEOUT)?;
                fs::remove_dir(&self.path)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
        .map_err(fail("remove", &self.path))?;
        for parent in self.path.ancestors().skip(1).take(2) {
            // Refused while other apps or nodes are below.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }

    /// Holds the group to so much of a core, in percent (`cpu.max`), or lets go of it.
    pub fn hold_cpu(&self, percent: Option<u64>) -> Result<(), Error> {
        let quota = percent.map(|percent| {
            format!("{} {CPU_PERIOD_US}", percent.saturating_mul(CPU_PERIOD_US / 100))
        });
        self.hold("cpu", "cpu.max", quota)
    }

    /// Holds the group to so much memory (`memory.high`): above it its processes are slowed down
    /// while the kernel takes back what it can. `None` lets go of it.
    pub fn hold_memory(&self, bytes: Option<u64>) -> Result<(), Error> {
        self.hold("memory", "memory.high", bytes.map(|bytes| bytes.to_string()))
    }

    fn hold(
        &self,
        controller: &'static str,
        file: &str,
        text: Option<String>,
    ) -> Result<(), Error> {
        match (self.path.join(file).exists(), &text) {
            // What is not there holds nothing.
            (false, None) => return Ok(()),
            (false, Some(_)) => self.enable(controller)?,
            (true, _) => {}
        }
        self.write(file, text.as_deref().unwrap_or("max"), "hold")
    }

    /// Has the controller of every group above reach down to this one. What the group uses from
    /// then on is charged to it; pages that were charged to a group above stay there.
    pub fn enable(&self, controller: &'static str) -> Result<(), Error> {
        let top = hierarchy()?;
        let mut above: Vec<&Path> = self.path.ancestors().skip(1).collect();
        above.retain(|group| group.starts_with(&top));
        for group in above.into_iter().rev() {
            let offered = fs::read_to_string(group.join("cgroup.controllers"))
                .map_err(fail("list the controllers of", group))?;
            if !offered.split_whitespace().any(|name| name == controller) {
                return Err(Error::NoController { name: controller });
            }
            fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
                .map_err(fail("hand a controller on from", group))?;
        }
        Ok(())
    }

    fn write(&self, file: &str, text: &str, action: &'static str) -> Result<(), Error> {
        fs::write(self.path.join(file), text).map_err(fail(action, &self.path))
    }

    /// Waits for a line of `cgroup.events`, which the kernel tells changes of.
    fn wait_for(&self, line: &str, state: &'static str, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        let wrong = fail("watch", &self.path);
        let events = fs::File::open(self.path.join("cgroup.events")).map_err(&wrong)?;
        loop {
            let mut text = [0; 512];
            // Reading from the start is also what arms the next notification.
            let count =
                std::os::unix::fs::FileExt::read_at(&events, &mut text, 0).map_err(&wrong)?;
            if text[..count].split(|byte| *byte == b'\n').any(|found| found == line.as_bytes()) {
                return Ok(());
            }
            if !poll_change(events.as_fd(), deadline).map_err(&wrong)? {
                let (path, seconds) = (self.path.clone(), timeout.as_secs());
                return Err(Error::CgroupTimeout { path, state, seconds });
            }
        }
    }
}

/// Waits for a notification of a kernel file; false when the time is over.
fn poll_change(file: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    let millis = PollTimeout::try_from(left.as_millis().saturating_add(1).min(60_000))
        .unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut [PollFd::new(file, PollFlags::POLLPRI)], millis) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

fn fail(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Cgroup { action, path: path.clone(), source }
}
