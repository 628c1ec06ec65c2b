//! CRIU: which one is used, whether it works here, and what it can.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use super::os::command;
use super::{Ability, Finding, Hooks, Places, Probe, in_path, is_program};

/// Where Phantom's set-up puts the CRIU it builds.
const BUILT: &str = "/usr/local/lib/phantom/criu/criu";
const REMEDY: &str = "cargo xtask setup (builds CRIU once for this machine)";
/// What the check is called that saves and restores a process.
pub const CANARY: &str = "CRIU canary";
const OLDEST: Version = Version(4, 2, 0);
const VERSION_LIMIT: Duration = Duration::from_secs(30);

/// The CRIU of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Criu {
    /// Where it is.
    pub path: PathBuf,
    /// `major * 10000 + minor * 100 + sublevel`.
    pub version: u32,
    /// Whether running children get their controlling terminal back.
    pub restores_job_control: bool,
}

/// What the probes learn about CRIU beside their findings.
#[derive(Debug, Default)]
pub struct Learned {
    path: OnceLock<PathBuf>,
    version: OnceLock<Version>,
    job_control: OnceLock<bool>,
}

impl Learned {
    /// The CRIU, once its version is known.
    pub fn criu(&self) -> Option<Criu> {
        let Version(major, minor, sublevel) = *self.version.get()?;
        let number = [(major, 10_000), (minor, 100), (sublevel, 1)]
            .iter()
            .try_fold(0_u32, |sum, (part, factor)| sum.checked_add(part.checked_mul(*factor)?))?;
        Some(Criu {
            path: self.path.get()?.clone(),
            version: number,
            restores_job_control: self.job_control.get().copied().unwrap_or(false),
        })
    }
}

pub fn probes(places: &Places, hooks: &Hooks, learned: &Arc<Learned>) -> Vec<Probe> {
    const GIVES: &[Ability] = &[Ability::Move, Ability::Host];
    let path = match find(places.criu.as_deref()) {
        Ok(path) => path,
        Err(why) => {
            let missing = || Finding::missing(why, REMEDY);
            return vec![Probe::essential("CRIU", GIVES, missing)];
        }
    };
    let path = learned.path.get_or_init(|| path).clone();
    let version = {
        let (path, learned) = (path.clone(), Arc::clone(learned));
        Probe::essential("CRIU", GIVES, move || ask_version(&path, &learned.version))
    };
    let mut probes = vec![version];
    if let Some(canary) = hooks.canary.clone() {
        let path = path.clone();
        let sing = move || match canary(&path) {
            Ok(found) => Finding::ok(found),
            Err(why) => Finding::missing(why, REMEDY),
        };
        probes.push(Probe::essential(CANARY, GIVES, sing));
    }
    if let Some(tell) = hooks.job_control.clone() {
        let learned = Arc::clone(learned);
        let ask = move || match tell(&path) {
            Ok(true) => {
                let _ = learned.job_control.set(true);
                Finding::ok("running children keep their controlling terminal")
            }
            Ok(false) => Finding::limited(
                "not patched: children that were running lose ^C, ^Z and /dev/tty",
                REMEDY,
            ),
            Err(why) => Finding::limited(why, REMEDY),
        };
        probes.push(Probe::useful("CRIU job control", GIVES, ask));
    }
    probes
}

/// The CRIU that Phantom uses: the named one and no other, else the one Phantom built, else the
/// system's.
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, String> {
    match named {
        Some(path) if is_program(path) => Ok(path.to_owned()),
        Some(path) => Err(format!("{} (set by PHANTOM_CRIU) is not a program", path.display())),
        None => Some(PathBuf::from(BUILT))
            .filter(|path| is_program(path))
            .or_else(|| in_path("criu"))
            .ok_or_else(|| "not installed".to_owned()),
    }
}

/// A version as numbers, the most significant first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

fn ask_version(path: &Path, learned: &OnceLock<Version>) -> Finding {
    let shown = path.display();
    match command::run(Command::new(path).arg("--version"), "", VERSION_LIMIT) {
        Ok(outcome) => {
            if let Some((_, version)) = read_version(&outcome.output) {
                let _ = learned.set(version);
            }
            judge_version(path, &outcome.output)
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Finding::missing(format!("{shown} did not tell its version"), REMEDY)
        }
        Err(error) => Finding::failed(&format!("run {shown}"), &error, REMEDY),
    }
}

fn judge_version(path: &Path, output: &str) -> Finding {
    let shown = path.display();
    let Version(major, minor, _) = OLDEST;
    match read_version(output) {
        Some((text, version)) if version >= OLDEST => Finding::ok(format!("{text} at {shown}")),
        Some((text, _)) => Finding::missing(
            format!("{text} at {shown} is too old: {major}.{minor} is needed"),
            REMEDY,
        ),
        None => {
            let said = command::first_line(output);
            Finding::missing(format!("{shown} does not tell its version: {said}"), REMEDY)
        }
    }
}

/// From `Version: 4.2.1`: the text and its numbers; absent ones count as zero.
fn read_version(output: &str) -> Option<(&str, Version)> {
    let text = output.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let major = numbers.next()?.ok()?;
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    Some((text, Version(major, next(), next())))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(read_version("Version: 4.2.1\nGitID: 0\n"), Some(("4.2.1", Version(4, 2, 1))));
        assert_eq!(read_version("Version: 4.10"), Some(("4.10", Version(4, 10, 0))));
        assert_eq!(read_version("Version: 5"), Some(("5", Version(5, 0, 0))));
        for text in ["", "4.2", "Version:", "Version: x.y", "Version: 99999999999.1"] {
            assert_eq!(read_version(text), None, "{text}");
        }
        assert!(Version(4, 10, 0) > OLDEST && Version(4, 1, 9) < OLDEST);
    }

    #[test]
    fn a_criu_that_is_old_or_no_criu_is_named() {
        let path = Path::new("/opt/criu");
        for (output, state, word) in [
            ("Version: 3.17\n", State::Missing, "too old"),
            ("Version: 4.2.1\n", State::Ok, "4.2.1 at /opt/criu"),
            ("\ncannot start\n", State::Missing, "cannot start"),
        ] {
            let finding = judge_version(path, output);
            assert_eq!(finding.state, state, "{}", finding.found);
            assert!(finding.found.contains(word), "{}", finding.found);
        }
        let learned = OnceLock::new();
        for path in ["/bin/false", "/no/such/criu"] {
            assert_eq!(ask_version(Path::new(path), &learned).state, State::Missing);
        }
        assert_eq!(learned.get(), None);
        assert!(find(Some(Path::new("/no/such/criu"))).unwrap_err().contains("PHANTOM_CRIU"));
    }

    #[test]
    fn what_is_learned_comes_as_the_facts_carry_it() {
        let learned = Learned::default();
        assert_eq!(learned.criu(), None);
        learned.path.set("/opt/criu".into()).unwrap();
        learned.version.set(Version(4, 2, 1)).unwrap();
        let criu = learned.criu().unwrap();
        assert_eq!((criu.version, criu.restores_job_control), (40_201, false));
        learned.job_control.set(true).unwrap();
        assert!(learned.criu().unwrap().restores_job_control);
    }
}
