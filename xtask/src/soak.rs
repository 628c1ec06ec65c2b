//! `cargo xtask soak`: what runs too long for a test, and the page that keeps each last result.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::args::Soak;
use crate::command::{Cmd, Ended};
use crate::environment::Environment;
use crate::setup::{self, Extent};
use crate::test::build;
use crate::workspace::Workspace;
use crate::{page, product, say, test};

/// The page, in the tree.
const PAGE: &str = "docs/soak.md";
/// The soak that is no program of Phantom's.
const TESTS: &str = "tests";

/// Runs or names soaks; whether what ran held.
pub fn run(workspace: &Workspace, soak: &Soak) -> Result<bool> {
    match soak {
        Soak::List => list(workspace),
        Soak::Tests { rounds, filter } => tests(workspace, *rounds, filter.as_deref()),
        Soak::Named(name, arguments) => named(workspace, name, arguments),
    }
}

fn list(workspace: &Workspace) -> Result<bool> {
    let built = build::build(workspace, &["-p", "phantom-tests", "--bin", "soak"], product::BUILD)?;
    let good = Cmd::new(built.program("soak")?).arg("--list").foreground()? == 0;
    println!("{TESTS:<12} the tests, or those whose name holds FILTER, until one fails (x 20)");
    Ok(good)
}

/// Runs one of the soaks of `phantom-tests`, as released.
fn named(workspace: &Workspace, name: &str, arguments: &[String]) -> Result<bool> {
    let ready = setup::run(workspace, Extent::Base)?;
    let built = build::build(workspace, &product::RELEASED, product::BUILD)?;
    let criu = ready.criu_version();
    let environment = Environment::make(&built, ready)?;
    let words = [&[name.to_owned()], arguments].concat();
    say::title(format!("Soak {name}"));
    let started = Instant::now();
    let (ended, figures) = product::echoed(&built, "soak", &environment, &words)?;
    if ended == Ended::Failed(2) {
        // Wrong use, and it has said so: nothing ran.
        return Ok(false);
    }
    let held = ended == Ended::Ok;
    let command = format!("{}, CRIU {criu}", command(&words.join(" "), held, started.elapsed()));
    page::keep(workspace, PAGE, name, &command, &figures)?;
    Ok(held)
}

/// Repeats the tests.
fn tests(workspace: &Workspace, rounds: u32, filter: Option<&str>) -> Result<bool> {
    let started = Instant::now();
    let (held, failed) = test::repeat(workspace, rounds, filter.map(str::to_owned))?;
    let mut figures = format!("{held} of {rounds} rounds held\n");
    for one in &failed {
        figures.push_str(&format!("failed in the next: {one}\n"));
    }
    let words = format!("{TESTS} --rounds={rounds} {}", filter.unwrap_or_default());
    let command = command(words.trim_end(), failed.is_empty(), started.elapsed());
    page::keep(workspace, PAGE, TESTS, &command, &figures)?;
    Ok(failed.is_empty())
}

/// What was run, and what came of it.
fn command(words: &str, held: bool, took: Duration) -> String {
    let came = if held { "held" } else { "did not hold" };
    format!("cargo xtask soak {words}: {came}, {}", say::duration(took))
}
