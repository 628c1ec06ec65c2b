//! The target breaks before the commit: the app goes on where it was.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
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
fn the_targets_shim_or_criu_is_killed_at_the_restore() -> anyhow::Result<()> {
    Pair::scenario("the_targets_shim_or_criu_is_killed_at_the_restore", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let moving = pair.held_move(pair.away(), "target:restore", "repl", "cellar")?;
        ensure!(pair.away().signal_all(" shim /run/phantom", Signal::SIGKILL) == 1, "one guest");
        pair.away().let_go()?;
        let error = moving.fails()?;
        ensure!(error.contains("step restore"), "{error}");
        session.lives_on(pair.home())?;

        let mut moving = pair.held_move(pair.away(), "target:restore", "repl", "cellar")?;
        pair.away().let_go()?;
        let mut killed = false;
        wait_until("the restore's end", SOON, || {
            killed |= pair.away().signal_all("criu swrk", Signal::SIGKILL) > 0;
            Ok(killed || !moving.goes_on()?)
        })?;
        match moving.wait() {
            // It was quicker than the hand on the trigger.
            Ok(_) => session.lives_on(pair.away())?,
            Err(error) => {
                ensure!(format!("{error:#}").contains("step restore"), "{error:#}");
                session.lives_on(pair.home())?;
            }
        }
        wait_until("an empty run directory on the target", Duration::from_secs(30), || {
            let listed = pair.away().enter(&["ls", "/run/phantom/apps"])?.stdout;
            Ok(listed.trim().is_empty()
                || pair.row("repl")?.is_some_and(|row| row.host == "cellar"))
        })?;
        session.end()
    })
}
