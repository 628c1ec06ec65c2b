//! What can go wrong with a capsule, one variant per operation.

use std::io;
use std::path::PathBuf;

use phantom_model::app::OsText;
use thiserror::Error;

/// Why a capsule could not be planned, made, staged or connected.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A line of mountinfo that is not as proc(5) says.
    #[error("line {line} of the kernel's mount table is not understood: {reason}")]
    MountTable {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The id range does not fit.
    #[error("the id range from {base} does not fit between {lowest} and {highest}")]
    IdBase {
        /// What was asked for.
        base: u32,
        /// Lowest base.
        lowest: u32,
        /// Highest base.
        highest: u32,
    },
    /// An id that cannot be mapped.
    #[error("{kind} id {id} cannot be used in a capsule")]
    Id {
        /// "user" or "group".
        kind: &'static str,
        /// The id.
        id: u32,
    },
    /// More large ids than a map has room for.
    #[error("the user is in {count} groups with ids above 65535; at most {limit} can be mapped")]
    TooManyIds {
        /// How many.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// Nothing to run.
    #[error("no command was given")]
    NoCommand,
    /// An argument, variable or path the kernel cannot take.
    #[error("{what} holds a NUL byte")]
    Nul {
        /// Which text.
        what: String,
    },
    /// The working directory is not part of what the app will see.
    #[error(
        "the working directory {cwd} cannot be used: {reason}; start from your home directory \
         or another folder of yours"
    )]
    WorkingDirectory {
        /// As given.
        cwd: OsText,
        /// Why.
        reason: String,
    },
    /// Something of the host could not be read.
    #[error("cannot read {what}: {source}")]
    ReadHost {
        /// Which file or fact.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The user namespace that carries the id map of the mounts.
    #[error("cannot make a user namespace with the app's id range: {source}")]
    IdNamespace {
        /// The system's answer.
        source: io::Error,
    },
    /// A mount could not be made ready.
    #[error("cannot prepare the mount of {source_path} for the app ({action}): {source}")]
    PrepareMount {
        /// What was to be mounted.
        source_path: PathBuf,
        /// What failed.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The first process could not be made.
    #[error("cannot start the app's first process in new namespaces: {source}")]
    Clone {
        /// The system's answer.
        source: io::Error,
    },
    /// A step inside the capsule failed.
    #[error("cannot set up the app's capsule: {step}: {source}")]
    Setup {
        /// Which step, with its path.
        step: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The set-up did not end in time.
    #[error("the app's capsule was not ready within {seconds} s; it was ended")]
    SetupTimeout {
        /// How long was waited.
        seconds: u64,
    },
    /// Work on the control group failed.
    #[error("cannot {action} the control group {path}: {source}")]
    Cgroup {
        /// What was to be done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// No version 2 hierarchy is mounted.
    #[error("no cgroup v2 hierarchy is mounted; mount one with `mount -t cgroup2 none DIR`")]
    NoCgroup2,
    /// A controller is not on the version 2 hierarchy.
    #[error(
        "nothing can be held to a limit: the `{name}` controller is not on the version 2 hierarchy of \
         control groups; boot with `systemd.unified_cgroup_hierarchy=1` or \
         `cgroup_no_v1=all`"
    )]
    NoController {
        /// Which.
        name: &'static str,
    },
    /// A control group did not reach a state in time.
    #[error("the control group {path} was not {state} within {seconds} s")]
    CgroupTimeout {
        /// Where.
        path: PathBuf,
        /// "frozen", "empty" …
        state: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// A mount for a restore could not be staged or taken away.
    #[error("cannot {action} {path}: {source}")]
    Stage {
        /// What was to be done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A process with the app's rights could not be started.
    #[error("cannot start the app's file server ({step}): {source}")]
    FileServer {
        /// Which step.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Work on a terminal failed.
    #[error("cannot {action}: {source}")]
    Terminal {
        /// What was to be done.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Waiting bytes cannot be put into a terminal as they are.
    #[error("{count} bytes typed ahead do not fit into the new terminal (it holds {limit})")]
    TerminalRefill {
        /// How many bytes.
        count: usize,
        /// How many fit.
        limit: usize,
    },
    /// The capsule's network could not be attached or detached.
    #[error("cannot {action}: {source}")]
    Network {
        /// What was to be done.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}
