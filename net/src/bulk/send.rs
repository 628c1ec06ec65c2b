//! The sending side of bulk transfers.

use std::sync::Arc;

use bytes::Bytes;
use phantom_model::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::lane::{
    ARRIVING, DONE, Duplex, Frame, LaneHead, REFUSED, TAKEN, flush, read_exact, write_all,
};
use super::{
    BulkError, BulkOptions, BulkPath, BulkReport, BulkTicket, Extent, MAX_PIECE, Progress,
};

type Queue = Arc<Mutex<mpsc::Receiver<Extent>>>;

/// Called with the byte count when a transfer has ended well.
pub(crate) type Account = Box<dyn FnOnce(u64) + Send + Sync>;

/// Sends pieces over all lanes. Dropping it gives the transfer up: the receiver gets an error.
pub struct BulkSender {
    queue: Option<mpsc::Sender<Extent>>,
    lanes: JoinSet<Result<(), BulkError>>,
    progress: Arc<Progress>,
    path: BulkPath,
    count: u16,
    account: Option<Account>,
}

/// Makes lanes out of connections to `peer`, once the receiver has taken all of them.
pub(crate) async fn connect(
    peer: NodeId,
    ticket: BulkTicket,
    connections: Vec<Box<dyn Duplex>>,
    path: BulkPath,
    options: &BulkOptions,
    account: Account,
) -> Result<BulkSender, BulkError> {
    let progress = Arc::new(Progress::new(peer, options.stall));
    let lanes = u16::try_from(connections.len()).unwrap_or(u16::MAX);
    let mut ready = Vec::new();
    for (lane, mut connection) in (0..).zip(connections) {
        let head = LaneHead { ticket, lane, lanes };
        write_all(&mut *connection, &head.encode(), &progress).await?;
        flush(&mut *connection, &progress).await?;
        ready.push(connection);
    }
    for connection in &mut ready {
        let mut answer = [0];
        read_exact(&mut **connection, &mut answer, &progress).await?;
        match answer {
            [TAKEN] => {}
            [REFUSED] => return Err(BulkError::Unknown(peer)),
            _ => {
                return Err(BulkError::Protocol { peer, what: "an unknown answer" });
            }
        }
    }
    let (queue, pieces) = mpsc::channel(2 * ready.len().max(1));
    let pieces: Queue = Arc::new(Mutex::new(pieces));
    let mut tasks = JoinSet::new();
    for connection in ready {
        tasks.spawn(run(connection, pieces.clone(), progress.clone()));
    }
    Ok(BulkSender {
        queue: Some(queue),
        lanes: tasks,
        progress,
        path,
        count: lanes,
        account: Some(account),
    })
}

impl BulkSender {
    /// Queues a piece of any size; waits while the lanes are busy.
    ///
    /// # Errors
    /// The transfer has failed.
    pub async fn send(&mut self, extent: Extent) -> Result<(), BulkError> {
        let Some(queue) = &self.queue else {
            return Err(BulkError::Cancelled);
        };
        tokio::select! {
            sent = queue.send(extent) => match sent {
                Ok(()) => Ok(()),
                Err(_) => Err(self.failure().await),
            },
            // No lane ends well before `finish`.
            Some(ended) = self.lanes.join_next() => {
                self.queue = None;
                self.lanes.abort_all();
                Err(failure_of(ended).unwrap_or(BulkError::Cancelled))
            }
        }
    }

    /// Waits until the receiver has stored everything.
    ///
    /// # Errors
    /// The transfer has failed.
    pub async fn finish(mut self) -> Result<BulkReport, BulkError> {
        if self.queue.take().is_none() {
            return Err(BulkError::Cancelled);
        }
        while let Some(ended) = self.lanes.join_next().await {
            if let Some(error) = failure_of(ended) {
                return Err(error);
            }
        }
        let bytes = self.progress.moved();
        if let Some(account) = self.account.take() {
            account(bytes);
        }
        let elapsed = self.progress.elapsed();
        Ok(BulkReport { bytes, elapsed, path: self.path, lanes: self.count })
    }

    /// What the lanes are made of.
    pub fn path(&self) -> BulkPath {
        self.path
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> u16 {
        self.count
    }

    /// How many bytes have been handed to the network so far.
    pub fn sent(&self) -> u64 {
        self.progress.moved()
    }

    async fn failure(&mut self) -> BulkError {
        self.queue = None;
        while let Some(ended) = self.lanes.join_next().await {
            if let Some(error) = failure_of(ended) {
                return error;
            }
        }
        BulkError::Cancelled
    }
}

fn failure_of(ended: Result<Result<(), BulkError>, tokio::task::JoinError>) -> Option<BulkError> {
    ended.unwrap_or(Err(BulkError::Cancelled)).err()
}

/// One lane: takes pieces from the common queue until it is closed.
async fn run(
    mut lane: Box<dyn Duplex>,
    queue: Queue,
    progress: Arc<Progress>,
) -> Result<(), BulkError> {
    let (mut from, mut to) = tokio::io::split(&mut *lane);
    let mut stored = std::pin::pin!(stored(&mut from, &progress));
    tokio::select! {
        said = say(&mut to, &queue, &progress) => said?,
        early = &mut stored => {
            early?;
            return Err(BulkError::Protocol { peer: progress.peer, what: "done before the end" });
        }
    }
    stored.await?;
    // The receiver has everything; whether the goodbye arrives no longer matters.
    let _ = progress.guard(tokio::io::AsyncWriteExt::shutdown(&mut to)).await;
    Ok(())
}

async fn say(
    lane: &mut (dyn AsyncWrite + Send + Unpin),
    queue: &Queue,
    progress: &Progress,
) -> Result<(), BulkError> {
    let mut carried = 0;
    loop {
        let next = timeout(progress.alive_every(), next_of(queue)).await;
        progress.touch();
        let more = match next {
            Err(_) => {
                write_all(lane, &Frame::Alive.encode(), progress).await?;
                false
            }
            Ok(Some((extent, more))) => {
                carried += extent.bytes.len() as u64;
                send_extent(lane, extent, progress).await?;
                more
            }
            Ok(None) => break,
        };
        if !more {
            flush(lane, progress).await?;
        }
    }
    write_all(lane, &Frame::End { bytes: carried }.encode(), progress).await?;
    flush(lane, progress).await
}

/// Completes when the receiver has stored all of the lane.
async fn stored(
    lane: &mut (dyn AsyncRead + Send + Unpin),
    progress: &Progress,
) -> Result<(), BulkError> {
    loop {
        let mut answer = [0];
        read_exact(lane, &mut answer, progress).await?;
        match answer {
            [ARRIVING] => {}
            [DONE] => return Ok(()),
            _ => {
                return Err(BulkError::Protocol { peer: progress.peer, what: "an unknown answer" });
            }
        }
    }
}

/// The next piece, and whether more are waiting.
async fn next_of(queue: &Queue) -> Option<(Extent, bool)> {
    let mut queue = queue.lock().await;
    let extent = queue.recv().await?;
    Some((extent, !queue.is_empty()))
}

async fn send_extent(
    lane: &mut (dyn AsyncWrite + Send + Unpin),
    extent: Extent,
    progress: &Progress,
) -> Result<(), BulkError> {
    let Extent { object, mut offset, mut bytes } = extent;
    while !bytes.is_empty() {
        let piece: Bytes = bytes.split_to(bytes.len().min(MAX_PIECE));
        let len = piece.len() as u32; // at most MAX_PIECE
        write_all(lane, &Frame::Piece { object, offset, len }.encode(), progress).await?;
        write_all(lane, &piece, progress).await?;
        progress.count(u64::from(len));
        offset = offset.saturating_add(u64::from(len));
    }
    Ok(())
}
