//! Run apps in capsules: namespaces, ids, seccomp and cgroups.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use nix::sys::resource::{Resource, getrlimit};

use super::mounts::{self, Mount};
use super::os::{self, held::Held, mount::owner_when_mapped};
use super::{Ability, Finding, Places, Probe, plain};

/// The lowest id capsules use, and how many each has.
const FIRST_ID: u32 = 0x7001_0000;
const IDS: u32 = 131_072;

pub fn probes(places: &Places) -> Vec<Probe> {
    const BASE: &[Ability] = &[Ability::Run, Ability::Host];
    let home_dir = places.home_dir.clone();
    vec![
        Probe::essential("user namespaces", BASE, user_namespaces),
        Probe::essential("seccomp", BASE, seccomp),
        Probe::essential("cgroup v2", &[Ability::Run, Ability::Watch, Ability::Host], cgroup),
        Probe::essential("freeze and kill", &[Ability::Run, Ability::Move, Ability::Host], freezer),
        Probe::useful("id-mapped system", &[Ability::Run], || id_mapped(Path::new("/"))),
        Probe::useful("id-mapped home", &[Ability::Run], move || id_mapped(&home_dir)),
        Probe::useful("open files", &[Ability::Run, Ability::Host], open_files),
    ]
}

/// A child in a user namespace with the ids of a capsule.
fn child_with_ids() -> io::Result<Held> {
    let child = Held::start(libc::CLONE_NEWUSER, None)?;
    for map in ["uid_map", "gid_map"] {
        let text = format!("0 {FIRST_ID} {IDS}");
        fs::write(format!("/proc/{}/{map}", child.pid()), text)?;
    }
    Ok(child)
}

fn user_namespaces() -> Finding {
    let error = match child_with_ids() {
        Ok(_) => return Finding::ok(format!("one was made, with {IDS} ids of its own")),
        Err(error) => error,
    };
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => "sudo sysctl -w user.max_user_namespaces=65536",
        _ => "boot a stock kernel: it has CONFIG_USER_NS",
    };
    Finding::failed("make a user namespace with own ids", &error, remedy)
}

fn seccomp() -> Finding {
    match os::seccomp_can_answer() {
        Ok(()) => Finding::ok("filters can answer a system call"),
        Err(error) => Finding::failed(
            "use seccomp filters",
            &error,
            "boot a stock kernel: it has CONFIG_SECCOMP_FILTER",
        ),
    }
}

const UNIFIED: &str = "boot with the kernel option systemd.unified_cgroup_hierarchy=1";

fn unified_hierarchy() -> io::Result<PathBuf> {
    mounts::read()?
        .into_iter()
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| mount.point)
        .ok_or_else(|| io::Error::other("no cgroup v2 hierarchy is mounted"))
}

fn cgroup() -> Finding {
    let root = match unified_hierarchy() {
        Ok(root) => root,
        Err(error) => return Finding::missing(plain(&error), UNIFIED),
    };
    let controllers = match fs::read_to_string(root.join("cgroup.controllers")) {
        Ok(controllers) => controllers,
        Err(error) => return Finding::failed("read the cgroup controllers", &error, UNIFIED),
    };
    let here = root.display();
    let absent: Vec<_> = ["cpu", "memory"]
        .into_iter()
        .filter(|wanted| !controllers.split_whitespace().any(|name| name == *wanted))
        .collect();
    if absent.is_empty() {
        return Finding::ok(format!("{here}, with cpu and memory"));
    }
    let v1: Vec<_> = mounts::read()
        .unwrap_or_default()
        .into_iter()
        .filter(|mount| mount.kind == "cgroup" && absent.iter().any(|name| mount.has_option(name)))
        .map(|mount| mount.point.display().to_string())
        .collect();
    let absent = absent.join(" and ");
    let elsewhere = match v1.is_empty() {
        true => String::new(),
        false => format!(" (v1: {})", v1.join(", ")),
    };
    Finding::limited(
        format!("{here} without {absent}{elsewhere}: apps are watched, not capped"),
        UNIFIED,
    )
}

/// A cgroup that is removed with its handle.
struct OwnCgroup(PathBuf);

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        // A process that was reaped may take a moment to leave.
        let _ = self.await_line("cgroup.events", "populated 0", Duration::from_millis(500));
        let _ = fs::remove_dir(&self.0);
    }
}

impl OwnCgroup {
    fn new(root: &Path) -> io::Result<Self> {
        let (process, thread) = (std::process::id(), nix::unistd::gettid());
        let path = root.join(format!("phantom-doctor-{process}-{thread}"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(self.0.join(file)).and_then(|mut file| {
            use std::io::Write;
            file.write_all(value.as_bytes())
        })
    }

    /// Whether `file` came to have `line` within `limit`.
    fn await_line(&self, file: &str, line: &str, limit: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + limit;
        let mut file = File::open(self.0.join(file))?;
        let mut text = String::new();
        loop {
            text.clear();
            file.rewind()?;
            file.read_to_string(&mut text)?;
            if text.lines().any(|found| found == line) {
                return Ok(true);
            }
            // The kernel announces each change as priority data.
            if !os::poll_until(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], deadline)? {
                return Ok(false);
            }
        }
    }
}

/// Freezes a process by its cgroup and kills it while it is frozen.
fn freezer() -> Finding {
    const LIMIT: Duration = Duration::from_secs(10);
    const NEWER: &str = "boot a kernel of 5.14 or newer";
    let root = match unified_hierarchy() {
        Ok(root) => root,
        Err(error) => return Finding::missing(plain(&error), UNIFIED),
    };
    let freeze_and_kill = || -> io::Result<(bool, bool)> {
        let cgroup = OwnCgroup::new(&root)?;
        let dir = File::open(&cgroup.0)?;
        let child = Held::start(0, Some(dir.as_fd()))?;
        cgroup.write("cgroup.freeze", "1")?;
        let frozen = cgroup.await_line("cgroup.events", "frozen 1", LIMIT)?;
        cgroup.write("cgroup.kill", "1")?;
        Ok((frozen, child.ends_within(LIMIT)?))
    };
    match freeze_and_kill() {
        Ok((true, true)) => Finding::ok("a process was frozen, and killed, by its cgroup"),
        Ok((false, _)) => Finding::missing("a cgroup did not freeze within 10 s", NEWER),
        Ok((true, false)) => Finding::missing("a frozen cgroup could not be killed", NEWER),
        Err(error) => Finding::failed("freeze and kill a cgroup", &error, NEWER),
    }
}

/// Looks at a directory through a mount that maps the files' ids to those of a capsule.
fn id_mapped(path: &Path) -> Finding {
    let mapped = || -> io::Result<(u32, u32)> {
        use std::os::unix::fs::MetadataExt;
        let child = child_with_ids()?;
        let ids = File::open(format!("/proc/{}/ns/user", child.pid()))?;
        Ok((fs::metadata(path)?.uid(), owner_when_mapped(path, ids.as_fd())?))
    };
    let shown = path.display();
    let kind = mounts::read()
        .ok()
        .and_then(|all| Mount::over(&all, path).map(|mount| mount.kind.clone()))
        .unwrap_or_else(|| "its file system".to_owned());
    match mapped() {
        Ok((owner, seen)) if owner < IDS && seen == FIRST_ID + owner => {
            Finding::ok(format!("{shown} ({kind}) can be shown with a capsule's ids"))
        }
        Ok((owner, _)) if owner >= IDS => Finding::ok(format!(
            "{shown} ({kind}) can be mapped; its owner {owner} needs a map of its own"
        )),
        Ok((owner, seen)) => Finding::limited(
            format!("{shown} ({kind}): owner {owner} is shown as {seen}"),
            "boot a kernel of 5.12 or newer",
        ),
        Err(error) => Finding::failed(
            &format!("id-map {shown} ({kind})"),
            &error,
            "none needed: Phantom serves its files to apps through FUSE",
        ),
    }
}

/// The server of an app's files keeps one open for each file the app has open or mapped.
fn open_files() -> Finding {
    const WANTED: u64 = 4096;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= WANTED => Finding::ok(format!("up to {hard} in a process")),
        Ok((_, hard)) => Finding::limited(
            format!("up to {hard} in a process; large programs need {WANTED}"),
            "ulimit -Hn 524288 (for a service: LimitNOFILE=524288)",
        ),
        Err(error) => Finding::failed("read the limit of open files", &error.into(), ""),
    }
}
