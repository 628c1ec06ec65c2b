//! Processes of Phantom's own that outlive the daemon: shims and guards.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// What one says at its start is no longer, in bytes.
const MAX_OUTCOME: u64 = 64 << 10;

/// Makes a folder and those above it, which whoever `mode` names may enter.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Starts `phantom ROLE DIR` in a process group of its own, and waits until it prints, as JSON on one
/// line, what became of that.
///
/// # Errors
/// It cannot be started, says nothing in time, ends, or what it says is an error.
pub async fn start<T: DeserializeOwned>(
    role: &str,
    dir: &Path,
    log: &Path,
    within: Duration,
) -> anyhow::Result<T> {
    let errors = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    // Not by its path, where a newer version may lie by now.
    let mut child = Command::new("/proc/self/exe")
        .arg0("phantom")
        .arg(role)
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start a {role}"))?;
    let stdout = child.stdout.take().with_context(|| format!("the {role} has no output"))?;
    tokio::spawn(async move { child.wait().await });
    let mut line = String::new();
    let mut reader = BufReader::new(stdout.take(MAX_OUTCOME));
    tokio::time::timeout(within, reader.read_line(&mut line))
        .await
        .map_err(|_| anyhow!("the {role} was not ready within {within:?}"))??;
    let outcome: Result<T, String> = serde_json::from_str(&line)
        .with_context(|| format!("the {role} ended at once; see {}", log.display()))?;
    outcome.map_err(|line| anyhow!(line))
}
