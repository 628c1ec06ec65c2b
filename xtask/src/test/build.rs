//! Builds the programs and the tests, and finds out where cargo put them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::{Cmd, Ended};
use crate::say;
use crate::setup::OLDEST_LIBC;
use crate::workspace::Workspace;

/// How cargo says what it made.
const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestProgram {
    /// The package it belongs to.
    pub package: String,
    /// `lib` for unit tests, `bin NAME` for those of a program, else the file's name in `tests/`.
    pub target: String,
    /// The executable.
    pub path: PathBuf,
    /// The package's folder, where cargo would run it.
    pub dir: PathBuf,
}

impl TestProgram {
    /// `package/target`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.package, self.target)
    }

    /// Whether it belongs to the desktop tier.
    pub fn is_desktop(&self) -> bool {
        self.target.starts_with("desktop_")
    }
}

/// What a build made.
#[derive(Debug, Default)]
pub struct Built {
    /// Programs by name.
    pub programs: Vec<(String, PathBuf)>,
    /// Test programs, in the order of the workspace.
    pub tests: Vec<TestProgram>,
}

impl Built {
    /// The program with this name.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, path)| path.clone())
            .with_context(|| format!("the build made no program `{name}`"))
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Programs for the test desktops, whose libraries may be other ones.
#[derive(Debug)]
pub struct ForDesktops {
    /// `phantom`, of the same sources as the ordinary one.
    pub phantom: PathBuf,
    /// What a test desktop is controlled by.
    pub agent: PathBuf,
}

/// Builds what `selection` names (arguments of `cargo build`); cargo's own progress is shown.
pub fn build(workspace: &Workspace, selection: &[&str], limit: Duration) -> Result<Built> {
    let started = Instant::now();
    let cmd = workspace.cargo(&["build", "--locked", MESSAGES]).args(selection);
    let mut built = run(workspace, cmd, limit)?;
    let order = |test: &TestProgram| {
        workspace.packages.iter().position(|package| package.name == test.package)
    };
    built.tests.sort_by_key(|test| (order(test), test.target != "lib", test.target.clone()));
    say::ok(format!("built in {}", say::duration(started.elapsed())));
    Ok(built)
}

/// Makes the programs that the test desktops get: what was built, where the C library here is no newer
/// than theirs, as a user would install it on them. Else they are linked as files that need no library,
/// for which cargo compiles much anew.
pub fn for_desktops(workspace: &Workspace, built: &Built, limit: Duration) -> Result<ForDesktops> {
    let started = Instant::now();
    let runs_there = libc_version().is_some_and(|here| here <= OLDEST_LIBC);
    let programs = if runs_there {
        ForDesktops {
            phantom: strip(workspace, built, "phantom")?,
            agent: strip(workspace, built, "desktop-agent")?,
        }
    } else {
        ForDesktops {
            phantom: link_static(workspace, "phantom", "phantom", limit)?,
            agent: link_static(workspace, "phantom-tests", "desktop-agent", limit)?,
        }
    };
    Cmd::new(&programs.phantom).arg("--version").quiet().context("trying the desktops' phantom")?;
    let how = if runs_there { "as built" } else { "linked anew, without libraries," };
    let took = say::duration(started.elapsed());
    say::ok(format!("programs for the desktops {how} in {took}"));
    Ok(programs)
}

/// The version of the C library here, if it is glibc.
fn libc_version() -> Option<(u32, u32)> {
    let printed = Cmd::new("getconf").arg("GNU_LIBC_VERSION").stdout().ok()?;
    let (major, minor) = printed.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Copies a program without what only debuggers need: desktops have little memory.
fn strip(workspace: &Workspace, built: &Built, program: &str) -> Result<PathBuf> {
    let apart = workspace.scratch()?.join("desktop-programs");
    std::fs::create_dir_all(&apart).with_context(|| format!("creating {}", apart.display()))?;
    let stripped = apart.join(program);
    let from = built.program(program)?;
    Cmd::new("strip").arg("-o").args([&stripped, &from]).quiet().context("stripping a program")?;
    Ok(stripped)
}

/// Links a program as one file that needs no library, apart from where the ordinary ones are. Only
/// this last step differs from an ordinary build, and what comes before it is shared with that.
fn link_static(
    workspace: &Workspace,
    package: &str,
    program: &str,
    limit: Duration,
) -> Result<PathBuf> {
    let apart = workspace.scratch()?.join("static");
    // What libelf needs itself is not known to rustc, whose own list ends with shared libraries.
    let libraries =
        Cmd::new("pkg-config").args(["--static", "--libs-only-l", "libelf"]).stdout()?;
    let libraries = std::iter::once("-Wl,-Bstatic").chain(libraries.split_whitespace());
    let cmd = workspace
        .cargo(&["rustc", "--locked", MESSAGES, "-p", package, "--bin", program])
        .arg("--target-dir")
        .arg(apart)
        .env("CARGO_BUILD_BUILD_DIR", &workspace.build)
        // Desktops have little memory, and nobody debugs in them.
        .args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
        .args(libraries.map(|argument| format!("-Clink-arg={argument}")));
    run(workspace, cmd, limit)?.program(program)
}

fn run(workspace: &Workspace, cmd: Cmd, limit: Duration) -> Result<Built> {
    let cmd = cmd.limit(limit);
    let mut built = Built::default();
    match cmd.lines(|line| take(workspace, line, &mut built))? {
        Ended::Ok => Ok(built),
        Ended::Failed(_) => bail!("the build failed: `{}`", cmd.shown()),
        Ended::TimedOut => bail!("the build took longer than {}", say::duration(limit)),
    }
}

/// Notes what one line of cargo's messages says was made.
fn take(workspace: &Workspace, line: &str, built: &mut Built) {
    let Ok(message) = serde_json::from_str::<Message>(line) else {
        return;
    };
    let Message {
        manifest_path: Some(manifest),
        target: Some(target),
        profile: Some(profile),
        executable: Some(path),
        ..
    } = message
    else {
        return;
    };
    if message.reason != "compiler-artifact" {
        return;
    }
    let Some(package) = workspace.packages.iter().find(|one| one.manifest_path == manifest) else {
        return;
    };
    let kind = target.kind.first().map(String::as_str).unwrap_or_default();
    if profile.test {
        let target = match kind {
            "lib" => "lib".to_owned(),
            "bin" => format!("bin {}", target.name),
            _ => target.name,
        };
        let (package, dir) = (package.name.clone(), package.dir().to_owned());
        built.tests.push(TestProgram { package, target, path, dir });
    } else if kind == "bin" {
        built.programs.push((target.name, path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    #[test]
    fn artifacts_are_sorted_into_programs_and_tests() {
        let workspace = Workspace {
            root: "/w".into(),
            target: "/w/target".into(),
            build: "/w/target".into(),
            packages: vec![Package {
                name: "phantom".into(),
                manifest_path: "/w/node/Cargo.toml".into(),
                dependencies: Vec::new(),
                license: None,
            }],
        };
        let line = |kind: &str, name: &str, test: bool, manifest: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","target":
                {{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},
                "executable":"/w/target/debug/{name}"}}"#
            )
        };
        let mut built = Built::default();
        take(&workspace, &line("bin", "phantom", false, "/w/node/Cargo.toml"), &mut built);
        take(&workspace, &line("test", "desktop_move", true, "/w/node/Cargo.toml"), &mut built);
        take(&workspace, &line("bin", "other", false, "/elsewhere/Cargo.toml"), &mut built);
        take(&workspace, "   Compiling something", &mut built);
        assert_eq!(built.program("phantom").unwrap(), PathBuf::from("/w/target/debug/phantom"));
        assert!(built.program("other").is_err());
        assert_eq!(built.tests.len(), 1);
        assert!(built.tests[0].is_desktop());
        assert_eq!(built.tests[0].name(), "phantom/desktop_move");
    }
}
