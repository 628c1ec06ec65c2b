//! What looking for a region's entry comes to.

use std::time::Duration;

use thiserror::Error;

use super::entry::{EntryError, Published};
use crate::uri::GridUri;

/// The records in which an entry was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// URI (RFC 7553).
    Uri,
    /// SRV (RFC 2782) and TXT.
    Srv,
}

/// Entries of a region, as the DNS has them: nobody has proven anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// One to 16 entries; ordinarily one.
    pub published: Vec<Published>,
    /// Where they were found.
    pub form: Form,
}

/// Why no entry was found.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FindError {
    /// The DNS says so, with authority.
    #[error("there is no domain {}: check how {uri} is written", .uri.name())]
    NoSuchName {
        /// The region.
        uri: GridUri,
    },
    /// The domain is there.
    #[error(
        "the domain {} has no entry of Phantom at {}: let its region-peer write one, or add it by \
         hand",
        .uri.name(), .uri.entry_name()
    )]
    NoEntry {
        /// The region.
        uri: GridUri,
    },
    /// There are records, and none is an entry.
    #[error(
        "the {record} record at {name} is not an entry of Phantom: {why}; correct or remove it"
    )]
    Malformed {
        /// Where.
        name: String,
        /// Of which type.
        record: &'static str,
        /// What is wrong with the first.
        why: EntryError,
    },
    /// No server has answered in time.
    #[error(
        "no name server has answered about {name} within {} s (asked: {servers}): check the \
         network and /etc/resolv.conf",
        .after.as_secs_f32()
    )]
    TimedOut {
        /// What was asked for.
        name: String,
        /// Who was asked.
        servers: String,
        /// How long was waited.
        after: Duration,
    },
    /// Servers cannot be reached, or answer that they cannot tell.
    #[error("name servers cannot tell of {name} (asked: {servers}): {why}; check their state")]
    Unreachable {
        /// What was asked for.
        name: String,
        /// Who was asked.
        servers: String,
        /// What happened.
        why: String,
    },
    /// The machine's own settings.
    #[error("the name servers of this machine are not known: {why}; correct /etc/resolv.conf")]
    NoServers {
        /// What is wrong.
        why: String,
    },
    /// Host names of an entry without addresses.
    #[error("no host of the entry at {name} has an address ({hosts}): correct the entry")]
    NoAddress {
        /// Where the entry is.
        name: String,
        /// Its hosts.
        hosts: String,
    },
}

impl FindError {
    /// Whether nothing was learned, rather than that there is nothing: what was known before stays
    /// likely.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            FindError::TimedOut { .. }
                | FindError::Unreachable { .. }
                | FindError::NoServers { .. }
        )
    }
}
