//! The link is cut at each step, and in the middle of a large image.

use std::time::{Duration, Instant};

use anyhow::ensure;
use phantom_tests::lab::{Node, Pair, SOON, wait_until};

use crate::session::Session;

#[test]
fn the_link_is_cut_at_each_step() -> anyhow::Result<()> {
    Pair::scenario("the_link_is_cut_at_each_step", |pair| {
        let mut session = Session::start(pair, "repl")?;
        for border in ["target:prepare", "target:transfer", "target:restore"] {
            let moving = pair.held_move(pair.away(), border, "repl", "cellar")?;
            pair.set_link(false)?;
            let error = moving.fails()?;
            ensure!(error.contains("the connection to the target is gone"), "{border}: {error}");
            // At home at once, without waiting for anybody.
            session.answers()?;
            pair.away().let_go()?;
            pair.set_link(true)?;
            pair.wait_connected()?;
            session.lives_on(pair.home())?;
        }
        pair.away().hold_at(None)?;
        pair.wait_connected()?;
        pair.migrate("repl", "cellar")?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

#[test]
fn the_link_is_cut_while_the_app_comes_home() -> anyhow::Result<()> {
    Pair::scenario("the_link_is_cut_while_the_app_comes_home", |pair| {
        let mut session = Session::start(pair, "repl")?;
        pair.migrate("repl", "cellar")?;
        for border in ["source:freeze", "source:transfer"] {
            let moving = pair.held_move(pair.away(), border, "repl", "attic")?;
            pair.set_link(false)?;
            pair.wait_disconnected()?;
            // What is typed meanwhile waits.
            session.type_ahead()?;
            pair.away().let_go()?;
            pair.set_link(true)?;
            match moving.wait() {
                Ok(_) => session.lives_on(pair.home())?,
                Err(_) => session.lives_on(pair.away())?,
            }
            session.typed_ahead()?;
            pair.away().hold_at(None)?;
            pair.wait_connected()?;
            if pair.row("repl")?.is_some_and(|row| row.host == "attic") {
                pair.migrate("repl", "cellar")?;
            }
        }
        session.end()
    })
}

#[test]
fn the_link_is_cut_in_the_middle_of_a_large_image() -> anyhow::Result<()> {
    Pair::scenario("the_link_is_cut_in_the_middle_of_a_large_image", |pair| {
        let mut session = Session::start(pair, "repl")?;
        session
            .run("import os; ballast = os.urandom(200 << 20); print(len(ballast))", "209715200")?;
        let moving = pair.start_move("repl", "cellar")?;
        let received = "du -sm /run/phantom/apps/*/image-* | awk '{s += $1} END {exit s < 20}'";
        phantom_tests::lab::wait_until("the first 20 MiB of the image", SOON, || {
            Ok(pair.away().command(false, &["sh", "-c", received]).output()?.status.success())
        })?;
        pair.set_link(false)?;
        let error = moving.fails()?;
        ensure!(error.contains("repl stays on attic"), "{error}");
        session.answers()?;
        pair.set_link(true)?;
        pair.wait_connected()?;
        session.lives_on(pair.home())?;
        pair.migrate("repl", "cellar")?;
        session.run("print(len(ballast), ballast[5:5])", "209715200 b''")?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

#[test]
fn a_link_that_flaps_every_three_seconds_costs_the_app_nothing() -> anyhow::Result<()> {
    Pair::scenario("a_link_that_flaps_every_three_seconds_costs_the_app_nothing", |pair| {
        let mut session = Session::start(pair, "repl")?;
        pair.migrate("repl", "cellar")?;
        let mut up = true;
        for _ in 0..8 {
            up = !up;
            pair.set_link(up)?;
            let next = Instant::now() + Duration::from_secs(3);
            wait_until("three seconds", SOON, || Ok(Instant::now() > next))?;
        }
        ensure!(up, "it ends with the link up");
        pair.wait_connected()?;
        session.lives_on(pair.away())?;
        // Each is a member still, and neither daemon was started again.
        ensure!(pair.home().phantom_json::<Vec<serde_json::Value>>(true, &["nodes"])?.len() == 2);
        pair.migrate("repl", "attic")?;
        session.lives_on(pair.home())?;
        session.end()
    })
}
