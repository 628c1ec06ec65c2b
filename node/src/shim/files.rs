//! The processes that serve the home's files: while the app is away, with exactly the app's rights;
//! and to the capsule at home where a file system cannot be shown with its ids, with the user's.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use phantom_capsule::Capsule;
use phantom_capsule::ids::IdMaps;
use phantom_capsule::os::server::{self, Rights, ServerCommand};
use phantom_capsule::os::spawn::Namespaces;
use phantom_fs::client::{Client, ClientConfig};
use phantom_fs::fuse::{Mount, Owners};
use phantom_fs::ids::{Extent, IdMap};
use phantom_fs::server::{ControlClient, SelfFds, Server, ServerConfig, serve_control};
use phantom_model::app::OsText;
use phantom_model::{AppId, Credentials, Epoch};

use super::control::Charge;
use crate::os::inherited;

/// Threads that answer the kernel for one mount.
pub const FUSE_THREADS: usize = 4;
/// How long an operation on files served at home may take. A network file system may be away for a
/// while, and its user expects his program to wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// The shim's handle on the process. Dropping it ends the process.
pub struct FileServer {
    control: ControlClient,
    pid: Pid,
}

impl FileServer {
    /// Starts it in the capsule's namespaces, which it keeps alive from then on.
    pub fn of_app(app: AppId, capsule: &Capsule, namespaces: &Namespaces) -> anyhow::Result<Self> {
        Self::start(app, Rights::of_app(capsule, namespaces))
    }

    /// Starts it as the user, who sees the host's files.
    pub fn of_user(app: AppId, user: &Credentials) -> anyhow::Result<Self> {
        Self::start(app, Rights::of_user(user))
    }

    fn start(app: AppId, rights: Rights<'_>) -> anyhow::Result<Self> {
        let (control, theirs) = ControlClient::pair()?;
        let command = ServerCommand {
            program: File::open("/proc/self/exe").context("cannot open this program")?,
            argv: ["phantom", "serve-files", "--app", &app.to_string()].map(OsText::from).to_vec(),
            env: vec![],
            fds: vec![theirs, host_proc()?],
        };
        let server = server::start(rights, command)?;
        Ok(Self { control, pid: Pid::from_raw(server.pid) })
    }

    /// Has a connection from the app's host served.
    pub fn serve(&self, stream: &UnixStream) -> anyhow::Result<()> {
        Ok(self.control.serve(stream)?)
    }

    /// Keeps the inode of a file the app has mapped or open, under the path it has inside.
    pub fn pin(&self, path: &OsText, file: &OwnedFd) -> anyhow::Result<()> {
        Ok(self.control.pin(&path.0, file)?)
    }

    /// Ends all pins: the move is over.
    pub fn unpin_all(&self) -> anyhow::Result<()> {
        self.control.unpin_all()?;
        Ok(())
    }

    /// Refuses every copy with an older epoch from now on.
    pub fn fence(&self, epoch: Epoch) -> anyhow::Result<()> {
        self.control.fence(epoch)?;
        Ok(())
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The host's files with a capsule's ids, until dropped.
pub struct ServedHere(Mount);

impl ServedHere {
    /// Mounts them at `root`, with the rights of the app's user.
    pub fn start(charge: &Charge, ids: &IdMaps, root: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root)?;
        let server = FileServer::of_user(charge.app, &charge.spec.user)?;
        let transport = move |_timeout| {
            let (ours, theirs) = UnixStream::pair()?;
            server.serve(&theirs).map_err(io::Error::other)?;
            Ok(ours)
        };
        let config = ClientConfig {
            deadline: PATIENCE,
            long_deadline: PATIENCE,
            ..ClientConfig::new(charge.app, Epoch::FIRST)
        };
        let client = Client::connect(transport, config, None)?;
        Ok(Self(Mount::new(client, root, owners(ids), FUSE_THREADS)?))
    }

    /// Where the host's root is.
    pub fn root(&self) -> &Path {
        self.0.path()
    }
}

/// How files that are served appear to the capsule.
pub fn owners(ids: &IdMaps) -> Owners {
    let map = |list: &[phantom_capsule::ids::IdExtent]| {
        IdMap(
            list.iter()
                .map(|e| Extent { inside: e.inside, outside: e.outside, count: e.count })
                .collect(),
        )
    };
    Owners { uids: map(&ids.uids), gids: map(&ids.gids) }
}

/// The host's /proc: the capsule's own does not know processes that are not in it.
fn host_proc() -> anyhow::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open("/proc", flags, Mode::empty()).context("cannot open /proc")
}

/// `phantom serve-files`: what runs in that process. Its control socket is descriptor 3,
/// the host's /proc descriptor 4.
pub fn main(app: AppId) -> anyhow::Result<()> {
    const CONTROL_FD: i32 = 3;
    const PROC_FD: i32 = 4;
    let (control, proc) = (inherited(CONTROL_FD), inherited(PROC_FD));
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open("/", flags, Mode::empty()).context("cannot open the root")?;
    let server = Server::new(root, SelfFds::below(&proc)?, ServerConfig::new(app))?;
    serve_control(&server, &control)?;
    server.close();
    Ok(())
}
