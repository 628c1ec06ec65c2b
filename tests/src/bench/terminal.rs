//! `bench terminal`: from a key to its echo.
//!
//! The program is `cat` on a raw terminal: what it gets it prints. It is reached through a bare
//! pty, through tmux, ssh on loopback, `phantom run` at home and `phantom run` after a move to
//! another node; each gets one key in turn, and the path's own round trip is measured in between.
//! In front of each is the same terminal: a pty whose other side this benchmark reads.

mod path;
mod ssh;
mod typist;

use std::fmt::Display;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Bound, Report, Row, median};
use crate::command::is_installed;
use crate::lab::{Node, Pair};
use path::Path;
use ssh::Server;
use typist::Typist;

const BENCH: &str = "terminal";
/// Keys typed into each.
const KEYS: usize = 400;
/// Keys before, which nobody counts.
const WARM_UP: usize = 30;
/// Pause before each key: a typist's hand leaves everything at rest in between.
const PAUSE: Duration = Duration::from_millis(2);
/// How much more than a bare pty Phantom may take at home, milliseconds.
const AT_HOME_MS: f64 = 0.4;
/// How much more it may take away, beside the path's round trip, milliseconds.
const AWAY_MS: f64 = 1.0;
/// Echoes its input; says `ready` when it does.
const ECHO: &str = "stty raw -echo; echo ready; exec cat";

/// One way to the program.
struct Way {
    name: &'static str,
    typist: Typist,
    echoes_ms: Vec<f64>,
}

/// Runs it.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let pair = Pair::alike(BENCH)?.context("this benchmark needs root")?;
    let home = pair.home();
    let mut ways = Vec::new();
    let mut add = |name: &'static str, command: Command| -> anyhow::Result<()> {
        report.progress(name);
        let typist = Typist::start(command).with_context(|| name.to_owned())?;
        ways.push(Way { name, typist, echoes_ms: Vec::new() });
        Ok(())
    };
    add("bare pty", home.command(true, &["sh", "-c", ECHO]))?;
    add(
        "phantom, at home",
        home.phantom_command(true, &["run", "--name", "near", "--", "sh", "-c", ECHO]),
    )?;
    add(
        "phantom, away",
        home.phantom_command(true, &["run", "--name", "far", "--", "sh", "-c", ECHO]),
    )?;
    let tmux = (!is_installed("tmux")).then_some("tmux is not installed");
    if tmux.is_none() {
        add(
            "tmux",
            home.command(
                true,
                &[
                    "tmux",
                    "-f",
                    "/dev/null",
                    "-L",
                    "phantom-bench",
                    "new-session",
                    ECHO,
                    ";",
                    "set",
                    "status",
                    "off",
                ],
            ),
        )?;
    }
    let server = Server::start();
    if let Ok(server) = &server {
        add("ssh", server.client(ECHO))?;
    }
    skipped(report, "tmux", tmux);
    skipped(report, "ssh", server.as_ref().err());
    let away = pair.away().name();
    pair.migrate("far", away)?;
    let mut path = Path::between(home, pair.away())?;
    let mut trips_ms = Vec::new();
    report.progress(format!("{KEYS} keys each"));
    for round in 0..WARM_UP + KEYS {
        let counts = round >= WARM_UP;
        for way in &mut ways {
            std::thread::sleep(PAUSE);
            let took = way.typist.key().with_context(|| way.name.to_owned())?;
            if counts {
                way.echoes_ms.push(took.as_secs_f64() * 1000.0);
            }
        }
        std::thread::sleep(PAUSE);
        let trip = path.round_trip()?;
        if counts {
            trips_ms.push(trip.as_secs_f64() * 1000.0);
        }
    }
    let hosted = home.phantom(true, &["ps"])?;
    ensure!(hosted.stdout.contains(away), "the program did not stay away: {}", hosted.stdout);
    rows(report, &ways, median(&trips_ms)?)?;
    if ways.iter().any(|way| way.name == "tmux") {
        let _ = home.command(true, &["tmux", "-L", "phantom-bench", "kill-server"]).status();
    }
    for name in ["near", "far"] {
        let _ = home.phantom(true, &["kill", name, "--signal", "KILL"]);
    }
    Ok(())
}

fn rows(report: &mut Report, ways: &[Way], trip_ms: f64) -> anyhow::Result<()> {
    report.row(Row::new(BENCH, "path", "round trip", trip_ms, "ms"))?;
    let bare = ways.first().context("nothing was measured")?;
    let bare_ms = median(&bare.echoes_ms)?;
    for way in ways {
        let row = Row::new(BENCH, way.name, "key to echo", median(&way.echoes_ms)?, "ms");
        report.row(match way.name {
            "bare pty" => row,
            "phantom, at home" => row.against("bare pty", bare_ms).must(Bound::Excess(AT_HOME_MS)),
            "phantom, away" => {
                row.against("bare pty + path", bare_ms + trip_ms).must(Bound::Excess(AWAY_MS))
            }
            _ => row.against("bare pty", bare_ms),
        })?;
        let mut sorted = way.echoes_ms.clone();
        sorted.sort_by(f64::total_cmp);
        if let Some(slow) = sorted.get(sorted.len() * 95 / 100) {
            report.row(Row::new(BENCH, way.name, "key to echo, 95th percentile", *slow, "ms"))?;
        }
    }
    Ok(())
}

fn skipped(report: &mut Report, what: &str, why: Option<impl Display>) {
    if let Some(why) = why {
        report.note(format!("SKIP {what}: {why:#}"));
    }
}
