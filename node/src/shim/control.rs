//! What the daemon asks of a shim, over `control.sock`: one connection a question, except
//! [`Request::Watch`], which stays open and carries [`Event`]s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use phantom_capsule::cgroup::Cgroup;
use phantom_model::{AppId, AppSpec, Bytes, Epoch, MoveId, NodeId};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::frames;

/// What a shim is started with, in `spec.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Charge {
    /// Which app.
    pub app: AppId,
    /// What the user started.
    pub spec: AppSpec,
    /// Its part.
    pub role: Role,
    /// First of the ids the capsule has on this node.
    pub id_base: u32,
    /// This node, shortened: names the capsule's cgroup.
    pub node_short: String,
    /// A file all shims lock while they change the node's packet rules.
    pub network_lock: PathBuf,
    /// Where the shim asks for streams to other nodes.
    pub switch: PathBuf,
    /// Where verified system files of other nodes are kept.
    pub cache_dir: PathBuf,
    /// How large that may grow.
    pub cache_max: Bytes,
    /// The CRIU to use, if this node has one.
    pub criu: Option<PathBuf>,
    /// Whether capsules get a network here.
    pub network: bool,
}

/// Which part a shim plays for its app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Role {
    /// The app was started here; this shim keeps its user's terminal for all its life.
    Home,
    /// The app comes from elsewhere and will go again.
    Guest(Box<GuestRole>),
}

/// What a guest's shim knows of its home.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestRole {
    /// The app's home.
    pub home: NodeId,
    /// The capsule as its home made it, packed.
    pub blueprint: Vec<u8>,
    /// The epoch this copy would run with.
    pub epoch: Epoch,
}

impl Charge {
    /// Makes the capsule's control group.
    pub fn make_cgroup(&self) -> anyhow::Result<Cgroup> {
        let cgroup = Cgroup::create(&self.node_short, &self.app.short())?;
        for limit in self.spec.limits.iter().filter(|limit| limit.soft) {
            // Where this cannot be, the user is told when the app would be held.
            if let Err(error) = cgroup.enable(limit.resource.name()) {
                tracing::debug!(error = format!("{error:#}"), "nothing is charged to the app");
            }
        }
        Ok(cgroup)
    }
}

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Send events from now on, the pending ones first.
    Watch,
    /// What does it hold, and what would prevent a move?
    Survey,
    /// Which files has the app mapped or open?
    MappedFiles,
    /// Show one line to the user.
    Tell(String),
    /// Signal the app.
    Signal(i32),
    /// Home, before the app leaves: serve its files, keep mapped ones alive.
    OpenFiles,
    /// Home, after the app is back: stop serving.
    CloseFiles,
    /// Source: stop the capsule, take its terminal's bytes, write the image.
    Save {
        /// The move.
        id: MoveId,
    },
    /// Source: give up saving, and let it go on with this epoch.
    Thaw {
        /// Its epoch from now on.
        epoch: Epoch,
    },
    /// Source: the app runs elsewhere; drop the frozen copy.
    Release,
    /// Target: make ready and fetch what the app has mapped.
    Prepare {
        /// The move.
        id: MoveId,
        /// The epoch this copy would have.
        epoch: Epoch,
        /// Files to fetch ahead.
        files: Vec<phantom_model::app::OsText>,
    },
    /// Target: check the image and rebuild the processes, stopped.
    Restore {
        /// The move.
        id: MoveId,
        /// What the source saved besides the image.
        luggage: Vec<u8>,
    },
    /// Target: the move is committed, run.
    Resume {
        /// The move.
        id: MoveId,
        /// The epoch it now has.
        epoch: Epoch,
    },
    /// Target: the move is given up.
    Abort {
        /// The move.
        id: MoveId,
    },
    /// Home: the terminal's other end is now the copy with this epoch, elsewhere.
    Follow {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Home: the move is over; what copies before this epoch had open at the file server ends.
    FenceFiles {
        /// The epoch of the copy that runs.
        epoch: Epoch,
    },
    /// End, with whatever is left of the app here.
    Finish,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// To [`Request::Survey`].
    Survey(Survey),
    /// To [`Request::OpenFiles`]: the capsule's blueprint.
    Opened(Vec<u8>),
    /// To [`Request::MappedFiles`].
    Files(Vec<phantom_model::app::OsText>),
    /// To [`Request::Save`].
    Saved(Box<Saved>),
    /// To [`Request::Restore`]: the processes stand, stopped.
    Held(Held),
    /// To [`Request::Resume`].
    Running(Running),
}

/// What an app holds now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Survey {
    /// Whether its processes are on this node.
    pub here: bool,
    /// Resident memory of all its processes.
    pub resident: Bytes,
    /// What prevents a move, each a line.
    pub obstacles: Vec<String>,
    /// What the user should know of a move, each a line.
    pub notes: Vec<String>,
}

/// What the source saved besides the image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// The capsule and its terminal, packed.
    pub luggage: Vec<u8>,
    /// When it was frozen, microseconds since 1970 on the source's clock.
    pub frozen_unix_us: u64,
    /// How long stopping it took.
    pub freeze: Duration,
    /// How long writing the image took.
    pub dump: Duration,
}

/// A restored capsule that waits for its commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// How long the check took.
    pub check: Duration,
    /// How long the restore took.
    pub restore: Duration,
}

/// A restored capsule that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// When it was let go, microseconds since 1970 on the target's clock.
    pub resumed_unix_us: u64,
    /// How long letting it go took.
    pub resume: Duration,
}

/// What a shim tells by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// How the shim stands; the first event on every watch.
    Standing {
        /// Whether processes of the app are here and may run.
        running: bool,
        /// The epoch this copy has, where it has one.
        epoch: Option<Epoch>,
        /// A move whose frozen copy is here.
        frozen: Option<MoveId>,
        /// The move that brought the copy here.
        arrived: Option<MoveId>,
    },
    /// The app has ended; the shim ends once this is acknowledged by [`Request::Finish`].
    Ended {
        /// Exit code; 128 + signal when it was killed.
        code: i32,
    },
}

/// The daemon's side of `control.sock`.
#[derive(Debug, Clone)]
pub struct ShimClient {
    socket: PathBuf,
}

impl ShimClient {
    /// A client of the shim that listens at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks and waits for the answer.
    pub async fn ask(&self, request: &Request, deadline: Duration) -> anyhow::Result<Reply> {
        let exchange = async {
            let mut stream = self.connect().await?;
            frames::write(&mut stream, request).await?;
            let reply: Result<Reply, String> = frames::read(&mut stream)
                .await?
                .context("the process that holds the app went away")?;
            reply.map_err(|line| anyhow!(line))
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| anyhow!("the process that holds the app gave no answer in {deadline:?}"))?
    }

    /// Asks and expects nothing but success.
    pub async fn tell(&self, request: &Request, deadline: Duration) -> anyhow::Result<()> {
        self.ask(request, deadline).await.map(|_| ())
    }

    /// Opens the stream of events.
    pub async fn watch(&self) -> anyhow::Result<EventStream> {
        let mut stream = self.connect().await?;
        frames::write(&mut stream, &Request::Watch).await?;
        Ok(EventStream { stream })
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        UnixStream::connect(&self.socket)
            .await
            .context("the process that holds the app does not answer")
    }
}

/// Events of one shim, until it ends.
pub struct EventStream {
    stream: UnixStream,
}

impl EventStream {
    /// The next event; `None` when the shim has ended.
    pub async fn next(&mut self) -> Option<Event> {
        frames::read(&mut self.stream).await.ok().flatten()
    }
}
