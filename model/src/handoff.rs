//! The steps of a move.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One attempt to move an app: a random number, so that late messages of an earlier attempt are
/// told from those of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MoveId(pub u64);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The steps of a hand-off in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The target reserves room and checks CPU features, CRIU and the app record.
    Prepare,
    /// The source stops the capsule and takes the bytes waiting in its terminal.
    Freeze,
    /// The source writes the image.
    Dump,
    /// The image streams into the target's memory.
    Transfer,
    /// The target holds the image against the app record.
    Check,
    /// The target rebuilds the processes, stopped.
    Restore,
    /// The home moves the record to the target, durably.
    Commit,
    /// The target lets the processes run.
    Resume,
    /// The target has reported the app running; the source drops its copy.
    Drop,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Prepare => "prepare",
            Step::Freeze => "freeze",
            Step::Dump => "dump",
            Step::Transfer => "transfer",
            Step::Check => "check",
            Step::Restore => "restore",
            Step::Commit => "commit",
            Step::Resume => "resume",
            Step::Drop => "drop",
        })
    }
}
