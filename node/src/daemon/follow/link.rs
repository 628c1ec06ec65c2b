//! Guards: started, found again, talked to, and what is left of them cleared away.

use std::io::Write;
use std::time::Duration;

use anyhow::{anyhow, bail};
use phantom_capsule::cgroup::{Cgroup, hierarchy};
use phantom_discovery::machine::follow::Found;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, ReadHalf};
use tokio::net::UnixStream;

use super::super::detached;
use crate::config::Config;
use crate::guard::control::{Charge, GuardDir, Order, Word, group_name};

/// How long a guard may take to start the service, or to say what it holds.
const ANSWER: Duration = Duration::from_secs(5);
/// How long killed processes may take to disappear.
const REMAINS: Duration = Duration::from_secs(5);
/// A guard says no more than this in its life.
const MAX_WORDS: u64 = 64 << 10;

/// The daemon's end of the connection to a guard.
pub struct Link {
    /// The claim in whose name the guard holds the service.
    pub run: u64,
    writer: std::os::unix::net::UnixStream,
}

/// What the guard says.
pub struct Words(BufReader<tokio::io::Take<ReadHalf<UnixStream>>>);

impl Link {
    /// Tells the guard. Never waits: a guard that does not read ends the service by itself.
    pub fn send(&self, order: Order) {
        let bytes = order.encode();
        match (&self.writer).write(&bytes) {
            Ok(count) if count == bytes.len() => {}
            sent => tracing::warn!(?sent, "a guard does not listen"),
        }
    }
}

impl Words {
    /// The next; `None` when the guard has gone, or says what nobody understands.
    pub async fn next(&mut self) -> Option<Word> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok()?;
        serde_json::from_str(&line).ok()
    }
}

/// The folders of guards that may live.
pub fn left(config: &Config) -> Vec<String> {
    let folders = std::fs::read_dir(config.follow_dir()).into_iter().flatten().flatten();
    folders.filter_map(|folder| folder.file_name().into_string().ok()).collect()
}

/// Starts a guard, which starts the service.
pub async fn start(dir: &GuardDir, charge: &Charge) -> anyhow::Result<(Link, Words)> {
    for folder in [Some(dir.0.as_path()), charge.log.parent()].into_iter().flatten() {
        detached::make_dir(folder, 0o700)?;
    }
    std::fs::write(dir.charge(), serde_json::to_vec(charge)?)?;
    let () = detached::start("guard", &dir.0, &dir.log(), ANSWER).await?;
    let (_, link, words) = connect(dir).await?;
    Ok((link, words))
}

/// Connects to a guard that lives.
pub async fn connect(dir: &GuardDir) -> anyhow::Result<(Found, Link, Words)> {
    let met = async {
        let stream = UnixStream::connect(dir.socket()).await?.into_std()?;
        // Does not wait either.
        let writer = stream.try_clone()?;
        let (reader, _) = tokio::io::split(UnixStream::from_std(stream)?);
        let mut words = Words(BufReader::new(reader.take(MAX_WORDS)));
        match words.next().await {
            Some(Word::Standing { run, until, version, stop }) => {
                let found = Found { run, until, version, stop };
                Ok((found, Link { run, writer }, words))
            }
            _ => bail!("its guard does not say what it holds"),
        }
    };
    tokio::time::timeout(ANSWER, met).await.map_err(|_| anyhow!("its guard does not answer"))?
}

/// Ends whatever is left in the service's control group. Blocks.
pub fn clear(node_short: &str, service: &str) -> anyhow::Result<()> {
    let path = hierarchy()?.join("phantom").join(node_short).join(group_name(service));
    if !path.exists() {
        return Ok(());
    }
    let group = Cgroup::at(path);
    group.kill()?;
    group.wait_empty(REMAINS)?;
    Ok(group.remove()?)
}
