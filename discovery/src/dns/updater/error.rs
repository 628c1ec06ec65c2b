use std::net::SocketAddr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use phantom_model::NodeId;
use thiserror::Error;

use super::Seen;
use crate::dns::found::FindError;
use crate::dns::key::KeyError;
use crate::machine::Mandate;

/// Why an entry was not written or read at the zone's server.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum UpdateError {
    /// The key file cannot be read.
    #[error("cannot read the key {file}: {why}; give a file as `tsig-keygen NAME` prints it")]
    KeyFile {
        /// The file.
        file: String,
        /// What happened.
        why: String,
    },
    /// The key file is not one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The zone or its server cannot be found.
    #[error("cannot find the zone of {name}: {why}")]
    NoZone {
        /// The name of the entry.
        name: String,
        /// What happened.
        why: Box<FindError>,
    },
    /// Somebody else has a later mandate, or the same.
    #[error(
        "{name} is kept by node {} with mandate {by}, this node has {own}: this node has been \
         deposed; remove the records by hand if no node has that mandate",
        .node.short()
    )]
    Deposed {
        /// The name of the entry.
        name: String,
        /// The mandate of the entry in the zone.
        by: Mandate,
        /// Who has it.
        node: NodeId,
        /// The mandate of who wanted to write.
        own: Mandate,
    },
    /// The entry in the zone is another region's.
    #[error(
        "{name} has the entry of a region with another key, {}: choose another name, or remove the \
         records by hand",
        HEXLOWER.encode(.key)
    )]
    OtherRegion {
        /// The name of the entry.
        name: String,
        /// The key of the entry in the zone.
        key: [u8; 32],
    },
    /// The records are not those that were seen last.
    #[error("the records at {} have been changed by somebody else: look at them again", .0.name())]
    Changed(Box<Seen>),
    /// A CNAME record is there, beside which nothing can be.
    #[error("{name} is an alias (CNAME): remove that record")]
    Alias {
        /// The name of the entry.
        name: String,
    },
    /// The server does not let this key change the zone.
    #[error(
        "{server} refuses the key {key} for {zone}: name it in the zone's allow-update or \
         update-policy"
    )]
    Refused {
        /// The server.
        server: SocketAddr,
        /// The name of the key.
        key: String,
        /// The zone, or the name of the entry where the zone is not known.
        zone: String,
    },
    /// The server does not have the zone.
    #[error(
        "{server} is not authoritative for {name}, or does not let this node ask (allow-query): name \
         the zone's primary server"
    )]
    NotAuthoritative {
        /// The server.
        server: SocketAddr,
        /// The name of the entry.
        name: String,
    },
    /// The server does not know the key.
    #[error("{server} does not know the key {key} (BADKEY): add it to the server's named.conf")]
    BadKey {
        /// The server.
        server: SocketAddr,
        /// The name of the key.
        key: String,
    },
    /// The server has another secret.
    #[error(
        "{server} has another secret or algorithm for the key {key} (BADSIG): use the same key file \
         here and there"
    )]
    BadSignature {
        /// The server.
        server: SocketAddr,
        /// The name of the key.
        key: String,
    },
    /// The clocks differ too much.
    #[error(
        "the clock of {server} differs from this node's by {seconds} s (BADTIME): set both right, \
         as by NTP"
    )]
    BadTime {
        /// The server.
        server: SocketAddr,
        /// By how much the server's is later; it may be earlier.
        seconds: i128,
    },
    /// An answer that is not from who has the key.
    #[error(
        "the answer of {server} {what}: somebody between may have made it; check the way to the \
         server"
    )]
    NotTrusted {
        /// The server.
        server: SocketAddr,
        /// What is wrong with it.
        what: String,
    },
    /// Something else that the server says.
    #[error("{server} answers {code} about {name}: look into the server's log")]
    Server {
        /// The server.
        server: SocketAddr,
        /// What it says.
        code: String,
        /// The name of the entry.
        name: String,
    },
    /// No connection.
    #[error("no connection to {server} (TCP): {why}; check that it runs and is reached")]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// What happened.
        why: String,
    },
    /// No answer.
    #[error(
        "{server} has not answered within {} s: an update may have been made or not; look again",
        .after.as_secs_f32()
    )]
    TimedOut {
        /// The server.
        server: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
    /// A message that does not fit.
    #[error("the records at {name} do not fit a message: remove them by hand")]
    TooLarge {
        /// The name of the entry.
        name: String,
    },
}

impl UpdateError {
    /// Whether it may go better when it is tried again as it is.
    pub fn is_transient(&self) -> bool {
        matches!(self, UpdateError::Unreachable { .. } | UpdateError::TimedOut { .. })
    }
}
