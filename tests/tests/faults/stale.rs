//! After the commit: a target that never reports loses the app again, and what it has is without
//! effect when it comes to life later.

use anyhow::ensure;
use nix::sys::signal::Signal;
use phantom_tests::counter::{COUNTER, counted_once};
use phantom_tests::lab::{MOVE, Pair, wait_until};

use crate::session::Session;

#[test]
fn a_target_that_dies_after_the_commit_loses_the_app() -> anyhow::Result<()> {
    Pair::scenario("a_target_that_dies_after_the_commit_loses_the_app", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let file = pair.home().home_dir().join("notes");
        session.run("f = open('notes', 'w', buffering=1); print(f.write('one\\n'))", "4")?;
        let moving = pair.held_move(pair.away(), "target:resume", "repl", "cellar")?;
        ensure!(pair.away().signal_all(" shim /run/phantom", Signal::SIGKILL) == 1, "one guest");
        pair.away().kill_daemon()?;
        let error = moving.fails()?;
        ensure!(error.contains("repl stays on attic"), "{error}");
        let row = pair.row("repl")?.expect("it runs");
        ensure!(row.epoch == 3, "{row:?}");
        session.run("print(f.write('two\\n'))", "4")?;
        session.lives_on(pair.home())?;
        ensure!(std::fs::read_to_string(&file)? == "one\ntwo\n", "the file went on");
        session.end()
    })
}

#[test]
fn a_copy_that_wakes_up_later_has_no_effect() -> anyhow::Result<()> {
    Pair::scenario("a_copy_that_wakes_up_later_has_no_effect", |pair| {
        let mut session = Session::start(pair, "repl")?;
        // It writes by itself, wherever it runs: a copy too many would show.
        session.run(COUNTER, "started")?;
        let moving = pair.held_move(pair.away(), "target:resume", "repl", "cellar")?;
        let stopped = pair.away().signal_all("phantom daemon", Signal::SIGSTOP)
            + pair.away().signal_all(" shim /run/phantom", Signal::SIGSTOP);
        ensure!(stopped == 2, "{stopped} processes stopped");
        pair.away().let_go()?;
        moving.fails()?;
        let row = pair.row("repl")?.expect("it runs");
        ensure!(row.host == "attic" && row.epoch == 3, "{row:?}");
        session.answers()?;
        pair.away().signal_all(" shim /run/phantom", Signal::SIGCONT);
        pair.away().signal_all("phantom daemon", Signal::SIGCONT);
        wait_until("the end of the stale copy", MOVE, || {
            Ok(pair.away().processes_with(" shim /run/phantom").is_empty())
        })?;
        session.lives_on(pair.home())?;
        let log = std::fs::read_to_string(pair.home().home_dir().join("log"))?;
        counted_once(&log)?;
        session.end()
    })
}

#[test]
fn a_copy_whose_report_is_lost_is_not_taken_back() -> anyhow::Result<()> {
    Pair::scenario("a_copy_whose_report_is_lost_is_not_taken_back", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let moving = pair.held_move(pair.away(), "target:drop", "repl", "cellar")?;
        // Typed into the copy over there: giving the app back would lose it.
        session.answers()?;
        moving.wait()?;
        pair.away().hold_at(None)?;
        session.lives_on(pair.away())?;
        session.end()
    })
}
