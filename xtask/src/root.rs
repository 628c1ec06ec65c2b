//! Being root, or having sudo for it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command::Cmd;
use crate::say;

/// How often sudo's permission is renewed; sudo forgets it after 5 minutes at the least.
pub const RENEW: Duration = Duration::from_secs(120);

/// Whether we are root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes sure that commands can run as root, asking for the password where that is possible.
pub fn require() -> Result<()> {
    if is_root() || Cmd::new("sudo").args(["-n", "true"]).succeeds() {
        return Ok(());
    }
    say::note("single commands need root, through sudo, which may ask for your password");
    let status = Command::new("sudo").arg("-v").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("sudo refused: run this as root, or as a user whom sudo lets run commands"),
        Err(_) => bail!("this needs root and there is no sudo: run it as root"),
    }
}

/// Asks sudo not to forget its permission.
pub fn renew() {
    // When this fails the next command that needs root says so.
    let _ = Command::new("sudo").args(["-n", "-v"]).stdin(Stdio::null()).status();
}

/// Our PATH and the folders of root's programs, which root's own PATH lacks after a plain `su`.
pub fn path_with_sbin() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    path
}

/// Where root finds programs of this name, the one that runs first.
pub fn which(program: &str) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(&path_with_sbin()).collect();
    folders.into_iter().map(move |folder| folder.join(program)).filter(|path| path.is_file())
}
