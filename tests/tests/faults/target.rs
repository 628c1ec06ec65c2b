//! The target breaks before the commit: the app goes on where it was.

use anyhow::ensure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use phantom_tests::lab::{Pair, SOON, wait_until};

use crate::session::Session;

#[test]
fn the_targets_daemon_is_killed_at_each_step() -> anyhow::Result<()> {
    Pair::scenario("the_targets_daemon_is_killed_at_each_step", |pair| {
        let mut session = Session::start(pair, "repl")?;
        for border in ["target:prepare", "target:transfer", "target:restore"] {
            let moving = pair.held_move(pair.away(), border, "repl", "cellar")?;
            pair.away().kill_daemon()?;
            let error = moving.fails()?;
            ensure!(error.contains("repl stays on attic"), "at {border}: {error}");
            session.lives_on(pair.home())?;
        }
        let events = pair.events("repl")?;
        ensure!(events.iter().filter(|row| row.event == "stays").count() == 3, "{events:?}");
        pair.away().hold_at(None)?;
        pair.wait_connected()?;
        pair.migrate("repl", "cellar")?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

#[test]
fn the_targets_shim_is_killed_at_the_restore() -> anyhow::Result<()> {
    Pair::scenario("the_targets_shim_is_killed_at_the_restore", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let moving = pair.held_move(pair.away(), "target:restore", "repl", "cellar")?;
        ensure!(pair.away().signal_all(" shim /run/phantom", Signal::SIGKILL) == 1, "one guest");
        pair.away().let_go()?;
        let error = moving.fails()?;
        ensure!(error.contains("step restore"), "{error}");
        session.lives_on(pair.home())?;
        nothing_is_left(pair)?;
        session.end()
    })
}

/// A file system in ada's home directory that waits when the process behind it is stopped.
const SLOW_FOLDER: &str = "
set -eu
mkdir /home/.slow /home/ada/slow
echo here > /home/.slow/file
bindfs /home/.slow /home/ada/slow
";

#[test]
fn the_targets_criu_is_killed_in_the_middle_of_the_restore() -> anyhow::Result<()> {
    Pair::scenario("the_targets_criu_is_killed_in_the_middle_of_the_restore", |pair| {
        pair.home().enter(&["sh", "-c", SLOW_FOLDER])?;
        let mut session = Session::start(pair, "repl")?;
        session.run("slow = open('slow/file'); print('reads', slow.read())", "reads here")?;
        let moving = pair.held_move(pair.away(), "target:restore", "repl", "cellar")?;
        // The restored process has to open that file, and cannot: CRIU neither ends nor fails
        // before a file operation's deadline.
        ensure!(pair.home().signal_all("bindfs ", Signal::SIGSTOP) == 1, "one file system");
        pair.away().let_go()?;
        wait_until("the start of the restore", SOON, || Ok(!restoring(pair).is_empty()))?;
        let killed = restoring(pair).into_iter().filter(|pid| kill(*pid, Signal::SIGKILL).is_ok());
        ensure!(killed.count() > 0, "CRIU has ended by itself");
        let error = moving.fails()?;
        ensure!(error.contains("CRIU ended without an answer"), "{error}");
        ensure!(error.contains("step restore"), "{error}");
        pair.home().signal_all("bindfs ", Signal::SIGCONT);
        session.lives_on(pair.home())?;
        nothing_is_left(pair)?;
        pair.away().hold_at(None)?;
        pair.wait_connected()?;
        pair.migrate("repl", "cellar")?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

/// The CRIU that restores on the target: the one in a capsule's control group.
fn restoring(pair: &Pair) -> Vec<Pid> {
    let mut found = pair.away().processes_with("criu swrk");
    found.retain(|pid| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains("/phantom/")
    });
    found
}

/// Waits until the target has forgotten the app.
fn nothing_is_left(pair: &Pair) -> anyhow::Result<()> {
    wait_until("an empty run directory on the target", SOON, || {
        Ok(pair.away().enter(&["ls", "/run/phantom/apps"])?.stdout.trim().is_empty())
    })
}
