//! A program with a child, a pipe and an open file moves to and fro, again and again.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use nix::unistd::Pid;

use crate::bench::{Bound, Report, Row, median};
use crate::lab::{LabNode, MOVE, Node, Pair, SOON, Terminal, Things, Usage};

/// Moves of a round of the soak.
const MOVES: u32 = 100;
/// By how many a daemon's or shim's open files and threads may change: connections that are being
/// made or closed, threads that wait for work.
const SOME: usize = 8;
/// By how much their memory may grow in the second half of the rounds, in MiB. In the first it does:
/// threads that start get memory of their own, and an app's life is kept up to a number of lines.
const GROWTH_MIB: f64 = 2.0;

/// What the program does before it moves, and after each round.
const START: &str = "import subprocess as s; child = s.Popen('cat', stdin=s.PIPE, stdout=s.PIPE); \
     notes = open('notes', 'w')";
const CHECK: &str = "n = child.stdin.write(b'round trip\\n'), child.stdin.flush(), \
     notes.write('line\\n'), notes.flush(); print('the', child.stdout.readline())";

/// A round of moves.
#[derive(Debug)]
pub struct Round {
    /// How long a move took, seconds.
    each_s: f64,
    /// How long the program was stopped for each, milliseconds.
    frozen_ms: Vec<f64>,
    /// What those hold that stay: the daemons of both nodes, the shim at home.
    held: Vec<(String, Usage)>,
}

/// The soak.
pub fn run(rounds: u32, report: &mut Report) -> anyhow::Result<()> {
    let mut done: Vec<Round> = Vec::new();
    Pair::scenario("moves", |pair| {
        to_and_fro(pair, rounds, MOVES, |round| {
            let held =
                |(who, held): &(String, Usage)| format!("{who} {:.1} MiB", held.anonymous_mib);
            report.progress(format!(
                "round {} of {rounds}: {:.2} s a move, {}",
                done.len() + 1,
                round.each_s,
                round.held.iter().map(held).collect::<Vec<_>>().join(", ")
            ));
            done.push(round);
        })
    })?;
    rows(report, &done)
}

/// The last round against the first, and what is held at the end against what was half-way.
fn rows(report: &mut Report, rounds: &[Round]) -> anyhow::Result<()> {
    let half = rounds.len().div_ceil(2);
    let (Some(first), Some(middle), Some(last)) =
        (rounds.first(), rounds.get(half.saturating_sub(1)), rounds.last())
    else {
        bail!("no rounds");
    };
    let moves = |rounds: usize| rounds as u32 * MOVES;
    let all = f64::from(moves(rounds.len()));
    report.row(Row::new("moves", "all", "moves that left nothing", all, "moves"))?;
    let case = format!("last {MOVES}");
    let row = Row::new("moves", &case, "time of a move", last.each_s, "s");
    report.row(row.against(format!("first {MOVES}"), first.each_s))?;
    let row = Row::new("moves", &case, "stopped, median", median(&last.frozen_ms)?, "ms");
    report.row(row.against(format!("first {MOVES}"), median(&first.frozen_ms)?))?;
    let against = format!("after {}", moves(half));
    for ((who, now), (_, then)) in last.held.iter().zip(&middle.held) {
        let row = |metric, now: f64, then: f64, unit| {
            Row::new("moves", who, metric, now, unit).against(&against, then)
        };
        let memory = row("memory of its own", now.anonymous_mib, then.anonymous_mib, "MiB");
        report.row(memory.must(Bound::Excess(GROWTH_MIB)))?;
        report.row(row("open", now.files as f64, then.files as f64, "files"))?;
        let threads = row("running", now.threads as f64, then.threads as f64, "threads");
        report.row(threads.must(Bound::Excess(SOME as f64)))?;
    }
    Ok(())
}

/// Moves a program of its own `rounds` times `moves` times, an even number, and ends it.
///
/// # Errors
/// When a round leaves anything on either node that was not there before it.
pub fn to_and_fro(
    pair: &Pair,
    rounds: u32,
    moves: u32,
    mut each: impl FnMut(Round),
) -> anyhow::Result<()> {
    let (home, away) = (pair.home(), pair.away());
    let bare = [Things::of(home)?, Things::of(away)?];
    let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-q"];
    let mut repl = home.terminal(&args)?;
    repl.expect(">>> ", SOON)?;
    repl.type_line(START)?;
    alive(&mut repl)?;
    // The first two moves open what stays open: connections and caches.
    pair.migrate("repl", "cellar")?;
    pair.migrate("repl", "attic")?;
    bare[1].expect_again(away).context("after one move to and fro")?;
    let (resting, at_first) = (Things::of(home)?, held(home, away)?);
    let mut made = 2;
    for _ in 0..rounds {
        let start = Instant::now();
        let mut frozen_ms = Vec::new();
        for host in ["cellar", "attic"].into_iter().cycle().take(moves as usize) {
            let moved = pair.migrate("repl", host).with_context(|| format!("move {made}"))?;
            frozen_ms.push(moved.frozen_ms);
            made += 1;
        }
        let each_s = start.elapsed().as_secs_f64() / f64::from(moves);
        alive(&mut repl)?;
        bare[1].expect_again(away).with_context(|| format!("after {made} moves"))?;
        resting.expect_again(home).with_context(|| format!("after {made} moves"))?;
        let now = held(home, away)?;
        for ((who, now), (_, then)) in now.iter().zip(&at_first) {
            let (now, then) = (now.files, then.files);
            ensure!(now <= then + SOME, "{who} has {now} files open, {then} after one round trip");
        }
        each(Round { each_s, frozen_ms, held: now });
    }
    repl.type_line("child.stdin.close(), child.wait(), exit()")?;
    ensure!(repl.wait(SOON)? == 0, "the REPL ended badly");
    bare[0].expect_again(home).context("after the app's end")
}

/// The program, its child and its file answer.
fn alive(repl: &mut Terminal) -> anyhow::Result<()> {
    repl.type_line(CHECK)?;
    repl.expect("the b'round trip", MOVE)?;
    repl.expect(">>> ", SOON)
}

fn held(home: &LabNode, away: &LabNode) -> anyhow::Result<Vec<(String, Usage)>> {
    let shims = home.processes_with("phantom shim");
    ensure!(shims.len() == 1, "{} shims at home instead of one", shims.len());
    Ok(vec![
        (format!("daemon on {}", home.name()), Usage::of(Pid::from_raw(home.daemon_pid()?))?),
        (format!("daemon on {}", away.name()), Usage::of(Pid::from_raw(away.daemon_pid()?))?),
        (format!("shim on {}", home.name()), Usage::of(shims[0])?),
    ])
}
