//! `phantom`: one binary for the daemon, the shims and the command line.

mod api;
mod cli;
mod config;
mod daemon;
mod doctor;
mod frames;
mod os;
mod shim;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
