//! Encrypted connections between proven keys, behind a trait: [`quic`] is the real thing,
//! [`memory`] the fake for tests.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod memory;
pub mod quic;
mod relay;
mod stream;

pub use stream::{RecvHalf, RecvStream, SendHalf, SendStream, Stream};

/// Where a node may be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PeerAddr {
    /// Straight to it.
    Ip(SocketAddr),
    /// By way of a relay server: its URL.
    Relay(String),
}

impl PeerAddr {
    /// Whether it can be an address at all: not unspecified, not multicast, a port, a short URL.
    pub fn is_sane(&self) -> bool {
        match self {
            PeerAddr::Ip(addr) => {
                addr.port() != 0 && !addr.ip().is_unspecified() && !addr.ip().is_multicast()
            }
            PeerAddr::Relay(url) => url.len() <= 256 && url.bytes().all(|b| b.is_ascii_graphic()),
        }
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddr::Ip(addr) => addr.fmt(f),
            PeerAddr::Relay(url) => write!(f, "relay {url}"),
        }
    }
}

/// What a connection is for; told to the other side within the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Membership has been proven, or will be before anything else: `phantom/1`.
    Member,
    /// The join exchange and nothing else: `phantom/join/1`.
    Join,
    /// Messages between nodes of different sub-grids: `phantom/abroad/1`.
    Abroad,
}

impl Protocol {
    /// All there are.
    pub const ALL: [Protocol; 3] = [Protocol::Member, Protocol::Join, Protocol::Abroad];

    /// Its name in the handshake (ALPN).
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Protocol::Member => b"phantom/1",
            Protocol::Join => b"phantom/join/1",
            Protocol::Abroad => b"phantom/abroad/1",
        }
    }

    /// The protocol with that name.
    pub fn from_alpn(alpn: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.alpn() == alpn)
    }
}

/// Why a side closed a connection, beside the words that say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// Nothing is wrong.
    Done = 0,
    /// There is a better connection between the two.
    Duplicate = 1,
    /// The other side is no member here, or its certificate does not hold.
    NotAdmitted = 2,
    /// The other side broke the protocol.
    Protocol = 3,
    /// This side is not able to serve now.
    Busy = 4,
    /// Nothing was heard for too long.
    Silent = 5,
}

impl CloseCode {
    /// The code with that number.
    pub fn from_number(number: u64) -> Option<Self> {
        use CloseCode::{Busy, Done, Duplicate, NotAdmitted, Protocol, Silent};
        [Done, Duplicate, NotAdmitted, Protocol, Busy, Silent]
            .into_iter()
            .find(|code| *code as u64 == number)
    }
}

/// A connection or stream that failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The other side closed the connection and said why.
    #[error("closed by the other side: {reason}")]
    ClosedByPeer {
        /// The kind of reason, if it is a known one.
        code: Option<CloseCode>,
        /// In words; cleaned of control characters.
        reason: String,
    },
    /// This side closed it.
    #[error("closed by this side")]
    ClosedHere,
    /// Nothing was heard for too long.
    #[error("no answer: the machine or the network in between is down")]
    Silent,
    /// None of the addresses can be dialled.
    #[error("no address to dial is known")]
    NoAddress,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl LinkError {
    /// Whether the other side has closed it because there is a better connection.
    pub(crate) fn is_for_a_better_one(&self) -> bool {
        matches!(self, LinkError::ClosedByPeer { code: Some(CloseCode::Duplicate), .. })
    }
}

/// Figures of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStats {
    /// Over which address the bytes go now.
    pub path: Option<PeerAddr>,
    /// Smoothed round-trip time of that path.
    pub rtt: Option<Duration>,
    /// UDP payload received, in bytes.
    pub bytes_in: u64,
    /// UDP payload sent, in bytes.
    pub bytes_out: u64,
}

/// How a node stands with its relay server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayStatus {
    /// Which.
    pub url: String,
    /// Whether the node is connected with it.
    pub connected: bool,
    /// What went wrong last, if something did and it is not connected.
    pub trouble: Option<String>,
}

/// One end of the world: dials and accepts connections whose other side has proven its key.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// The key this side proves.
    fn id(&self) -> NodeId;

    /// Where others can reach it, as far as it knows.
    async fn addrs(&self) -> Vec<PeerAddr>;

    /// How it stands with its relay, if it is to have one.
    fn relay(&self) -> Option<RelayStatus> {
        None
    }

    /// Connects to the holder of key `peer`, trying all addresses.
    ///
    /// # Errors
    /// Nobody with that key answers there in time.
    async fn dial(
        &self,
        peer: NodeId,
        addrs: &[PeerAddr],
        protocol: Protocol,
    ) -> Result<Arc<dyn Connection>, LinkError>;

    /// The next connection from outside, its handshake done; `None` after [`Link::close`].
    async fn accept(&self) -> Option<Arc<dyn Connection>>;

    /// The machine's network has changed (addresses, sleep): look again.
    async fn network_changed(&self) {}

    /// Closes all connections and stops.
    async fn close(&self);
}

/// A connection to a proven key.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// The key the other side has proven.
    fn peer(&self) -> NodeId;

    /// What it is for.
    fn protocol(&self) -> Protocol;

    /// Whether this side dialled.
    fn dialled(&self) -> bool;

    /// Opens a stream in both directions; waits while the other side allows no more.
    ///
    /// # Errors
    /// The connection has ended.
    async fn open(&self) -> Result<Stream, LinkError>;

    /// The next stream the other side opens.
    ///
    /// # Errors
    /// The connection has ended.
    async fn accept(&self) -> Result<Stream, LinkError>;

    /// Lets the other side have up to `streams` streams open at once; at first it is one.
    fn allow(&self, streams: u32);

    /// Sends something that the other side's link acknowledges: if it lives,
    /// [`Connection::heard`] is another within a round trip.
    fn pulse(&self);

    /// Another number whenever something has come from the other side.
    fn heard(&self) -> u64;

    /// Ends the connection and tells the other side why. Data under way is lost. What was closed as
    /// [`CloseCode::Silent`] fails as [`LinkError::Silent`] on this side.
    fn close(&self, code: CloseCode, reason: &str);

    /// Waits for its end and says why.
    async fn closed(&self) -> LinkError;

    /// Whether it has ended.
    fn is_closed(&self) -> bool;

    /// Its figures.
    fn stats(&self) -> LinkStats;
}

/// Makes text from another node fit to be shown: one line, no control characters, bounded.
pub(crate) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
