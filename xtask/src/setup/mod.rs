//! Set-up: finds out what is missing, says what it will change, and only then changes it.
//!
//! There is no stamp to trust: a second run looks at the same things again, which takes well under
//! a second, and finds nothing missing.

mod criu;
mod debian;
mod desktops;
mod host;
mod packages;
mod recipe;
mod second_root;
mod source;
mod version;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::command::Cmd;
use crate::workspace::Workspace;
use crate::{root, say};
pub use desktops::{Image, OLDEST_LIBC};
use recipe::Recipe;

/// The compiler the workspace needs: `rust-version` in the root `Cargo.toml`.
const RUST: &str = "1.91";
/// Room for a build of the whole workspace.
const BUILD_ROOM_MIB: u64 = 6 * 1024;
/// Held while something is installed, so that two set-ups do not meet.
const LOCK: &str = "/var/cache/phantom/setup.lock";
/// How long another set-up may take.
const LOCK_WAIT: Duration = Duration::from_secs(3600);

/// How much is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What building, the demo and the tests on this machine's own kernel need.
    Base,
    /// Also QEMU and the images of the test desktops.
    Desktops,
}

/// What the other tasks hand to the programs they run.
#[derive(Debug)]
pub struct Ready {
    /// The CRIU to use.
    pub criu: PathBuf,
    /// The second node's root.
    pub second_root: PathBuf,
    /// Images of the test desktops; none when these were left out.
    pub images: Vec<Image>,
}

impl Ready {
    /// The version of its CRIU.
    pub fn criu_version(&self) -> String {
        criu::version_of(&self.criu).unwrap_or_else(|| "of an unknown version".to_owned())
    }
}

/// What there is and what is missing.
struct Plan {
    recipe: Recipe,
    recipe_digest: String,
    criu: criu::State,
    second_root: PathBuf,
    build_root: bool,
    desktops: Option<desktops::State>,
    wanted: usize,
    missing: Vec<String>,
    /// Packages that are there in versions which conflict with what is missing.
    replaced: Vec<String>,
}

impl Plan {
    fn make(workspace: &Workspace, extent: Extent) -> Result<Plan> {
        let (recipe, recipe_digest) = Recipe::load(&workspace.root.join("xtask/criu"))?;
        let criu = criu::state(&recipe, &recipe_digest);
        let second_root = second_root::path()?;
        let build_root = !second_root::exists(&second_root);
        let build_criu = matches!(criu, criu::State::Missing(_));
        let desktops = match extent {
            Extent::Base => None,
            Extent::Desktops => Some(desktops::State::find()?),
        };
        let mut more = desktops.as_ref().map_or_else(Vec::new, desktops::State::packages);
        if build_root {
            more.extend(debian::PACKAGES);
        }
        let wanted = packages::needed(&recipe, build_criu, &more);
        let missing = packages::missing(&wanted)?;
        let replaced = packages::replaced(&wanted, &missing)?;
        let wanted = wanted.len();
        Ok(Plan {
            recipe,
            recipe_digest,
            criu,
            second_root,
            build_root,
            desktops,
            wanted,
            missing,
            replaced,
        })
    }

    /// What will be changed on this system, one line each.
    fn changes(&self) -> Result<Vec<String>> {
        let mut changes = Vec::new();
        if !self.missing.is_empty() {
            changes.push(format!("installs with apt-get: {}", self.missing.join(" ")));
        }
        if !self.replaced.is_empty() {
            let replaced = self.replaced.join(" ");
            changes.push(format!(
                "replaces with the archive's version, since another conflicts with these: {replaced}"
            ));
        }
        if matches!(self.criu, criu::State::Missing(_)) {
            changes.push(criu::intention(&self.recipe, &self.recipe_digest));
        }
        if self.build_root {
            changes.push(second_root::intention(&self.second_root));
        }
        if let Some(desktops) = &self.desktops {
            changes.extend(desktops.changes()?);
        }
        Ok(changes)
    }

    /// What is still missing after everything was changed; `None` when nothing is.
    fn lacks(&self) -> Option<String> {
        let mut lacks = self.missing.clone();
        if let criu::State::Missing(why) = &self.criu {
            lacks.push(format!("CRIU ({why})"));
        }
        if self.build_root {
            lacks.push("the second node's root".to_owned());
        }
        lacks.extend(self.desktops.as_ref().and_then(desktops::State::lacks));
        (!lacks.is_empty()).then(|| lacks.join(", "))
    }

    fn say(&self) {
        if self.missing.is_empty() {
            say::ok(format!("{} packages", self.wanted));
        } else {
            say::need(format!("{} of {} packages", self.missing.len(), self.wanted));
        }
        match &self.criu {
            criu::State::System { path, version } => {
                say::ok(format!("CRIU {version}: the system's {}", path.display()));
            }
            criu::State::Built(path) => say::ok(format!("CRIU: {}", path.display())),
            criu::State::Missing(why) => say::need(format!(
                "CRIU {} or newer, with Phantom's patch: {why}",
                self.recipe.minimum
            )),
        }
        let root = self.second_root.display();
        if self.build_root {
            say::need(format!("Debian 13 root for a second node: no {root}"));
        } else {
            say::ok(format!("Debian 13 root for a second node: {root}"));
        }
        if let Some(desktops) = &self.desktops {
            desktops.say();
        }
    }

    /// What is there, or what is missing.
    fn ready(self) -> Result<Ready, String> {
        if let Some(lacks) = self.lacks() {
            return Err(lacks);
        }
        let criu = match self.criu {
            criu::State::System { path, .. } | criu::State::Built(path) => path,
            criu::State::Missing(why) => return Err(why),
        };
        let images = self.desktops.map_or_else(Vec::new, desktops::State::into_images);
        Ok(Ready { criu, second_root: self.second_root, images })
    }
}

/// Makes sure that everything is there, saying what is missing before it is installed.
pub fn run(workspace: &Workspace, extent: Extent) -> Result<Ready> {
    let started = Instant::now();
    let distribution = host::distribution()?;
    let how = if root::is_root() { "as root" } else { "with sudo" };
    say::title(format!("Set-up on {}, {how}", distribution.name));
    say::ok(format!("Rust {}", host::rust(RUST)?));
    root::require()?;
    host::room(&workspace.target, if workspace.target.exists() { 512 } else { BUILD_ROOM_MIB })?;
    let plan = Plan::make(workspace, extent)?;
    plan.say();
    let changes = plan.changes()?;
    if changes.is_empty() {
        return plan.ready().map_err(|lacks| anyhow!("set-up cannot mend this: {lacks}"));
    }
    say::title("This changes the system:");
    for change in changes {
        say::item(change);
    }
    if !root::is_root() {
        say::item("(these and the tests run through sudo, command by command; builds run as you)");
    }
    let lock = lock()?;
    // Another set-up may have done it all while we waited.
    let plan = Plan::make(workspace, extent)?;
    execute(workspace, &plan)?;
    drop(lock);
    let ready = Plan::make(workspace, extent)?
        .ready()
        .map_err(|lacks| anyhow!("set-up ended, and this is still missing: {lacks}"))?;
    say::title(format!("Set-up done in {}", say::duration(started.elapsed())));
    Ok(ready)
}

fn execute(workspace: &Workspace, plan: &Plan) -> Result<()> {
    if !plan.missing.is_empty() {
        if !plan.replaced.is_empty() {
            packages::remove(workspace, &plan.replaced)?;
        }
        packages::install(workspace, &[&plan.missing[..], &plan.replaced[..]].concat())?;
    }
    if matches!(plan.criu, criu::State::Missing(_)) {
        criu::build(workspace, &plan.recipe, &plan.recipe_digest)?;
    }
    if plan.build_root {
        second_root::build(workspace, &plan.second_root)?;
    }
    plan.desktops.as_ref().map_or(Ok(()), |desktops| desktops.build(workspace))
}

/// Waits until no other set-up runs on this machine.
fn lock() -> Result<Flock<std::fs::File>> {
    Cmd::new("install").args(["-d", "-m", "755", "/var/cache/phantom"]).rooted().quiet()?;
    Cmd::new("touch").arg(LOCK).rooted().quiet()?;
    // Every user may lock it, whatever root's umask is.
    Cmd::new("chmod").args(["644", LOCK]).rooted().quiet()?;
    let deadline = Instant::now() + LOCK_WAIT;
    let mut file = std::fs::File::open(LOCK).with_context(|| format!("opening {LOCK}"))?;
    let mut said = false;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(errno).with_context(|| format!("locking {LOCK}")),
        };
        if Instant::now() >= deadline {
            bail!("another set-up holds {LOCK} for too long: `fuser {LOCK}` names it");
        }
        if !said {
            say::note("another set-up is running: waiting for it");
            said = true;
        }
        // flock has no deadline of its own.
        std::thread::sleep(Duration::from_secs(1));
    }
}
