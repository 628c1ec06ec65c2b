//! `cargo xtask tidy`: what the compiler does not check.

mod edges;
mod source;
mod tree;

use std::time::Duration;

use anyhow::Result;

use crate::command::{Cmd, Ended};
use crate::say;
use crate::workspace::Workspace;

/// How long clippy may take; it compiles everything once more.
const CLIPPY: Duration = Duration::from_secs(1800);

/// Something wrong, with the place it is at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A path in the tree, with a line where there is one.
    pub place: String,
    /// What is wrong and, where it is not plain, what to do.
    pub what: String,
    /// Whether it fails the check; otherwise it is only said.
    pub fails: bool,
}

impl Problem {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { place: place.into(), what: what.into(), fails: true }
    }

    fn warning(place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { place: place.into(), what: what.into(), fails: false }
    }
}

/// Runs every check; `fast` leaves out what compiles. False when one failed.
pub fn run(workspace: &Workspace, fast: bool) -> Result<bool> {
    let files = tree::files(&workspace.root)?;
    let mut good = true;
    good &= report("dependency edges", edges::check(&workspace.packages));
    good &= report("sources", source::check(&files));
    good &= report("documents", tree::check_documents(&workspace.root, &workspace.packages));
    good &= report("licences of our own", tree::check_licences(&workspace.packages));
    good &= tool(workspace, "fmt", &["fmt", "--all", "--check", "--", "-l"])?;
    if !fast {
        let clippy = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        good &= tool(workspace, "clippy", &clippy)?;
    }
    good &= deny(workspace)?;
    Ok(good)
}

/// Says what a check found; whether it held.
fn report(check: &str, mut problems: Vec<Problem>) -> bool {
    problems.sort();
    let good = !problems.iter().any(|problem| problem.fails);
    if good {
        say::ok(check)
    } else {
        say::bad(check)
    }
    for problem in problems {
        let mark = if problem.fails { "" } else { " (only said)" };
        say::item(format!("{}: {}{mark}", problem.place, problem.what));
    }
    good
}

/// Runs a cargo tool, showing all it printed when it fails.
fn tool(workspace: &Workspace, name: &str, arguments: &[&str]) -> Result<bool> {
    let log = workspace.log(name)?;
    let (ended, took) = workspace.cargo(arguments).limit(CLIPPY).logged(&log, name)?;
    if ended == Ended::Ok {
        say::ok(format!("{name} in {}", say::duration(took)));
        return Ok(true);
    }
    let printed = std::fs::read(&log).unwrap_or_default();
    eprintln!("{}", String::from_utf8_lossy(&printed).trim_end());
    say::bad(format!("{name}: the command was `cargo {}`", arguments.join(" ")));
    Ok(false)
}

/// Licences, bans and sources of everything we build on; needs a tool that takes long to compile,
/// so it is used where it is and named where it is not. Advisories change while the tree does not,
/// and their database has to be fetched: they are left to `cargo deny check advisories`.
fn deny(workspace: &Workspace) -> Result<bool> {
    if !Cmd::new("cargo-deny").arg("--version").succeeds() {
        say::note(
            "no cargo-deny here: licences and sources of dependencies not checked \
             (cargo install cargo-deny --locked)",
        );
        return Ok(true);
    }
    tool(workspace, "deny", &["deny", "--locked", "check", "bans", "licenses", "sources"])
}
