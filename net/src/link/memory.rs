//! Connections inside one process, for tests of what builds on [`Link`]: no keys are proven, no
//! bytes leave the process, and a switchboard can cut any pair of nodes off.

use std::collections::{HashMap, HashSet};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use async_trait::async_trait;
use phantom_model::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    CloseCode, Connection, Link, LinkError, LinkStats, PeerAddr, Protocol, RecvHalf, SendHalf,
    Stream,
};

const STREAM_BUFFER: usize = 64 << 10;

/// Where the links of one test meet.
#[derive(Default, Clone)]
pub struct Switchboard(Arc<Mutex<Board>>);

#[derive(Default)]
struct Board {
    nodes: HashMap<NodeId, mpsc::Sender<Arc<dyn Connection>>>,
    cut: HashSet<(NodeId, NodeId)>,
    connections: Vec<Arc<Shared>>,
}

impl Switchboard {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A link for `id`.
    pub fn link(&self, id: NodeId) -> MemoryLink {
        let (sender, accepted) = mpsc::channel(16);
        self.board().nodes.insert(id, sender);
        MemoryLink { id, board: self.clone(), accepted: tokio::sync::Mutex::new(accepted) }
    }

    /// Cuts two nodes off from each other: their connections fall silent, dialling fails.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let mut board = self.board();
        board.cut.extend([(a, b), (b, a)]);
        for shared in &board.connections {
            if shared.ends == (a, b) || shared.ends == (b, a) {
                shared.end(Ending::Silent);
            }
        }
        board.connections.retain(|shared| !shared.ended.iter().all(|end| end.is_cancelled()));
    }

    /// `loser` takes its connections with `other` for dead; `other` knows nothing of it yet.
    pub fn lose(&self, loser: NodeId, other: NodeId) {
        for shared in &self.board().connections {
            if shared.ends == (loser, other) || shared.ends == (other, loser) {
                shared.ended(loser).cancel();
            }
        }
    }

    /// From now on, or no more, nothing comes over the connections of two nodes, and neither side is
    /// told.
    pub fn hush(&self, a: NodeId, b: NodeId, hushed: bool) {
        for shared in &self.board().connections {
            if shared.ends == (a, b) || shared.ends == (b, a) {
                shared.hushed.store(hushed, Ordering::Relaxed);
            }
        }
    }

    /// Joins them again.
    pub fn mend(&self, a: NodeId, b: NodeId) {
        let mut board = self.board();
        board.cut.remove(&(a, b));
        board.cut.remove(&(b, a));
    }
}

/// One node's place at a [`Switchboard`].
pub struct MemoryLink {
    id: NodeId,
    board: Switchboard,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
}

#[async_trait]
impl Link for MemoryLink {
    fn id(&self) -> NodeId {
        self.id
    }

    async fn addrs(&self) -> Vec<PeerAddr> {
        vec![PeerAddr::Relay(format!("memory:{}", self.id.short()))]
    }

    async fn dial(
        &self,
        peer: NodeId,
        addrs: &[PeerAddr],
        protocol: Protocol,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        if addrs.is_empty() {
            return Err(LinkError::NoAddress);
        }
        let (near, far, target) = {
            let mut board = self.board.board();
            if board.cut.contains(&(self.id, peer)) {
                return Err(LinkError::Silent);
            }
            let target = board.nodes.get(&peer).cloned().ok_or(LinkError::Silent)?;
            let (near, far) = pair(self.id, peer, protocol);
            board.connections.push(near.shared.clone());
            (near, far, target)
        };
        target.send(Arc::new(far)).await.map_err(|_| LinkError::Silent)?;
        Ok(Arc::new(near))
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.accepted.lock().await.recv().await
    }

    async fn close(&self) {
        self.accepted.lock().await.close();
        let mut board = self.board.board();
        board.nodes.remove(&self.id);
        for shared in &board.connections {
            if shared.ends.0 == self.id || shared.ends.1 == self.id {
                shared.close(self.id, CloseCode::Done, "shut down");
            }
        }
    }
}

#[derive(Clone)]
enum Ending {
    Silent,
    By(NodeId, CloseCode, String),
}

struct Shared {
    ends: (NodeId, NodeId),
    ending: Mutex<Option<Ending>>,
    /// What each of the ends takes for the truth.
    ended: [CancellationToken; 2],
    /// Pulses that were answered, by either.
    heard: AtomicU64,
    hushed: AtomicBool,
}

impl Shared {
    fn end(&self, ending: Ending) {
        let mut slot = self.ending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.get_or_insert(ending);
        self.ended.iter().for_each(CancellationToken::cancel);
    }

    fn ended(&self, side: NodeId) -> &CancellationToken {
        &self.ended[usize::from(side != self.ends.0)]
    }

    /// One side closes it, unless it has lost it: then nobody hears.
    fn close(&self, side: NodeId, code: CloseCode, reason: &str) {
        if !self.ended(side).is_cancelled() {
            self.end(Ending::By(side, code, reason.to_owned()));
        }
    }

    fn seen_by(&self, side: NodeId) -> LinkError {
        let slot = self.ending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match slot.as_ref() {
            Some(Ending::By(who, CloseCode::Silent, _)) if *who == side => LinkError::Silent,
            Some(Ending::By(who, _, _)) if *who == side => LinkError::ClosedHere,
            Some(Ending::By(_, code, reason)) => {
                LinkError::ClosedByPeer { code: Some(*code), reason: reason.clone() }
            }
            Some(Ending::Silent) | None => LinkError::Silent,
        }
    }
}

struct MemoryConnection {
    id: NodeId,
    peer: NodeId,
    protocol: Protocol,
    dialled: bool,
    shared: Arc<Shared>,
    to_peer: mpsc::UnboundedSender<Stream>,
    from_peer: tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>,
    /// Streams this side may still open.
    credit: Arc<Semaphore>,
    /// Streams the other side may still open.
    peer_credit: Arc<Semaphore>,
}

fn pair(
    dialler: NodeId,
    target: NodeId,
    protocol: Protocol,
) -> (MemoryConnection, MemoryConnection) {
    let shared = Arc::new(Shared {
        ends: (dialler, target),
        ending: Mutex::new(None),
        ended: Default::default(),
        heard: AtomicU64::new(0),
        hushed: AtomicBool::new(false),
    });
    let credits = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
    let (to_target, at_target) = mpsc::unbounded_channel();
    let (to_dialler, at_dialler) = mpsc::unbounded_channel();
    let near = MemoryConnection {
        id: dialler,
        peer: target,
        protocol,
        dialled: true,
        shared: shared.clone(),
        to_peer: to_target,
        from_peer: tokio::sync::Mutex::new(at_dialler),
        credit: credits.0.clone(),
        peer_credit: credits.1.clone(),
    };
    let far = MemoryConnection {
        id: target,
        peer: dialler,
        protocol,
        dialled: false,
        shared,
        to_peer: to_dialler,
        from_peer: tokio::sync::Mutex::new(at_target),
        credit: credits.1,
        peer_credit: credits.0,
    };
    (near, far)
}

impl MemoryConnection {
    fn ended(&self) -> &CancellationToken {
        self.shared.ended(self.id)
    }
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.shared.close(self.id, CloseCode::Done, "dropped");
    }
}

#[async_trait]
impl Connection for MemoryConnection {
    fn peer(&self) -> NodeId {
        self.peer
    }

    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn dialled(&self) -> bool {
        self.dialled
    }

    async fn open(&self) -> Result<Stream, LinkError> {
        let ended = || self.shared.seen_by(self.id);
        let permit = tokio::select! {
            permit = self.credit.clone().acquire_owned() => permit.map_err(|_| ended())?,
            () = self.ended().cancelled() => return Err(ended()),
        };
        let (ours, theirs) = tokio::io::duplex(STREAM_BUFFER);
        let permit = Arc::new(permit);
        let (there, back) = (CancellationToken::new(), CancellationToken::new());
        let (near, far) = (self.ended().clone(), self.shared.ended(self.peer).clone());
        let theirs = stream(theirs, (far.clone(), near.clone()), back.clone(), there.clone());
        if self.to_peer.send(theirs).is_err() && !far.is_cancelled() {
            return Err(ended());
        }
        Ok(stream(ours, (near, far), there, back).tied_to(permit))
    }

    async fn accept(&self) -> Result<Stream, LinkError> {
        let mut from_peer = self.from_peer.lock().await;
        tokio::select! {
            Some(stream) = from_peer.recv() => Ok(stream),
            () = self.ended().cancelled() => Err(self.shared.seen_by(self.id)),
        }
    }

    fn allow(&self, streams: u32) {
        self.peer_credit.add_permits(streams.saturating_sub(1) as usize);
    }

    fn pulse(&self) {
        let is_lost = self.shared.ended.iter().any(CancellationToken::is_cancelled);
        if !is_lost && !self.shared.hushed.load(Ordering::Relaxed) {
            self.shared.heard.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn heard(&self) -> u64 {
        self.shared.heard.load(Ordering::Relaxed)
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.shared.close(self.id, code, reason);
    }

    async fn closed(&self) -> LinkError {
        self.ended().cancelled().await;
        self.shared.seen_by(self.id)
    }

    fn is_closed(&self) -> bool {
        self.ended().is_cancelled()
    }

    fn stats(&self) -> LinkStats {
        LinkStats { path: None, rtt: None, bytes_in: 0, bytes_out: 0 }
    }
}

/// One side of a stream on a connection that has `ended` for the near or the far side; `out` and
/// `back` are cancelled when that direction is given up.
fn stream(
    duplex: DuplexStream,
    ended: (CancellationToken, CancellationToken),
    out: CancellationToken,
    back: CancellationToken,
) -> Stream {
    let (read, write) = tokio::io::split(duplex);
    let (near, lost) = ended;
    let ended = || Box::pin(near.clone().cancelled_owned());
    let given_up = Box::pin(out.clone().cancelled_owned());
    Stream::new(
        MemorySend { write, ended: ended(), lost: lost.clone(), given_up, direction: out },
        MemoryRecv { read, ended: ended(), lost, direction: back },
    )
}

type Ended = Pin<Box<WaitForCancellationFutureOwned>>;

struct MemorySend {
    write: WriteHalf<DuplexStream>,
    ended: Ended,
    /// The far side knows no such connection: what is sent vanishes.
    lost: CancellationToken,
    given_up: Ended,
    direction: CancellationToken,
}

struct MemoryRecv {
    read: ReadHalf<DuplexStream>,
    ended: Ended,
    lost: CancellationToken,
    direction: CancellationToken,
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the connection has ended")
}

impl SendHalf for MemorySend {
    fn reset(&mut self) {
        self.direction.cancel();
    }
}

impl RecvHalf for MemoryRecv {
    fn stop(&mut self) {
        self.direction.cancel();
    }
}

impl AsyncWrite for MemorySend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        if self.lost.is_cancelled() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        Pin::new(&mut self.write).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

impl AsyncRead for MemoryRecv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(gone()));
        }
        if self.lost.is_cancelled() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.read).poll_read(cx, buf);
        let at_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if at_end && self.direction.is_cancelled() {
            return Poll::Ready(Err(gone()));
        }
        read
    }
}
