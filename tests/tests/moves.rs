//! Apps on the move, as their users see them.
//!
//! `PHANTOM_SOAK=1` makes the typing scenario type 10,000 characters instead of 2,000.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use phantom_tests::lab::{AppRow, Key, MOVE, Node, Pair, SOON, Terminal, wait_until};

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

/// Reads its terminal raw, byte by byte, and logs what arrives until a `.`.
const LOGGER: &str = "
import os, sys, tty
tty.setraw(0)
log = open('typed.log', 'wb', buffering=0)
print('ready', end='\\r\\n', flush=True)
while True:
    got = os.read(0, 4096)
    log.write(got)
    if got.endswith(b'.'):
        break
print('end', end='\\r\\n', flush=True)
";

#[test]
fn characters_typed_through_three_moves_arrive_exactly_once() -> anyhow::Result<()> {
    let soak = std::env::var_os("PHANTOM_SOAK").is_some_and(|value| value == "1");
    let count: usize = if soak { 10_000 } else { 2_000 };
    Pair::scenario("characters_typed_through_three_moves_arrive_exactly_once", |pair| {
        let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-c", LOGGER];
        let mut terminal = pair.home().terminal(&args)?;
        terminal.expect("ready", SOON)?;
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let text: String =
            (0..count).map(|n| char::from(letters[(n * 7 + n / 63) % letters.len()])).collect();
        let start = Instant::now();
        let mut hosts = ["cellar", "attic", "cellar"].into_iter().peekable();
        let mut moving = None;
        for (n, character) in text.chars().enumerate() {
            if moving.is_none() && n % (count / 4) == count / 8 && hosts.peek().is_some() {
                moving = hosts.next().map(|to| pair.start_move("repl", to)).transpose()?;
            }
            if let Some(mut running) = moving.take() {
                if running.goes_on()? {
                    moving = Some(running);
                } else {
                    running.wait()?;
                }
            }
            terminal.type_text(character.encode_utf8(&mut [0; 4]))?;
            // 50 characters a second, whatever the machine does between two of them.
            let due = start + Duration::from_millis(20) * (n as u32 + 1);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        if let Some(moving) = moving {
            moving.wait()?;
        }
        ensure!(hosts.peek().is_none(), "the moves took too long: not all of them were made");
        terminal.type_text(".")?;
        terminal.expect("end", MOVE)?;
        ensure!(terminal.wait(SOON)? == 0, "the reader ended badly");
        let typed = std::fs::read(pair.home().home_dir().join("typed.log"))?;
        ensure!(
            typed == format!("{text}.").as_bytes(),
            "{} bytes arrived of {}",
            typed.len(),
            count + 1
        );
        Ok(())
    })
}
