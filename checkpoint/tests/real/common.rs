//! What the tests with real capsules share: an app on a terminal the test plays, in a cgroup of
//! its own, and a target with another root, other ids and a new terminal.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use phantom_capsule::capsule::Capsule;
use phantom_capsule::cgroup::{Cgroup, hierarchy};
use phantom_capsule::ids::{ID_RANGE, IdMaps as CapsuleIds, LOWEST_BASE};
use phantom_capsule::os::{host, pty, spawn};
use phantom_capsule::plan::{
    CapsulePlan, ExternalKind as CapsuleExternal, HostView, MountKind, RootStep,
};
use phantom_checkpoint::dump::dump;
use phantom_checkpoint::image::check::{Allowed, AllowedMount, MountKind as AllowedKind};
use phantom_checkpoint::image::users::{IdExtent, IdMaps};
use phantom_checkpoint::plan::{
    DumpPlan, External, ExternalKind, Provided, RestorePlan, TerminalKey,
};
use phantom_checkpoint::stream::{ImageReader, ImageWriter};
use phantom_checkpoint::{Cancel, Criu};
use phantom_model::app::OsText;
use phantom_model::{AppSpec, Credentials, Limits, TermSize};

/// Long enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The CRIU to test with, or why there is none: `PHANTOM_CRIU` names it, else the usual places.
pub fn criu(test: &str) -> Option<Criu> {
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root".to_owned()
    } else {
        let named = std::env::var_os("PHANTOM_CRIU").map(PathBuf::from);
        let found = Criu::find(named.as_deref());
        match found.and_then(|criu| Ok((criu.version(PATIENCE)?, criu))) {
            Ok((version, criu)) if version >= phantom_checkpoint::Version::MINIMUM => {
                return Some(criu);
            }
            Ok((version, _)) => format!("CRIU {version} is too old"),
            Err(error) => error.to_string(),
        }
    };
    println!("SKIP {test}: {reason}");
    None
}

fn next() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Ranges no other test uses, also not one in another process.
fn id_base() -> u32 {
    LOWEST_BASE + (1000 + (std::process::id() * 16 + next()) % 800) * ID_RANGE
}

/// A test's folder, away from /tmp, which each capsule has of its own.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("phckpt-").tempdir_in("/srv").unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), open).unwrap();
        fs::create_dir(dir.path().join("home")).unwrap();
        nix::unistd::chown(&dir.path().join("home"), Some(1000.into()), Some(1000.into())).unwrap();
        Self { dir }
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A new empty directory in memory.
    pub fn memory(&self) -> tempfile::TempDir {
        tempfile::Builder::new().prefix("phckpt-").tempdir_in("/dev/shm").unwrap()
    }
}

fn spec(home: &Path, argv: &[&str]) -> AppSpec {
    AppSpec {
        name: "test".into(),
        argv: argv.iter().map(OsText::from).collect(),
        env: ["PATH=/usr/bin:/bin", "TERM=xterm", "PS1=$ ", "LC_ALL=C.UTF-8", "ENV=", "LESS="]
            .map(OsText::from)
            .to_vec(),
        cwd: home.into(),
        user: Credentials {
            user: "tester".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000, 27],
            group_names: Vec::new(),
            home_dir: home.into(),
        },
        limits: Limits::default(),
        term_size: TermSize { rows: 30, cols: 100 },
        vo: None,
    }
}

/// The user's side of a terminal.
pub struct Screen {
    master: File,
    pub output: Vec<u8>,
}

impl Screen {
    pub fn type_keys(&mut self, keys: impl AsRef<[u8]>) {
        self.master.write_all(keys.as_ref()).unwrap();
    }

    /// Reads until `text` has been put out; what came before it (and it) is taken away.
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.output.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let taken: Vec<u8> = self.output.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let so_far = String::from_utf8_lossy(&self.output);
            assert!(Instant::now() < deadline, "waited for {text:?}, got {so_far:?}");
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if nix::poll::poll(&mut fds, PollTimeout::from(100u8)).unwrap() > 0 {
                let mut chunk = [0; 4096];
                let count = self.master.read(&mut chunk).unwrap_or(0);
                self.output.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

/// An app in a capsule.
pub struct App {
    pub screen: Screen,
    pub cgroup: Cgroup,
    pub plan: CapsulePlan,
    pub capsule: Capsule,
    _slave: OwnedFd,
    _namespaces: spawn::Namespaces,
}

pub fn new_cgroup() -> Cgroup {
    let path = hierarchy().unwrap().join(format!("phckpt-{}-{}", std::process::id(), next()));
    fs::create_dir(&path).unwrap();
    Cgroup::at(path)
}

fn remove_cgroup(cgroup: &Cgroup) {
    let _ = cgroup.kill();
    let _ = cgroup.wait_empty(PATIENCE);
    let _ = cgroup.remove();
}

impl App {
    pub fn start(home: &Path, argv: &[&str]) -> Self {
        let spec = spec(home, argv);
        // Nothing serves files here.
        let host = HostView { has_fuse: false, ..host::read(&spec).unwrap() };
        let plan = phantom_capsule::plan::plan(&spec, &host, id_base()).unwrap();
        let uid = plan.ids.uid_outside(plan.uid).unwrap();
        let gid = plan.ids.gid_outside(plan.gid).unwrap();
        let pair = pty::open_pair(uid, gid, spec.term_size).unwrap();
        let cgroup = new_cgroup();
        let folder = cgroup.open().unwrap();
        let started = spawn::start(&plan, None, pair.slave.as_fd(), Some(folder.as_fd())).unwrap();
        Self {
            screen: Screen { master: File::from(pair.master), output: Vec::new() },
            cgroup,
            plan,
            capsule: started.capsule,
            _slave: pair.slave,
            _namespaces: started.namespaces,
        }
    }

    pub fn root_pid(&self) -> u32 {
        self.capsule.init_pid as u32
    }

    pub fn terminal(&self) -> TerminalKey {
        TerminalKey { rdev: self.capsule.tty.rdev, dev: self.capsule.tty.dev }
    }

    fn externals(&self) -> Vec<External> {
        self.capsule
            .externals
            .iter()
            .map(|external| External {
                inside: external.inside.to_path(),
                key: external.key.clone(),
                kind: match external.kind {
                    CapsuleExternal::Console => ExternalKind::Console,
                    CapsuleExternal::Device { .. } => ExternalKind::Device,
                    CapsuleExternal::UserFiles => ExternalKind::Writable,
                    CapsuleExternal::SystemFiles => ExternalKind::ReadOnly,
                },
            })
            .collect()
    }

    pub fn dump_plan(&self, images: &Path, work: &Path) -> DumpPlan {
        DumpPlan {
            root_pid: self.root_pid(),
            cgroup: self.cgroup.path().to_owned(),
            images: images.to_owned(),
            work: work.to_owned(),
            externals: self.externals(),
            terminal: Some(self.terminal()),
            own_network: true,
            ghost_limit_bytes: 64 << 20,
            limit: PATIENCE,
        }
    }

    /// What an image of this app may hold.
    pub fn allowed(&self) -> Allowed {
        let keys: Vec<External> = self.externals();
        let key = |inside: &Path| keys.iter().find(|external| external.inside == inside);
        let mounts = self.plan.steps.iter().filter_map(|step| {
            let RootStep::Mount { inside, kind } = step else {
                return None;
            };
            let inside = inside.to_path();
            let external =
                key(&inside).map(|external| AllowedKind::External { key: external.key.clone() });
            let (kind, read_only, devices) = match kind {
                MountKind::Bind { read_only, devices, .. } => {
                    (external.unwrap_or(AllowedKind::Root), *read_only, *devices)
                }
                MountKind::Console => (external.unwrap(), false, true),
                MountKind::Tmpfs { .. } => (AllowedKind::Tmpfs, false, inside == Path::new("/dev")),
                MountKind::Proc => (AllowedKind::Proc, false, false),
                MountKind::Sysfs => (AllowedKind::Sysfs, true, false),
                MountKind::Devpts => (AllowedKind::Devpts, false, true),
            };
            Some(AllowedMount { inside, kind, read_only, devices })
        });
        Allowed {
            uid: self.plan.uid,
            gid: self.plan.gid,
            groups: self.plan.groups.clone(),
            source_maps: maps(&self.plan.ids),
            mounts: mounts.collect(),
            terminal: Some(self.terminal()),
            own_network: true,
            filtered: true,
            max_tasks: 10_000,
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        remove_cgroup(&self.cgroup);
        let _ = waitpid(Pid::from_raw(self.capsule.init_pid), None);
    }
}

fn maps(ids: &CapsuleIds) -> IdMaps {
    let convert = |map: &[phantom_capsule::ids::IdExtent]| {
        map.iter()
            .map(|extent| IdExtent {
                inside: extent.inside,
                outside: extent.outside,
                count: extent.count,
            })
            .collect()
    };
    IdMaps { uids: convert(&ids.uids), gids: convert(&ids.gids) }
}

/// Where an image becomes a program again: another root, another id range, another terminal.
pub struct Target {
    pub screen: Screen,
    pub cgroup: Cgroup,
    pub maps: IdMaps,
    root: tempfile::TempDir,
    slave: OwnedFd,
    slave_path: PathBuf,
    pub pid: Option<u32>,
}

impl Target {
    pub fn new(app: &App) -> Self {
        let ids = app.plan.ids.rebase(id_base()).unwrap();
        let uid = ids.uid_outside(1000).unwrap();
        let gid = ids.gid_outside(1000).unwrap();
        let pair = pty::open_pair(uid, gid, TermSize::default()).unwrap();
        let root = tempfile::Builder::new().prefix("phckpt-root-").tempdir_in("/run").unwrap();
        let none: Option<&str> = None;
        mount(Some("/"), root.path(), none, MsFlags::MS_BIND, none).unwrap();
        mount(none, root.path(), none, MsFlags::MS_PRIVATE, none).unwrap();
        let flags = MsFlags::MS_REMOUNT
            | MsFlags::MS_BIND
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV;
        mount(none, root.path(), none, flags, none).unwrap();
        Self {
            screen: Screen { master: File::from(pair.master), output: Vec::new() },
            cgroup: new_cgroup(),
            maps: maps(&ids),
            root,
            slave: pair.slave,
            slave_path: pair.slave_path,
            pid: None,
        }
    }

    pub fn restore_plan(&self, app: &App, images: &Path, work: &Path) -> RestorePlan {
        let externals = app.externals().into_iter().map(|external| Provided {
            path: match external.kind {
                ExternalKind::Console => self.slave_path.clone(),
                // The test's second machine has the same files at the same places.
                _ => external.inside,
            },
            key: external.key,
        });
        RestorePlan {
            images: images.to_owned(),
            work: work.to_owned(),
            root: self.root.path().to_owned(),
            cgroup: self.cgroup.path().to_owned(),
            externals: externals.collect(),
            terminal: Some((app.terminal(), self.slave.try_clone().unwrap())),
            own_network: true,
            limit: PATIENCE,
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        remove_cgroup(&self.cgroup);
        if let Some(pid) = self.pid {
            let _ = waitpid(Pid::from_raw(pid as i32), None);
        }
        let _ = umount2(self.root.path(), MntFlags::MNT_DETACH);
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::yield_now();
    }
}

/// Saves `app` and streams the image into `images`, as two nodes would.
pub fn save(criu: &Criu, app: &App, place: &Place, images: &Path) {
    let (source, work) = (place.memory(), place.memory());
    app.cgroup.freeze(PATIENCE).unwrap();
    let never = Cancel::never();
    let (mut reader, completion) = ImageReader::follow(source.path(), PATIENCE, &never).unwrap();
    let plan = app.dump_plan(source.path(), work.path());
    let manifest = std::thread::scope(|scope| {
        let dumping = scope.spawn(|| {
            let result = dump(criu, &plan, &never);
            if result.is_ok() {
                completion.complete();
            }
            result
        });
        let writer = ImageWriter::new(images, 4 << 30);
        let mut failed = None;
        loop {
            match reader.next_extent() {
                Ok(Some(extent)) => {
                    writer.write(&extent.file, extent.offset, &extent.bytes).unwrap();
                }
                Ok(None) => break,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let timings = dumping.join().unwrap().unwrap();
        assert!(failed.is_none(), "{failed:?}");
        println!("{timings:?}");
        let manifest = reader.into_manifest();
        writer.finish(&manifest).unwrap();
        manifest
    });
    assert!(manifest.total_bytes() > 0);
}
