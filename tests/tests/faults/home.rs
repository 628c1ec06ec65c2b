//! Home's daemon, or that of an away source, is killed in the middle of a move and comes back.

use anyhow::ensure;
use phantom_tests::lab::{Node, Pair};

use crate::session::Session;

#[test]
fn the_homes_daemon_is_killed_at_each_step() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_at_each_step", |pair| {
        let mut session = Session::start(pair, "repl")?;
        // Before the commit nothing has happened; the terminal itself never notices.
        for border in ["source:freeze", "source:transfer"] {
            let moving = pair.held_move(pair.home(), border, "repl", "cellar")?;
            pair.home().kill_daemon()?;
            moving.fails()?;
            pair.home().up(&[])?;
            session.lives_on(pair.home())?;
        }
        // After the commit the move is carried on.
        let moving = pair.held_move(pair.home(), "home:commit", "repl", "cellar")?;
        pair.home().kill_daemon()?;
        moving.fails()?;
        pair.home().up(&[])?;
        session.lives_on(pair.away())?;
        // A daemon that is killed while the app is away changes nothing either.
        pair.home().hold_at(None)?;
        session.lives_on(pair.away())?;
        pair.wait_connected()?;
        pair.migrate("repl", "attic")?;
        session.lives_on(pair.home())?;
        // With the new copy running and the old one not yet dropped.
        pair.home().hold_at(Some("source:drop"))?;
        pair.wait_connected()?;
        pair.migrate("repl", "cellar")?;
        pair.home().wait_held()?;
        pair.home().kill_daemon()?;
        pair.home().hold_at(None)?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

#[test]
fn the_homes_daemon_is_killed_during_a_move_home() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_during_a_move_home", |pair| {
        let mut session = Session::start(pair, "repl")?;
        pair.migrate("repl", "cellar")?;
        for border in ["target:prepare", "target:restore", "target:resume"] {
            let moving = pair.held_move(pair.home(), border, "repl", "attic")?;
            pair.home().kill_daemon()?;
            moving.fails()?;
            pair.home().up(&[])?;
            session.lives_on(pair.away())?;
        }
        pair.home().hold_at(None)?;
        pair.wait_connected()?;
        pair.migrate("repl", "attic")?;
        session.lives_on(pair.home())?;
        session.end()
    })
}

#[test]
fn an_away_sources_daemon_is_killed_during_a_move_home() -> anyhow::Result<()> {
    Pair::scenario("an_away_sources_daemon_is_killed_during_a_move_home", |pair| {
        let mut session = Session::start(pair, "repl")?;
        pair.migrate("repl", "cellar")?;
        for border in ["source:freeze", "source:transfer"] {
            let moving = pair.held_move(pair.away(), border, "repl", "attic")?;
            pair.away().kill_daemon()?;
            pair.away().hold_at(None)?;
            // Home asks again: a source that is back soon enough begins anew.
            match moving.wait().map_err(|error| format!("{error:#}")) {
                Ok(_) => {
                    session.lives_on(pair.home())?;
                    pair.migrate("repl", "cellar")?;
                }
                Err(error) => ensure!(error.contains("repl stays on cellar"), "{border}: {error}"),
            }
            session.lives_on(pair.away())?;
        }
        pair.away().hold_at(Some("source:drop"))?;
        pair.wait_connected()?;
        pair.migrate("repl", "attic")?;
        pair.away().wait_held()?;
        pair.away().kill_daemon()?;
        session.answers()?;
        pair.away().hold_at(None)?;
        session.lives_on(pair.home())?;
        session.end()
    })
}
