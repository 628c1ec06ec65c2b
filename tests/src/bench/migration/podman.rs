//! The same program in a container: `podman container checkpoint --export`, then
//! `podman container restore --import` as another container.
//!
//! As podman is quickest: storage and archive on a tmpfs, the archive not compressed, no network,
//! CRIU's feature cache warm. All that podman makes lies in one folder, in mount namespaces of this
//! benchmark's and in control groups of a name of its own, and goes with [`Podman`].

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::{PATIENCE, PROGRAM, SETTLE, gaps, milliseconds, with_warm_criu};
use crate::bench::mounts::cover;
use crate::command::{is_installed, stdout_of};
use crate::lab::{processes_with, wait_until};

/// The image's name.
const IMAGE: &str = "phantom-bench";
/// The container before the move, and after it.
const BEFORE: &str = "before";
const AFTER: &str = "after";
/// Where podman keeps things that no option of it moves.
const ELSEWHERE: &str = "/var/lib/containers";
/// Limits of the container that need no privilege: podman's own are higher than what this process
/// may have.
const LIMITS: &str = "--ulimit nofile=1024:1024 --ulimit nproc=4096:4096";

/// A podman with a storage of its own.
pub struct Podman {
    criu: PathBuf,
    runtime: &'static str,
    group: String,
    folder: tempfile::TempDir,
}

impl Podman {
    /// Makes an image of the second node's root and moves a container that nobody counts.
    ///
    /// # Errors
    /// Why this machine's podman cannot be compared with.
    pub fn start(criu: &Path) -> anyhow::Result<Self> {
        ensure!(is_installed("podman"), "podman is not installed");
        let root = std::env::var_os("PHANTOM_SECOND_ROOT")
            .context("PHANTOM_SECOND_ROOT names no root to make an image of")?;
        let folder =
            tempfile::Builder::new().prefix("phantom-bench-podman-").tempdir_in("/dev/shm")?;
        for part in ["bin", "tmp"] {
            fs::create_dir(folder.path().join(part))?;
        }
        // Runtimes take the `criu` that is first on the path.
        symlink(criu, folder.path().join("bin/criu"))?;
        // By default a file in /dev/shm that stays.
        fs::write(folder.path().join("containers.conf"), "[engine]\nlock_type = \"file\"\n")?;
        let podman = Self {
            criu: criu.to_owned(),
            runtime: runtime()?,
            group: format!("phantom-bench-podman-{}", std::process::id()),
            folder,
        };
        podman.in_own_mounts(|| podman.import(Path::new(&root)))?;
        podman.sample(16)?;
        Ok(podman)
    }

    /// Moves the program with `mib` MiB of memory once; its downtime by its own account, in
    /// milliseconds.
    pub fn sample(&self, mib: u32) -> anyhow::Result<f64> {
        let downtime = self.in_own_mounts(|| Round(self).measure(mib))?;
        Ok(milliseconds(downtime))
    }

    /// Each time anew: mounts that podman makes and forgets go at once.
    fn in_own_mounts<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        with_warm_criu(&self.criu, || {
            if Path::new(ELSEWHERE).is_dir() {
                cover(Path::new(ELSEWHERE))?;
            }
            work()
        })
    }

    fn import(&self, root: &Path) -> anyhow::Result<()> {
        let mut tar = Command::new("tar")
            .arg("-C")
            .arg(root)
            .args(["-c", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run `tar`")?;
        let archive = tar.stdout.take().context("tar has no output")?;
        let imported = stdout_of(self.command(&format!("import --quiet - {IMAGE}")).stdin(archive));
        ensure!(tar.wait()?.success() || imported.is_err(), "tar cannot read {}", root.display());
        imported.map(drop)
    }

    /// Runs a command of podman's to its end; gives what it printed.
    fn run(&self, words: &str) -> anyhow::Result<String> {
        stdout_of(&mut self.command(words))
    }

    fn command(&self, words: &str) -> Command {
        let at = |part: &str| self.folder.path().join(part);
        let mut path = at("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("podman");
        command.env("PATH", path).env("TMPDIR", at("tmp"));
        command.env("CONTAINERS_CONF", at("containers.conf"));
        for (option, part) in [
            ("--root", "root"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
            ("--network-config-dir", "net"),
        ] {
            command.arg(option).arg(at(part));
        }
        command.args(["--runtime", self.runtime, "--storage-driver", "overlay"]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        command.args(words.split(' '));
        command
    }
}

/// One move; what it leaves ends with it.
struct Round<'a>(&'a Podman);

impl Round<'_> {
    fn measure(&self, mib: u32) -> anyhow::Result<Duration> {
        let Self(podman) = self;
        let archive = podman.folder.path().join("archive").display().to_string();
        let start = format!(
            "run --detach --name {BEFORE} --network none --cgroup-parent /{} {LIMITS} {IMAGE} \
             /usr/bin/python3 -c",
            podman.group
        );
        stdout_of(podman.command(&start).args([PROGRAM, &mib.to_string()]))?;
        wait_until("the program in its container", PATIENCE, || {
            Ok(podman.run(&format!("logs {BEFORE}"))?.contains("ready"))
        })?;
        std::thread::sleep(SETTLE);
        podman.run(&format!("container checkpoint --compress none --export {archive} {BEFORE}"))?;
        podman.run(&format!("container restore --import {archive} --name {AFTER}"))?;
        let before = podman.run(&format!("logs {BEFORE}"))?;
        let mut downtime = None;
        wait_until("the restored program's word", PATIENCE, || {
            let after = podman.run(&format!("logs {AFTER}"))?;
            // The archive holds what was printed before.
            downtime = gaps(after.strip_prefix(&before).unwrap_or(&after)).first().copied();
            Ok(downtime.is_some())
        })?;
        Ok(Duration::from_secs_f64(downtime.context("no gap")?))
    }
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let _ = self.0.run("rm --all --force --time 0");
        // Each container has a monitor that ends after it.
        let folder = self.0.folder.path().to_string_lossy().into_owned();
        let _ = wait_until("the end of podman's processes", PATIENCE, || {
            Ok(processes_with(&folder).is_empty())
        });
        remove_groups(&self.0.group);
    }
}

/// A runtime that can save containers.
fn runtime() -> anyhow::Result<&'static str> {
    if is_installed("runc") {
        return Ok("runc");
    }
    ensure!(is_installed("crun"), "neither runc nor crun is installed");
    match stdout_of(Command::new("crun").arg("--version"))?.contains("+CRIU") {
        true => Ok("crun"),
        false => bail!("runc is not installed, and this crun is built without CRIU"),
    }
}

/// Removes what is called so at the top of every hierarchy of control groups.
fn remove_groups(name: &str) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        if let (Some(path), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            remove_group(&Path::new(path).join(name));
        }
    }
}

fn remove_group(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_moves_and_leaves_nothing() {
        let test = "a_container_moves_and_leaves_nothing";
        let Some(criu) = std::env::var_os("PHANTOM_CRIU") else {
            println!("SKIP {test}: PHANTOM_CRIU names no CRIU for podman");
            return;
        };
        let podman = match Podman::start(Path::new(&criu)) {
            Ok(podman) => podman,
            Err(why) if !is_installed("podman") => return println!("SKIP {test}: {why:#}"),
            Err(why) => panic!("{why:#}"),
        };
        let (folder, group) = (podman.folder.path().to_owned(), podman.group.clone());
        assert!(podman.sample(16).unwrap() > 1.0);
        drop(podman);
        assert!(!folder.exists());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("phantom-bench-podman"), "{mounts}");
        for line in mounts.lines().filter(|line| line.contains(" cgroup")) {
            let path = line.split(' ').nth(1).unwrap();
            assert!(!Path::new(path).join(&group).exists(), "{path}/{group}");
        }
    }
}
