//! `phantom doctor`: what this machine can do for Phantom, found by doing it.
//!
//! [`examine`] tries each thing the runtime builds on: it loads a program into the kernel, mounts
//! a file system, makes a network device, starts a guest. It works on private copies (namespaces
//! and throw-away processes) and leaves nothing behind. The checks run side by side; one that does
//! not answer in time is reported as such and never holds up the others.
//!
//! Nothing is mended here: each [`Check`] names the command that would.

mod criu;
mod host;
mod mounts;
mod moves;
mod network;
mod os;
pub use os::command;
mod render;
mod run;
mod sandbox;
mod watch;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use phantom_model::Capability;
use serde::Serialize;

pub use self::criu::Criu;

/// How long an examination takes at most where somebody waits for it: what did not answer counts as
/// unknown. It is over in a second where the machine is not slow or busy.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Saves and restores a throw-away process with the CRIU at the given path; says what it found.
pub type Canary = dyn Fn(&Path) -> Result<String, String> + Send + Sync;

/// Whether the CRIU at the given path gives running children their controlling terminal back.
pub type JobControl = dyn Fn(&Path) -> Result<bool, String> + Send + Sync;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where images of moves lie; it need not exist yet.
    pub run_dir: PathBuf,
    /// Where copies of other nodes' files are kept; it need not exist yet.
    pub cache_dir: PathBuf,
    /// Home directory of the user who asks.
    pub home_dir: PathBuf,
    /// The CRIU to use whatever else is installed (`PHANTOM_CRIU`).
    pub criu: Option<PathBuf>,
}

/// What other parts of Phantom contribute. A hook that is absent leaves its check out.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Proves CRIU.
    pub canary: Option<Arc<Canary>>,
    /// Tells a CRIU that keeps job control alive.
    pub job_control: Option<Arc<JobControl>>,
}

/// Something Phantom does for its user or the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// Start apps in capsules.
    Run,
    /// Notice in the kernel that an app exceeds its limits.
    Watch,
    /// Let apps go to another node.
    Move,
    /// Take in apps of other nodes.
    Host,
    /// Give apps a network.
    Network,
    /// Keep foreign apps in virtual machines.
    Sandbox,
}

impl Ability {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 6] =
        [Self::Run, Self::Watch, Self::Move, Self::Host, Self::Network, Self::Sandbox];

    /// What a node tells the others when it has this ability.
    pub fn capability(self) -> Option<Capability> {
        match self {
            Ability::Run => None,
            Ability::Watch => Some(Capability::Monitor),
            Ability::Move => Some(Capability::Checkpoint),
            Ability::Host => Some(Capability::Files),
            Ability::Network => Some(Capability::Network),
            Ability::Sandbox => Some(Capability::Sandbox),
        }
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ability::Run => "run apps",
            Ability::Watch => "watch limits",
            Ability::Move => "move apps away",
            Ability::Host => "host foreign apps",
            Ability::Network => "give apps a network",
            Ability::Sandbox => "sandbox foreign apps",
        })
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there and works.
    Ok,
    /// The abilities are there, with less than they could have.
    Limited,
    /// It is not there or does not work: the abilities are lost.
    Missing,
    /// It could not be told: not by this user, or not in time.
    Unknown,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub state: State,
    /// What was found, in a line.
    pub found: String,
    /// What depends on it; never empty.
    pub gives: &'static [Ability],
    /// Whether those are lost without it; else they are only limited.
    pub essential: bool,
    /// The command, or else the step, that mends it.
    pub remedy: Option<String>,
}

/// The CRIU Phantom would use now, whether or not it works.
pub fn criu_file(places: &Places) -> Option<std::path::PathBuf> {
    criu::find(places.criu.as_deref()).ok()
}

/// The result of an examination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All checks, in the order they are shown.
    pub checks: Vec<Check>,
    /// What this node can do.
    pub can: Vec<Ability>,
    /// What it cannot do.
    pub cannot: Vec<Ability>,
    /// What could not be told.
    pub unknown: Vec<Ability>,
    /// The CRIU that was found, if it tells its version.
    pub criu: Option<Criu>,
}

impl Report {
    fn new(checks: Vec<Check>, criu: Option<Criu>) -> Self {
        let any = |state: State, ability: &Ability| {
            checks.iter().any(|check| {
                check.essential && check.state == state && check.gives.contains(ability)
            })
        };
        let (cannot, rest): (Vec<_>, Vec<_>) =
            Ability::ALL.into_iter().partition(|ability| any(State::Missing, ability));
        let (unknown, can) = rest.into_iter().partition(|ability| any(State::Unknown, ability));
        Self { checks, can, cannot, unknown, criu }
    }

    /// What became of the process that was saved and restored; without a CRIU, why there is none.
    pub fn canary(&self) -> String {
        let of_criu = self.checks.iter().filter(|check| check.name.starts_with("CRIU"));
        let told = of_criu.clone().find(|check| check.name == criu::CANARY);
        told.or_else(|| of_criu.clone().find(|check| check.state == State::Missing))
            .map_or_else(String::new, |check| check.found.clone())
    }

    /// What the node tells the others: only what is certain.
    pub fn capabilities(&self) -> Vec<Capability> {
        self.can.iter().filter_map(|ability| ability.capability()).collect()
    }
}

/// What a probe says about its subject.
struct Finding {
    state: State,
    found: String,
    remedy: Option<String>,
}

impl Finding {
    fn ok(found: impl Into<String>) -> Self {
        Self { state: State::Ok, found: found.into(), remedy: None }
    }

    fn limited(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Limited, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn missing(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Missing, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn unknown(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { state: State::Unknown, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// For a probe whose system calls failed. A refusal says nothing about the kernel: an ordinary
    /// user learns that root would know, root that it is confined. Anything else is mended by
    /// `remedy`.
    fn failed(doing: &str, error: &io::Error, remedy: impl Into<String>) -> Self {
        let refused = error.kind() == io::ErrorKind::PermissionDenied
            || error.kind() == io::ErrorKind::ReadOnlyFilesystem;
        let found = format!("cannot {doing}: {}", plain(error));
        match (refused, nix::unistd::geteuid().is_root()) {
            (true, false) => Self::unknown(format!("to {doing} takes root"), AS_ROOT),
            (true, true) => Self::missing(found, OUTSIDE),
            (false, _) => Self::missing(found, remedy),
        }
    }
}

const AS_ROOT: &str = "sudo phantom doctor";
const OUTSIDE: &str = "run Phantom outside this container, with all of root's rights";

/// The text of an error without Rust's ` (os error N)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// The command that installs `package` on this system.
fn install(package: &str) -> String {
    let managers = [
        ("apt-get", "apt-get install"),
        ("dnf", "dnf install"),
        ("pacman", "pacman -S"),
        ("zypper", "zypper install"),
    ];
    let known = managers.into_iter().find(|(program, _)| in_path(program).is_some());
    match known {
        Some((_, command)) => format!("sudo {command} {package}"),
        None => format!("install the package {package}"),
    }
}

/// Finds a program as a shell would, and where administrators' programs are.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Something to be looked at.
struct Probe {
    name: &'static str,
    gives: &'static [Ability],
    essential: bool,
    run: Box<dyn FnOnce() -> Finding + Send>,
}

impl Probe {
    /// Something the abilities are lost without.
    fn essential(
        name: &'static str,
        gives: &'static [Ability],
        run: impl FnOnce() -> Finding + Send + 'static,
    ) -> Self {
        Self { name, gives, essential: true, run: Box::new(run) }
    }

    /// Something the abilities are better with.
    fn useful(
        name: &'static str,
        gives: &'static [Ability],
        run: impl FnOnce() -> Finding + Send + 'static,
    ) -> Self {
        Self { essential: false, ..Self::essential(name, gives, run) }
    }
}

/// Looks at everything, within `limit` (usually [`DEADLINE`]).
pub fn examine(places: &Places, hooks: &Hooks, limit: Duration) -> Report {
    let learned = Arc::default();
    let mut probes = run::probes(places);
    probes.extend(watch::probes());
    probes.extend(criu::probes(places, hooks, &learned));
    probes.extend(moves::probes());
    probes.extend(host::probes(places));
    probes.extend(network::probes());
    probes.extend(sandbox::probes());
    let checks = run_all(probes, limit);
    Report::new(checks, learned.criu())
}

/// Runs every probe on a thread of its own: probes may change the thread they run on, and a hung
/// one can only be left alone.
fn run_all(probes: Vec<Probe>, limit: Duration) -> Vec<Check> {
    let deadline = Instant::now() + limit;
    let (sender, receiver) = mpsc::channel();
    let mut checks = Vec::new();
    for (index, Probe { name, gives, essential, run }) in probes.into_iter().enumerate() {
        let sender = sender.clone();
        // A probe that cannot be started, or panics, drops its sender unused.
        let _ = thread::Builder::new().name("doctor".to_owned()).spawn(move || {
            let finding = run();
            // Nobody listens past the deadline.
            let _ = sender.send((index, finding));
        });
        let found = "the check did not come to an end".to_owned();
        let remedy = Some("sudo phantom doctor, when the machine is less busy".to_owned());
        checks.push(Check { name, state: State::Unknown, found, gives, essential, remedy });
    }
    drop(sender);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok((index, Finding { state, found, remedy })) => {
                let check: &mut Check = &mut checks[index];
                let only_limits = state == State::Missing && !check.essential;
                check.state = if only_limits { State::Limited } else { state };
                (check.found, check.remedy) = (found, remedy);
            }
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => return checks,
        }
    }
}

#[cfg(test)]
mod tests;
