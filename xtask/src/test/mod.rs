//! `cargo xtask test`: set-up, checks of the tree, build, every test, and a summary.
//!
//! Cargo builds as the user; the test programs are run here, one after the other, as root. So a
//! build never leaves files of root in the user's target folder, each program has a deadline and a
//! process group of its own, and what it leaves running is found and ended.

pub mod build;
mod libtest;
mod skips;
mod summary;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::args::{TestOptions, Tier};
use crate::command::{Cmd, Ended};
use crate::environment::Environment;
use crate::setup::{self, Extent, Ready};
use crate::workspace::Workspace;
use crate::{interrupt, say, tidy};
use build::{Built, TestProgram};
use libtest::Outcome;
use skips::Skips;
use summary::{Line, Summary};

/// How long all of it may take, building included.
const TOTAL: Duration = Duration::from_secs(40 * 60);
/// How long one test program may take.
const PROGRAM: Duration = Duration::from_secs(20 * 60);
/// How long what a test program started may take to end after it.
const LEFTOVER_GRACE: Duration = Duration::from_secs(3);
/// What `cargo build` is asked for: all programs and tests of the workspace, in one go, so that
/// every dependency is compiled once.
const EVERYTHING: [&str; 4] = ["--workspace", "--lib", "--bins", "--tests"];

/// Runs the tests that `options` choose; false when one failed.
pub fn run(workspace: &Workspace, options: &TestOptions) -> Result<bool> {
    let started = Instant::now();
    let deadline = started + TOTAL;
    let mut summary = Summary::default();
    if options.list {
        let built = build::build(workspace, &EVERYTHING, TOTAL)?;
        for (program, tests) in choose(&built, options)? {
            for test in tests.names() {
                println!("{}::{test}", program.name());
            }
        }
        return Ok(true);
    }
    let ready = setup::run(workspace, extent(options))?;
    if options.filter.is_none() {
        say::title("Checks of the tree");
        let begun = Instant::now();
        let good = tidy::run(workspace, true)?;
        summary.add(Line::check("tidy", begun.elapsed(), good));
    }
    let prepared = prepare(workspace, ready, options, deadline)?;
    say::title("Tests");
    round(workspace, &prepared, deadline, &mut summary)?;
    if options.filter.is_none() && options.tier != Some(Tier::Desktops) {
        summary.add(doc_tests(workspace, deadline)?);
    }
    summary.print(started.elapsed());
    Ok(summary.good())
}

/// Runs the tests `rounds` times or until one fails; returns how many rounds held, and what
/// failed in the next.
pub fn repeat(
    workspace: &Workspace,
    rounds: u32,
    filter: Option<String>,
) -> Result<(u32, Vec<String>)> {
    let options = TestOptions { filter, ..TestOptions::default() };
    let ready = setup::run(workspace, extent(&options))?;
    let prepared = prepare(workspace, ready, &options, Instant::now() + TOTAL)?;
    for round_number in 1..=rounds {
        say::title(format!("Round {round_number} of {rounds}"));
        let mut summary = Summary::default();
        round(workspace, &prepared, Instant::now() + TOTAL, &mut summary)?;
        if !summary.good() {
            return Ok((round_number - 1, summary.failures().map(str::to_owned).collect()));
        }
    }
    Ok((rounds, Vec::new()))
}

/// What is certain to be needed. Whether a filter leaves tests of desktops is known only when they
/// are built.
fn extent(options: &TestOptions) -> Extent {
    match (options.tier, &options.filter) {
        (Some(Tier::Fast), _) | (None, Some(_)) => Extent::Base,
        (Some(Tier::Desktops), _) | (None, None) => Extent::Desktops,
    }
}

/// The tests that were chosen, and what they are run with.
struct Prepared {
    chosen: Vec<(TestProgram, Chosen)>,
    environment: Environment,
}

/// Builds, chooses, and makes what only the chosen tests need.
fn prepare(
    workspace: &Workspace,
    mut ready: Ready,
    options: &TestOptions,
    deadline: Instant,
) -> Result<Prepared> {
    say::title("Build");
    let built = build::build(workspace, &EVERYTHING, left(deadline))?;
    let chosen = choose(&built, options)?;
    if chosen.is_empty() {
        let what = match (options.tier, &options.filter) {
            (_, Some(filter)) => format!("no test's name holds {filter:?}"),
            (Some(Tier::Desktops), None) => "the desktop tier has no tests yet".to_owned(),
            _ => "no tests".to_owned(),
        };
        say::note(what);
    }
    if !chosen.iter().any(|(program, _)| program.is_desktop()) {
        return Ok(Prepared { chosen, environment: Environment::make(&built, ready)? });
    }
    if ready.images.is_empty() {
        ready = setup::run(workspace, Extent::Desktops)?;
    }
    let programs = build::for_desktops(workspace, &built, left(deadline))?;
    let environment = Environment::make(&built, ready)?.with_desktops(&programs);
    Ok(Prepared { chosen, environment })
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Which tests of a program to run.
enum Chosen {
    All(Vec<String>),
    Some(Vec<String>),
}

impl Chosen {
    fn names(&self) -> &[String] {
        match self {
            Chosen::All(names) | Chosen::Some(names) => names,
        }
    }
}

/// The programs and tests that fit the options; programs without any are left out.
fn choose(built: &Built, options: &TestOptions) -> Result<Vec<(TestProgram, Chosen)>> {
    let mut chosen = Vec::new();
    for program in &built.tests {
        let tier = if program.is_desktop() { Tier::Desktops } else { Tier::Fast };
        if options.tier.is_some_and(|wanted| wanted != tier) {
            continue;
        }
        let printed = Cmd::new(&program.path)
            .args(["--list", "--format", "terse"])
            .dir(&program.dir)
            .stdout()
            .with_context(|| format!("listing the tests of {}", program.name()))?;
        let all = libtest::parse_list(&printed);
        let tests = match &options.filter {
            None => Chosen::All(all),
            Some(filter) => Chosen::Some(
                all.into_iter()
                    .filter(|test| format!("{}::{test}", program.name()).contains(filter.as_str()))
                    .collect(),
            ),
        };
        if !tests.names().is_empty() {
            chosen.push((program.clone(), tests));
        }
    }
    Ok(chosen)
}

/// Runs every chosen test once.
fn round(
    workspace: &Workspace,
    prepared: &Prepared,
    deadline: Instant,
    summary: &mut Summary,
) -> Result<()> {
    let skips = Skips::load(&workspace.root.join("tests/skips.toml"))?;
    let environment = &prepared.environment;
    for (program, tests) in &prepared.chosen {
        summary.add(run_program(workspace, environment, program, tests, deadline, &skips)?);
    }
    Ok(())
}

fn run_program(
    workspace: &Workspace,
    environment: &Environment,
    program: &TestProgram,
    tests: &Chosen,
    deadline: Instant,
    skips: &Skips,
) -> Result<Line> {
    let name = program.name();
    let log = workspace.log(&name.replace(['/', ' '], "-"))?;
    let cmd = Cmd::new(&program.path)
        .args(["--show-output", "--color=never"])
        .env("CARGO_MANIFEST_DIR", &program.dir)
        .env("CARGO_PKG_NAME", &program.package)
        .dir(&program.dir)
        .rooted()
        .limit(PROGRAM.min(left(deadline)));
    let mut cmd = environment.give(cmd);
    // sudo would take it away.
    if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
        cmd = cmd.env("RUST_BACKTRACE", backtrace);
    }
    if let Chosen::Some(names) = tests {
        cmd = cmd.arg("--exact").args(names);
    }
    let (ended, took) = cmd.logged(&log, &format!("{name}: {} tests", tests.names().len()))?;
    let leftovers = leftovers();
    let output = std::fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    let output = String::from_utf8_lossy(&output);
    let mut outcome = libtest::parse(&output);
    blame_unfinished(&mut outcome, ended, tests.names());
    let mut line = Line::program(&program.package, &program.target, took, outcome, skips);
    if ended != Ended::Ok && line.failed.is_empty() {
        line.failed.push(format!("{name}: ended with {ended:?}"));
    }
    if !leftovers.is_empty() {
        line.failed.push(format!("{name}: left running (and now ended): {}", leftovers.join(", ")));
    }
    if !line.failed.is_empty() {
        println!("---- {name} ----\n{}\n---- end of {name} ----", libtest::failures(&output));
        println!("(all it printed: {})", log.display());
    }
    Ok(line)
}

/// Tests that a program never got to are failures of their own, with the reason.
fn blame_unfinished(outcome: &mut Outcome, ended: Ended, listed: &[String]) {
    if outcome.complete && ended != Ended::TimedOut {
        return;
    }
    let why = match ended {
        Ended::TimedOut => "not finished when its time was over",
        Ended::Ok | Ended::Failed(_) => "not finished when its program died",
    };
    for test in outcome.unfinished(listed) {
        outcome.failed.insert(format!("{test} ({why})"));
    }
}

/// What a test program left running, as `name (pid)`; it is ended.
fn leftovers() -> Vec<String> {
    let deadline = Instant::now() + LEFTOVER_GRACE;
    while !interrupt::descendants().is_empty() && Instant::now() < deadline {
        // They are not our children, so there is nothing to wait on.
        std::thread::sleep(Duration::from_millis(50));
    }
    interrupt::kill_leftovers()
        .into_iter()
        .map(|one| format!("{} ({})", one.name, one.pid))
        .collect()
}

/// Runs the examples in the documentation.
fn doc_tests(workspace: &Workspace, deadline: Instant) -> Result<Line> {
    let log = workspace.log("doc-tests")?;
    let (ended, took) = workspace
        .cargo(&["test", "--workspace", "--doc", "--locked", "--quiet"])
        .limit(left(deadline))
        .logged(&log, "examples in the documentation")?;
    if ended != Ended::Ok {
        println!("{}", String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
    }
    Ok(Line::check("documentation examples", took, ended == Ended::Ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_never_ran_are_blamed() {
        let listed = ["a".to_owned(), "b".to_owned()];
        let mut outcome = libtest::parse("test a ... ok\n");
        blame_unfinished(&mut outcome, Ended::TimedOut, &listed);
        assert!(outcome.failed.iter().next().unwrap().starts_with("b (not finished"));
        let whole = "test a ... ok\ntest b ... ok\ntest result: ok. 2 passed\n";
        let mut outcome = libtest::parse(whole);
        blame_unfinished(&mut outcome, Ended::Ok, &listed);
        assert!(outcome.failed.is_empty());
    }
}
