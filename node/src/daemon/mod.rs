//! The daemon: one per node. It connects the domain crates and owns none of their decisions.
//!
//! | file | what it does |
//! |---|---|
//! | [`apps`] | apps whose home is here: start, list, find, end |
//! | [`guests`] | apps of other homes that run here |
//! | [`moves`] | carries out the commands of the hand-off machines |
//! | [`peers`] | questions between daemons and their answers |
//! | [`switch`] | splices streams between shims here and there, if the epoch allows |
//! | [`watch`] | limits into the kernel, crossings out of it, verdicts into moves |
//! | [`choose`] | which member takes an app |
//! | [`facts`] | what this node says of itself |
//! | [`store`] | what must not be forgotten |

pub mod apps;
pub mod choose;
pub mod facts;
pub mod guests;
pub mod members;
pub mod moves;
pub mod peers;
pub mod store;
pub mod switch;
pub mod watch;

use std::future::Future;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use phantom_model::NodeId;
use tokio::sync::watch as signal;

use crate::config::Config;

/// Who asks over the local API.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Caller {
    /// Whether the caller may do what only an administrator may.
    pub fn must_be_admin(self, what: &str) -> Result<(), Refusal> {
        if self.uid == 0 {
            return Ok(());
        }
        Err(Refusal::failed(format!("only root may {what}; use sudo")))
    }

    /// Whether the caller may see and steer apps of `uid`.
    pub fn may_steer(self, uid: u32) -> bool {
        self.uid == 0 || self.uid == uid
    }
}

/// Why a request was not met, as the user reads it.
#[derive(Debug)]
pub struct Refusal {
    /// One line: what was wrong, with what, what to do.
    pub line: String,
    /// Whether the request itself was wrong.
    pub usage: bool,
}

impl Refusal {
    /// The request was right, but it did not work.
    pub fn failed(line: impl ToString) -> Self {
        Self { line: line.to_string(), usage: false }
    }

    /// The request itself was wrong.
    pub fn usage(line: impl ToString) -> Self {
        Self { line: line.to_string(), usage: true }
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

/// Everything the daemon's tasks share.
pub struct Daemon {
    /// Its configuration.
    pub config: Config,
    /// This node.
    pub node: NodeId,
    /// What must not be forgotten.
    pub store: Arc<store::Store>,
    /// What this node says of itself.
    pub facts: facts::FactBook,
    /// Apps at home here.
    pub apps: apps::HomeApps,
    /// Apps of others that run here.
    pub guests: guests::Guests,
    /// Identity, members and connections.
    pub network: phantom_net::Network,
    /// What other members last said of themselves.
    pub members: members::Members,
    /// The kernel monitor.
    pub watcher: watch::Watcher,
    stop: signal::Sender<bool>,
}

impl Daemon {
    /// Completes when the daemon is to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stop = self.stop.subscribe();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Makes the daemon stop; apps keep running in their shims.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

/// Runs the daemon until it is told to stop.
pub fn main(config: Config, ready_fd: Option<i32>) -> anyhow::Result<()> {
    // SAFETY: `phantom up` passes a descriptor it opened for this process alone.
    let ready = ready_fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("the daemon needs root; start it with `sudo phantom up`");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism()?.get().clamp(2, 4))
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(config, ready));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}
