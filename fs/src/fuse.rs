//! The adapter that shows the files of a [`Client`](crate::client::Client) through the kernel.
//!
//! * Permissions are checked twice: by this kernel against the modes and owners shown
//!   (`default_permissions`, so access(2) tells the truth), and by home's.
//! * Owners are shown as this node's ids of the app's user namespace.
//! * File locks are kept by this kernel: they hold between the app's own processes, which always
//!   run at the same place, and CRIU finds and restores them when the app moves on. A lock that
//!   was forwarded would be invisible to it and silently lost. They are not seen by other
//!   programs at home.
//! * Pipes and sockets work between the app's processes here; they do not reach home. Device
//!   nodes cannot be opened (`nodev`).
//! * Only `user.` extended attributes are served.

mod convert;
mod listing;
mod mount;
mod owners;
mod reply;
mod tree;

use std::io;
use std::path::PathBuf;

pub use mount::{Mount, detach};
pub use owners::Owners;
pub(crate) use tree::Tree;

/// What went wrong with a mount.
#[derive(Debug, thiserror::Error)]
#[error("could not {step} the app's files at {}: {error}", path.display())]
pub struct MountError {
    /// Which step.
    pub step: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}
