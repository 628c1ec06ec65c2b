//! The kernel-level envelope of an app: namespaces, ids, root, terminal, init.
pub mod attach;
pub mod capsule;
pub mod cgroup;
mod error;
pub mod ids;
pub mod mountinfo;
pub mod net;
pub mod os;
pub mod plan;
pub mod relay;
mod seccomp;
pub mod terminal;

pub use capsule::Capsule;
pub use error::Error;
