//! The side at home: serves a tree to the copy of the app that runs elsewhere.
//!
//! The process it runs in must already have exactly the app's own rights (its user, group and
//! supplementary groups, no capabilities, its mount namespace): every operation is a system call
//! of this process, so the kernel decides what may be read and written. The server itself only
//! makes sure that no request leaves the directory it names: names are single components, links
//! are never followed, devices, pipes and sockets are never opened.

mod control;
mod files;
mod handles;
mod journal;
mod listing;
mod manifests;
mod mask;
mod names;
mod nodes;
mod ops;
mod pins;
mod session;
mod tree;
mod xattr;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phantom_model::{AppId, Epoch};
use rustix::io::Errno;

use crate::proto::{
    FrameError, Hello, Name, Refusal, SessionId, ToClient, ToServer, VERSION, read_frame,
    write_frame,
};
use manifests::Manifests;
use mask::Mask;
use pins::Pins;
use session::Session;
use tree::Tree;

pub use crate::os::SelfFds;
pub use control::{ControlClient, ControlError, serve_control};

/// What is served and within which bounds.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Whose files.
    pub app: AppId,
    /// Absolute paths inside the tree that are private to each place the app runs at: an empty
    /// directory stands at each.
    pub excluded: Vec<Vec<u8>>,
    /// Threads for each connection.
    pub workers: usize,
    /// Sessions kept at once.
    pub max_sessions: usize,
    /// Nodes of one session; more are refused with `ENFILE`.
    pub max_nodes: usize,
    /// References to inodes kept open by one session.
    pub max_open_nodes: usize,
    /// Files and directories one session may have open.
    pub max_handles: usize,
    /// Digests of system files kept in memory, 32 bytes each.
    pub max_manifest_chunks: usize,
    /// A system file changed less than this ago is not taken as settled.
    pub settle: Duration,
    /// How long a reply may take to be written before the connection is given up.
    pub write_timeout: Duration,
}

impl ServerConfig {
    /// The usual bounds, and the places a capsule has for itself.
    pub fn new(app: AppId) -> Self {
        let private = ["/proc", "/sys", "/dev", "/run", "/tmp"];
        Self {
            app,
            excluded: private.iter().map(|path| path.as_bytes().to_vec()).collect(),
            workers: 8,
            max_sessions: 4,
            max_nodes: 1 << 20,
            max_open_nodes: 16_384,
            max_handles: 16_384,
            max_manifest_chunks: 1 << 20,
            settle: Duration::from_secs(10),
            write_timeout: Duration::from_secs(20),
        }
    }
}

/// Why files cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A path to hide is not an absolute path below the root.
    #[error("`{0}` cannot be kept out of the served files: it is not a path below the root")]
    Excluded(String),
    /// The root cannot be looked at.
    #[error("the root of the served files cannot be read: {0}")]
    Root(Errno),
    /// The thread's own file mode mask could not be had.
    #[error("a thread for the served files could not be set up: {0}")]
    Thread(io::Error),
    /// The connection could not be used.
    #[error("the connection of the file session cannot be used: {0}")]
    Stream(io::Error),
    /// The other side broke the protocol or went away.
    #[error("the file session's connection ended: {0}")]
    Frame(#[from] FrameError),
    /// The session was refused.
    #[error("a file session was refused: {0}")]
    Refused(Refusal),
    /// A pin failed.
    #[error("`{path}` could not be kept for the move: {error}")]
    Pin {
        /// Which path.
        path: String,
        /// Why.
        error: Errno,
    },
}

#[derive(Debug)]
struct State {
    sessions: HashMap<SessionId, Arc<Session>>,
    epoch: Epoch,
}

/// What sessions share.
#[derive(Debug)]
struct Shared {
    tree: Tree,
    pins: Pins,
    manifests: Manifests,
    config: ServerConfig,
    state: Mutex<State>,
    idle: Condvar,
}

/// Serves one app's files. Clones serve the same.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// Serves the tree below `root`, a directory opened in the app's mount namespace.
    ///
    /// The number of open files this process may have should be raised first
    /// (`RLIMIT_NOFILE`) to above `max_open_nodes + max_handles`.
    ///
    /// # Errors
    /// When `root` is no directory or a path to hide makes no sense.
    pub fn new(
        root: OwnedFd,
        self_fds: SelfFds,
        config: ServerConfig,
    ) -> Result<Self, ServerError> {
        let mask = Mask::new(&config.excluded)?;
        let tree = Tree::new(root, self_fds, mask, config.settle).map_err(ServerError::Root)?;
        let state = State { sessions: HashMap::new(), epoch: Epoch(0) };
        let manifests = Manifests::new(config.max_manifest_chunks);
        let shared = Shared {
            tree,
            pins: Pins::default(),
            manifests,
            config,
            state: Mutex::new(state),
            idle: Condvar::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection until it ends. Sessions outlive it; several may be served at once.
    ///
    /// # Errors
    /// Says why the connection ended, if not by its orderly end.
    pub fn serve(&self, stream: UnixStream) -> Result<(), ServerError> {
        let timeout = self.shared.config.write_timeout;
        stream.set_write_timeout(Some(timeout)).map_err(ServerError::Stream)?;
        // Who does not say hello does not keep a thread.
        stream.set_read_timeout(Some(timeout)).map_err(ServerError::Stream)?;
        let (hello, _) = read_frame::<ToServer>(&mut &stream)?;
        let ToServer::Hello(hello) = hello else {
            return Err(ServerError::Stream(io::ErrorKind::InvalidData.into()));
        };
        stream.set_read_timeout(None).map_err(ServerError::Stream)?;
        let session = match self.open_session(&hello) {
            Ok(session) => session,
            Err(refusal) => {
                write_frame(&mut &stream, &ToClient::Refused(refusal), &[])?;
                return Err(ServerError::Refused(refusal));
            }
        };
        let line = session.attach(stream).map_err(ServerError::Stream)?;
        std::thread::scope(|scope| {
            for _ in 1..self.shared.config.workers.max(1) {
                let worker = std::thread::Builder::new().name("files".into());
                let spawned = worker.spawn_scoped(scope, || session.work(&line));
                if let Err(error) = spawned {
                    tracing::warn!(%error, "fewer threads than wanted serve files");
                    break;
                }
            }
            session.work(&line)
        })
    }

    fn open_session(&self, hello: &Hello) -> Result<Arc<Session>, Refusal> {
        if hello.version != VERSION {
            return Err(Refusal::Version(VERSION));
        }
        if hello.app != self.shared.config.app {
            return Err(Refusal::App);
        }
        // A later epoch than the present one does not end it: the next host fetches files while
        // the app still runs where it is. What ends it is the commit of the move.
        let mut state = self.state();
        if hello.epoch < state.epoch {
            return Err(Refusal::Epoch(state.epoch));
        }
        if let Some(session) = state.sessions.get(&hello.session) {
            session.reopen(hello.epoch);
            return Ok(Arc::clone(session));
        }
        if hello.resumed {
            return Err(Refusal::Unknown);
        }
        if state.sessions.len() >= self.shared.config.max_sessions {
            let unused = state.sessions.values().find(|session| !session.is_attached());
            let unused = unused.map(|session| session.id()).ok_or(Refusal::Full)?;
            state.sessions.remove(&unused);
        }
        let session = Arc::new(Session::new(hello.session, hello.epoch, Arc::clone(&self.shared)));
        state.sessions.insert(hello.session, Arc::clone(&session));
        Ok(session)
    }

    /// From now on only sessions of `epoch` or later are served. When it returns no operation of
    /// an older one is running or will ever run; `false` if one was still running after ten
    /// seconds (a file system at home that hangs). What the latest of them had open is kept: if
    /// its copy gets the app back, it opens its session again with the epoch it has then.
    pub fn fence(&self, epoch: Epoch) -> bool {
        let mut state = self.state();
        state.epoch = state.epoch.max(epoch);
        let limit = state.epoch;
        let old: Vec<Arc<Session>> =
            state.sessions.values().filter(|s| s.epoch() < limit).map(Arc::clone).collect();
        for session in &old {
            session.close();
        }
        // A commit grants the next epoch and a return the one after it.
        state.sessions.retain(|_, session| session.epoch().0 + 2 >= limit.0);
        let deadline = Instant::now() + Duration::from_secs(10);
        while old.iter().any(|session| !session.is_idle()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = self.shared.idle.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Keeps the inode of `fd` alive at `path` (absolute, inside the tree, without links): from
    /// now until [`Server::unpin_all`] whoever looks the path up gets it, even if the path leads
    /// elsewhere by then, or nowhere.
    ///
    /// # Errors
    /// When the directories of `path` are not there.
    pub fn pin(&self, path: &[u8], fd: OwnedFd) -> Result<(), ServerError> {
        let failed = |error| {
            let path = String::from_utf8_lossy(path).into_owned();
            ServerError::Pin { path, error }
        };
        let names: Result<Vec<Name>, _> = path
            .split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty())
            .map(Name::new)
            .collect();
        let names = names.map_err(|_| failed(Errno::INVAL))?;
        self.shared.pins.pin(self.shared.tree.root(), &names, fd).map_err(failed)
    }

    /// Ends all pins; returns how many there were. Nodes a session holds stay alive until it
    /// forgets them.
    pub fn unpin_all(&self) -> usize {
        self.shared.pins.clear()
    }

    /// Ends every session and connection.
    pub fn close(&self) {
        for (_, session) in self.state().sessions.drain() {
            session.close();
        }
    }
}
