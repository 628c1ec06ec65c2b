//! A move: its steps, and the messages between the home, which coordinates it, the source, which
//! has the running copy, and the target, which shall have it.
//!
//! Every [`Request`] may arrive twice, late or never: it names its move, a receiver answers a
//! repeated one with the report it gave before, and the home repeats what is not answered. Requests
//! come from the home only; reports go to the home only.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::app::AppRecord;
use crate::{AppId, Bytes, Epoch, NodeId};

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

/// What one step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Which step.
    pub step: Step,
    /// Microseconds.
    pub micros: u64,
}

/// Why a step did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where it stopped.
    pub step: Step,
    /// One sentence for the user.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.reason)
    }
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name in the image directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of its content; absent for page data, which has nothing but the link's own
    /// authentication and an account of every byte (hashing it would cost a third of the pause).
    pub digest: Option<[u8; 32]>,
}

/// Closes the stream of an image: all its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageManifest {
    /// The files, in the order of their names.
    pub files: Vec<ImageFile>,
}

impl ImageManifest {
    /// The size of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

/// What a target must have to take an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Machine architecture as `uname -m` gives it.
    pub arch: String,
    /// CPU features the program may have chosen its code by, sorted.
    pub cpu_flags: Vec<String>,
    /// Resident memory now; the image and the restored program each take that much.
    pub memory: Bytes,
}

/// What the target is told before anything stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepare {
    /// The app as its home has it.
    pub record: AppRecord,
    /// Where the running copy is.
    pub source: NodeId,
    /// What the target must have.
    pub needs: Needs,
    /// The capsule's plan, as the part that builds capsules writes it.
    pub capsule: Vec<u8>,
}

/// What the source has saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The image, complete at the source.
    pub manifest: ImageManifest,
    /// The terminal's device and the bytes waiting in it, as the part that holds terminals writes
    /// them.
    pub terminal: Vec<u8>,
    /// What freezing and dumping took.
    pub timings: Vec<Timing>,
}

/// What the home asks of a source or a target. Each carries its move in [`Addressed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Target: reserve room, check that it can be done, make the capsule's folder and files
    /// ready. Answer: [`Report::Prepared`].
    Prepare(Box<Prepare>),
    /// Source: freeze, take the terminal's bytes, dump and stream the image to the target.
    /// Answer: [`Report::Saved`].
    Save {
        /// Where the image goes.
        target: NodeId,
        /// The epoch of the copy that is meant: an old request must not stop a newer one.
        epoch: Epoch,
    },
    /// Target: the image is complete with this; check it against the record, rebuild the program
    /// and hold it. Answer: [`Report::Held`].
    Restore(Box<Saved>),
    /// Target, after the commit: let the program run with this epoch. Answer:
    /// [`Report::Running`].
    Resume {
        /// The epoch granted to the target.
        epoch: Epoch,
    },
    /// Source, after the target runs: end the frozen copy. Answer: [`Report::Dropped`].
    Drop,
    /// Source: the move failed; thaw, with this epoch. Answer: [`Report::Thawed`].
    Thaw {
        /// The epoch of the source's copy from now on.
        epoch: Epoch,
    },
    /// Target: the move failed; remove everything of it. Answer: [`Report::Discarded`].
    Discard,
}

/// What a source or a target tells the home. Each carries its move in [`Addressed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The target can take the app.
    Prepared,
    /// The source has saved the app; it stands frozen.
    Saved(Box<Saved>),
    /// The target has rebuilt the app and holds it.
    Held {
        /// What transfer, check and restore took.
        timings: Vec<Timing>,
    },
    /// The app runs at the target.
    Running {
        /// With this epoch.
        epoch: Epoch,
        /// What resuming took.
        timings: Vec<Timing>,
    },
    /// The source's copy is gone.
    Dropped,
    /// The source's copy runs on.
    Thawed {
        /// With this epoch.
        epoch: Epoch,
    },
    /// Nothing of the move is left at the target.
    Discarded,
    /// The step did not succeed. The source has its copy still, frozen or running; the target has
    /// removed what it had.
    Failed(Failure),
    /// The receiver has nothing of this move (any more): it was restarted, or never heard of it.
    Unknown,
}

/// A request or a report with what it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Addressed<T> {
    /// Which app.
    pub app: AppId,
    /// Which attempt to move it.
    pub id: MoveId,
    /// What is asked or told.
    pub body: T,
}

/// How a move ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It runs at the target.
    Moved {
        /// What each step took.
        timings: Vec<Timing>,
    },
    /// It runs at the source as before.
    Stayed(Failure),
    /// It was committed, but the target did not report it running: the source's copy was given
    /// the next epoch and runs on.
    Reverted(Failure),
    /// It was committed, and neither copy could be confirmed. The user decides.
    Lost(Failure),
    /// The app itself ended before its move was over.
    Ended,
}
