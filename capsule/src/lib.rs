//! The kernel-level envelope of an app: namespaces, ids, root, terminal, init.
pub mod capsule;
mod error;
pub mod ids;
pub mod mountinfo;
pub mod os;
pub mod plan;
mod seccomp;

pub use capsule::Capsule;
pub use error::Error;
