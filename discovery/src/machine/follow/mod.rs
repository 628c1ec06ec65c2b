//! A service that runs wherever the super-peer is, with its small state: one node's part in it.
//!
//! ```text
//!  lease ──permission until T──▶ guard ──▶ the service       ends all of it at T, whoever still lives
//!    │                             │ ended
//!    ▼                             ▼
//!  Service ◀──read──  follow/NAME in the group: who runs it, in which mandate, since which stamp,
//!          ──write──▶ and its state; a write names the stamp it has seen, and else does not happen
//! ```
//!
//! What holds, whatever is lost, killed, frozen or cut off: **no two copies run at a time.**
//! - It runs only with a permission, which ends with a lease of the node's mandate, and only in a
//!   mandate in which the node has written its claim.
//! - The lease ends at most nine tenths of a lease after another super-peer first decided: a majority
//!   of the electors that has answered a later mandate has a node in common with every majority that
//!   answered this one, and that node answers this one no more. So who finds somebody else's claim
//!   waits a lease and a tenth from when it first decided; that is enough for clocks that are off by
//!   a tenth of their speed, one too slow, the other too fast.
//! - A claim that says `stopped` need not be waited for: its writer had seen all of it end.
//! - Each write, of a claim, of a state or of a mark, names the stamp of the last; who has taken the
//!   service over in between is noticed, and the service stopped.
//! - What waits for a later mandate to be written does not extend the permission.
//!
//! This rests on clocks that go on while a machine sleeps (CLOCK_BOOTTIME), on guards that come to
//! run within [`KILL`] of their time, and, like all that the group decides, on admins who put no
//! majority out that goes on elsewhere.

mod record;
mod service;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use super::group::Lease;
use super::group::Stamp;
pub use record::{MAX_PACKED, Record, Saved, name};
pub use service::Service;

/// How late a guard may come to its work.
pub const KILL: Duration = Duration::from_millis(500);

/// Who answers for the sub-grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// This node.
    Own,
    /// Another.
    Other,
    /// Nobody, as far as this node knows.
    Nobody,
    /// This node is in no sub-grid.
    Out,
}

/// How the sub-grid stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Who answers.
    pub lead: Lead,
    /// What this node may count on; `None` where it may not decide.
    pub lease: Option<Lease>,
    /// How many nodes keep what is written.
    pub electors: usize,
    /// Seconds since 1970, to be shown.
    pub unix_s: u64,
}

/// How the service is to be run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Another number: it is another service now, and is started anew.
    pub version: u64,
    /// How long it may take to end by itself.
    pub stop: Duration,
    /// How often its state is looked at; `None` where it has none.
    pub save: Option<Duration>,
}

/// What the group has under the service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its stamp; the lowest where there is nothing.
    pub stamp: Stamp,
    /// What it says; `None` where there is nothing, an error where it cannot be read.
    pub record: Result<Option<Record>, ()>,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It happened.
    Done(Stamp),
    /// It did not: there is another stamp.
    Changed,
    /// There is no room for it.
    Full,
    /// It was not tried.
    NotNow,
    /// Nobody can tell.
    Unknown,
}

/// What was found in the state's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing new since the last look.
    Same,
    /// This, packed.
    Content(Vec<u8>),
    /// It cannot be kept, in words.
    Refused(String),
}

/// A copy that runs although the daemon that had it started is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its claim.
    pub run: u64,
    /// When it must be dead.
    pub until: Duration,
    /// Of the terms it was started with.
    pub version: u64,
    /// How long it may take to end by itself.
    pub stop: Duration,
}

/// How a copy came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// In words.
    pub how: String,
    /// Its permission was over.
    pub lapsed: bool,
}

/// What the machine wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read the value; [`Service::handle_value`].
    Read,
    /// Write it, for sure, if it has this stamp; [`Service::handle_written`].
    Write {
        /// To be given back.
        ticket: u64,
        /// The stamp seen.
        expect: Stamp,
        /// What to write.
        record: Box<Record>,
    },
    /// Put the state in its place; [`Service::handle_filled`].
    Fill {
        /// What was saved; `None`: leave the folder as it is.
        saved: Option<Saved>,
        /// Where the folder is still the one that this run left, it is newer than what was saved, and
        /// stays.
        former: Option<u64>,
        /// Whose the folder is from now on.
        run: u64,
    },
    /// Start it with a permission until then; [`Service::handle_ended`].
    Start {
        /// The claim in whose name it runs.
        run: u64,
        /// When it must be dead.
        until: Duration,
    },
    /// The permission is longer now.
    Permit {
        /// When it must be dead.
        until: Duration,
    },
    /// Have it end; [`Service::handle_ended`].
    Stop {
        /// When it is killed.
        kill_at: Duration,
    },
    /// Look at the state's folder; [`Service::handle_seen`].
    Look,
    /// Note this in the log.
    Tell(String),
}

/// Whether and how it runs here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// It runs, since then (seconds since 1970).
    pub since_unix_s: Option<u64>,
    /// It is being stopped.
    pub stopping: bool,
    /// Why it does not run here.
    pub why: Option<String>,
    /// Why its state is not saved.
    pub trouble: Option<String>,
    /// How it last ended here.
    pub exit: Option<String>,
}

/// How long a claim that was found is waited for, from when this node first decided.
fn wait(lease: Duration) -> Duration {
    lease + lease / 10 + KILL
}
