//! Carries out a [`DumpPlan`]: CRIU writes the frozen capsule to an image and leaves it frozen.
//!
//! The capsule's cgroup is frozen before and is frozen again when CRIU lets go of the tasks
//! (CRIU restores the state it found before it detaches), so the program executes nothing of its
//! own between the two: the image is the program until somebody thaws the cgroup.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::error::{Error, Task};
use crate::log;
use crate::os::cgroup::Cgroup;
use crate::os::criu::{Criu, Session, Surroundings};
use crate::os::rpc;
use crate::plan::{DumpPlan, bytes_of, check_key, text_of};

/// How long the tasks may take to stand still again after a dump.
const REFREEZE_LIMIT: Duration = Duration::from_secs(5);
/// Errors only: more costs a tenth of a small dump's time.
const LOG_LEVEL: i32 = 1;

/// What a dump took.
#[derive(Debug, Clone, Copy, Default)]
pub struct DumpTimings {
    /// From the request until all tasks were seized.
    pub seize: Duration,
    /// From then until the image was complete.
    pub write: Duration,
    /// All together.
    pub total: Duration,
}

/// Saves the capsule. Whatever happens it is frozen, if it was frozen, when this returns.
///
/// # Errors
/// [`Error::Criu`] with the reason in words when CRIU refuses, [`Error::Deadline`],
/// [`Error::Cancelled`]; in each case the capsule is as it was and can be thawed.
pub fn dump(criu: &Criu, plan: &DumpPlan, cancel: &Cancel) -> Result<DumpTimings, Error> {
    let cgroup = Cgroup::at(&plan.cgroup);
    let was_frozen = cgroup.is_freezing()?;
    let result = run(criu, plan, cancel);
    if was_frozen {
        // CRIU does this itself unless it was killed.
        let frozen = cgroup.freeze(REFREEZE_LIMIT);
        if result.is_ok() {
            frozen?;
        }
    }
    result
}

fn run(criu: &Criu, plan: &DumpPlan, cancel: &Cancel) -> Result<DumpTimings, Error> {
    let work = File::open(&plan.work).map_err(Error::io("open", &plan.work))?;
    let options = options(plan, work.as_raw_fd())?;
    let start = Instant::now();
    let deadline = start + plan.limit;
    let around = Surroundings { ignore_file_size_signal: true, ..Default::default() };
    let mut session = Session::start(criu, Task::Dump, &around)?;
    session.send(&rpc::Request {
        kind: rpc::Kind::Dump as i32,
        options: Some(options),
        ..Default::default()
    })?;
    let mut timings = DumpTimings::default();
    loop {
        let response = match session.receive(deadline, plan.limit, cancel) {
            Ok(response) => response,
            Err(error @ (Error::Cancelled { .. } | Error::Deadline { .. })) => {
                session.give_up();
                return Err(error);
            }
            Err(error) => return Err(with_log(error, &plan.work)),
        };
        if response.kind == rpc::Kind::Notify as i32 {
            let step = response.notify.and_then(|notify| notify.script).unwrap_or_default();
            if step == "network-lock" {
                timings.seize = start.elapsed();
            }
            session.send(&proceed())?;
        } else if response.success {
            timings.total = start.elapsed();
            timings.write = timings.total.saturating_sub(timings.seize);
            session.finish();
            return Ok(timings);
        } else {
            session.finish();
            return Err(refused(Task::Dump, &plan.work, &response));
        }
    }
}

fn options(plan: &DumpPlan, work_dir_fd: i32) -> Result<rpc::Options, Error> {
    let mut external = Vec::new();
    for mount in &plan.externals {
        check_key(&mount.key)?;
        let inside = bytes_of(&mount.inside)?;
        external.push([b"mnt[", inside, b"]:", mount.key.as_bytes()].concat());
    }
    external.extend(plan.terminal.map(|terminal| terminal.name().into_bytes()));
    let pid = i32::try_from(plan.root_pid)
        .map_err(|_| Error::Plan(format!("{} is no process id", plan.root_pid)))?;
    Ok(rpc::Options {
        pid: Some(pid),
        leave_running: Some(true),
        file_locks: Some(true),
        tcp_established: Some(true),
        notify_scripts: Some(true),
        ghost_limit: Some(plan.ghost_limit_bytes),
        external,
        freeze_cgroup: Some(text_of(&plan.cgroup)?.to_owned()),
        timeout: Some(plan.limit.as_secs().clamp(1, 3600) as u32),
        ..common(&plan.images, work_dir_fd, plan.own_network)?
    })
}

/// Options of dump and restore alike.
pub(crate) fn common(
    images: &Path,
    work_dir_fd: i32,
    own_network: bool,
) -> Result<rpc::Options, Error> {
    Ok(rpc::Options {
        images_dir_fd: -1,
        images_dir: Some(text_of(images)?.to_owned()),
        work_dir_fd: Some(work_dir_fd),
        log_level: Some(LOG_LEVEL),
        log_file: Some(log::LOG_FILE.to_owned()),
        manage_cgroups_mode: Some(rpc::CGROUPS_IGNORE),
        network_lock: Some(rpc::NETWORK_LOCK_SKIP),
        // Only loopback is inside: it is made anew, without a row of `ip` processes.
        empty_ns: own_network.then_some(libc::CLONE_NEWNET as u32),
        ..Default::default()
    })
}

pub(crate) fn proceed() -> rpc::Request {
    rpc::Request {
        kind: rpc::Kind::Notify as i32,
        notify_success: Some(true),
        ..Default::default()
    }
}

/// What CRIU's refusal means.
pub(crate) fn refused(task: Task, work: &Path, response: &rpc::Response) -> Error {
    let fallback = match (&response.message, response.errno) {
        (Some(text), _) => text.trim().to_owned(),
        (None, Some(errno)) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        (None, None) => "it gave no reason".to_owned(),
    };
    let failure = log::explain(work, &fallback);
    Error::Criu { task, reason: failure.reason, log: failure.lines }
}

/// A broken conversation with the log's last word, if it had one.
pub(crate) fn with_log(error: Error, work: &Path) -> Error {
    let Error::Conversation { task, reason } = error else {
        return error;
    };
    let failure = log::explain(work, &reason);
    if failure.lines.is_empty() {
        Error::Conversation { task, reason }
    } else {
        Error::Criu { task, reason: failure.reason, log: failure.lines }
    }
}
