//! The daemon: one per node. It connects the domain crates and owns none of their decisions.
//!
//! | file | what it does |
//! |---|---|
//! | [`abroad`] | what nodes of other sub-grids send, and what a region needs of this node |
//! | [`availability`] | how much this node can be counted on |
//! | [`apps`] | apps whose home is here: start, list, find, end |
//! | [`follow`] | services that run wherever the super-peer is |
//! | [`guests`] | apps of other homes that run here |
//! | [`detached`] | processes that outlive the daemon are started: shims and guards |
//! | [`moves`] | the home's side of moves: when one begins, where to, who waits |
//! | [`drive`] | one move's task: feeds the coordinator and does what it says |
//! | [`parts`] | this node's part in moves, as source or target |
//! | [`target`] | what this node does as the target of a move |
//! | [`images`] | the image on its way |
//! | [`describe`] | members as ClassAds |
//! | [`explain`] | could an app move now, where to, and if not, why |
//! | [`why`] | which of the things that are asked of nodes fail on how many, and what would help |
//! | [`peers`] | questions between daemons and their answers |
//! | [`policy`] | the sub-grid's policy: read, shown, edited |
//! | [`programs`] | programs that Phantom did not start, watched as the owner wants |
//! | [`region`] | founding a region, letting sub-grids in, registering the own one |
//! | [`recover`] | finds apps again whose shims lived on |
//! | [`switch`] | splices streams between shims here and there, if the epoch allows |
//! | [`watch`] | limits into the kernel, crossings out of it, verdicts into moves |
//! | [`market`] | what is measured of other nodes, for the choice among them |
//! | [`joining`] | found, join, let others in, put members out |
//! | [`members`] | who is in the sub-grid, and what they said of themselves |
//! | [`near`] | what discovery needs of this node |
//! | [`facts`] | what this node says of itself |
//! | [`query`] | queries that find their way through sub-grid, region and grid |
//! | [`subgrid`] | this node's part in the elected group and the registry; listings of it |
//! | [`store`] | what must not be forgotten |
//! | [`vo`] | virtual organisations: who is in one, made and changed, apps kept within |
//! | [`timeline`] | what happened to each app |
//! | [`logfile`] | the log stays bounded |
//! | [`hold`] | for tests: a stop at a border of a move |

pub mod abroad;
pub mod apps;
pub mod availability;
pub mod describe;
pub mod detached;
pub mod drive;
pub mod explain;
pub mod facts;
pub mod follow;
pub mod guests;
pub mod hold;
pub mod images;
pub mod joining;
pub mod logfile;
pub mod market;
pub mod members;
pub mod moves;
pub mod near;
pub mod parts;
pub mod peers;
pub mod policy;
pub mod programs;
pub mod query;
pub mod recover;
pub mod region;
pub mod store;
pub mod subgrid;
pub mod switch;
pub mod target;
pub mod timeline;
pub mod vo;
pub mod watch;
pub mod why;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::Context;
use phantom_model::NodeId;
use phantom_qos::Programs;
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
    /// Finds who is near, and knows which members live.
    pub discovery: phantom_discovery::Discovery,
    /// This node's part in the sub-grid's group and registry.
    pub subgrid: phantom_discovery::SubGrid,
    /// This node's part in its sub-grid's region.
    pub region: phantom_discovery::region::Region,
    /// What the region needs of this node.
    pub outside: Arc<abroad::Outside>,
    /// How much this node can be counted on.
    pub availability: Arc<availability::Availability>,
    /// This node's own request to be let in.
    pub joining: joining::Joining,
    /// Services that run wherever the super-peer is.
    pub follows: follow::Follows,
    /// Searches through the registry.
    pub finds: subgrid::Finds,
    /// The sub-grid's policy as it was last read.
    pub policies: policy::Policies,
    /// The virtual organisations as they were last looked at.
    pub vos: vo::Vos,
    /// What was measured of the others.
    pub market: market::Market,
    /// What other members last said of themselves.
    pub members: members::Members,
    /// Moves under way of apps at home here.
    pub moves: moves::Moves,
    /// This node's part in moves.
    pub parts: parts::Parts,
    /// The kernel monitor.
    pub watcher: watch::Watcher,
    /// Other programs that are watched.
    pub watchlist: programs::Watchlist,
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
    crate::os::share_memory_between_threads();
    let ready = ready_fd.map(crate::os::inherited);
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

async fn run(config: Config, ready: Option<OwnedFd>) -> anyhow::Result<()> {
    prepare_run_dir(&config)?;
    let store = Arc::new(store::Store::open(&config.state_dir)?);
    let key = phantom_net::NodeKey::load_or_create(&config.state_dir)?;
    let node = key.id();
    let examined = config.clone();
    let report =
        tokio::task::spawn_blocking(move || facts::examine(&examined, facts::PATIENCE)).await?;
    tracing::info!(node = %node.short(), "{}", report.closing_line());
    let facts = facts::FactBook::new(node, &config, &report)?;
    let network = phantom_net::Network::start(
        phantom_net::Config {
            listen: config.listen,
            relay: config.relay_url.clone(),
            relay_ca: config.relay_ca.clone(),
            ..phantom_net::Config::new(&config.state_dir)
        },
        key,
        store.clone(),
    )
    .await?;
    let kept = phantom_net::Store::get(&*store, availability::KEY)?;
    let availability = Arc::new(availability::Availability::new(kept));
    let fabric = Arc::new(near::Near {
        network: network.clone(),
        port: config.listen.port(),
        store: store.clone(),
        availability: availability.clone(),
        region: Default::default(),
    });
    let outside = Arc::new(abroad::Outside {
        network: network.clone(),
        port: config.listen.port(),
        availability: availability.clone(),
    });
    let (discovery, posted) = phantom_discovery::Discovery::start(
        phantom_discovery::Config {
            port: config.discovery_port,
            multicast: config.multicast,
            generation: store.count_start()? << GENERATIONS_BITS,
        },
        fabric.clone(),
    );
    let subgrid = phantom_discovery::SubGrid::start(fabric.clone(), discovery.clone(), posted);
    let region =
        phantom_discovery::region::Region::start(config.region(), outside.clone(), subgrid.clone());
    let _ = fabric.region.set(region.clone());
    let daemon = Arc::new(Daemon {
        node,
        store,
        facts,
        apps: apps::HomeApps::default(),
        guests: guests::Guests::new(node),
        discovery,
        subgrid,
        region,
        outside,
        availability,
        joining: joining::Joining::default(),
        market: market::Market::default(),
        follows: follow::Follows::default(),
        finds: subgrid::Finds::default(),
        policies: policy::Policies::default(),
        vos: vo::Vos::default(),
        members: members::Members::default(),
        moves: moves::Moves::default(),
        parts: parts::Parts::default(),
        watcher: watch::Watcher::default(),
        watchlist: programs::Watchlist::new(Programs::new(config.rules()?)),
        stop: signal::Sender::new(false),
        network,
        config,
    });
    daemon.members.attach(daemon.network.clone());
    if !report.unknown.is_empty() {
        tokio::spawn(daemon.clone().examine_again());
    }
    daemon.clone().serve(ready).await
}

impl Daemon {
    async fn serve(self: Arc<Self>, ready: Option<OwnedFd>) -> anyhow::Result<()> {
        self.watch_if_able();
        let switch = bind_for_root(&self.config.switch_socket())?;
        let api = crate::api::server::bind(&self.config.api_socket())?;
        tokio::spawn(self.clone().serve_switch(switch));
        tokio::spawn(self.clone().judge());
        tokio::spawn(self.clone().sample());
        tokio::spawn(self.clone().watch_programs());
        tokio::spawn(self.clone().watch_criu());
        tokio::spawn(self.clone().keep_movable());
        self.find_apps().await?;
        // Not before: an app that is not found yet is not one that has ended.
        tokio::spawn(self.clone().answer_peers());
        tokio::spawn(self.clone().answer_abroad());
        tokio::spawn(self.clone().know_vos());
        self.settle_moves();
        self.report_standing(None);
        tokio::spawn(self.clone().tend_parts());
        tokio::spawn(self.clone().keep_timelines());
        tokio::spawn(self.clone().keep_within_vos());
        tokio::spawn(self.clone().describe_self());
        tokio::spawn(self.clone().note_availability());
        tokio::spawn(self.clone().bound_log());
        tokio::spawn(self.clone().follow_services());
        std::fs::write(self.config.pid_file(), std::process::id().to_string())?;
        if let Some(ready) = ready {
            use std::io::Write;
            let _ = std::fs::File::from(ready).write_all(b"ready\n");
        }
        self.clone().stop_on_signals()?;
        let answers = async {
            let served = crate::api::server::serve(self.clone(), api).await;
            self.stop();
            served
        };
        // Nobody who asks something here keeps them from being handed back.
        let services = async {
            self.stopping().await;
            self.end_services().await;
        };
        let (served, ()) = tokio::join!(answers, services);
        self.save_timelines().await;
        let _ = self.network.shutdown(SHUTDOWN).await;
        let _ = std::fs::remove_file(self.config.api_socket());
        let _ = std::fs::remove_file(self.config.pid_file());
        served
    }

    fn watch_if_able(&self) {
        if self.config.qos
            && self.facts.can(phantom_model::Capability::Monitor)
            && let Err(error) = self.watcher.switch(true)
        {
            tracing::warn!(error = format!("{error:#}"), "the monitor stays off");
        }
    }

    /// Asks again for what did not answer when the daemon started.
    async fn examine_again(self: Arc<Self>) {
        for patience in facts::AGAIN {
            let config = self.config.clone();
            let examined = tokio::task::spawn_blocking(move || facts::examine(&config, patience));
            let Ok(report) = examined.await else { return };
            let watched = self.facts.can(phantom_model::Capability::Monitor);
            self.facts.learn(&report);
            // Where it could be on already, somebody may have switched it off.
            if !watched {
                self.watch_if_able();
            }
            tracing::info!("examined again: {}", report.closing_line());
            if report.unknown.is_empty() {
                return;
            }
        }
    }

    /// Examines again when CRIU has been upgraded, removed or installed; the kernel only changes
    /// when the machine, and with it the daemon, starts.
    async fn watch_criu(self: Arc<Self>) {
        let mut tick = tokio::time::interval(facts::CRIU_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tick.tick().await;
            let daemon = self.clone();
            let examined = tokio::task::spawn_blocking(move || {
                let found = facts::criu_now(&daemon.config);
                daemon.facts.is_outdated(found.as_deref()).then(|| {
                    daemon.facts.learn(&facts::examine(&daemon.config, facts::PATIENCE));
                    daemon.facts.now().canary
                })
            });
            match examined.await {
                Ok(Some(canary)) => tracing::info!(canary, "CRIU has changed and was tried again"),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn stop_on_signals(self: Arc<Self>) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            self.stop();
        });
        Ok(())
    }
}

/// Within one run, a node may have to show two to this power times that it is not gone.
const GENERATIONS_BITS: u32 = 20;

/// How long connections have to be closed in order.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(2);

/// Images and the state of running apps lie in memory; where the run directory does not, a tmpfs
/// is mounted on it.
fn prepare_run_dir(config: &Config) -> anyhow::Result<()> {
    use nix::mount::MsFlags;
    use std::os::unix::fs::PermissionsExt;
    let dir = &config.run_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let kind = nix::sys::statfs::statfs(dir)?.filesystem_type();
    if kind != nix::sys::statfs::TMPFS_MAGIC {
        tracing::info!(dir = %dir.display(), "not in memory: mounting a tmpfs there");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        nix::mount::mount(Some("phantom"), dir, Some("tmpfs"), flags, Some("mode=755,size=90%"))
            .with_context(|| format!("cannot mount a tmpfs on {}", dir.display()))?;
    }
    std::fs::create_dir_all(config.apps_dir())?;
    // Users reach the attach sockets of their apps, and see nothing else.
    std::fs::set_permissions(config.apps_dir(), std::fs::Permissions::from_mode(0o711))?;
    Ok(())
}

fn bind_for_root(path: &std::path::Path) -> anyhow::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::remove_file(path);
    let listener = tokio::net::UnixListener::bind(path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
