//! `bench fs`: files away from home against the local disk and sshfs.
//!
//! Home and target are one machine, the stream between them a local socket or TCP on loopback:
//! what is measured is what the file system itself costs. Everything is mounted in a mount
//! namespace of this benchmark's own.

mod place;
mod work;

use std::path::Path;

use anyhow::{Context, ensure};

use super::mounts::in_own_mounts;
use super::{Report, Row, Side, all_in_turns, in_turns};
use place::{Local, Phantom, Place, Sshfs, Stream, System};
use work::Work;

const BENCH: &str = "fs";
/// Samples of each side of a comparison.
const ROUNDS: usize = 5;
/// The program whose start is measured, and what it loads: about a hundred files.
const PYTHON: [&str; 3] = ["/usr/bin/python3", "-c", "import json, http.client"];

/// Runs all cases; each row is reported as soon as it is known.
pub fn run(report: &mut Report) -> anyhow::Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "this benchmark mounts: run it as root");
    in_own_mounts(|| all(report)).context("bench fs")
}

fn all(report: &mut Report) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("phantom-bench-fs-").tempdir()?;
    let sshfs = match Sshfs::missing() {
        None => true,
        Some(what) => {
            report.note(format!("no comparison with sshfs: {what}"));
            false
        }
    };
    for stream in [Stream::Unix, Stream::Tcp] {
        files(report, dir.path(), stream, sshfs)?;
    }
    if Path::new(PYTHON[0]).exists() {
        python(report, dir.path())?;
    } else {
        report.note(format!("no start of a program: {} is not installed", PYTHON[0]));
    }
    Ok(())
}

/// The user's own files.
fn files(report: &mut Report, dir: &Path, stream: Stream, sshfs: bool) -> anyhow::Result<()> {
    let case = format!("user's files over {stream}");
    report.progress(&case);
    let phantom = Phantom::new(dir, None, stream)?;
    let local = Local::new(dir)?;
    // sshfs has no other way than TCP.
    let sshfs = (sshfs && stream == Stream::Tcp).then(|| Sshfs::new(dir)).transpose()?;
    let mut places: Vec<&dyn Place> = vec![&phantom, &local];
    places.extend(sshfs.iter().map(|sshfs| sshfs as &dyn Place));
    for work in Work::ALL {
        let sides = places
            .iter()
            .map(|place| -> Side<'_> { (place.name(), Box::new(|| work.measure(*place))) });
        let medians = all_in_turns(ROUNDS, sides.collect())?;
        for (place, theirs) in places.iter().zip(&medians).skip(1) {
            let row = Row::new(BENCH, &case, work.metric(), medians[0], work.unit());
            report.row(row.against(place.name(), *theirs))?;
        }
    }
    Ok(())
}

/// The start of a program whose files are all the home's system: with nothing cached, with the
/// verified cache on disk, and with everything in this kernel's memory. There is no comparison
/// with sshfs: no program starts with sshfs as its root.
fn python(report: &mut Report, dir: &Path) -> anyhow::Result<()> {
    let system = System::new(dir)?;
    let case = "python3 -c 'import json, http.client' over TCP";
    report.progress(case);
    let local = || place::start(system.path(), &PYTHON);
    local()?; // into the home's memory
    let fresh = |cache: &Path| Phantom::new(cache, Some(system.path()), Stream::Tcp);
    let cold = || -> anyhow::Result<f64> {
        let nothing = tempfile::tempdir_in(dir)?;
        place::start(fresh(nothing.path())?.path(), &PYTHON)
    };
    let kept = tempfile::tempdir_in(dir)?;
    place::start(fresh(kept.path())?.path(), &PYTHON)?;
    let cached = || place::start(fresh(kept.path())?.path(), &PYTHON);
    let mounted = fresh(kept.path())?;
    place::start(mounted.path(), &PYTHON)?;
    let warm = || place::start(mounted.path(), &PYTHON);
    let ways: [(&str, &dyn Fn() -> anyhow::Result<f64>); 3] = [
        ("start, cold", &cold),
        ("start, verified cache on disk", &cached),
        ("start, warm", &warm),
    ];
    for (metric, ours) in ways {
        let (ours, theirs) = in_turns(ROUNDS, ours, local)?;
        report.row(Row::new(BENCH, case, metric, ours, "ms").against("local disk", theirs))?;
    }
    Ok(())
}
