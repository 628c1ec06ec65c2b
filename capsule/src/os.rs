//! System calls: the only place with `unsafe`.

mod child;
pub mod host;
pub(crate) mod netlink;
pub mod pty;
pub mod reactor;
pub mod server;
pub mod spawn;
pub mod stage;
mod sys;
