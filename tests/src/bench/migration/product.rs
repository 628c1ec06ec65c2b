//! Phantom's side: two nodes, a program in a terminal of the first, `phantom migrate`.

use std::cell::Cell;

use anyhow::{Context, ensure};

use super::{PATIENCE, PROGRAM, SETTLE, gaps};
use crate::lab::{Event, Node, Pair, SOON, wait_until};

/// Two nodes that know each other.
pub struct Product {
    pair: Pair,
    count: Cell<u32>,
}

/// One move.
#[derive(Debug, Clone)]
pub struct Sample {
    /// How long the program stood still by its own account.
    pub downtime_ms: f64,
    /// What the daemon's log says of each step.
    steps: Vec<(String, f64)>,
}

impl Sample {
    /// The longest of the entries for a step: both sides note what they did of it.
    pub fn step(&self, name: &str) -> Option<f64> {
        self.steps.iter().filter(|(step, _)| step == name).map(|(_, ms)| *ms).reduce(f64::max)
    }
}

impl Product {
    /// Starts the nodes.
    pub fn start() -> anyhow::Result<Self> {
        let pair = Pair::alike(super::BENCH)?.context("this benchmark needs root")?;
        Ok(Self { pair, count: Cell::new(0) })
    }

    /// Starts the program at home, moves it away and ends it.
    pub fn sample(&self, mib: u32) -> anyhow::Result<Sample> {
        self.count.set(self.count.get() + 1);
        let name = format!("gap{}", self.count.get());
        let home = self.pair.home();
        let size = mib.to_string();
        let mut terminal = home.terminal(&[
            "run",
            "--name",
            &name,
            "--",
            "/usr/bin/python3",
            "-c",
            PROGRAM,
            &size,
        ])?;
        terminal.expect("ready", PATIENCE)?;
        std::thread::sleep(SETTLE);
        let before = terminal.transcript().len();
        let moved = self.pair.migrate(&name, self.pair.away().name())?;
        let mut downtime_ms = 0.0_f64;
        // Small gaps are the scheduler's; the one of the move is about what the daemons measured.
        wait_until("the program's word on its move", PATIENCE, || {
            let text = String::from_utf8_lossy(&terminal.transcript()[before..]).into_owned();
            downtime_ms = gaps(&text).into_iter().fold(0.0, f64::max) * 1000.0;
            Ok(downtime_ms > moved.frozen_ms / 2.0)
        })?;
        let events = self.pair.events(&name)?;
        let ended = home.phantom(true, &["kill", &name, "--signal", "KILL"])?;
        ensure!(ended.code == 0, "{name} could not be ended: {}", ended.stderr.trim());
        terminal.wait(PATIENCE).context("the program's end")?;
        self.wait_until_gone()?;
        Ok(Sample { downtime_ms, steps: events.iter().filter_map(timing).collect() })
    }

    /// What is left of an app must not disturb the next sample.
    fn wait_until_gone(&self) -> anyhow::Result<()> {
        for node in [self.pair.home(), self.pair.away()] {
            wait_until("the end of the app's shims", SOON, || {
                Ok(node.enter(&["ls", "/run/phantom/apps"])?.stdout.trim().is_empty())
            })
            .inspect_err(|_| eprintln!("{}", self.pair.lab().logs()))?;
        }
        Ok(())
    }
}

/// `dump`, `24.0 ms on attic, 5.5 MiB` -> `dump`, 24.0.
fn timing(event: &Event) -> Option<(String, f64)> {
    let (number, _) = event.detail.split_once(" ms on ")?;
    Some((event.event.clone(), number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_the_log() {
        let event = |event: &str, detail: &str| Event {
            at_unix_us: 0,
            event: event.into(),
            detail: detail.into(),
        };
        let dump = timing(&event("dump", "24.5 ms on attic, 5.5 MiB"));
        assert_eq!(dump, Some(("dump".to_owned(), 24.5)));
        assert_eq!(timing(&event("running", "on cellar")), None);
    }
}
