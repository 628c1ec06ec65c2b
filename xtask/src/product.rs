//! Tasks that run Phantom's own programs: demo, desktop, bench and doctor.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use anyhow::Result;

use crate::command::{Cmd, Ended};
use crate::environment::Environment;
use crate::setup::{self, Extent};
use crate::test::build::{self, Built};
use crate::workspace::Workspace;
use crate::{interrupt, page, root, say};

/// How long a build may take.
pub const BUILD: Duration = Duration::from_secs(3600);
/// What is built of what is measured and soaked: as it is released.
pub const RELEASED: [&str; 6] = ["--release", "-p", "phantom", "-p", "phantom-tests", "--bins"];
/// How long a program may run that the user looks at.
const RUN: Duration = Duration::from_secs(24 * 3600);
/// What to build for the programs that the user looks at.
const PROGRAMS: [&str; 5] = ["-p", "phantom", "-p", "phantom-tests", "--bins"];
/// The page that keeps the benchmarks' figures.
const FIGURES: &str = "docs/benchmarks.md";

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
    let programs = build::for_desktops(workspace, &built, BUILD)?;
    let environment = Environment::make(&built, ready)?.with_desktops(&programs);
    run(&built, "desktop", &environment, rest)
}

/// Measures, with everything compiled as it is released; with `--keep` the figures replace those in
/// `docs/benchmarks.md`.
pub fn bench(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    if rest.iter().any(|word| word == "--list") {
        let built = build::build(workspace, &["-p", "phantom-tests", "--bin", "bench"], BUILD)?;
        return Ok(Cmd::new(built.program("bench")?).arg("--list").foreground()? == 0);
    }
    let ready = setup::run(workspace, Extent::Base)?;
    let built = build::build(workspace, &RELEASED, BUILD)?;
    let (keep, rest): (Vec<_>, Vec<_>) = rest.iter().partition(|word| *word == "--keep");
    let criu = ready.criu_version();
    let environment = Environment::make(&built, ready)?;
    if keep.is_empty() {
        return run(&built, "bench", &environment, &rest);
    }
    let (ended, figures) = echoed(&built, "bench", &environment, &rest)?;
    if ended == Ended::Failed(2) {
        return Ok(false);
    }
    let name = rest.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let command = format!("cargo xtask bench {name}, CRIU {criu}");
    page::keep(workspace, FIGURES, &format!("`bench {name}`"), &command, &figures)?;
    Ok(ended == Ended::Ok)
}

/// What this machine can do, as `phantom doctor` finds it.
pub fn doctor(workspace: &Workspace, rest: &[OsString]) -> Result<bool> {
    root::require()?;
    let built = build::build(workspace, &["-p", "phantom", "--bins"], BUILD)?;
    let doctor = Cmd::new(built.program("phantom")?).arg("doctor").args(rest).rooted().limit(RUN);
    Ok(doctor.foreground()? == 0)
}

/// Runs a program as root, showing what it puts out; gives that too.
pub fn echoed(
    built: &Built,
    name: &str,
    environment: &Environment,
    arguments: &[impl AsRef<OsStr>],
) -> Result<(Ended, String)> {
    let mut figures = String::new();
    let ended = program(built, name, environment, arguments)?.lines(|line| {
        println!("{line}");
        figures.push_str(line);
        figures.push('\n');
    })?;
    end_leftovers(name);
    Ok((ended, figures))
}

/// Runs a program as root on the user's terminal; whether it succeeded.
fn run(
    built: &Built,
    name: &str,
    environment: &Environment,
    arguments: &[impl AsRef<OsStr>],
) -> Result<bool> {
    let code = program(built, name, environment, arguments)?.foreground()?;
    end_leftovers(name);
    if code != 0 {
        eprintln!("xtask: {name} ended with exit code {code}");
    }
    Ok(code == 0)
}

fn program(
    built: &Built,
    name: &str,
    environment: &Environment,
    arguments: &[impl AsRef<OsStr>],
) -> Result<Cmd> {
    let cmd = Cmd::new(built.program(name)?).args(arguments).rooted().limit(RUN);
    Ok(environment.give(cmd))
}

/// Ends what a program has left running, and says so.
fn end_leftovers(program: &str) {
    for one in interrupt::kill_leftovers() {
        say::note(format!("{program} left {} ({}) running: ended", one.name, one.pid));
    }
}
