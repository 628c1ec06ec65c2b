//! Nodes on loopback for tests.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use phantom_net::config::Timing;
use phantom_net::{Config, FileStore, Network, NodeKey, PeerState};

/// How long a test waits for what should happen soon.
pub const SOON: Duration = Duration::from_secs(15);

/// A clock that tests move.
#[derive(Clone)]
pub struct Clock(Arc<AtomicU64>);

impl Clock {
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Self(Arc::new(AtomicU64::new(now)))
    }

    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

/// A configuration for loopback with short times.
pub fn config(dir: &Path, clock: &Clock) -> Config {
    let clock = clock.0.clone();
    Config {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        timing: Timing {
            silent: Duration::from_secs(2),
            pulse: Duration::from_millis(500),
            rest_silent: Duration::from_secs(2),
            rest_pulse: Duration::from_millis(500),
            seek: Duration::from_secs(1),
            expiry_check: Duration::from_millis(200),
            bulk_stall: Duration::from_secs(2),
            ..Timing::default()
        },
        clock: Arc::new(move || clock.load(Ordering::Relaxed)),
        ..Config::new(dir)
    }
}

/// A node whose state is in `dir`.
pub async fn start(dir: &Path, clock: &Clock) -> Network {
    start_with(config(dir, clock)).await
}

pub async fn start_with(config: Config) -> Network {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let key = NodeKey::load_or_create(&config.state_dir).unwrap();
    let store = Arc::new(FileStore::open(&config.state_dir.join("store")).unwrap());
    Network::start(config, key, store).await.unwrap()
}

/// A founder and one node that has joined it.
pub async fn two(dir: &Path, clock: &Clock) -> (Network, Network) {
    let a = start(&dir.join("a"), clock).await;
    a.found("a").await.unwrap();
    let b = start(&dir.join("b"), clock).await;
    let token = a.invite(Duration::from_secs(60)).await.unwrap();
    b.join(&token, "b").await.unwrap();
    (a, b)
}

/// Waits until `condition` holds, looking whenever something has changed at `network`.
pub async fn until(network: &Network, what: &str, mut condition: impl FnMut() -> bool) {
    let (mut peers, mut members) = (network.peer_changes(), network.member_changes());
    let started = Instant::now();
    while !condition() {
        let left = SOON.checked_sub(started.elapsed());
        let left = left.unwrap_or_else(|| panic!("{what}: not within {SOON:?}"));
        tokio::select! {
            _ = peers.changed() => {}
            _ = members.changed() => {}
            () = tokio::time::sleep(left.min(Duration::from_millis(50))) => {}
        }
    }
}

/// Whether `network` is connected with all of `count` others.
pub fn sees_all(network: &Network, count: usize) -> bool {
    let connected = |peer: &phantom_net::PeerStatus| peer.state == PeerState::Connected;
    network.peers().iter().filter(|peer| connected(peer)).count() == count
}

/// Answers every call to service `echo` with its request.
pub fn echo(network: &Network) {
    let network = network.clone();
    tokio::spawn(async move {
        while let Some(mut incoming) = network.accept().await {
            tokio::spawn(async move {
                let request: Vec<u8> = incoming.request(SOON).await?;
                incoming.reply(&request, SOON).await
            });
        }
    });
}
