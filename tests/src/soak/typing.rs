//! Typing at a steady pace while the program moves away, home and away again.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::bench::{Report, Row, median};
use crate::lab::{MOVE, Node, Pair, SOON};

/// Characters of a round.
const CHARACTERS: usize = 10_000;
/// The pace: 50 a second.
const EACH: Duration = Duration::from_millis(20);

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

/// The soak.
pub fn run(rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    let (mut frozen_ms, mut took) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        report.progress(format!("round {round} of {rounds}: {CHARACTERS} characters"));
        Pair::scenario("typing", |pair| {
            let start = Instant::now();
            frozen_ms.extend(through_three_moves(pair, CHARACTERS)?);
            took.push(start.elapsed().as_secs_f64());
            Ok(())
        })?;
    }
    let case = format!("{CHARACTERS} characters, three moves");
    let row = |metric, value, unit| Row::new("typing", &case, metric, value, unit);
    report.row(row("arrived once and in order", f64::from(rounds), "rounds"))?;
    report.row(row("time of a round", median(&took)?, "s"))?;
    report.row(row("stopped for a move, median", median(&frozen_ms)?, "ms"))?;
    let longest = frozen_ms.iter().copied().fold(0.0, f64::max);
    report.row(row("stopped for a move, longest", longest, "ms"))
}

/// Types so many characters while the program that reads them moves three times; for how long it
/// was stopped each time, in milliseconds.
///
/// # Errors
/// When not exactly what was typed arrived, or the moves took longer than the typing.
pub fn through_three_moves(pair: &Pair, count: usize) -> anyhow::Result<Vec<f64>> {
    let args = ["run", "--name", "reader", "--", "/usr/bin/python3", "-c", LOGGER];
    let mut terminal = pair.home().terminal(&args)?;
    terminal.expect("ready", SOON)?;
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let text: String =
        (0..count).map(|n| char::from(letters[(n * 7 + n / 63) % letters.len()])).collect();
    let start = Instant::now();
    let mut hosts = ["cellar", "attic", "cellar"].into_iter().peekable();
    let (mut moving, mut frozen_ms) = (None, Vec::new());
    for (n, character) in text.chars().enumerate() {
        if moving.is_none() && n % (count / 4) == count / 8 && hosts.peek().is_some() {
            moving = hosts.next().map(|to| pair.start_move("reader", to)).transpose()?;
        }
        if let Some(mut running) = moving.take() {
            if running.goes_on()? {
                moving = Some(running);
            } else {
                frozen_ms.push(running.wait()?.frozen_ms);
            }
        }
        terminal.type_text(character.encode_utf8(&mut [0; 4]))?;
        // The pace, whatever the machine does between two characters.
        let due = start + EACH * (n as u32 + 1);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    if let Some(moving) = moving {
        frozen_ms.push(moving.wait()?.frozen_ms);
    }
    ensure!(hosts.peek().is_none(), "the moves took too long: not all of them were made");
    terminal.type_text(".")?;
    terminal.expect("end", MOVE)?;
    ensure!(terminal.wait(SOON)? == 0, "the reader ended badly");
    let typed = std::fs::read(pair.home().home_dir().join("typed.log"))?;
    let same = typed == format!("{text}.").as_bytes();
    ensure!(same, "not what was typed: {} bytes arrived of {}", typed.len(), count + 1);
    Ok(frozen_ms)
}
