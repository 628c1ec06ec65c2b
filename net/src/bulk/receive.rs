//! The receiving side of bulk transfers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use phantom_model::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::lane::{
    ARRIVING, DONE, Duplex, Frame, LaneHead, REFUSED, TAKEN, flush, read_exact, write_all,
};
use super::{
    BulkError, BulkOptions, BulkPath, BulkReport, BulkTicket, Extent, ExtentSink, MAX_PIECE,
    Progress,
};
use crate::link::Stream;

/// A lane must say what it is for within this time.
const HEAD: Duration = Duration::from_secs(4);
/// Pieces that may wait for the taker of a channel.
const QUEUE: usize = 32;

/// Where pieces go.
pub(crate) enum Delivery {
    /// To [`BulkReceiver::next`].
    Channel,
    /// Straight from each lane.
    Sink(Arc<dyn ExtentSink>),
}

/// Told what a transfer that ended well has brought: from whom, how many bytes.
pub(crate) type Received = Arc<dyn Fn(NodeId, u64) + Send + Sync>;

/// The transfers announced here.
#[derive(Clone)]
pub(crate) struct Arrivals {
    transfers: Arc<Mutex<HashMap<BulkTicket, Arc<Transfer>>>>,
    account: Received,
}

struct Transfer {
    peer: NodeId,
    limit: u64,
    progress: Progress,
    delivery: Deliver,
    stop: CancellationToken,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

enum Deliver {
    Channel(Mutex<Option<mpsc::Sender<Extent>>>),
    Sink(Arc<dyn ExtentSink>),
}

#[derive(Default)]
struct State {
    /// How many lanes the sender makes, once one has said so.
    lanes: Option<u16>,
    /// Those that have come, a bit each.
    come: u32,
    done: u16,
    first: Option<(Instant, BulkPath)>,
    outcome: Option<Result<BulkReport, BulkError>>,
}

impl Arrivals {
    /// None announced yet.
    pub fn new(account: Received) -> Self {
        Self { transfers: Arc::default(), account }
    }

    fn map(&self) -> MutexGuard<'_, HashMap<BulkTicket, Arc<Transfer>>> {
        self.transfers.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether any transfer is expected.
    pub fn any(&self) -> bool {
        !self.map().is_empty()
    }

    /// Expects a transfer from `peer`.
    pub fn announce(&self, peer: NodeId, options: BulkOptions, to: Delivery) -> BulkReceiver {
        let ticket = BulkTicket(rand::random());
        let (delivery, pieces) = match to {
            Delivery::Channel => {
                let (sender, receiver) = mpsc::channel(QUEUE);
                (Deliver::Channel(Mutex::new(Some(sender))), Some(receiver))
            }
            Delivery::Sink(sink) => (Deliver::Sink(sink), None),
        };
        let transfer = Arc::new(Transfer {
            peer,
            limit: options.limit,
            progress: Progress::new(peer, options.stall),
            delivery,
            stop: CancellationToken::new(),
            state: Mutex::default(),
            ended: watch::Sender::new(false),
        });
        self.map().insert(ticket, transfer.clone());
        BulkReceiver { ticket, transfer, pieces, arrivals: self.clone() }
    }

    /// Serves a stream of the node connection as a lane.
    pub async fn lane(&self, peer: NodeId, stream: Stream) {
        self.lane_on(peer, Box::new(stream), BulkPath::NodeConnection).await;
    }

    /// Serves a lane whose other end has proven to be `peer`, until it ends.
    pub async fn lane_on(&self, peer: NodeId, mut lane: Box<dyn Duplex>, path: BulkPath) {
        let mut head = [0; LaneHead::LEN];
        let read = tokio::io::AsyncReadExt::read_exact(&mut lane, &mut head);
        if !matches!(timeout(HEAD, read).await, Ok(Ok(_))) {
            return;
        }
        let head = LaneHead::decode(head);
        let transfer = head
            .and_then(|head| self.map().get(&head.ticket).cloned())
            .filter(|transfer| transfer.peer == peer);
        let (Some(head), Some(transfer)) = (head, transfer) else {
            tracing::debug!(peer = %peer.short(), "a bulk lane nobody expects");
            let refuse = async {
                lane.write_all(&[REFUSED]).await?;
                lane.shutdown().await
            };
            let _ = timeout(HEAD, refuse).await;
            return;
        };
        let outcome = tokio::select! {
            outcome = transfer.serve(head, &mut *lane, path) => outcome,
            () = transfer.stop.cancelled() => return,
        };
        match outcome {
            Ok(Some(report)) => {
                (self.account)(peer, report.bytes);
                transfer.end(Ok(report));
            }
            Ok(None) => {}
            Err(error) => transfer.end(Err(error)),
        }
    }
}

impl Transfer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Settles the transfer; the first word counts.
    fn end(&self, outcome: Result<BulkReport, BulkError>) {
        {
            let mut state = self.state();
            if state.outcome.is_some() {
                return;
            }
            state.outcome = Some(outcome);
        }
        self.stop.cancel();
        if let Deliver::Channel(sender) = &self.delivery {
            sender.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        }
        self.ended.send_replace(true);
    }

    fn protocol(&self, what: &'static str) -> BulkError {
        BulkError::Protocol { peer: self.peer, what }
    }

    fn claim(&self, head: LaneHead, path: BulkPath) -> Result<(), BulkError> {
        let mut state = self.state();
        if *state.lanes.get_or_insert(head.lanes) != head.lanes {
            return Err(self.protocol("lanes disagree about their number"));
        }
        let bit = 1 << head.lane;
        if state.come & bit != 0 {
            return Err(self.protocol("a lane came twice"));
        }
        state.come |= bit;
        state.first.get_or_insert_with(|| (Instant::now(), path));
        Ok(())
    }

    async fn serve(
        &self,
        head: LaneHead,
        lane: &mut dyn Duplex,
        path: BulkPath,
    ) -> Result<Option<BulkReport>, BulkError> {
        self.claim(head, path)?;
        let progress = &self.progress;
        progress.touch();
        let (mut from, mut to) = tokio::io::split(lane);
        write_all(&mut to, &[TAKEN], progress).await?;
        flush(&mut to, progress).await?;
        tokio::select! {
            taken = self.take(&mut from) => taken?,
            lost = self.say_arriving(&mut to) => return Err(lost),
        }
        write_all(&mut to, &[DONE], progress).await?;
        progress.guard(to.shutdown()).await?.map_err(|error| progress.broken(error))?;
        Ok(self.lane_done())
    }

    /// Takes all that comes on a lane.
    async fn take(&self, lane: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(), BulkError> {
        let progress = &self.progress;
        let mut buffer = match &self.delivery {
            Deliver::Sink(_) => vec![0; MAX_PIECE],
            Deliver::Channel(_) => Vec::new(),
        };
        let mut carried = 0u64;
        loop {
            let mut frame = [0; Frame::LEN];
            read_exact(lane, &mut frame, progress).await?;
            match Frame::decode(frame) {
                None => return Err(self.protocol("an unknown frame")),
                Some(Frame::Alive) => {}
                Some(Frame::Piece { object, offset, len }) => {
                    carried += u64::from(len);
                    if progress.count(len.into()) > self.limit {
                        return Err(BulkError::TooMuch { peer: self.peer, limit: self.limit });
                    }
                    self.piece(lane, &mut buffer, (object, offset, len as usize)).await?;
                }
                Some(Frame::End { bytes }) if bytes == carried => return Ok(()),
                Some(Frame::End { .. }) => return Err(self.protocol("bytes are missing")),
            }
        }
    }

    /// Tells the sender now and then that something arrives, on whichever lane. Saying so is no
    /// progress itself. Ends only when the lane cannot be written.
    async fn say_arriving(&self, lane: &mut (dyn AsyncWrite + Send + Unpin)) -> BulkError {
        let progress = &self.progress;
        loop {
            let since = progress.last();
            tokio::time::sleep(progress.alive_every()).await;
            if progress.last() == since {
                continue;
            }
            let say = async {
                lane.write_all(&[ARRIVING]).await?;
                lane.flush().await
            };
            match progress.guard(say).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return progress.broken(error),
                Err(error) => return error,
            }
        }
    }

    async fn piece(
        &self,
        lane: &mut (dyn AsyncRead + Send + Unpin),
        buffer: &mut [u8],
        (object, offset, len): (u32, u64, usize),
    ) -> Result<(), BulkError> {
        match &self.delivery {
            Deliver::Sink(sink) => {
                let bytes = &mut buffer[..len];
                read_exact(lane, bytes, &self.progress).await?;
                sink.write(object, offset, bytes).await.map_err(|error| BulkError::Sink {
                    peer: self.peer,
                    reason: error.to_string(),
                })?;
            }
            Deliver::Channel(sender) => {
                let mut bytes = vec![0; len];
                read_exact(lane, &mut bytes, &self.progress).await?;
                let sender = sender.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
                let sender = sender.ok_or(BulkError::Cancelled)?;
                let extent = Extent { object, offset, bytes: Bytes::from(bytes) };
                sender.send(extent).await.map_err(|_| BulkError::Cancelled)?;
            }
        }
        self.progress.touch();
        Ok(())
    }

    /// Counts a lane that has ended well; the report when it was the last.
    fn lane_done(&self) -> Option<BulkReport> {
        let mut state = self.state();
        state.done += 1;
        let lanes = state.lanes.filter(|lanes| *lanes == state.done)?;
        let (first, path) = state.first?;
        let bytes = self.progress.moved();
        Some(BulkReport { bytes, elapsed: first.elapsed(), path, lanes })
    }
}

/// An announced transfer. Dropping it gives the transfer up.
pub struct BulkReceiver {
    ticket: BulkTicket,
    transfer: Arc<Transfer>,
    pieces: Option<mpsc::Receiver<Extent>>,
    arrivals: Arrivals,
}

impl BulkReceiver {
    /// What the sender must show: give it over a control stream.
    pub fn ticket(&self) -> BulkTicket {
        self.ticket
    }

    /// The next piece in the order of arrival; `None` when all have come. Only for a transfer
    /// announced without a sink.
    ///
    /// # Errors
    /// The transfer failed; no more will come.
    pub async fn next(&mut self) -> Result<Option<Extent>, BulkError> {
        if let Some(pieces) = &mut self.pieces {
            match self.transfer.progress.guard(pieces.recv()).await {
                Ok(Some(piece)) => return Ok(Some(piece)),
                Ok(None) => {}
                Err(error) => self.transfer.end(Err(error)),
            }
        }
        self.finished().await.map(|_| None)
    }

    /// Waits for the end of the transfer. With a sink, all has been written then.
    ///
    /// # Errors
    /// The transfer failed.
    pub async fn finished(&mut self) -> Result<BulkReport, BulkError> {
        let mut ended = self.transfer.ended.subscribe();
        let wait = self.transfer.progress.guard(ended.wait_for(|ended| *ended)).await;
        if let Err(error) = wait {
            self.transfer.end(Err(error));
        }
        let outcome = self.transfer.state().outcome.clone();
        outcome.unwrap_or(Err(BulkError::Cancelled))
    }

    /// How many bytes have come so far.
    pub fn received(&self) -> u64 {
        self.transfer.progress.moved()
    }
}

impl Drop for BulkReceiver {
    fn drop(&mut self) {
        self.arrivals.map().remove(&self.ticket);
        self.transfer.end(Err(BulkError::Cancelled));
    }
}
