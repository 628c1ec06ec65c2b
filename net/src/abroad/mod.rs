//! Messages between nodes of different sub-grids: a few a second, small, told or asked.
//!
//! ```text
//!  node of sub-grid A                                       node of sub-grid B
//!     │ ── connects as `phantom/abroad/1` ──────────────────────> │  both keys are proven
//!     │ ── Hello: my certificate, by A ─────────────────────────> │  genuine for the sub-grid it
//!     │ <───────────────────────── Hello: my certificate, by B ── │  names, valid, of this node?
//!     │ ══ a stream each: tell | ask, length, payload ══════════> │ [`Network::accept_abroad`]
//!     │ <═══════════════════════ to an ask: length, answer ══════ │ [`Foreign::reply`]
//!     │ <══════════════ streams of the other side, the same way ═ │
//!
//!  a connection:  handshake ──> in use <──> idle ──60 s, or room is needed──> closed
//!                     │                      │
//!                     └ refused              └ membership lost, certificate over, shutdown
//! ```
//!
//! What holds:
//! - Each side has proven its key and shown that the sub-grid it names calls it a member. Anybody can
//!   make a sub-grid, so this says who somebody is and not that he is wanted: strangers come in, and
//!   everything they can make this node do or keep is bounded. Whoever uses this decides what to
//!   answer to whom.
//! - A certificate may be sealed by a delegate. That the delegation was withdrawn, or the member
//!   removed, is known inside its sub-grid only: here such a certificate counts until it is over.
//!   One of this node's own sub-grid counts only if the node is a member still.
//! - Who has no membership can neither dial nor be dialled. When this node loses or changes its own,
//!   all these connections are closed.
//! - These are no streams between members: what comes here never comes out at [`Network::accept`],
//!   nor the other way round.
//! - A connection is used for all messages to its node, in both directions, until it is idle. Two of
//!   one pair of nodes may exist when both have dialled. The side that has dialled closes an idle one;
//!   the other uses it no more shortly before, so that nothing is told into a closing connection.
//! - What has been told may be lost all the same, if the connection is; an answer is proof that it was
//!   not.
//!
//! | what a stranger can use up | bound |
//! |---|---|
//! | connections in the handshake | 64, each for [`Timing::handshake`](crate::config::Timing::handshake) |
//! | connections | 512 each way, one each way per node; an idle one makes room, of the address with the most |
//! | streams of a connection | 16, each for 10 s |
//! | messages of a node | 100 a second, 200 at once; the others are dropped, and the node is named |
//! | a message, an answer | [`MAX_ABROAD`] |
//! | messages that wait here | 256, of 64 MiB together |
//! | bytes of a connection that were not read yet | 1 MiB |

mod dial;
mod hello;
mod line;
mod message;
mod meter;
mod place;
mod pool;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::link::{Connection, LinkError, PeerAddr, Stream};
use crate::network::{Inner, Network};
use crate::peer::pause::Pauses;
use crate::service::bounded;
use line::Line;
use message::{Kind, ROOM};
use meter::Meters;
use pool::Pool;

/// No message and no answer is longer, in bytes.
pub const MAX_ABROAD: usize = 512 << 10;
/// Connections from other sub-grids that may be in the handshake at once.
pub(crate) const MAX_STRANGERS: usize = 64;
/// Connections that others have made, and as many that this node has made.
const MAX_CONNECTIONS: usize = 512;
/// Streams the other side of a connection may have open at once.
const MAX_STREAMS: u32 = 16;
/// Messages that may wait for [`Network::accept_abroad`].
const QUEUE: usize = 256;
/// How long a message may take to arrive, and then to be taken.
const MESSAGE: Duration = Duration::from_secs(10);

/// Where a node of another sub-grid is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Which node.
    pub node: NodeId,
    /// Whose certificate it must show; `None`: whichever.
    pub subgrid: Option<SubgridId>,
    /// Where it may be; the first [`MAX_ADDRS`](crate::member::MAX_ADDRS) that can be addresses are
    /// tried.
    pub addrs: Vec<PeerAddr>,
}

/// What a node has proven about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Which node: it holds the key.
    pub node: NodeId,
    /// The sub-grid that calls it a member.
    pub subgrid: SubgridId,
    /// What that sub-grid calls it.
    pub name: String,
    /// Over which address it was reached.
    pub addr: Option<PeerAddr>,
}

/// What a node of another sub-grid has told or asked this one.
#[derive(Debug)]
pub struct Foreign {
    /// Which node: it has proven its key.
    pub peer: NodeId,
    /// The sub-grid that calls it a member.
    pub subgrid: SubgridId,
    /// What that sub-grid calls it.
    pub name: String,
    /// Where it came from.
    pub addr: Option<PeerAddr>,
    /// What it says, at most [`MAX_ABROAD`] bytes.
    pub payload: Vec<u8>,
    answer: Answer,
}

/// What is left of a message once it has been read.
#[derive(Debug)]
struct Answer {
    /// Where the answer goes, if one is waited for.
    stream: Option<Stream>,
    /// The message's part of [`ROOM`].
    _room: Option<OwnedSemaphorePermit>,
}

impl Foreign {
    /// Whether an answer is waited for.
    pub fn asks(&self) -> bool {
        self.answer.stream.is_some()
    }

    /// Answers. Where nobody waits for an answer it is thrown away.
    ///
    /// # Errors
    /// It is longer than [`MAX_ABROAD`], or cannot be sent `within` that time.
    pub async fn reply(self, answer: Vec<u8>, within: Duration) -> Result<(), Error> {
        check_length(&answer)?;
        let Some(mut stream) = self.answer.stream else { return Ok(()) };
        let write = message::write(&mut stream.send, None, &answer);
        bounded(self.peer, "an answer", within, write).await
    }
}

/// A node's dealings with other sub-grids.
pub(crate) struct Abroad {
    pool: Arc<Pool>,
    pauses: Pauses,
    meters: Mutex<Meters>,
    /// Bytes that messages may still take up.
    room: Arc<Semaphore>,
    incoming: mpsc::Sender<Foreign>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Foreign>>,
}

impl Default for Abroad {
    fn default() -> Self {
        let (incoming, accepted) = mpsc::channel(QUEUE);
        Self {
            pool: Arc::new(Pool::default()),
            pauses: Pauses::default(),
            meters: Mutex::default(),
            room: Arc::new(Semaphore::new(ROOM)),
            incoming,
            accepted: tokio::sync::Mutex::new(accepted),
        }
    }
}

impl Abroad {
    fn meters(&self) -> MutexGuard<'_, Meters> {
        self.meters.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The machine's network has changed: pauses after failed dials end.
    pub fn reset(&self) {
        self.pauses.reset();
    }

    /// Lets go of messages that nobody has taken.
    pub async fn clear(&self) {
        let mut accepted = self.accepted.lock().await;
        accepted.close();
        while accepted.try_recv().is_ok() {}
    }
}

impl Network {
    /// Tells a node of another sub-grid something, of at most [`MAX_ABROAD`] bytes, and waits for no
    /// answer.
    ///
    /// # Errors
    /// This node is no member, the other cannot be reached `within` that time, or it is not the one
    /// that was meant. Without an error it may still be lost.
    pub async fn tell_abroad(
        &self,
        to: &Contact,
        payload: Vec<u8>,
        within: Duration,
    ) -> Result<(), Error> {
        say(self.shared(), to, Kind::Tell, &payload, within).await.map(drop)
    }

    /// Asks a node of another sub-grid. Returns its answer and what it has proven about itself.
    ///
    /// # Errors
    /// As [`Network::tell_abroad`], or there is no answer `within` that time. The question may have
    /// been heard all the same.
    pub async fn ask_abroad(
        &self,
        to: &Contact,
        payload: Vec<u8>,
        within: Duration,
    ) -> Result<(Vec<u8>, Proven), Error> {
        let deadline = Instant::now() + within;
        let (line, mut stream) = say(self.shared(), to, Kind::Ask, &payload, within).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let read = crate::wire::read_bytes(&mut stream.recv, MAX_ABROAD);
        let answer = bounded(to.node, "an answer", left, read).await?;
        Ok((answer, line.proven()))
    }

    /// The next thing that a node of another sub-grid tells or asks; `None` after
    /// [`Network::shutdown`]. What nobody takes within seconds is dropped.
    pub async fn accept_abroad(&self) -> Option<Foreign> {
        let inner = self.shared();
        let mut accepted = inner.abroad.accepted.lock().await;
        tokio::select! {
            () = inner.stop.cancelled() => None,
            foreign = accepted.recv() => foreign,
        }
    }
}

/// Sends `payload` on a stream of its own, over the connection there is or a new one. One that turns
/// out to be dead is replaced once.
async fn say(
    inner: &Arc<Inner>,
    to: &Contact,
    kind: Kind,
    payload: &[u8],
    within: Duration,
) -> Result<(Arc<Line>, Stream), Error> {
    check_length(payload)?;
    let (peer, what) = (to.node, "telling it something");
    let deadline = Instant::now() + within;
    let mut replaced = false;
    loop {
        let (line, mark) = dial::reach(inner, to, within, deadline).await?;
        let shown = line.subgrid();
        if let Some(wanted) = to.subgrid.filter(|wanted| *wanted != shown) {
            return Err(Error::OtherSubgrid { peer, wanted, shown });
        }
        let said = async {
            let mut stream = line.connection.open().await?.tied_to(mark);
            message::write(&mut stream.send, Some(kind), payload)
                .await
                .map_err(|error| LinkError::Other(error.to_string()))?;
            Ok(stream)
        };
        match timeout_at(deadline, said).await {
            Ok(Ok(stream)) => return Ok((line, stream)),
            Err(_) => return Err(Error::Deadline { peer, what, after: within }),
            // The other side cannot have all of it.
            Ok(Err(_)) if line.connection.is_closed() && !replaced => {
                inner.abroad.pool.remove(&line);
                replaced = true;
            }
            Ok(Err(source)) => return Err(Error::Cut { peer, what, source }),
        }
    }
}

fn check_length(message: &[u8]) -> Result<(), Error> {
    match message.len() {
        bytes if bytes > MAX_ABROAD => Err(Error::LongMessage { bytes }),
        _ => Ok(()),
    }
}

/// Answers a connection from another sub-grid, which takes up `place` among strangers until its
/// certificate was found good.
pub(crate) async fn answer(
    inner: &Arc<Inner>,
    connection: Arc<dyn Connection>,
    place: OwnedSemaphorePermit,
) {
    // On failure both sides have been told.
    let _ = hello::establish(inner, connection).await;
    drop(place);
}
