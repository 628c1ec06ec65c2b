//! Processes of Phantom's own that outlive the daemon: shims and guards.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;

/// What one says at its start is no longer, in bytes.
const MAX_OUTCOME: u64 = 64 << 10;
/// One that says why it cannot start may take so long to end by itself, with its log written.
const GRACE: Duration = Duration::from_secs(1);
/// How long a killed one may take to disappear.
const KILL: Duration = Duration::from_secs(5);

/// Makes a folder and those above it, which whoever `mode` names may enter.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(mode).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Starts `phantom ROLE DIR` in a process group of its own, and waits until it prints, as JSON on one
/// line, what became of that. On an error nothing of that process is left: it could still start
/// something that nobody knows of.
///
/// # Errors
/// It cannot be started, says nothing in time, ends, or what it says is an error.
pub async fn start<T: DeserializeOwned>(
    role: &str,
    dir: &Path,
    log: &Path,
    within: Duration,
) -> anyhow::Result<T> {
    // Not by its path, where a newer version may lie by now.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("phantom").arg(role).arg(dir);
    start_by(command, role, log, within).await
}

async fn start_by<T: DeserializeOwned>(
    mut command: Command,
    role: &str,
    log: &Path,
    within: Duration,
) -> anyhow::Result<T> {
    let errors = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start a {role}"))?;
    let stdout = child.stdout.take();
    let (give_up, given_up) = oneshot::channel();
    let end = tokio::spawn(reap(child, given_up));
    let outcome = match stdout {
        Some(stdout) => hear(stdout, role, log, within).await,
        None => Err((anyhow!("the {role} has no output"), Duration::ZERO)),
    };
    match outcome {
        Ok(told) => Ok(told),
        Err((error, grace)) => {
            let _ = give_up.send(grace);
            if tokio::time::timeout(grace + KILL, end).await.is_err() {
                tracing::error!(role, "it was killed and does not end: see what the kernel says");
            }
            Err(error)
        }
    }
}

/// What it says of its start, or why not, and how long it may then take to end by itself.
async fn hear<T: DeserializeOwned>(
    stdout: ChildStdout,
    role: &str,
    log: &Path,
    within: Duration,
) -> Result<T, (anyhow::Error, Duration)> {
    let mut line = String::new();
    let mut reader = BufReader::new(stdout.take(MAX_OUTCOME));
    let read = tokio::time::timeout(within, reader.read_line(&mut line)).await;
    match read {
        Err(_) => {
            let error = anyhow!("the {role} was not ready within {within:?}");
            return Err((error, Duration::ZERO));
        }
        Ok(Err(error)) => return Err((error.into(), Duration::ZERO)),
        Ok(Ok(_)) => {}
    }
    let outcome: Result<T, String> = serde_json::from_str(&line)
        .with_context(|| format!("the {role} ended at once; see {}", log.display()))
        .map_err(|error| (error, GRACE))?;
    outcome.map_err(|line| (anyhow!(line), GRACE))
}

/// Waits for its end, and brings that about when it is given up.
async fn reap(mut child: Child, given_up: oneshot::Receiver<Duration>) {
    let grace = tokio::select! {
        _ = child.wait() => return,
        Ok(grace) = given_up => grace,
    };
    if tokio::time::timeout(grace, child.wait()).await.is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!(%error, "it cannot be killed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_could_not_start_has_ended_before_that_is_told() {
        let cases = [
            ("exec sleep 60", "not ready within"),
            ("echo nonsense; exec sleep 60", "ended at once"),
            ("exec >/dev/null; exec sleep 60", "ended at once"),
            (r#"echo '{"Err":"no room"}'; exec sleep 60"#, "no room"),
        ];
        for (script, words) in cases {
            let dir = tempfile::tempdir().unwrap();
            let pid = dir.path().join("pid");
            let mut command = Command::new("/bin/sh");
            command.arg("-c").arg(format!("echo $$ >{}; {script}", pid.display()));
            let log = dir.path().join("log");
            let began = std::time::Instant::now();
            let started = start_by::<()>(command, "guard", &log, Duration::from_millis(700)).await;
            let error = format!("{:#}", started.unwrap_err());
            assert!(error.contains(words), "{script}: {error}");
            let pid = std::fs::read_to_string(pid).unwrap();
            let left = Path::new("/proc").join(pid.trim());
            assert!(!left.exists(), "{script}: {} is still there", left.display());
            assert!(began.elapsed() < Duration::from_secs(10), "{script}");
        }
    }

    #[tokio::test]
    async fn what_has_started_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(r#"echo "{\"Ok\":$$}"; read -r _; exec sleep 1"#);
        let log = dir.path().join("log");
        let pid: u32 = start_by(command, "guard", &log, Duration::from_secs(5)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(Path::new("/proc").join(pid.to_string()).exists());
    }
}
