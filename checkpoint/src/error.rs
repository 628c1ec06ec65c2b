//! What can go wrong while saving, checking or restoring, one variant per operation.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::image::ImageError;

/// A failure of this crate. The text tells the user what happened, to what, and what to do where
/// that is known.
#[derive(Debug, Error)]
pub enum Error {
    /// No CRIU program where it was looked for.
    #[error(
        "CRIU was not found ({looked_at}); install criu 4.2 or newer, or let `cargo xtask` build it"
    )]
    NotFound {
        /// Places tried.
        looked_at: String,
    },
    /// The CRIU process could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The conversation with CRIU broke.
    #[error("lost the connection to CRIU while it was to {task}: {reason}")]
    Conversation {
        /// What CRIU was to do.
        task: Task,
        /// How it broke.
        reason: String,
    },
    /// CRIU did not finish in time and was stopped.
    #[error("CRIU did not {task} within {} s and was stopped", limit.as_secs_f32())]
    Deadline {
        /// What CRIU was to do.
        task: Task,
        /// The time it had.
        limit: Duration,
    },
    /// The caller gave up.
    #[error("cancelled while CRIU was to {task}")]
    Cancelled {
        /// What CRIU was doing.
        task: Task,
    },
    /// CRIU reported a failure.
    #[error("CRIU could not {task}: {reason}")]
    Criu {
        /// What CRIU was to do.
        task: Task,
        /// The first useful line of its log, in plain words where the case is known.
        reason: String,
        /// The last error lines of its log, for those who look closer.
        log: Vec<String>,
    },
    /// A cgroup operation failed.
    #[error("cannot {action} the cgroup {}: {source}", path.display())]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// Which cgroup.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A system call on a file or process failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An image is not acceptable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A plan that cannot be carried out.
    #[error("the plan is wrong: {0}")]
    Plan(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether the caller itself ended the operation.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Error::Cancelled { .. })
    }
}

/// What CRIU is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Write a process tree to an image.
    Dump,
    /// Rebuild a process tree from an image.
    Restore,
    /// Tell its version.
    Version,
    /// Tell what kernel and CRIU can do.
    Features,
}

impl std::fmt::Display for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Task::Dump => "save the program",
            Task::Restore => "restore the program",
            Task::Version => "tell its version",
            Task::Features => "tell its features",
        })
    }
}
