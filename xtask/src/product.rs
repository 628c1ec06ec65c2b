//! Tasks that run Phantom's own programs: demo, desktop, bench, soak and doctor.

use std::ffi::OsString;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::command::Cmd;
use crate::environment::Environment;
use crate::setup::{self, Extent};
use crate::test::build::{self, Built};
use crate::workspace::Workspace;
use crate::{interrupt, root, say, test};

/// How long a build may take.
const BUILD: Duration = Duration::from_secs(3600);
/// How long a program may run that the user looks at.
const RUN: Duration = Duration::from_secs(24 * 3600);
/// What to build for the programs that the user looks at.
const PROGRAMS: [&str; 5] = ["-p", "phantom", "-p", "phantom-tests", "--bins"];

/// Sets up, builds, and moves a live program between two nodes on this machine.
pub fn demo(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    let ready = setup::run(workspace, Extent::Base)?;
    say::title("Build");
    let built = build::build(workspace, &PROGRAMS, BUILD)?;
    let environment = Environment::make(&built, ready)?;
    say::title("Demo");
    run(&built, "demo", &environment, rest)
}

/// Starts a test desktop for a person, or names them.
pub fn desktop(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    let ready = setup::run(workspace, Extent::Desktops)?;
    say::title("Build");
    let built = build::build(workspace, &PROGRAMS, BUILD)?;
    let statics = build::statics(workspace, BUILD)?;
    let environment = Environment::make(&built, ready)?.with_desktops(&statics);
    run(&built, "desktop", &environment, rest)
}

/// Measures, with everything compiled as it is released.
pub fn bench(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    if rest.iter().any(|word| word == "--list") {
        let built = build::build(workspace, &["-p", "phantom-tests", "--bin", "bench"], BUILD)?;
        return Ok(Cmd::new(built.program("bench")?).arg("--list").foreground()? == 0);
    }
    let ready = setup::run(workspace, Extent::Base)?;
    let selection = [&["--release"], &PROGRAMS[..]].concat();
    let built = build::build(workspace, &selection, BUILD)?;
    run(&built, "bench", &Environment::make(&built, ready)?, rest)
}

/// What this machine can do, as `phantom doctor` finds it.
pub fn doctor(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    root::require()?;
    let built = build::build(workspace, &["-p", "phantom", "--bins"], BUILD)?;
    let doctor = Cmd::new(built.program("phantom")?).arg("doctor").args(rest).rooted().limit(RUN);
    Ok(doctor.foreground()? == 0)
}

/// Repeats the tests and keeps the result in `docs/soak.md`.
pub fn soak(workspace: &Workspace, rounds: u32, filter: Option<String>) -> Result<bool> {
    let started = Instant::now();
    let what = filter.clone().unwrap_or_else(|| "all tests".to_owned());
    let (held, failed) = test::repeat(workspace, rounds, filter)?;
    let report = soak_report(&Soak {
        day: day(SystemTime::now()),
        what: &what,
        rounds,
        held,
        failed: &failed,
        took: started.elapsed(),
    });
    let path = workspace.root.join("docs/soak.md");
    std::fs::create_dir_all(workspace.root.join("docs")).context("creating docs")?;
    std::fs::write(&path, &report).with_context(|| format!("writing {}", path.display()))?;
    println!("\n{report}\nkept in {}", path.display());
    Ok(failed.is_empty())
}

/// Runs one of the programs as root on the user's terminal; whether it succeeded.
fn run(built: &Built, program: &str, environment: &Environment, rest: &[OsString]) -> Result<bool> {
    let cmd = Cmd::new(built.program(program)?).args(rest).rooted().limit(RUN);
    let code = environment.give(cmd).foreground()?;
    for one in interrupt::kill_leftovers() {
        say::note(format!("{program} left {} ({}) running: ended", one.name, one.pid));
    }
    if code != 0 {
        eprintln!("xtask: {program} ended with exit code {code}");
    }
    Ok(code == 0)
}

struct Soak<'a> {
    day: String,
    what: &'a str,
    rounds: u32,
    held: u32,
    failed: &'a [String],
    took: Duration,
}

fn soak_report(soak: &Soak<'_>) -> String {
    let Soak { day, what, rounds, held, failed, took } = soak;
    let took = say::duration(*took);
    let mut report =
        format!("# Last soak\n\n{day}, {what}: {held} of {rounds} rounds held, {took}.\n");
    if !failed.is_empty() {
        report.push_str("\nFailed in the next round:\n\n");
        for one in *failed {
            report.push_str(&format!("- {one}\n"));
        }
    }
    report
}

/// The date (UTC) of a moment, as `2026-11-21`.
fn day(now: SystemTime) -> String {
    let days =
        now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (mut year, mut left) = (1970, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days() {
        let at = |seconds| day(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(1_795_219_200), "2026-11-21");
        assert_eq!(at(1_798_675_200), "2026-12-31");
    }

    #[test]
    fn a_soak_names_what_failed() {
        let soak = Soak {
            day: "2026-11-21".to_owned(),
            what: "all tests",
            rounds: 20,
            held: 3,
            failed: &["p/lib::a".to_owned()],
            took: Duration::from_secs(100),
        };
        let report = soak_report(&soak);
        assert!(report.contains("3 of 20 rounds held, 100 s"), "{report}");
        assert!(report.contains("- p/lib::a"), "{report}");
    }
}
