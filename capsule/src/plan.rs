//! What a capsule will consist of: every choice is made here, from what the host looks like and
//! what the user asked for; the executor in `os` only carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use phantom_model::AppSpec;
use phantom_model::app::OsText;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::ids::IdMaps;
use crate::mountinfo::{self, MountInfo, reachable};

mod places;
mod root;
#[cfg(test)]
mod tests;

use places::{is_foreign, is_image, is_private, is_pseudo, is_system};

/// Where the init is found inside.
pub const INIT_PATH: &str = "/run/phantom/init";
/// The terminal's name inside.
pub const CONSOLE_PATH: &str = "/dev/console";
/// The device nodes bound from the host.
pub const DEVICE_NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// More mounts than this are not taken along (deepest first left out).
const MAX_FILE_SYSTEMS: usize = 128;

/// What the plan needs to know about the host, read by [`crate::os::host::read`].
#[derive(Debug, Clone)]
pub struct HostView {
    /// The mount table.
    pub mounts: Vec<MountInfo>,
    /// Ids of the mounts that can be shown with a capsule's ids.
    pub id_mappable: BTreeSet<u32>,
    /// Whether files can be shown through Phantom's own file server.
    pub has_fuse: bool,
    /// The user's home directory without symbolic links, where it exists.
    pub home_dir: Option<PathBuf>,
    /// The working directory without symbolic links.
    pub cwd: PathBuf,
    /// The host's name.
    pub hostname: OsText,
    /// Where `/etc/resolv.conf` leads to and what it says, when that is below a private place.
    pub resolver: Option<(PathBuf, Vec<u8>)>,
    /// Which of [`DEVICE_NODES`] exist.
    pub devices: Vec<String>,
}

/// How the app sees a piece of the host's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// With the capsule's ids, by an id-mapped mount.
    Mapped,
    /// With the capsule's ids, through Phantom's file server: the file system cannot map ids.
    Served,
    /// With the host's ids: the app has the rights of others.
    AsIs,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A piece of the host's tree.
    Bind {
        /// Where it is on the host.
        source: OsText,
        /// How it is shown.
        shown: Shown,
        /// Not to be written.
        read_only: bool,
        /// Device nodes on it work.
        devices: bool,
    },
    /// The terminal's slave.
    Console,
    /// A private tmpfs with these permissions.
    Tmpfs {
        /// Permission bits of its root.
        mode: u32,
        /// Whether programs on it may run.
        executable: bool,
    },
    /// The capsule's processes.
    Proc,
    /// The capsule's view of devices, read-only.
    Sysfs,
    /// Private pseudo terminals.
    Devpts,
}

/// One step in building the root, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootStep {
    /// Attach a mount; its mount point exists.
    Mount {
        /// Where, inside.
        inside: OsText,
        /// What.
        kind: MountKind,
    },
    /// Make a folder on a private tmpfs.
    Folder {
        /// Where, inside.
        inside: OsText,
        /// Permission bits.
        mode: u32,
        /// Belongs to the app's user; otherwise to the inside root.
        owned_by_user: bool,
    },
    /// Make a symbolic link.
    Symlink {
        /// Where, inside.
        inside: OsText,
        /// What it says.
        target: OsText,
    },
    /// Put the capsule's init there, which the executor carries.
    Init {
        /// Where, inside.
        inside: OsText,
    },
    /// Make a file.
    File {
        /// Where, inside.
        inside: OsText,
        /// Permission bits.
        mode: u32,
        /// What is in it.
        content: Vec<u8>,
    },
}

/// What kind of thing an external reference of a capsule is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExternalKind {
    /// The terminal's slave, bound on [`CONSOLE_PATH`].
    Console,
    /// A device node every Linux host has, `/dev/NAME`.
    Device {
        /// Its name.
        name: String,
    },
    /// A writable directory of the user.
    UserFiles,
    /// Another file system of the home, read-only.
    SystemFiles,
}

/// Something outside the capsule that a checkpoint must name and a restore must provide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    /// Its mount point inside.
    pub inside: OsText,
    /// The name it has in an image.
    pub key: String,
    /// What it is.
    pub kind: ExternalKind,
}

/// A capsule, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsulePlan {
    /// The ids.
    pub ids: IdMaps,
    /// The app's user id inside.
    pub uid: u32,
    /// The app's group id inside.
    pub gid: u32,
    /// The app's further groups inside.
    pub groups: Vec<u32>,
    /// How the root is built. The first step is the root mount itself.
    pub steps: Vec<RootStep>,
    /// The command.
    pub argv: Vec<OsText>,
    /// Environment.
    pub env: Vec<OsText>,
    /// Working directory.
    pub cwd: OsText,
    /// Name of the machine, as the app sees it.
    pub hostname: OsText,
    /// What a checkpoint must know of.
    pub externals: Vec<External>,
    /// What the user should know: one line each.
    pub notes: Vec<String>,
}

/// Decides on a capsule for `spec` with the ids from `id_base` on.
pub fn plan(spec: &AppSpec, host: &HostView, id_base: u32) -> Result<CapsulePlan, Error> {
    check_texts(spec)?;
    let user = &spec.user;
    let mut notes = Vec::new();
    let binds = plan_binds(host, &mut notes)?;
    let mut steps: Vec<RootStep> = binds
        .iter()
        .map(|bind| RootStep::Mount { inside: (&bind.path).into(), kind: bind.kind() })
        .collect();
    root::private_places(&mut steps, user.uid, host);
    root::devices(&mut steps, host);
    root::kernel_views(&mut steps);
    Ok(CapsulePlan {
        ids: IdMaps::new(id_base, user)?,
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
        steps,
        argv: spec.argv.clone(),
        env: environment(&spec.env, user.uid),
        cwd: (&host.cwd).into(),
        hostname: host.hostname.clone(),
        externals: externals(&binds, host),
        notes,
    })
}

fn check_texts(spec: &AppSpec) -> Result<(), Error> {
    if spec.argv.first().is_none_or(|name| name.0.is_empty()) {
        return Err(Error::NoCommand);
    }
    let nul = |text: &OsText| text.0.contains(&0);
    let named = |what: &str, texts: &[OsText]| match texts.iter().find(|text| nul(text)) {
        Some(text) => Err(Error::Nul { what: format!("{what} {text}") }),
        None => Ok(()),
    };
    named("the argument", &spec.argv)?;
    named("the variable", &spec.env)?;
    named("the working directory", std::slice::from_ref(&spec.cwd))
}

/// One piece of the host's tree.
struct Bind {
    path: PathBuf,
    writable: bool,
    shown: Shown,
}

impl Bind {
    fn kind(&self) -> MountKind {
        MountKind::Bind {
            source: (&self.path).into(),
            shown: self.shown,
            read_only: !self.writable,
            devices: false,
        }
    }
}

/// The root, the file systems below it and the user's writable directories, parents first.
fn plan_binds(host: &HostView, notes: &mut Vec<String>) -> Result<Vec<Bind>, Error> {
    let mut writable_roots: Vec<&Path> = Vec::new();
    match &host.home_dir {
        Some(home) if is_private(home) || is_system(home) => notes.push(format!(
            "your home directory {} is a system place: the app sees it read-only or not at all",
            home.display()
        )),
        Some(home) => writable_roots.push(home),
        None => {}
    }
    check_cwd(&host.cwd)?;
    if !writable_roots.iter().any(|root| host.cwd.starts_with(root)) && !is_system(&host.cwd) {
        writable_roots.push(&host.cwd);
    }
    let reachable = reachable(&host.mounts);
    let mut binds: BTreeMap<PathBuf, Bind> = BTreeMap::new();
    let mut add = |path: &Path| {
        let writable = writable_roots.iter().any(|root| path.starts_with(root));
        let shown = shown(host, mountinfo::of(&reachable, path));
        binds.insert(path.to_owned(), Bind { path: path.to_owned(), writable, shown });
    };
    add(Path::new("/"));
    let file_systems: Vec<&Path> =
        file_systems(&reachable).map(|mount| mount.mount_point.as_path()).collect();
    if file_systems.len() > MAX_FILE_SYSTEMS {
        notes.push(format!(
            "only the first {MAX_FILE_SYSTEMS} of the {} mounted file systems are visible to it",
            file_systems.len()
        ));
    }
    file_systems.iter().take(MAX_FILE_SYSTEMS).for_each(|path| add(path));
    writable_roots.iter().for_each(|path| add(path));
    let mut binds: Vec<Bind> = binds.into_values().collect();
    binds.sort_by_key(|bind| bind.path.components().count());
    note_shown(&binds, &reachable, notes);
    Ok(binds)
}

/// Those of the reachable mounts that an app is to see.
pub(crate) fn file_systems<'a>(reachable: &[&'a MountInfo]) -> impl Iterator<Item = &'a MountInfo> {
    let shown = |mount: &&MountInfo| {
        let place = &mount.mount_point;
        !is_pseudo(&mount.fstype) && !is_private(place) && !is_foreign(place)
    };
    reachable.iter().copied().filter(shown)
}

fn shown(host: &HostView, mount: Option<&MountInfo>) -> Shown {
    match mount {
        Some(mount) if host.id_mappable.contains(&mount.id) => Shown::Mapped,
        Some(mount) if is_image(&mount.fstype) => Shown::AsIs,
        _ if host.has_fuse => Shown::Served,
        _ => Shown::AsIs,
    }
}

/// Says where the app sees its user's files or its system other than they are.
fn note_shown(binds: &[Bind], reachable: &[&MountInfo], notes: &mut Vec<String>) {
    let kind = |path: &Path| mountinfo::of(reachable, path).map_or("", |mount| &*mount.fstype);
    let vital = |bind: &&Bind| bind.writable || bind.path == Path::new("/");
    let told = |shown: Shown| {
        let those = binds.iter().filter(vital).filter(|bind| bind.shown == shown);
        let named = those.filter(|bind| !is_image(kind(&bind.path)));
        let texts: Vec<String> =
            named.map(|bind| format!("{} ({})", bind.path.display(), kind(&bind.path))).collect();
        (!texts.is_empty()).then(|| texts.join(" and "))
    };
    notes.extend(told(Shown::Served).map(|places| {
        format!(
            "{places} cannot map ids: Phantom serves these files to the app, and their locks and \
             change notices do not reach programs outside"
        )
    }));
    notes.extend(told(Shown::AsIs).map(|places| {
        format!(
            "{places} cannot map ids, and to serve these files this machine lacks FUSE (sudo \
             modprobe fuse): the app has only the rights of others there"
        )
    }));
}

fn check_cwd(cwd: &Path) -> Result<(), Error> {
    let refuse =
        |reason: &str| Err(Error::WorkingDirectory { cwd: cwd.into(), reason: reason.to_owned() });
    if !cwd.is_absolute() {
        return refuse("it is not an absolute path");
    }
    if is_private(cwd) && !["/proc", "/sys", "/dev"].iter().any(|place| cwd == Path::new(place)) {
        return refuse("every app has /tmp, /run, /dev, /proc and /sys of its own");
    }
    Ok(())
}

impl CapsulePlan {
    /// Whether something of it comes through Phantom's file server.
    pub fn is_served(&self) -> bool {
        let served = |step: &RootStep| {
            matches!(
                step,
                RootStep::Mount { kind: MountKind::Bind { shown: Shown::Served, .. }, .. }
            )
        };
        self.steps.iter().any(served)
    }
}

impl RootStep {
    /// Where the step works, inside.
    pub fn inside(&self) -> &OsText {
        match self {
            RootStep::Mount { inside, .. }
            | RootStep::Folder { inside, .. }
            | RootStep::Symlink { inside, .. }
            | RootStep::Init { inside }
            | RootStep::File { inside, .. } => inside,
        }
    }
}

/// The user's environment with the run-time directory of the capsule.
fn environment(env: &[OsText], uid: u32) -> Vec<OsText> {
    let kept = env.iter().filter(|text| !text.0.starts_with(b"XDG_RUNTIME_DIR="));
    kept.cloned().chain([format!("XDG_RUNTIME_DIR=/run/user/{uid}").into()]).collect()
}

fn externals(binds: &[Bind], host: &HostView) -> Vec<External> {
    let files = binds.iter().skip(1).enumerate().map(|(index, bind)| External {
        inside: (&bind.path).into(),
        key: format!("files-{index}"),
        kind: if bind.writable { ExternalKind::UserFiles } else { ExternalKind::SystemFiles },
    });
    let devices = host.devices.iter().map(|name| External {
        inside: format!("/dev/{name}").into(),
        key: format!("dev-{name}"),
        kind: ExternalKind::Device { name: name.clone() },
    });
    let console = External {
        inside: CONSOLE_PATH.into(),
        key: "console".into(),
        kind: ExternalKind::Console,
    };
    files.chain(devices).chain([console]).collect()
}
