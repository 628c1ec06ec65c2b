use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// A cgroup v2 of the benchmark's own. Dropping it kills and removes what is in it.
pub(super) struct Group(PathBuf);

/// A process in a group; waited for when dropped.
pub(super) struct Process(Child);

/// This process is in a group until this is dropped.
pub(super) struct Inside {
    before: PathBuf,
}

impl Group {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("phantom-bench-qos-{name}-{}-{number}", std::process::id());
        let path = hierarchy()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {path:?}"))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a script of the shell in it.
    pub(super) fn shell(&self, script: &str) -> anyhow::Result<Process> {
        let child = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec sh -c \"$1\""])
            .arg(&self.0)
            .arg(script)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sh")?;
        Ok(Process(child))
    }

    /// Moves this process into it.
    pub(super) fn enter(&self) -> anyhow::Result<Inside> {
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let before = hierarchy()?.join(path.context("this process is in no cgroup v2")?);
        move_self(&self.0)?;
        Ok(Inside { before })
    }

    /// CPU time as the kernel tells it to users.
    pub(super) fn usage_micros(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(self.0.join("cpu.stat")).context("cpu.stat")?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(line.context("no usage in cpu.stat")?.parse()?)
    }

    /// Waits until it holds so many processes; gives their ids.
    pub(super) fn wait_for_processes(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let text = fs::read_to_string(self.0.join("cgroup.procs")).context("cgroup.procs")?;
            let pids: Vec<_> = text.lines().map(str::to_owned).collect();
            if pids.len() >= count {
                return Ok(pids);
            }
            ensure!(Instant::now() < end, "only {} of {count} processes in 30 s", pids.len());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(10);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(error) = move_self(&self.before) {
            eprintln!("{error:#}");
        }
    }
}

fn move_self(group: &Path) -> anyhow::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot move this process to the cgroup {group:?}"))
}

/// Where cgroup v2 is mounted.
fn hierarchy() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    found.context("no cgroup v2 hierarchy is mounted")
}
