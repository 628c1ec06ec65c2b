//! The monitor against the real kernel: what is accounted, what is reported, how late.

mod account;
mod common;
mod os;
mod roles;
mod watch;
