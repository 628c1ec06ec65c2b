//! A v2 cgroup: freezing, thawing and ending all that runs in it.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::criu::poll_timeout;
use crate::error::Error;

/// The v2 cgroup that holds exactly the tasks of one capsule.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, which must exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Stops every task in it and waits until all stand still.
    pub fn freeze(&self, limit: Duration) -> Result<(), Error> {
        self.write("cgroup.freeze", "1", "freeze")?;
        self.wait("frozen", true, limit, "freeze")
    }

    /// Stops every task in it as soon as it would run, without waiting.
    pub fn start_freezing(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "1", "freeze")
    }

    /// Moves the process `pid` out, to the cgroup of the calling process.
    pub fn evict(&self, pid: u32) -> Result<(), Error> {
        let action = "move CRIU out of";
        let inside = v2_path(pid).map_err(self.error(action))?;
        let own = v2_path(std::process::id()).map_err(self.error(action))?;
        let text = self.path.to_str().unwrap_or_default();
        let Some(mount) = text.strip_suffix(inside.trim_end_matches('/')) else {
            let reason = io::Error::other(format!("it is in {inside} instead"));
            return Err(self.error(action)(reason));
        };
        let file = PathBuf::from(format!("{mount}{own}/cgroup.procs"));
        fs::write(&file, pid.to_string()).map_err(|source| Error::Cgroup {
            action: "move CRIU to",
            path: file,
            source,
        })
    }

    /// Lets every task go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.write("cgroup.freeze", "0", "thaw")
    }

    /// Whether freezing was asked for (the tasks may not all stand yet).
    pub fn is_freezing(&self) -> Result<bool, Error> {
        let text = fs::read_to_string(self.path.join("cgroup.freeze"))
            .map_err(self.error("read the state of"))?;
        Ok(text.trim() == "1")
    }

    /// Kills everything in it, frozen or not, and waits until nothing is left.
    pub fn kill(&self, limit: Duration) -> Result<(), Error> {
        self.write("cgroup.kill", "1", "kill")?;
        self.wait("populated", false, limit, "kill")
    }

    fn write(&self, file: &str, value: &str, action: &'static str) -> Result<(), Error> {
        fs::write(self.path.join(file), value).map_err(self.error(action))
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Cgroup { action, path: self.path.clone(), source }
    }

    /// Waits until `key` of cgroup.events is `wanted`; the kernel signals each change.
    fn wait(
        &self,
        key: &str,
        wanted: bool,
        limit: Duration,
        action: &'static str,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let file = self.path.join("cgroup.events");
        let events = File::open(&file).map_err(self.error(action))?;
        loop {
            // Reading also arms the next notification of this open file.
            let text = read_from_start(&events).map_err(self.error(action))?;
            if event(&text, key) == Some(wanted) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.error(action)(io::ErrorKind::TimedOut.into()));
            }
            let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, poll_timeout(left)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.error(action)(errno.into())),
            }
        }
    }
}

fn read_from_start(file: &File) -> io::Result<String> {
    use std::os::unix::fs::FileExt;
    let mut buffer = [0; 256];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The path of a process's cgroup on the v2 hierarchy.
fn v2_path(pid: u32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    path.map(str::to_owned).ok_or_else(|| io::Error::other("there is no v2 cgroup hierarchy"))
}

fn event(text: &str, key: &str) -> Option<bool> {
    text.lines().find_map(|line| Some(line.strip_prefix(key)?.trim() == "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_by_name() {
        let text = "populated 1\nfrozen 0\n";
        assert_eq!(event(text, "populated"), Some(true));
        assert_eq!(event(text, "frozen"), Some(false));
        assert_eq!(event(text, "other"), None);
    }
}
