//! The whole daemon at rest, with one app of many processes.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::unistd::Pid;

use super::{BENCH, PROCESSES, percent};
use crate::bench::{Report, Row};
use crate::lab::{Node, Pair, SOON, Usage};

/// How long after the app's start what that took has been done.
const SETTLE: Duration = Duration::from_secs(3);
/// How long it is looked at: CPU time is told in hundredths of a second.
const WATCHED: Duration = Duration::from_secs(20);

/// What the daemon takes while nothing happens.
pub(super) fn at_rest(report: &mut Report) -> anyhow::Result<()> {
    let pair = Pair::alike(BENCH)?.context("this benchmark needs root")?;
    let home = pair.home();
    let script = format!(
        "i=1; while [ $i -lt {PROCESSES} ]; do sleep 1000 & i=$((i+1)); done; echo ready; wait"
    );
    let limits = "cpu=150%/10s,memory=8GiB";
    let mut app =
        home.terminal(&["run", "--name", "many", "--limit", limits, "--", "sh", "-c", &script])?;
    app.expect("ready", SOON)?;
    std::thread::sleep(SETTLE);
    let daemon = Pid::from_raw(home.daemon_pid()?);
    let (before, start) = (Usage::of(daemon)?, Instant::now());
    std::thread::sleep(WATCHED);
    let (after, time) = (Usage::of(daemon)?, start.elapsed());
    let case = format!("daemon at rest, an app of {PROCESSES} processes");
    let busy = percent(after.cpu.saturating_sub(before.cpu), time);
    report.row(Row::new(BENCH, &case, "CPU", busy, "% of a core"))?;
    report.row(Row::new(BENCH, &case, "resident memory", after.resident_mib, "MiB"))
}
