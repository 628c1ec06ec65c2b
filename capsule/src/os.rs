//! System calls: the only place with `unsafe`.

mod child;
mod failure;
pub mod host;
pub(crate) mod netlink;
mod prepare;
pub mod pty;
pub mod reactor;
mod rights;
pub mod server;
pub mod spawn;
pub mod stage;
mod sys;
