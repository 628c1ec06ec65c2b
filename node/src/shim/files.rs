//! The home's files while the app is away: a process with exactly the app's rights serves them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use phantom_capsule::Capsule;
use phantom_capsule::os::server::{self, ServerCommand};
use phantom_capsule::os::spawn::Namespaces;
use phantom_fs::server::{ControlClient, SelfFds, Server, ServerConfig, serve_control};
use phantom_model::app::OsText;
use phantom_model::{AppId, Epoch};

use crate::os::inherited;

/// The shim's handle on the process. Dropping it ends the process.
pub struct FileServer {
    control: ControlClient,
    pid: Pid,
}

impl FileServer {
    /// Starts it in the capsule's namespaces, which it keeps alive from then on.
    pub fn start(app: AppId, capsule: &Capsule, namespaces: &Namespaces) -> anyhow::Result<Self> {
        let (control, theirs) = ControlClient::pair()?;
        let command = ServerCommand {
            program: File::open("/proc/self/exe").context("cannot open this program")?,
            argv: ["phantom", "serve-files", "--app", &app.to_string()].map(OsText::from).to_vec(),
            env: vec![],
            fds: vec![theirs, host_proc()?],
        };
        let server = server::start(capsule, namespaces, command)?;
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
