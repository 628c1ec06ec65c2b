//! What a node's network can be told.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The UDP port (and, for bulk, the TCP port) a node listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 41_610;

/// Settings of [`crate::Network`].
#[derive(Clone)]
pub struct Config {
    /// UDP address to listen on; `0.0.0.0` means IPv6 as well. Bulk data comes to the same TCP
    /// port. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further addresses at which others can reach this node (a forwarded port, say).
    pub advertise: Vec<SocketAddr>,
    /// URL of an own relay server for nodes that cannot reach each other directly. Without it no
    /// server is ever contacted.
    pub relay: Option<String>,
    /// PEM file of the authorities whose certificates the relay may show, instead of the public
    /// ones.
    pub relay_ca: Option<PathBuf>,
    /// Directory of the keys.
    pub state_dir: PathBuf,
    /// Whether bulk data may use TCP connections of its own (TLS 1.3 between the node keys).
    pub bulk_tcp: bool,
    /// How long things may take.
    pub timing: Timing,
    /// Seconds since 1970; tests bring their own.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Config {
    /// The defaults, with keys in `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            advertise: Vec::new(),
            relay: None,
            relay_ca: None,
            state_dir: state_dir.into(),
            bulk_tcp: true,
            timing: Timing::default(),
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since.map_or(0, |since| since.as_secs())
            }),
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A connection with open streams over which nothing is heard for this long is dead. Longer than
    /// it takes to see that a transfer crawls: on a way that has collapsed bulk data crowds out all
    /// else, and who judges the transfer is to give it up, not the other side by silence.
    pub silent: Duration,
    /// How often each side of such a connection sees to it that something is heard.
    pub pulse: Duration,
    /// How long a connection whose other side is said to be gone has to show that it is not.
    pub doubted: Duration,
    /// A connection at rest over which nothing is heard for this long is dead, and so is one of the
    /// paths of any; no more than 15 s.
    pub rest_silent: Duration,
    /// How often a connection at rest says that it lives; no more than 5 s. What is between the two
    /// (address translation, a relay) forgets them if they are silent for longer.
    pub rest_pulse: Duration,
    /// Dialling, or exchanging certificates, takes no longer than this.
    pub handshake: Duration,
    /// First wait after a failed dial; doubles up to [`Timing::backoff_max`].
    pub backoff_min: Duration,
    /// Longest wait between dials.
    pub backoff_max: Duration,
    /// How often members without a connection are looked for.
    pub seek: Duration,
    /// How often certificates of live connections are checked for expiry.
    pub expiry_check: Duration,
    /// How long bulk waits for a TCP connection before it goes over the node connection.
    pub bulk_dial: Duration,
    /// A bulk transfer that moves nothing for this long has failed.
    pub bulk_stall: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            silent: Duration::from_secs(7),
            pulse: Duration::from_secs(1),
            doubted: Duration::from_secs(3),
            rest_silent: Duration::from_secs(9),
            rest_pulse: Duration::from_secs(5),
            handshake: Duration::from_secs(4),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
            seek: Duration::from_secs(5),
            expiry_check: Duration::from_secs(30),
            bulk_dial: Duration::from_millis(800),
            bulk_stall: Duration::from_secs(10),
        }
    }
}
