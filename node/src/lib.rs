//! `phantom`: one binary for the daemon, the shims and the command line.
//!
//! A library only so that the binary can be linked in two ways without being compiled twice: its
//! one item is what `main` calls.

mod account;
mod api;
mod cli;
mod config;
mod daemon;
mod doctor;
mod frames;
mod guard;
mod os;
mod shim;

use std::process::ExitCode;

/// Does what the command line says.
pub fn main() -> ExitCode {
    cli::main()
}
