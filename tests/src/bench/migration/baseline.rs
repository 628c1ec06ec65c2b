//! What a bare `criu dump` and `criu restore` of the same capsule take on this machine: images on a
//! tmpfs, feature cache warm, logs off.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use phantom_capsule::ids::{HIGHEST_BASE, ID_RANGE};
use phantom_capsule::os::{host, pty, spawn};
use phantom_capsule::plan::{ExternalKind, HostView};
use phantom_model::app::OsText;
use phantom_model::{AppSpec, Credentials, Limits, TermSize};

use super::{PATIENCE, PROGRAM, SETTLE, gaps, with_warm_criu};
use crate::bench::mounts::bind_system;
use crate::command::stdout_of;

/// One bare dump and restore.
#[derive(Debug, Clone, Copy)]
pub struct Baseline {
    /// How long the program stood still by its own account.
    pub downtime: Duration,
    /// The `criu dump` command.
    pub dump: Duration,
    /// The `criu restore` command.
    pub restore: Duration,
}

/// Saves and restores the program with `mib` MiB of memory once, with the given CRIU.
///
/// # Errors
/// Whatever fails, with CRIU's own words where it is CRIU. Nothing is left behind.
pub fn baseline(criu: &Path, mib: u32) -> anyhow::Result<Baseline> {
    with_warm_criu(criu, || Round::start(mib)?.measure(criu))
}

/// The program in its capsule, and where it will be restored.
struct Round {
    /// The program's working directory; goes away with the round.
    _home: tempfile::TempDir,
    images: tempfile::TempDir,
    root: tempfile::TempDir,
    started: spawn::Started,
    terminal: Terminal,
    lives: Option<Pid>,
}

/// The user's side of a pseudo terminal.
struct Terminal {
    master: File,
    slave: OwnedFd,
    slave_path: PathBuf,
    output: String,
}

impl Terminal {
    fn new(pair: pty::PtyPair) -> Self {
        Self {
            master: File::from(pair.master),
            slave: pair.slave,
            slave_path: pair.slave_path,
            output: String::new(),
        }
    }

    /// Reads for at most `limit`, until `done` finds what it wants in what was put out so far.
    fn read_until<T>(
        &mut self,
        limit: Duration,
        done: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = done(&self.output) {
                return Ok(Some(found));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left.min(Duration::from_millis(50)))?;
            if poll(&mut fds, timeout)? > 0 {
                let mut chunk = [0; 4096];
                let count = self.master.read(&mut chunk).context("read the terminal")?;
                self.output += &String::from_utf8_lossy(&chunk[..count]);
            }
        }
    }
}

impl Round {
    fn start(mib: u32) -> anyhow::Result<Self> {
        let folder = |parent: &str| {
            tempfile::Builder::new()
                .prefix("phbench-")
                .tempdir_in(parent)
                .with_context(|| format!("make a folder in {parent}"))
        };
        let (home, images, root) = (folder("/srv")?, folder("/dev/shm")?, folder("/run")?);
        nix::unistd::chown(home.path(), Some(1000.into()), Some(1000.into()))?;
        let spec = spec(home.path(), mib);
        let base = HIGHEST_BASE - (std::process::id() % 64) * ID_RANGE;
        // Nothing serves files here.
        let host = HostView { has_fuse: false, ..host::read(&spec)? };
        let plan = phantom_capsule::plan::plan(&spec, &host, base)?;
        let (uid, gid) = (plan.ids.uid_outside(1000), plan.ids.gid_outside(1000));
        let pair = pty::open_pair(uid.unwrap_or(base), gid.unwrap_or(base), TermSize::default())?;
        let started = spawn::start(&plan, None, pair.slave.as_fd(), None)?;
        let lives = Some(Pid::from_raw(started.capsule.init_pid));
        let mut round =
            Self { _home: home, images, root, started, terminal: Terminal::new(pair), lives };
        let ready =
            round.terminal.read_until(PATIENCE, |text| text.contains("ready").then_some(()))?;
        ensure!(ready.is_some(), "the program did not start: {}", round.terminal.output);
        Ok(round)
    }

    fn measure(&mut self, criu: &Path) -> anyhow::Result<Baseline> {
        // Gaps before the dump are not of interest.
        self.terminal.read_until(SETTLE, |_| Option::<()>::None).context("let the program run")?;
        let start = Instant::now();
        self.dump(criu)?;
        let dump = start.elapsed();
        // The dump has ended it; its number must be free for the restore.
        if let Some(pid) = self.lives.take() {
            let _ = waitpid(pid, None);
        }
        bind_system(self.root.path())?;
        let maps = &self.started.capsule;
        let next =
            Terminal::new(pty::open_pair(maps.host_uid(), maps.host_gid(), TermSize::default())?);
        self.terminal = next;
        let start = Instant::now();
        let pid = self.restore(criu)?;
        let restore = start.elapsed();
        let gap = self.terminal.read_until(PATIENCE, |text| gaps(text).first().copied())?;
        let _ = kill(pid, Signal::SIGKILL);
        let gap = gap.with_context(|| {
            format!("the restored program says nothing: {}", self.terminal.output)
        })?;
        Ok(Baseline { downtime: Duration::from_secs_f64(gap), dump, restore })
    }

    fn tty_key(&self) -> String {
        let tty = self.started.capsule.tty;
        format!("tty[{:x}:{:x}]", tty.rdev, tty.dev)
    }

    fn dump(&self, criu: &Path) -> anyhow::Result<()> {
        let capsule = &self.started.capsule;
        let mut command = common(criu, "dump", self.images.path());
        command.args(["-t", &capsule.init_pid.to_string()]).args(["--external", &self.tty_key()]);
        for external in &capsule.externals {
            let inside = external.inside.to_path();
            command.arg("--external").arg(format!("mnt[{}]:{}", inside.display(), external.key));
        }
        stdout_of(&mut command).map(drop)
    }

    fn restore(&self, criu: &Path) -> anyhow::Result<Pid> {
        let pidfile = self.images.path().join("pid");
        let copy = nix::unistd::dup(&self.terminal.slave).context("copy the terminal")?;
        let mut command = common(criu, "restore", self.images.path());
        command
            .arg("--restore-detached")
            .args(["--inherit-fd", &format!("fd[0]:{}", self.tty_key())])
            .arg("--root")
            .arg(self.root.path())
            .arg("--pidfile")
            .arg(&pidfile)
            .stdin(Stdio::from(copy));
        for external in &self.started.capsule.externals {
            let path = match external.kind {
                ExternalKind::Console => self.terminal.slave_path.clone(),
                _ => external.inside.to_path(),
            };
            command.arg("--external").arg(format!("mnt[{}]:{}", external.key, path.display()));
        }
        stdout_of(&mut command)?;
        let pid = fs::read_to_string(&pidfile).context("read the restored process id")?;
        Ok(Pid::from_raw(pid.trim().parse().context("a process id")?))
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(pid) = self.lives {
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
        let _ = umount2(self.root.path(), MntFlags::MNT_DETACH);
    }
}

fn common(criu: &Path, action: &str, images: &Path) -> Command {
    let mut command = Command::new(criu);
    command
        .arg(action)
        .arg("-D")
        .arg(images)
        .args(["-v0", "--log-file", "/dev/null"])
        .args(["--manage-cgroups=ignore", "--network-lock", "skip"])
        .args(["--empty-ns", "net", "--tcp-established", "--file-locks"]);
    command
}

fn spec(home: &Path, mib: u32) -> AppSpec {
    let argv = ["/usr/bin/python3", "-c", PROGRAM, &mib.to_string()].map(OsText::from);
    AppSpec {
        name: "bench".into(),
        argv: argv.to_vec(),
        env: vec!["PATH=/usr/bin:/bin".into()],
        cwd: home.into(),
        user: Credentials {
            user: "bench".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            group_names: Vec::new(),
            home_dir: home.into(),
        },
        limits: Limits::default(),
        term_size: TermSize::default(),
        vo: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_round_is_measured() {
        let Some(criu) = std::env::var_os("PHANTOM_CRIU") else {
            println!("SKIP a_bare_round_is_measured: PHANTOM_CRIU names no CRIU");
            return;
        };
        for mib in [16, 64, 512] {
            for _ in 0..3 {
                let measured = baseline(Path::new(&criu), mib).unwrap();
                println!("{mib} MiB: {measured:?}");
                assert!(measured.downtime < measured.dump + measured.restore + SETTLE);
            }
        }
    }
}
