//! Apps on the move, as their users see them.

use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{AppRow, Key, MOVE, Node, Pair, SOON, Terminal, wait_until};
use phantom_tests::soak::typing;

/// A Python REPL that is ready for input.
fn repl(pair: &Pair, args: &[&str]) -> anyhow::Result<Terminal> {
    let mut all = vec!["run", "--name", "repl"];
    all.extend(args);
    all.extend(["--", "/usr/bin/python3", "-q"]);
    let mut repl = pair.home().terminal(&all)?;
    repl.expect(">>> ", SOON)?;
    Ok(repl)
}

fn row(pair: &Pair, app: &str) -> anyhow::Result<AppRow> {
    pair.row(app)?.with_context(|| format!("`phantom ps` does not show {app}"))
}

/// Types at its own pace while a move goes on; gives how many lines it typed.
fn type_during(
    pair: &Pair,
    terminal: &mut Terminal,
    to: &str,
    mut line: impl FnMut(usize) -> String,
) -> anyhow::Result<usize> {
    let mut moving = pair.start_move("repl", to)?;
    let mut typed = 0;
    while moving.goes_on()? {
        terminal.type_line(&line(typed))?;
        typed += 1;
        // The pace of the typing itself; nothing is waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
    moving.wait()?;
    Ok(typed)
}

#[test]
fn a_repl_moves_away_and_home_and_away_again() -> anyhow::Result<()> {
    Pair::scenario("a_repl_moves_away_and_home_and_away_again", |pair| {
        let mut repl = repl(pair, &[])?;
        repl.type_line("import os, sys; seen = []; first = os.getpid()")?;
        let mut count = 0;
        for to in ["cellar", "attic", "cellar"] {
            let before = count;
            count += type_during(pair, &mut repl, to, |n| format!("seen.append({})", before + n))?;
            let row = row(pair, "repl")?;
            ensure!(row.host == to && row.home == "attic", "after the move: {row:?}");
            repl.type_line(&format!(
                "print('so', 'far', len(seen) - {count}, seen == list(range({count})))"
            ))?;
            repl.expect("so far 0 True", MOVE)?;
        }
        ensure!(row(pair, "repl")?.epoch >= 4, "three moves, three more epochs");
        repl.type_line("print('same', 'process', os.getpid() == first)")?;
        repl.expect("same process True", SOON)?;
        repl.type_line("sys.exit(7)")?;
        ensure!(repl.wait(SOON)? == 7, "the exit code did not pass through");
        wait_until("the app's end in `ps`", SOON, || Ok(pair.row("repl")?.is_none()))
    })
}

/// Keeps one core busy for as many seconds and then says so.
fn busy(seconds: u32) -> String {
    format!(
        "exec('''import time\\nend = time.time() + {seconds}\\nwhile time.time() < end: pass\\n\
         print('done', 'working')''')"
    )
}

#[test]
fn an_app_that_exceeds_its_limit_moves_once_and_stays() -> anyhow::Result<()> {
    Pair::scenario("an_app_that_exceeds_its_limit_moves_once_and_stays", |pair| {
        let mut repl = repl(pair, &["--limit", "cpu=10%/2s"])?;
        // Far longer than the window, so that it also exceeds its limit on the new host.
        repl.type_line(&busy(15))?;
        pair.wait_for_host("repl", "cellar")?;
        repl.expect("done working", MOVE)?;
        let row = row(pair, "repl")?;
        ensure!(row.host == "cellar", "it did not stay where it went: {row:?}");
        let events = pair.events("repl")?;
        let moves = events.iter().filter(|event| event.event == "resume").count();
        ensure!(moves == 1, "{moves} moves instead of one: {events:#?}");
        let verdict = events.iter().find(|event| event.event == "verdict");
        let verdict = verdict.context("no verdict in the log")?;
        ensure!(verdict.detail.contains("10%"), "the verdict does not name the limit: {verdict:?}");
        // Typed before the prompt, ^D would not reach readline.
        repl.expect(">>> ", SOON)?;
        repl.press(Key::Ctrl('d'))?;
        ensure!(repl.wait(SOON)? == 0, "the REPL ended badly");
        Ok(())
    })
}

#[test]
fn characters_typed_through_three_moves_arrive_exactly_once() -> anyhow::Result<()> {
    Pair::scenario("characters_typed_through_three_moves_arrive_exactly_once", |pair| {
        let frozen = typing::through_three_moves(pair, 2_000)?;
        ensure!(frozen.len() == 3, "three moves: {frozen:?}");
        Ok(())
    })
}
