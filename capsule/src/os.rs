//! System calls: the only place with `unsafe`.

mod child;
pub mod host;
pub mod pty;
pub mod spawn;
mod sys;
