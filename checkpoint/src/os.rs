//! System calls: the only place of this crate with `unsafe`.

pub mod cgroup;
pub mod criu;
pub mod process;
pub mod rpc;
pub mod watch;
