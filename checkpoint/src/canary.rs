//! Finds out what this machine's CRIU can do by doing it: a tiny process is saved, ended, restored
//! and ended again.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::cancel::Cancel;
use crate::dump::{common, refused, with_log};
use crate::error::{Error, Task};
use crate::os::criu::{Criu, Session, Surroundings, Version};
use crate::os::{process, rpc};

/// Time for each of the few steps; all together take a tenth of a second on an idle machine.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How long the process would live if nobody ended it.
const LIFE_S: &str = "60";

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanaryReport {
    /// CRIU's version.
    pub version: Version,
    /// It gives running children their controlling terminal back.
    pub restores_job_control: bool,
    /// Memory can be copied while a program runs (soft-dirty tracking).
    pub soft_dirty: bool,
    /// Memory can follow after a program runs again (userfaultfd).
    pub lazy_pages: bool,
    /// What saving the process took.
    pub dump: Duration,
    /// What restoring it took.
    pub restore: Duration,
}

/// Tries it, with the empty directory `dir` for the image.
///
/// # Errors
/// The step that failed with CRIU's reason. Nothing is left running.
pub fn canary(criu: &Criu, dir: &Path) -> Result<CanaryReport, Error> {
    let version = criu.version(STEP_LIMIT)?;
    let features = criu.features(STEP_LIMIT).unwrap_or_default();
    let restores_job_control = criu.restores_job_control();
    let pid = start()?;
    let start = Instant::now();
    let saved = save(criu, dir, pid);
    // Ended by CRIU when it was saved. Its number must be free for the restore.
    end(pid);
    saved?;
    let dump = start.elapsed();
    let start = Instant::now();
    let restored = restore(criu, dir)?;
    let restore = start.elapsed();
    let lives = kill(restored, None).is_ok();
    end(restored);
    if !lives {
        return Err(Error::Conversation {
            task: Task::Restore,
            reason: "the restored process is gone".into(),
        });
    }
    Ok(CanaryReport {
        version,
        restores_job_control,
        soft_dirty: features.mem_track == Some(true),
        lazy_pages: features.lazy_pages == Some(true),
        dump,
        restore,
    })
}

/// A process that has nothing to do with this one: own session, no open files of ours.
fn start() -> Result<Pid, Error> {
    let mut command = Command::new("sleep");
    command
        .arg(LIFE_S)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    process::detached(&mut command);
    let child = command
        .spawn()
        .map_err(|source| Error::Start { program: command.get_program().into(), source })?;
    Ok(Pid::from_raw(child.id() as i32))
}

fn end(pid: Pid) {
    // A child of ours, not reaped until here: the number is still its own.
    let _ = kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

fn save(criu: &Criu, dir: &Path, pid: Pid) -> Result<(), Error> {
    let options = |work| {
        let options = common(dir, work, false)?;
        Ok(rpc::Options { pid: Some(pid.as_raw()), ..options })
    };
    run(criu, dir, Task::Dump, rpc::Kind::Dump, options).map(|_| ())
}

fn restore(criu: &Criu, dir: &Path) -> Result<Pid, Error> {
    let options = |work| {
        let options = common(dir, work, false)?;
        Ok(rpc::Options { rst_sibling: Some(true), ..options })
    };
    let response = run(criu, dir, Task::Restore, rpc::Kind::Restore, options)?;
    match response.restored {
        Some(restored) if restored.pid > 0 => Ok(Pid::from_raw(restored.pid)),
        _ => Err(Error::Conversation {
            task: Task::Restore,
            reason: "the answer names no process".into(),
        }),
    }
}

fn run(
    criu: &Criu,
    dir: &Path,
    task: Task,
    kind: rpc::Kind,
    options: impl FnOnce(i32) -> Result<rpc::Options, Error>,
) -> Result<rpc::Response, Error> {
    let work = File::open(dir).map_err(Error::io("open", dir))?;
    let options = Some(options(work.as_raw_fd())?);
    let mut session = Session::start(criu, task, &Surroundings::default())?;
    session.send(&rpc::Request { kind: kind as i32, options, ..Default::default() })?;
    let response = session
        .receive(Instant::now() + STEP_LIMIT, STEP_LIMIT, &Cancel::never())
        .map_err(|error| with_log(error, dir))?;
    session.finish();
    match response.success {
        true => Ok(response),
        false => Err(refused(task, dir, &response)),
    }
}
