//! The hand-off, decided: pure state machines for the home, which coordinates a move, and for its
//! source and target. Events and the time go in, commands come out; a driver carries them out and
//! does nothing of its own. Time is a [`Duration`] since any fixed point.
//!
//! ```text
//!             Move                Prepared            Saved                 Held
//!   Idle ────────────> Preparing ──────────> Saving ──────────> Restoring ──────────> Committing
//!    ^                     │                    │                   │                     │
//!    │                     └───── failure, deadline, cancel, lost target ─────┐           │ durable
//!    │  thawed, discarded                                                     v           v
//!    ├<───────────────────────────────────────────────────────────────── Aborting     Resuming
//!    │                                                                        ^           │ Running
//!    │  dropped              no report, failure: durable epoch + 1 ───────────┘           v
//!    └<─────────────────────────────────────────────────────────────────────────────── Dropping
//! ```
//!
//! What holds at every moment, whatever is lost, repeated or restarted:
//! - the record names one node and one epoch, and nobody else's effects are accepted;
//! - before the record names the target durably, the target holds its copy frozen;
//! - the source's copy is ended only after the target has reported it running with the epoch that
//!   the record grants.

mod coordinator;
mod source;
mod target;

use std::time::Duration;

use phantom_model::handoff::{Addressed, Outcome, Request};
use phantom_model::{AppRecord, MoveId, NodeId};

pub use coordinator::{Coordinator, Event, Refusal, Start};
pub use source::{SourceAction, SourceRole};
pub use target::{TargetAction, TargetRole};

/// How long each step may take, and how often an unanswered request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until the target is prepared. The app runs meanwhile, and what it has mapped may be fetched
    /// over a slow line; a target that is gone is noticed by its connection.
    pub prepare: Duration,
    /// Until the source has saved the app and the image has left it.
    pub save: Duration,
    /// Until the target holds the app.
    pub restore: Duration,
    /// Until the target reports the app running; then the source gets it back.
    pub resume: Duration,
    /// How long a source that does not answer is asked to end its copy, and a target to remove
    /// what it has. Later they hear of it when they speak up.
    pub clean_up: Duration,
    /// Between two sendings of one request.
    pub repeat: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(240),
            save: Duration::from_secs(120),
            restore: Duration::from_secs(60),
            resume: Duration::from_secs(15),
            clean_up: Duration::from_secs(60),
            repeat: Duration::from_secs(1),
        }
    }
}

/// What the driver of a [`Coordinator`] does, in the given order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Write the record durably, then hand in [`Event::Persisted`] with the same number, or
    /// [`Event::PersistFailed`] when the store is unchanged.
    Persist {
        /// Which write.
        number: u64,
        /// What to write.
        record: Box<AppRecord>,
    },
    /// Send a request; if it cannot be sent, forget it.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        request: Addressed<Request>,
    },
    /// The app runs again (or is lost): tell the user how the move ended. Cleaning up may go on.
    Settled {
        /// Which move.
        id: MoveId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Nothing is left to do for this move; another may start.
    Closed {
        /// Which move.
        id: MoveId,
    },
}

#[cfg(test)]
mod tests;
