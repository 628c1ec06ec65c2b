//! What can go wrong with the machinery of test desktops is said with its remedy, and leaves nothing.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use phantom_tests::desktops::golden::{CACHE, ROOM_MIB};
use phantom_tests::lab::processes_with;
use phantom_tests::node::wait_until;
use phantom_tests::terminal::Terminal;

/// How long the first boot of a desktop may take beside others.
const BOOT: Duration = Duration::from_secs(300);
/// How long it may take to say that there will be none.
const SOON: Duration = Duration::from_secs(60);
/// What the command line of a desktop holds.
const QEMU: &str = "qemu-system-x86_64 -accel ";

/// A person's `cargo xtask desktop shell debian12`, with another folder mounted over that of the
/// golden desktops by the first command, and with other programs first in the search path.
fn visit(mount: &str, programs: Option<&Path>) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("{mount} && exec \"$0\" shell debian12");
    command.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_desktop")]);
    if let Some(programs) = programs {
        let others = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{others}", programs.display()));
    }
    command
}

/// Runs a visit that must fail; gives its words.
fn refused(mut visit: Command) -> anyhow::Result<String> {
    let output = visit.output()?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A folder of golden desktops with nothing in it.
struct Empty(PathBuf);

impl Empty {
    fn new(name: &str) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/var/tmp/phantom-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn mount(&self) -> String {
        format!("mkdir -p {CACHE} && mount --bind {} {CACHE}", self.0.display())
    }

    /// A golden desktop of long ago that takes this much room.
    fn kept(&self, name: &str, mib: u64) -> anyhow::Result<PathBuf> {
        let folder = self.0.join(name);
        std::fs::create_dir(&folder)?;
        File::create(folder.join("used"))?.set_modified(SystemTime::UNIX_EPOCH)?;
        let state = File::create(folder.join("state"))?;
        fallocate(&state, FallocateFlags::empty(), 0, i64::try_from(mib << 20)?)
            .with_context(|| format!("{mib} MiB in {}", folder.display()))?;
        Ok(folder)
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.0)?.flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name != "lock");
        Ok(names)
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn no_room_for_a_golden_desktop_is_said_before_anything_is_made() -> anyhow::Result<()> {
    let mount = format!("mkdir -p {CACHE} && mount -t tmpfs -o size=100m none {CACHE}");
    let words = refused(visit(&mount, None))?;
    ensure!(words.contains("MiB free") && words.contains("make room"), "{words}");
    Ok(())
}

#[test]
fn a_qemu_that_is_too_old_or_broken_is_named() -> anyhow::Result<()> {
    let folder = Empty::new("programs")?;
    let qemu = folder.0.join("qemu-system-x86_64");
    let fake = |script: &str| -> anyhow::Result<String> {
        std::fs::write(&qemu, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755))?;
        refused(visit(":", Some(&folder.0)))
    };
    let words = fake("echo QEMU emulator version 5.2.0")?;
    ensure!(words.contains("5.2.0 is too old") && words.contains("upgrade"), "{words}");
    let words = fake("exit 1")?;
    ensure!(words.contains("does not say its version"), "{words}");
    Ok(())
}

#[test]
fn a_golden_boot_may_be_killed_and_two_runs_may_want_the_same() -> anyhow::Result<()> {
    let folder = Empty::new("golden")?;
    let others = processes_with(QEMU);
    let machines = || processes_with(QEMU).iter().filter(|pid| !others.contains(pid)).count();
    let mut killed = visit(&folder.mount(), None).spawn()?;
    wait_until("its golden desktop to boot", SOON, || Ok(machines() == 1))?;
    kill(Pid::from_raw(killed.id().cast_signed()), Signal::SIGKILL)?;
    killed.wait()?;
    wait_until("its machine to go with it", SOON, || Ok(machines() == 0))?;
    ensure!(folder.names()?.iter().any(|name| name.ends_with(".new")), "nothing was left to clear");

    // More than the cache may hold, and somebody uses most of it.
    let busy = folder.kept("busy", ROOM_MIB + 100)?;
    let _in_use = Flock::lock(File::open(busy.join("used"))?, FlockArg::LockSharedNonblock)
        .map_err(|(_, errno)| errno)?;
    folder.kept("idle", 1)?;

    let mut visits = Vec::new();
    for _ in 0..2 {
        visits.push(Terminal::spawn(visit(&folder.mount(), None), 24, 120)?);
    }
    for visit in &mut visits {
        visit.expect("root@debian12", BOOT)?;
    }
    let names = folder.names()?;
    let made = |name: &&String| name.starts_with("debian12-") && !name.ends_with(".new");
    ensure!(names.iter().filter(made).count() == 1, "{names:?}");
    ensure!(names.len() == 2 && names.iter().any(|name| name == "busy"), "{names:?}");
    for visit in &mut visits {
        visit.type_line("exit")?;
        ensure!(visit.wait(SOON)? == 0, "{}", visit.screen_text());
    }
    ensure!(machines() == 0, "machines are left");
    Ok(())
}
