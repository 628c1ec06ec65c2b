//! Bulk data: the contents of numbered objects (image files, memory), in pieces, over several
//! lanes at once.
//!
//! The receiver announces a transfer and hands its [`BulkTicket`] to the sender over a control
//! stream; lanes with another ticket, or from another node than the announced one, are refused.
//! A lane is a TCP connection of its own (TLS 1.3 between the two node keys) where one can be
//! made quickly, else a stream of the node connection: QUIC in user space costs four times the
//! CPU (docs/link.md). Memory is bounded on both sides, a slow receiver slows the sender, and a
//! transfer on which nothing moves for a while ends in an error on both sides.
//!
//! ```text
//! lane, sender to receiver:   ticket (16 bytes) lane (u16) lanes (u16)
//!                             { kind (u8) object (u32) offset (u64) len (u32) bytes }*
//! lane, receiver to sender:   taken (u8) { arriving (u8) }* done (u8)      little endian
//! ```

mod lane;
mod receive;
mod send;
pub(crate) mod tcp;
pub(crate) mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::Instant;

pub use receive::BulkReceiver;
pub(crate) use receive::{Arrivals, Delivery};
pub use send::BulkSender;
pub(crate) use send::connect;

/// The largest piece on the wire, in bytes; larger ones are split.
pub const MAX_PIECE: usize = 256 << 10;
/// The most lanes a transfer may have.
pub const MAX_LANES: u16 = 16;

/// Names a transfer the receiver has announced. Whoever shows it must also be the announced node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BulkTicket(pub [u8; 16]);

impl fmt::Debug for BulkTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BulkTicket({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// A piece of an object. What object numbers mean is agreed over control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Which object.
    pub object: u32,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What.
    pub bytes: Bytes,
}

/// Takes pieces as they arrive, several at once.
#[async_trait]
pub trait ExtentSink: Send + Sync + 'static {
    /// Writes `bytes` at `offset` of `object`.
    ///
    /// # Errors
    /// It cannot; the transfer ends on both sides.
    async fn write(&self, object: u32, offset: u64, bytes: &[u8]) -> std::io::Result<()>;
}

/// Bounds of one transfer.
#[derive(Debug, Clone, Copy)]
pub struct BulkOptions {
    /// Lanes when they are TCP connections, 1 to [`MAX_LANES`].
    pub tcp_lanes: u16,
    /// Lanes when they are streams of the node connection, 1 to [`MAX_LANES`].
    pub stream_lanes: u16,
    /// When nothing moves for this long although something should, the transfer has failed.
    pub stall: Duration,
    /// The receiver takes no more than this many bytes.
    pub limit: u64,
}

impl Default for BulkOptions {
    fn default() -> Self {
        Self { tcp_lanes: 4, stream_lanes: 8, stall: Duration::from_secs(10), limit: u64::MAX }
    }
}

/// What the lanes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BulkPath {
    /// TCP connections of their own to this address, TLS 1.3.
    Tcp(SocketAddr),
    /// Streams of the node connection.
    NodeConnection,
}

impl fmt::Display for BulkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BulkPath::Tcp(addr) => write!(f, "tcp+tls {addr}"),
            BulkPath::NodeConnection => f.write_str("quic streams"),
        }
    }
}

/// How a transfer went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BulkReport {
    /// Bytes of objects.
    pub bytes: u64,
    /// From the first lane to the end.
    pub elapsed: Duration,
    /// What the lanes were; the receiver says [`BulkPath::Tcp`] with the sender's address.
    pub path: BulkPath,
    /// How many.
    pub lanes: u16,
}

impl fmt::Display for BulkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let rate = self.bytes as f64 * 8.0 / seconds / 1e9;
        let mib = self.bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "bulk: {} x{}, {mib:.1} MiB in {seconds:.3} s, {rate:.2} Gbit/s",
            self.path, self.lanes
        )
    }
}

/// A transfer that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BulkError {
    /// The receiver did not announce it, or has given it up.
    #[error("node {} expects no such bulk transfer", .0.short())]
    Unknown(NodeId),
    /// Nothing moved for too long.
    #[error("the bulk transfer with node {} stood still for {after:?} after {bytes} bytes", .peer.short())]
    Stalled {
        /// The other side.
        peer: NodeId,
        /// For how long.
        after: Duration,
        /// How much had moved.
        bytes: u64,
    },
    /// A lane broke.
    #[error("the bulk transfer with node {} broke after {bytes} bytes: {reason}", .peer.short())]
    Broken {
        /// The other side.
        peer: NodeId,
        /// How much had moved.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// More came than was agreed.
    #[error("node {} sends more than the {limit} bytes agreed", .peer.short())]
    TooMuch {
        /// The sender.
        peer: NodeId,
        /// What was agreed.
        limit: u64,
    },
    /// The receiver's sink failed.
    #[error("cannot store bulk data from node {}: {reason}", .peer.short())]
    Sink {
        /// The sender.
        peer: NodeId,
        /// Why.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("node {} broke the bulk protocol: {what}", .peer.short())]
    Protocol {
        /// The other side.
        peer: NodeId,
        /// How.
        what: &'static str,
    },
    /// This side gave up.
    #[error("the bulk transfer was given up")]
    Cancelled,
}

/// Notes when something last moved, and how much in all.
pub(crate) struct Progress {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
    moved: AtomicU64,
    stall: Duration,
    pub peer: NodeId,
}

impl Progress {
    pub fn new(peer: NodeId, stall: Duration) -> Self {
        let start = Instant::now();
        Self { start, last: AtomicU64::new(0), moved: AtomicU64::new(0), stall, peer }
    }

    /// Something happened.
    pub fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// When something last happened, in milliseconds.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// `bytes` of objects have moved; returns the sum.
    pub fn count(&self, bytes: u64) -> u64 {
        self.moved.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn broken(&self, reason: impl fmt::Display) -> BulkError {
        BulkError::Broken { peer: self.peer, bytes: self.moved(), reason: reason.to_string() }
    }

    /// How often a lane that is alive says so.
    pub fn alive_every(&self) -> Duration {
        self.stall / 4
    }

    /// `work`, unless nothing moves on any lane of the transfer for too long.
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, BulkError> {
        let mut work = std::pin::pin!(work);
        loop {
            let last = self.last();
            let deadline = self.start + Duration::from_millis(last) + self.stall;
            match tokio::time::timeout_at(deadline, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if self.last() > last => {}
                Err(_) => {
                    return Err(BulkError::Stalled {
                        peer: self.peer,
                        after: self.stall,
                        bytes: self.moved(),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
