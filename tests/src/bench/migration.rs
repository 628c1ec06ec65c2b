//! `bench migration`: how long a program stands still while it moves, as it sees it itself.
//!
//! The measured program is [`PROGRAM`]: Python with a given amount of random memory that touches
//! it, looks at CLOCK_REALTIME all the time and says when the clock has jumped. (A restored
//! program's monotonic clock stands still in transit.) Phantom moves it between two nodes on this
//! machine; the baseline is a bare `criu dump` and `criu restore` of the same capsule. Where podman
//! is installed, it moves the same program from one container into another, in the same turns.

pub mod baseline;
mod podman;
mod product;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use super::mounts::{cover, in_own_mounts};
use super::{Bound, Report, Row, Side, all_in_turns, median};
use crate::command::stdout_of;
use podman::Podman;
use product::{Product, Sample};

const BENCH: &str = "migration";
/// Random memory in MiB, samples of each side, and how many times the baseline's downtime
/// Phantom's may be.
const CASES: [(u32, usize, f64); 3] = [(16, 7, 2.5), (64, 7, 2.2), (512, 5, 2.2)];

/// `python3 -c PROGRAM MIB`: prints `ready`, then `gap SECONDS` whenever it has stood still for
/// more than five milliseconds.
pub const PROGRAM: &str = r#"
import os, sys, time
memory = bytearray(os.urandom(int(sys.argv[1]) << 20))
size, at, last = len(memory), 0, time.time()
print("ready", flush=True)
while True:
    at = (at + 4096) % size
    memory[at] ^= 1
    now = time.time()
    if now - last > 0.005:
        print("gap %.6f" % (now - last), flush=True)
        now = time.time()
    last = now
"#;

/// Time for each step; generous, this is no test of speed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the program runs undisturbed before it is saved.
const SETTLE: Duration = Duration::from_millis(200);

/// Runs all cases; each row is reported as soon as it is known.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    let criu = criu()?;
    let product = Product::start()?;
    report.progress("one move that nobody counts");
    product.sample(16)?;
    let podman = Podman::start(&criu)
        .map_err(|why| report.note(format!("SKIP podman export, import: {why:#}")))
        .ok();
    for (mib, rounds, most) in CASES {
        case(report, &criu, &product, podman.as_ref(), mib, rounds, most)?;
    }
    Ok(())
}

fn case(
    report: &mut Report,
    criu: &Path,
    product: &Product,
    podman: Option<&Podman>,
    mib: u32,
    rounds: usize,
    most: f64,
) -> anyhow::Result<()> {
    let name = format!("{mib} MiB");
    report.progress(&name);
    let (mut ours, mut bare): (Vec<Sample>, Vec<baseline::Baseline>) = Default::default();
    let sample_ours = || {
        let sample = product.sample(mib)?;
        ours.push(sample.clone());
        Ok(sample.downtime_ms)
    };
    let sample_bare = || {
        let sample = baseline::baseline(criu, mib)?;
        bare.push(sample);
        Ok(milliseconds(sample.downtime))
    };
    let mut sides: Vec<Side<'_>> =
        vec![("Phantom", Box::new(sample_ours)), ("bare CRIU", Box::new(sample_bare))];
    if let Some(podman) = podman {
        sides.push(("podman", Box::new(|| podman.sample(mib))));
    }
    let medians = all_in_turns(rounds, sides)?;
    let row = Row::new(BENCH, &name, "downtime", medians[0], "ms");
    report.row(row.clone().against("bare CRIU", medians[1]).must(Bound::Ratio(most)))?;
    if let Some(podman) = medians.get(2) {
        report.row(row.against("podman export, import", *podman))?;
    }
    let of_bare = |pick: fn(&baseline::Baseline) -> Duration| {
        median(&bare.iter().map(|sample| milliseconds(pick(sample))).collect::<Vec<_>>())
    };
    for step in ["freeze", "dump", "transfer", "check", "restore", "resume"] {
        let took: Vec<f64> = ours.iter().filter_map(|sample| sample.step(step)).collect();
        if took.is_empty() {
            continue;
        }
        let row = Row::new(BENCH, &name, format!("  {step}"), median(&took)?, "ms");
        report.row(match step {
            "dump" => row.against("bare CRIU", of_bare(|sample| sample.dump)?),
            "restore" => row.against("bare CRIU", of_bare(|sample| sample.restore)?),
            _ => row,
        })?;
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Does `work` where CRIU is quickest: /run, where it keeps its feature cache, is a tmpfs, and the
/// cache is filled.
fn with_warm_criu<T: Send>(
    criu: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    in_own_mounts(|| {
        cover(Path::new("/run"))?;
        stdout_of(Command::new(criu).arg("check"))?;
        work()
    })
}

/// The CRIU that `cargo xtask` names, or the system's.
fn criu() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("PHANTOM_CRIU") {
        return Ok(path.into());
    }
    let places = ["/usr/local/sbin/criu", "/usr/sbin/criu", "/usr/local/bin/criu", "/usr/bin/criu"];
    match places.into_iter().map(PathBuf::from).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("there is no CRIU to compare with; `cargo xtask bench migration` sets it up"),
    }
}

/// All whole `gap 0.123` lines, in seconds.
fn gaps(text: &str) -> Vec<f64> {
    text.split("gap ")
        .skip(1)
        .filter_map(|rest| rest.split_once(['\r', '\n'])?.0.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_read_from_the_terminal() {
        assert_eq!(gaps("ready\r\ngap 0.125000\r\ngap 1.0\r\n"), [0.125, 1.0]);
        assert_eq!(gaps("gap 0.12"), [0.0; 0]);
        assert_eq!(gaps("ready\r\n"), [0.0; 0]);
    }
}
