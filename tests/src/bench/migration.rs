//! `bench migration`: how long a program stands still while it moves, as it sees it itself.
//!
//! The measured program is [`PROGRAM`]: Python with a given amount of random memory that touches
//! it, looks at CLOCK_REALTIME all the time and says when the clock has jumped. (A restored
//! program's monotonic clock stands still in transit.) Phantom moves it between two nodes on this
//! machine; the baseline is a bare `criu dump` and `criu restore` of the same capsule.

pub mod baseline;
mod product;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

use super::{Bound, Report, Row, in_turns, median};
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
    for (mib, rounds, most) in CASES {
        case(report, &criu, &product, mib, rounds, most)?;
    }
    report.note(format!("SKIP podman checkpoint --export, restore --import: {}", no_podman()));
    report.note(format!("load average {}", load_average()));
    Ok(())
}

/// Why podman is not measured.
fn no_podman() -> &'static str {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("podman").is_file()));
    match found {
        true => "this benchmark does not drive podman yet",
        false => "podman is not installed",
    }
}

fn case(
    report: &mut Report,
    criu: &Path,
    product: &Product,
    mib: u32,
    rounds: usize,
    most: f64,
) -> anyhow::Result<()> {
    let name = format!("{mib} MiB");
    report.progress(&name);
    let (mut ours, mut bare): (Vec<Sample>, Vec<baseline::Baseline>) = Default::default();
    let pair = in_turns(
        rounds,
        || {
            let sample = product.sample(mib)?;
            ours.push(sample.clone());
            Ok(sample.downtime_ms)
        },
        || {
            let sample = baseline::baseline(criu, mib)?;
            bare.push(sample);
            Ok(milliseconds(sample.downtime))
        },
    )?;
    let (value, base) = pair.medians()?;
    let row = Row::new(BENCH, &name, "downtime", value, "ms");
    report.row(row.against("bare CRIU", base).must(Bound::Ratio(most)))?;
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

/// The machine's load over one, five and fifteen minutes.
pub(super) fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
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
