//! A home, its file server and a mount of it, in a mount namespace of their own.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phantom_fs::cache::Cache;
use phantom_fs::client::{Client, ClientConfig};
use phantom_fs::fuse::{Mount, Owners};
use phantom_fs::server::{SelfFds, Server, ServerConfig};
use phantom_model::{AppId, Epoch};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The app of all tests.
pub const APP: AppId = AppId(7);

/// Whether this machine lets tests mount; says why not.
pub fn can_mount(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return false;
    }
    if !Path::new("/dev/fuse").exists() {
        println!("SKIP {test}: no /dev/fuse");
        return false;
    }
    true
}

/// Runs `body` in a thread with its own mount namespace: whatever it mounts is gone with it, and
/// the programs it starts see it.
pub fn in_own_mounts(test: &str, body: impl FnOnce() + Send) {
    if !can_mount(test) {
        return;
    }
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            crate::os::own_mounts().expect("a mount namespace");
            let private = rustix::mount::MountPropagationFlags::PRIVATE
                | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).expect("private mounts");
            body();
        });
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Opens a directory as the root of what is served.
pub fn open_root(path: &Path) -> OwnedFd {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Takes the rights of the user and group `id`, without supplementary groups or capabilities,
/// for this thread alone and those it starts.
pub fn become_user(id: u32) {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// Runs `body` with the rights of a user.
pub fn as_user<T: Send>(id: u32, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            become_user(id);
            body()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The way to home: gives out socket pairs, each served by the server, and can be broken.
pub struct Way {
    server: Server,
    /// The user and group the server's threads have; root if `None`.
    user: Option<u32>,
    broken: AtomicBool,
    live: Mutex<Vec<UnixStream>>,
    made: AtomicUsize,
}

impl Way {
    pub fn new(server: Server, user: Option<u32>) -> Arc<Self> {
        Arc::new(Self {
            server,
            user,
            broken: AtomicBool::new(false),
            live: Mutex::default(),
            made: AtomicUsize::new(0),
        })
    }

    pub fn connect(&self) -> io::Result<UnixStream> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        self.live.lock().unwrap().push(ours.try_clone()?);
        self.made.fetch_add(1, Ordering::SeqCst);
        let (server, user) = (self.server.clone(), self.user);
        std::thread::spawn(move || {
            if let Some(user) = user {
                become_user(user);
            }
            server.serve(theirs)
        });
        Ok(ours)
    }

    /// Connections made so far.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Cuts what is connected; the next connection works.
    pub fn cut(&self) {
        for stream in self.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Cuts what is connected and lets nothing connect.
    pub fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn mend(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }
}

/// A home directory, served and mounted elsewhere. Fields are dropped in this order.
pub struct World {
    pub mount: Mount,
    pub client: Arc<Client>,
    pub server: Server,
    pub way: Arc<Way>,
    pub cache: PathBuf,
    /// The home's tree, and the same through the mount.
    pub home: PathBuf,
    pub away: PathBuf,
    _system: Option<Bind>,
    dir: tempfile::TempDir,
}

pub struct Options {
    /// A part of the tree bound read-only, as the home's system is.
    pub system: bool,
    pub deadline: Duration,
    pub cache_bytes: u64,
    pub owners: Owners,
    /// The user the home's server runs as.
    pub user: Option<u32>,
    /// Adjusts the configurations.
    pub server: fn(&mut ServerConfig),
    pub client: fn(&mut ClientConfig),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            system: false,
            deadline: Duration::from_secs(10),
            cache_bytes: 64 << 20,
            owners: Owners::identity(),
            user: None,
            server: |_| {},
            client: |_| {},
        }
    }
}

impl World {
    /// To be called in [`in_own_mounts`]. `fill` puts files into the home first.
    pub fn new(options: Options, fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("phantom-fs-test-").tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (home, away, cache) = (at("home"), at("away"), dir.path().join("cache"));
        // Users other than root must get through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(home.join("system")).unwrap();
        fill(&home);
        let system = options.system.then(|| {
            let system = home.join("system");
            let bind = Bind::new(&system, &system);
            let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
            rustix::mount::mount_remount(&system, flags, "").unwrap();
            bind
        });
        let mut config = ServerConfig::new(APP);
        config.settle = Duration::ZERO;
        (options.server)(&mut config);
        let server = Server::new(open_root(&home), SelfFds::open().unwrap(), config).unwrap();
        let way = Way::new(server.clone(), options.user);
        let mut config = ClientConfig::new(APP, Epoch::FIRST);
        config.deadline = options.deadline;
        (options.client)(&mut config);
        let transport = {
            let way = Arc::clone(&way);
            move |_: Duration| way.connect()
        };
        let disk = Arc::new(Cache::open(&cache, options.cache_bytes).unwrap());
        let client = Client::connect(transport, config, Some(disk)).unwrap();
        let mount = Mount::new(Arc::clone(&client), &away, options.owners, 8).unwrap();
        Self { mount, client, server, way, cache, home, away, _system: system, dir }
    }

    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }
}

/// A bind that is taken off, since the directory around it could not be removed else.
pub struct Bind(PathBuf);

impl Bind {
    pub fn new(from: &Path, to: &Path) -> Self {
        rustix::mount::mount_bind(from, to).unwrap();
        Self(to.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Runs a program in `dir` and returns what it printed; fails the test if it fails.
pub fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let output = try_run(dir, program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program in `dir`.
pub fn try_run(dir: &Path, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.current_dir(dir).args(args).env("HOME", dir).env("LC_ALL", "C");
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Whether a program is there; says so if not.
pub fn has(test: &str, program: &str) -> bool {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join(program).exists());
    if !found {
        println!("SKIP {test}: {program} is not installed");
    }
    found
}

/// The names in a directory.
pub fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Whether there is no `.fuse_hidden` file.
pub fn nothing_hidden(dir: &Path) -> bool {
    names(dir).iter().all(|name: &OsString| !is_hidden(name))
}

fn is_hidden(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(".fuse_hidden")
}
