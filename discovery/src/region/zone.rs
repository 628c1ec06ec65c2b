//! The region's name: finding who is there, and keeping its entry.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Abroad, RegionConfig};
use crate::dns::entry::MAX_HOSTS;
use crate::dns::{
    Current, DNS_PORT, Entry, Finder, Host, Primary, RegionCache, Source, UpdateError, Updater,
};
use crate::uri::GridUri;

/// How long looking for a name may take, and each step of writing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a region-peer looks whether its entry is still there.
const REFRESH: Duration = Duration::from_secs(600);
/// After a failure, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));

/// How an entry stands before the first attempt to write it, in words.
pub const NOT_WRITTEN_YET: &str = "not written yet";

/// Who is at a region's name.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is there.
    pub current: Current,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
}

impl Found {
    /// How it was found, in words.
    pub fn words(&self) -> String {
        match &self.current.source {
            Source::Fresh(_) => "by the DNS".to_owned(),
            Source::Cached { age, why } => {
                format!("as it was {} s ago, for the DNS does not tell: {why}", age.as_secs())
            }
        }
    }
}

/// Looks in the DNS who answers for a region; nothing of it is proven.
///
/// # Errors
/// There is nobody who may be believed, in words.
pub async fn find(
    config: &RegionConfig,
    uri: &GridUri,
    cache: &RegionCache,
    abroad: &dyn Abroad,
) -> Result<Found, String> {
    let finder = Finder::new(config.servers.clone(), PATIENCE);
    let answer = finder.find(uri).await;
    let current = cache.settle(uri, answer, abroad, now()).map_err(|error| error.to_string())?;
    let addresses = finder.addresses(uri, &current.entry).await.map_err(|it| it.to_string())?;
    Ok(Found { current, addresses })
}

/// The time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// A search that is under way.
pub struct Search {
    task: JoinHandle<()>,
}

impl Search {
    /// Begins; what comes of it goes to `found`, with `mark`.
    pub fn begin<T: Send + 'static>(
        config: RegionConfig,
        uri: GridUri,
        cache: RegionCache,
        abroad: Arc<dyn Abroad>,
        mark: T,
        found: mpsc::Sender<(T, Result<Found, String>)>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let result = find(&config, &uri, &cache, &*abroad).await;
            let _ = found.send((mark, result)).await;
        });
        Self { task }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a region's entry while it lives.
pub struct Keeper {
    wanted: watch::Sender<Option<Entry>>,
    told: watch::Receiver<String>,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Begins to keep the entry of this region.
    pub fn start(config: RegionConfig, uri: GridUri, abroad: Arc<dyn Abroad>) -> Self {
        let (wanted, wants) = watch::channel(None);
        let (tell, told) = watch::channel(NOT_WRITTEN_YET.to_owned());
        let task = tokio::spawn(keep(config, uri, abroad, wants, tell));
        Self { wanted, told, task }
    }

    /// This is the entry from now on.
    pub fn want(&self, entry: Entry) {
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.as_ref() != Some(&entry);
            *wanted = Some(entry);
            differs
        });
    }

    /// How it stands, in words.
    pub fn words(&self) -> String {
        self.told.borrow().clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(
    config: RegionConfig,
    uri: GridUri,
    abroad: Arc<dyn Abroad>,
    mut wants: watch::Receiver<Option<Entry>>,
    told: watch::Sender<String>,
) {
    let mut pause = AGAIN.0;
    loop {
        let Some(entry) = wants.borrow_and_update().clone() else {
            if wants.changed().await.is_err() {
                return;
            }
            continue;
        };
        let wait = match write(&config, &uri, &entry, &*abroad).await {
            Ok(()) => {
                tell(&told, &uri, format!("written, with mandate {}", entry.at()), true);
                pause = AGAIN.0;
                REFRESH
            }
            Err(error) => {
                tell(&told, &uri, error, false);
                pause = (pause * 2).min(AGAIN.1);
                pause
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = wants.changed() => if changed.is_err() {
                return;
            }
        }
    }
}

fn tell(told: &watch::Sender<String>, uri: &GridUri, words: String, done: bool) {
    let differs = *told.borrow() != words;
    if differs {
        match done {
            true => tracing::info!(region = %uri, "its entry in the DNS is {words}"),
            false => tracing::warn!(region = %uri, "its entry in the DNS is not written: {words}"),
        }
        told.send_replace(words);
    }
}

async fn write(
    config: &RegionConfig,
    uri: &GridUri,
    entry: &Entry,
    abroad: &dyn Abroad,
) -> Result<(), String> {
    let Some(file) = &config.key_file else {
        return Err(
            "this node has no key for it: set `key` in [dns] of phantom.toml, or write the \
                    entry by hand"
                .to_owned(),
        );
    };
    let words = |error: UpdateError| error.to_string();
    let key = Updater::read_key(file).await.map_err(words)?;
    let primary = match config.primary {
        Some(server) => Primary::Given(server),
        None => {
            Primary::Named { finder: Finder::new(config.servers.clone(), PATIENCE), port: DNS_PORT }
        }
    };
    let updater = Updater::new(&key, primary, PATIENCE).map_err(words)?;
    updater.publish(uri, entry, abroad).await.map(drop).map_err(words)
}

/// Where this node says that it is reached.
pub fn hosts(config: &RegionConfig, own: Vec<IpAddr>) -> Vec<Host> {
    let named = config.hosts.iter().map(|text| match text.parse::<IpAddr>() {
        Ok(ip) => Host::Ip(ip),
        Err(_) => Host::Name(text.to_ascii_lowercase()),
    });
    let mut hosts: Vec<Host> = named.collect();
    if hosts.is_empty() {
        let usable = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
            IpAddr::V6(ip) => !ip.is_loopback() && (ip.segments()[0] & 0xffc0) != 0xfe80,
        };
        hosts.extend(own.into_iter().filter(usable).map(Host::Ip));
    }
    hosts.dedup();
    hosts.truncate(MAX_HOSTS);
    hosts
}
